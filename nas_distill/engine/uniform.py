"""The network that needs no search: the largest uniform one within the budget, with which a search is compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.first_candidates import last_that_fits, uniformly_scaled, without_lower
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.space import CutSpace
from nas_distill.runs.journal import Journal
from nas_distill.runs.metadata import UNIFORM, Finalist, UniformRecord
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import Architecture, SearchSpace

NARROWING, SCALING = "uniform narrowing", "uniform scaling"


def find_uniform(space: SearchSpace, pricing: Pricing, cuts: CutSpace | None = None) -> UniformRecord:
    """Return the uniform network of a space, with its costs.

    It has no architecture if nothing uniform is within the budget, or nothing is limited.

    Args:
        space: the search space.
        pricing: costs of architectures, and the budget.
        cuts: the same space as cuts, where students are cut from the teacher: its uniform network is
            ``uniformly_narrowed``, that of other spaces ``uniformly_scaled``.
    """
    if cuts is None:
        name, found = SCALING, next(iter(uniformly_scaled(space, pricing)), None)
    else:
        name, found = NARROWING, uniformly_narrowed(cuts, pricing)
    if found is None:
        return UniformRecord(name=name, architecture=None, costs={})
    return UniformRecord(name=name, architecture=found.to_dict(), costs=pricing(found))


def uniformly_narrowed(cuts: CutSpace, pricing: Pricing) -> Architecture | None:
    """Return the largest uniform narrowing within the budget, or None if none fits or the budget has no limits.

    Each group keeps one share of its units, and all blocks are kept. The share is the largest within the budget; the
    remainder is used by giving one group after the other its next larger width, at most once, as long as the result
    fits.
    """
    budget = pricing.budget
    if not budget.limits:
        return None

    def fits(cut: Cut, within: Budget) -> bool:
        found = pricing.known(cuts.encode(cut))
        return found is not None and within.fits(found)

    upper = without_lower(budget)
    shares = sorted({width / cuts.plan.group(name).size for name, widths in cuts.widths.items() for width in widths})
    best = last_that_fits(lambda place: cuts.uniform(shares[place]), len(shares), lambda cut: fits(cut, upper))
    if best is None:
        return None
    for cut in _raised(cuts, best, lambda cut: fits(cut, upper)):
        best = cut
    return cuts.encode(best) if fits(best, budget) else None


def _raised(cuts: CutSpace, cut: Cut, fits: Callable[[Cut], bool]) -> Iterator[Cut]:
    """Yield the cut after each group that was given its next larger width."""
    for name, widths in cuts.widths.items():
        wider = [width for width in widths if width > cut.widths[name]]
        if wider and fits(raised := cuts.with_width(cut, name, wider[0])):
            cut = raised
            yield cut


def note_uniform(journal: Journal, space: SearchSpace, pricing: Pricing, cuts: CutSpace | None = None) -> None:
    """Record the uniform network in the journal before the first candidates, unless it is recorded.

    A run whose first candidates are from a version without uniform networks continues without one.
    """
    known = journal.metadata
    if known.uniform is None and known.first_candidates is None:
        journal.note(uniform=find_uniform(space, pricing, cuts))


def trial_of(architecture: Architecture, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the latest trial of an architecture; None if it was not a candidate."""
    same = (record for record in reversed(records) if record.architecture == architecture)
    return next((record for record in same if record.state != "duplicate"), None)


def uniform_finalist(uniform: UniformRecord | None, records: Sequence[TrialRecord]) -> Finalist | None:
    """Return the full training of the uniform network, not begun; None without one.

    If it was a candidate, the training has the key and the number of its trial. Otherwise the key is ``uniform``, and
    the number None. Its score is None unless its short distillation was completed.
    """
    if uniform is None or uniform.architecture is None:
        return None
    record = trial_of(Architecture(uniform.architecture), records)
    known = record is not None and record.state == "complete" and record.quality is not None
    score = record.quality if record is not None and known else None
    return Finalist(
        key=UNIFORM if record is None else record.key,
        trial=None if record is None else record.number,
        architecture=uniform.architecture,
        costs=uniform.costs,
        taught=True,
        score=score if score is not None and math.isfinite(score) else None,
    )
