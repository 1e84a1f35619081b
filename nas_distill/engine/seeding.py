"""The first candidates of a search: the smallest, the largest that fits, and others spread between them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nas_distill.common.seeds import numpy_rng
from nas_distill.cost.budget import Budget
from nas_distill.engine.pricing import Costs
from nas_distill.space import Architecture, SearchSpace


def choose_seeds(
    space: SearchSpace, costs: Costs, budget: Budget, *, count: int, by: str, seed: int
) -> list[Architecture]:
    """Return up to ``count`` distinct architectures to try first: cheapest and dearest within budget, then between.

    ``by`` is the cost along which they are spread, evenly on a log scale. Where nothing in a spread-out sample fits,
    the sample's own smallest architectures come back, and will be recorded as over budget. Architectures that cannot
    be built are passed over, unless none can.
    """
    if count == 0:
        return []
    pool: dict[str, Architecture] = {}
    priced: dict[str, float] = {}
    fitting: list[str] = []
    for size in (4 * count, 12 * count):
        rng = numpy_rng(seed, "seeds", size)
        for architecture in [space.smallest(), *space.spread(size, rng), space.largest()]:
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
    return [pool[name] for name in _spread_out(names, priced, count)]


def _spread_out(names: list[str], priced: Mapping[str, float], count: int) -> list[str]:
    """Pick from ``names`` (cheap to dear) the two ends, then repeatedly the one farthest from all picked."""
    place = {name: math.log(max(priced[name], 1e-12)) for name in names}
    picked = [names[0]]
    if count > 1 and len(names) > 1:
        picked.append(names[-1])
    while len(picked) < min(count, len(names)):
        left = [name for name in names if name not in picked]
        picked.append(max(left, key=lambda name: min(abs(place[name] - place[other]) for other in picked)))
    return picked
