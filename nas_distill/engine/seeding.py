"""The first candidates of a search: the smallest, the largest that fits, and others spread between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from nas_distill.common.seeds import numpy_rng
from nas_distill.cost.budget import Budget, Limit
from nas_distill.engine.pricing import Costs
from nas_distill.space import Architecture, SearchSpace
from nas_distill.space.architecture import Scalar
from nas_distill.space.parameters import Domain
from nas_distill.space.spread import at_share, is_ordered

_SHARES = 64
_RAISES = 48


def choose_seeds(
    space: SearchSpace, costs: Costs, budget: Budget, *, count: int, by: str, seed: int
) -> list[Architecture]:
    """Return up to ``count`` distinct architectures to try first: cheapest and dearest within budget, then between.

    The third is the largest that fits of those scaled alike in all parameters, which is what one would take without a
    search.
    ``by`` is the cost along which they are spread, evenly on a log scale. Where nothing in a spread-out sample fits,
    the sample's own smallest architectures come back, and will be recorded as over budget. Architectures that cannot
    be built are passed over, unless none can.
    """
    if count == 0:
        return []
    pool: dict[str, Architecture] = {}
    priced: dict[str, float] = {}
    fitting: list[str] = []
    uniform = scaled_alike(space, costs, budget)
    for size in (4 * count, 12 * count, 48 * count):  # the more the narrower the budget is
        rng = numpy_rng(seed, "seeds", size)
        for architecture in [space.smallest(), *uniform, *space.spread(size, rng), space.largest()]:
            if architecture.hash in pool:
                continue
            pool[architecture.hash] = architecture
            try:
                found = costs(architecture)
            except Exception:  # a builder is the user's code; the search itself records what it raises
                continue
            if math.isfinite(found[by]):
                priced[architecture.hash] = found[by]
                if budget.fits(found):
                    fitting.append(architecture.hash)
        if len(fitting) >= count:
            break
    # Of equals, the order of the pool: the smallest first, the largest last.
    order = list(pool)
    names = sorted(fitting or priced or pool, key=lambda name: (priced.get(name, 0.0), order.index(name)))
    if not fitting:
        return [pool[name] for name in names[:count]]
    return [pool[name] for name in _spread_out(names, priced, count, [architecture.hash for architecture in uniform])]


def scaled_alike(space: SearchSpace, costs: Costs, budget: Budget) -> list[Architecture]:
    """Return the largest architecture within the budget with every parameter at one share of its range, if any fits.

    What the coarse steps of the parameters leave of the budget is used up by raising one after the other by a step.
    Parameters whose values are no numbers are at their last one, the dearest as spaces are written.
    """
    if not budget.limits:
        return []
    # What is below a lower limit is not too large: it is the largest that counts, and that may be above.
    upper = Budget({name: Limit(None, limit.high) for name, limit in budget.limits.items()})

    def fits(architecture: Architecture, within: Budget = upper) -> bool:
        try:
            return within.fits(costs(architecture))
        except Exception:  # a builder is the user's code
            return False

    best: Architecture | None = None
    low, high = 0, _SHARES
    while low <= high:
        middle = (low + high) // 2
        architecture = space.draw(partial(at_share, fraction=middle / _SHARES))
        if fits(architecture):
            best, low = architecture, middle + 1
        else:
            high = middle - 1
    found = None if best is None else _filled(space, best, fits)
    return [found] if found is not None and fits(found, budget) else []


def _filled(space: SearchSpace, architecture: Architecture, fits: Callable[[Architecture], bool]) -> Architecture:
    """Raise parameters in turn, a step at a time, as long as the result fits; those that made it too large are left."""
    spent: set[str] = set()
    tried = 0
    while tried < _RAISES:
        before = architecture
        for name in space.flatten(architecture):
            if name in spent or tried >= _RAISES:
                continue
            raised = _raised(space, architecture, name)
            if raised is None:
                spent.add(name)
                continue
            tried += 1
            if fits(raised):
                architecture = raised
            else:
                spent.add(name)
        if architecture == before:
            break
    return architecture


def _raised(space: SearchSpace, architecture: Architecture, name: str) -> Architecture | None:
    """Return the architecture with one ordered parameter a step up, new ones at their least; None at the top."""
    values = space.flatten(architecture)
    changed = False

    def choose(asked: str, domain: Domain) -> Scalar:
        nonlocal changed
        place = domain.values.index(values[asked]) if asked in values else 0
        if asked == name and is_ordered(domain) and place + 1 < len(domain):
            changed, place = True, place + 1
        return domain.at(place)

    raised = space.draw(choose)
    return raised if changed else None


def _spread_out(names: list[str], priced: Mapping[str, float], count: int, wanted: list[str]) -> list[str]:
    """Pick from ``names`` (cheap to dear) both ends, what is wanted, then always what is farthest from all picked."""
    place = {name: math.log(max(priced[name], 1e-12)) for name in names}
    picked = [names[0]]
    if count > 1 and len(names) > 1:
        picked.append(names[-1])
    picked += [name for name in wanted if name in names and name not in picked][: max(0, count - len(picked))]
    while len(picked) < min(count, len(names)):
        left = [name for name in names if name not in picked]
        picked.append(max(left, key=lambda name: min(abs(place[name] - place[other]) for other in picked)))
    return picked
