"""Cuts that spend a budget: widths raised and lowered until no step more fits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nas_distill.allocation.polynomial import CostPolynomial
from nas_distill.pruning.plan import Cut, active_groups
from nas_distill.pruning.space import CutSpace

_BISECTIONS = 12

Profile = Mapping[str, float]
"""Wanted shares of the groups, up to a common factor."""


@dataclass(frozen=True)
class Filler:
    """Widths for chosen blocks that spend limits by construction, by predicted costs.

    Attributes:
        space: of the cuts.
        costs: predicts their costs.
        limits: upper limits by cost name.
        correction: factor of the prediction by cost name, for costs that a polynomial only approximates.
    """

    space: CutSpace
    costs: CostPolynomial
    limits: Mapping[str, float]
    correction: Mapping[str, float] = field(default_factory=dict)

    def use(self, cut: Cut) -> float:
        """Return the largest ratio of a predicted cost to its limit; a cut fits at 1 and below."""
        return self._use(self.costs.layout.of(cut))

    def scaled(self, blocks: tuple[str, ...], profile: Profile, rng: np.random.Generator | None = None) -> Cut | None:
        """Return the largest cut in proportion to a profile that fits, filled up; None if not even the smallest fits.

        Args:
            blocks: what becomes of each block, as in ``Cut``.
            profile: wanted shares of the active groups, up to a factor; 1 for groups that it does not name.
            rng: shuffles the order in which groups are filled up; None is without chance.
        """
        start = self.space.unpruned.start
        names = [group.name for group in active_groups(self.space.plan, blocks)]
        wanted = {name: max(profile.get(name, 1.0), 1e-6) for name in names}

        def at(factor: float) -> Cut:
            return Cut({name: self._below(name, factor * wanted[name]) for name in names}, blocks, start)

        low, high = 0.0, 1.0 / min(wanted.values(), default=1.0)
        if self.use(at(low)) > 1:
            return None
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self.use(at(middle)) <= 1:
                low = middle
            else:
                high = middle
        return self.filled(at(low), wanted, rng)

    def filled(
        self, cut: Cut, profile: Profile, rng: np.random.Generator | None = None, fixed: Collection[str] = ()
    ) -> Cut | None:
        """Lower widths until a cut fits, then raise them while one more step fits; None if it cannot fit.

        The group that is farthest above (or below) its share of the profile is lowered (or raised) first.

        Args:
            cut: to begin with.
            profile: wanted shares, up to a factor.
            rng: disturbs the order of the groups; None is without chance.
            fixed: groups whose widths stay, unless the cut cannot fit otherwise.
        """
        widths = dict(cut.widths)
        noise = {name: 1.0 if rng is None else float(np.exp(0.3 * rng.standard_normal())) for name in widths}
        vector = self.costs.layout.of(cut)
        places = self.costs.layout.groups
        sizes = {name: self.space.plan.group(name).size for name in widths}

        def ratio(name: str, width: int) -> float:
            return width / sizes[name] / max(profile.get(name, 1.0), 1e-6) * noise[name]

        free = [name for name in widths if name not in fixed]
        while self._use(vector) > 1:
            lower = [(name, step) for name in free if (step := self._step(name, widths[name], -1)) is not None]
            if not lower and len(free) < len(widths):
                free = list(widths)
                continue
            if not lower:
                return None
            name, step = max(lower, key=lambda pair: ratio(pair[0], widths[pair[0]]))
            widths[name] = step
            vector[places[name]] = step / sizes[name]
        # The fixed groups come last: they are raised only with what no other group can use.
        for free in ([name for name in widths if name not in fixed], list(widths)):
            while free:
                name = min(free, key=lambda name: ratio(name, self._step(name, widths[name], 1) or widths[name]))
                raised = self._step(name, widths[name], 1)
                before = vector[places[name]]
                if raised is not None:
                    vector[places[name]] = raised / sizes[name]
                    if self._use(vector) <= 1:
                        widths[name] = raised
                        continue
                    vector[places[name]] = before
                free.remove(name)
        return replace(cut, widths=widths)

    def _use(self, vector: np.ndarray) -> float:
        found = self.costs.values(vector)
        return max(found[name] * self.correction.get(name, 1.0) / high for name, high in self.limits.items())

    def _step(self, name: str, width: int, by: int) -> int | None:
        widths = self.space.widths[name]
        place = widths.index(width) + by
        return widths[place] if 0 <= place < len(widths) else None

    def _below(self, name: str, share: float) -> int:
        """Return the largest width that is at most a share of the group, or the smallest."""
        size = self.space.plan.group(name).size
        fitting = [width for width in self.space.widths[name] if width <= share * size + 1e-9]
        return fitting[-1] if fitting else self.space.widths[name][0]
