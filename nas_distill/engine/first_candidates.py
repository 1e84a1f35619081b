"""First candidates of a search: the smallest, the largest that fits, and others between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TypeVar

import numpy as np

from nas_distill.config import SearchConfig
from nas_distill.costs.budget import Budget, Limit
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.early_stopping import Dominance, Rule
from nas_distill.engine.objectives import Objectives
from nas_distill.runs.journal import Journal
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.spaces.architecture import Scalar
from nas_distill.spaces.domains import Domain, is_ordered, value_at
from nas_distill.utils.seeds import numpy_rng

Network = TypeVar("Network")

_SHARES = 64
_RAISES = 48
ENUMERATED = 256  # largest space that is enumerated to find the largest architecture that fits
_STEPS = 192  # evaluations of costs in the hill climbing of larger spaces
_NEAR = 0.98  # of the limit: near enough


def choose_first_candidates(
    space: SearchSpace,
    pricing: Pricing,
    *,
    count: int,
    by: str,
    seed: int,
    uniform: list[Architecture] | None = None,
) -> list[Architecture]:
    """Return up to ``count`` distinct first candidates: the cheapest and the largest within budget, and some between.

    The largest is exact where the space is small enough to be enumerated; in larger spaces it is found by hill
    climbing from the largest of a sample. The third is the network that needs no search: ``uniform`` (one, or none that
    fits), which is the largest uniformly scaled architecture that fits unless given. The others are spread evenly on
    the log scale of the cost ``by``. Where no sampled architecture fits, the smallest of the sample are returned, and
    will be recorded as over budget. Architectures that cannot be built are left out, unless none can.
    """
    if count == 0:
        return []
    pool: dict[str, Architecture] = {}
    priced: dict[str, float] = {}
    fitting: list[str] = []
    if uniform is None:
        uniform = uniformly_scaled(space, pricing)
    budget = pricing.budget
    for size in (4 * count, 12 * count, 48 * count):  # the more the narrower the budget is
        rng = numpy_rng(seed, "seeds", size)
        for architecture in [space.smallest(), *uniform, *space.spread(size, rng), space.largest()]:
            if architecture.hash in pool:
                continue
            pool[architecture.hash] = architecture
            found = pricing.known(architecture)
            if found is not None:
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
    picked = [pool[name] for name in _spread_out(names, priced, count, [architecture.hash for architecture in uniform])]
    if not budget.limits or count == 1:
        return picked
    largest = largest_within(space, pricing, [pool[name] for name in reversed(names[-3:])], by=by, seed=seed)
    if largest in picked:
        return picked
    kept = picked[1:] if picked[1:2] == uniform else picked[2:]
    return [picked[0], largest, *kept][:count]


def largest_within(
    space: SearchSpace, pricing: Pricing, starts: Sequence[Architecture], *, by: str, seed: int
) -> Architecture:
    """Return the architecture of the largest cost ``by`` within the budget, or one near it.

    A space of up to ``ENUMERATED`` architectures is enumerated. In larger spaces, hill climbing from ``starts`` (which
    fit, the largest first) changes one parameter at a time, then pairs of them in opposite directions.
    """

    def paid(architecture: Architecture) -> float:
        found = pricing.known(architecture)
        return found[by] if found is not None and pricing.budget.fits(found) else -math.inf

    size = space.size()
    if size.exact and size.count <= ENUMERATED:
        return max(space.every(), key=paid)
    limit = pricing.budget.limits.get(by)
    enough = math.inf if limit is None or limit.high is None else _NEAR * limit.high
    rng = numpy_rng(seed, "largest")
    best, left = starts[0], _STEPS
    for start in starts:
        if paid(best) >= enough or left <= 0:
            break
        found, left = _climbed(space, start, paid, enough, rng, left)
        best = max(best, found, key=paid)
    return best


def _climbed(
    space: SearchSpace,
    start: Architecture,
    paid: Callable[[Architecture], float],
    enough: float,
    rng: np.random.Generator,
    left: int,
) -> tuple[Architecture, int]:
    """Change parameters while that increases the cost within the budget; return the result and the steps left."""
    here, value, pairs, tried = start, paid(start), False, {start.hash}
    while value < enough and left > 0:
        moves = _moves(space, here)
        if pairs:
            moves = [one | other for one, other in combinations(moves, 2) if one.keys() != other.keys()]
        for place in rng.permutation(len(moves)):
            there = _moved(space, here, moves[place])
            if there.hash in tried:
                continue
            tried.add(there.hash)
            left -= 1
            if paid(there) > value:
                here, value, pairs = there, paid(there), False
                break
            if left <= 0:
                break
        else:
            if pairs:
                break
            pairs = True
    return here, left


def _moves(space: SearchSpace, architecture: Architecture) -> list[dict[str, int]]:
    """Return the changes of one parameter: a step up or down where it has an order, else to each other value."""
    moves: list[dict[str, int]] = []
    values = space.flatten(architecture)

    def follow(name: str, domain: Domain) -> Scalar:
        place = domain.values.index(values[name])
        near = (place - 1, place + 1) if is_ordered(domain) else range(len(domain))
        moves.extend({name: other} for other in near if 0 <= other < len(domain) and other != place)
        return values[name]

    space.draw(follow)
    return moves


def _moved(space: SearchSpace, architecture: Architecture, places: Mapping[str, int]) -> Architecture:
    """Return an architecture with some parameters at other indices of their domains; new ones get their first value."""
    values = space.flatten(architecture)

    def choose(name: str, domain: Domain) -> Scalar:
        if name in places:
            return domain.at(places[name])
        return values[name] if name in values else domain.at(0)

    return space.draw(choose)


def uniformly_scaled(space: SearchSpace, pricing: Pricing) -> list[Architecture]:
    """Return the largest architecture within the budget with every parameter at one fraction of its range, if any fits.

    The remainder of the budget is then used by raising one parameter after the other by a step. Parameters whose
    values are not numbers get their last value, by convention the most expensive.
    """
    budget = pricing.budget
    if not budget.limits:
        return []
    upper = without_lower(budget)

    def fits(architecture: Architecture, within: Budget = upper) -> bool:
        found = pricing.known(architecture)
        return found is not None and within.fits(found)

    best = last_that_fits(lambda place: space.draw(partial(value_at, fraction=place / _SHARES)), _SHARES + 1, fits)
    found = None if best is None else _filled(space, best, fits)
    return [found] if found is not None and fits(found, budget) else []


def last_that_fits(at: Callable[[int], Network], count: int, fits: Callable[[Network], bool]) -> Network | None:
    """Return the last of ``count`` networks, ordered from small to large, that fits; None if none was found to.

    The search is by bisection, so it is exact where all before one that fits do.
    """
    best: Network | None = None
    low, high = 0, count - 1
    while low <= high:
        middle = (low + high) // 2
        network = at(middle)
        if fits(network):
            best, low = network, middle + 1
        else:
            high = middle - 1
    return best


def without_lower(budget: Budget) -> Budget:
    """Return a budget without its lower limits.

    A network below a lower limit is not too large: the largest within the upper limits counts, which may be above.
    """
    return Budget({name: Limit(None, limit.high) for name, limit in budget.limits.items()})


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
    domains: dict[str, Domain] = {}
    values = space.flatten(architecture)

    def follow(asked: str, domain: Domain) -> Scalar:
        domains[asked] = domain
        return values[asked]

    space.draw(follow)
    place = domains[name].values.index(values[name]) + 1
    if not is_ordered(domains[name]) or place == len(domains[name]):
        return None
    return _moved(space, architecture, {name: place})


def _spread_out(names: list[str], priced: Mapping[str, float], count: int, wanted: list[str]) -> list[str]:
    """Pick from ``names`` (by rising cost) both ends, those in ``wanted``, then always the farthest from those."""
    place = {name: math.log(max(priced[name], 1e-12)) for name in names}
    picked = [names[0]]
    if count > 1 and len(names) > 1:
        picked.append(names[-1])
    picked += [name for name in wanted if name in names and name not in picked][: max(0, count - len(picked))]
    while len(picked) < min(count, len(names)):
        left = [name for name in names if name not in picked]
        picked.append(max(left, key=lambda name: min(abs(place[name] - place[other]) for other in picked)))
    return picked


def first_candidates(
    journal: Journal, space: SearchSpace, pricing: Pricing, *, search: SearchConfig, by: str, seed: int
) -> list[Architecture]:
    """Return the architectures to try first; ``by`` is the cost along which they are spread."""
    known = journal.metadata.first_candidates
    if known is None:
        recorded = journal.metadata.uniform
        uniform = None if recorded is None else recorded.architectures
        chosen = choose_first_candidates(space, pricing, count=search.seeds, by=by, seed=seed, uniform=uniform)
        known = tuple(architecture.to_dict() for architecture in chosen)
        journal.note(first_candidates=known)
    return [Architecture(values) for values in known]


def reference_costs(
    journal: Journal, given: Mapping[str, float], pricing: Pricing, *, costs: tuple[str, ...]
) -> dict[str, float]:
    """Return, for each cost objective, the largest value that counts in the hypervolume.

    In this order: the journal's, the argument's, the budget's upper limit, the largest of the first candidates.
    """
    if not journal.metadata.reference:
        found = {}
        for name in costs:
            limit = pricing.budget.limits.get(name)
            choices = (given.get(name), limit and limit.high, pricing.largest(name), 1.0)
            found[name] = next(float(choice) for choice in choices if choice)
        journal.note(reference=found)
    return dict(journal.metadata.reference)


def note_decisions(journal: Journal, objectives: Objectives, budget: Budget, rule: Rule) -> None:
    """Record the objectives, the budget and the margin in the journal."""
    journal.note(objectives=objectives.names, budget=budget.to_dict())
    if isinstance(rule, Dominance):
        journal.note(margin=rule.margin)
