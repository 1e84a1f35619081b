"""First cuts of a local search, and moves from one cut to another of the same cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nas_distill.allocation.filling import Filler, Profile
from nas_distill.pruning.plan import DROPPED, UNPRUNED, Cut
from nas_distill.pruning.space import CutSpace

_STEPS = 3


@dataclass(frozen=True)
class Moves:
    """Cuts that spend a budget: starting points, and neighbours of a cut.

    Attributes:
        filler: adapts widths to the limits.
    """

    filler: Filler

    @property
    def space(self) -> CutSpace:
        """The space of the cuts."""
        return self.filler.space

    def uniform(self) -> Cut | None:
        """Return uniform narrowing at the limit: no block dropped, all groups at one share; None if it cannot fit."""
        return self.filler.scaled(self.space.unpruned.blocks, {})

    def starts(self) -> Iterator[Cut]:
        """Yield the cuts of simple rules: uniform narrowing at several depths, evenly thinned out."""
        droppable = self.space.droppable
        kept = self.space.unpruned.blocks
        for share in (0.0, 0.25, 1 / 3, 0.5, 2 / 3, 1.0):
            count = round(share * len(droppable))
            if self.space.depth_order:
                dropped = set(self.space.depth_order[:count])
            else:
                dropped = {droppable[(2 * place + 1) * len(droppable) // (2 * count)] for place in range(count)}
            blocks = tuple(DROPPED if index in dropped else kind for index, kind in enumerate(kept))
            found = self.filler.scaled(blocks, {})
            if found is not None:
                yield found

    def neighbour(self, cut: Cut, rng: np.random.Generator) -> Cut | None:
        """Return a random change of a cut at about its cost; None if what was drawn does not exist or fit."""
        profile = self.profile(cut)
        choice = rng.random()
        if choice < 0.25 and (blocks := self._toggled(cut, rng)) is not None:
            return self.filler.scaled(blocks, profile, rng)
        if choice < 0.4 and (blocks := self._exchanged(cut, rng)) is not None:
            return self.filler.scaled(blocks, profile, rng)
        if choice < 0.55:
            return self.filler.scaled(cut.blocks, self._tilted(profile, rng), rng)
        return self._stepped(cut, profile, rng)

    def _stepped(self, cut: Cut, profile: Profile, rng: np.random.Generator) -> Cut | None:
        """Change the widths of one or two groups by some steps, and let the others compensate for it."""
        names = sorted(cut.widths)
        count = min(len(names), int(rng.integers(1, 3)))
        chosen = [names[place] for place in rng.choice(len(names), count, replace=False)]
        widths = dict(cut.widths)
        for name in chosen:
            allowed = self.space.widths[name]
            by = int(rng.integers(1, _STEPS + 1)) * (1 if rng.random() < 0.5 else -1)
            place = min(max(allowed.index(widths[name]) + by, 0), len(allowed) - 1)
            widths[name] = allowed[place]
        if widths == dict(cut.widths):
            return None
        return self.filler.filled(Cut(widths, cut.blocks, cut.start), profile, rng, fixed=chosen)

    def rescaled(self, cut: Cut) -> Cut | None:
        """Return a cut of the same blocks and proportions at the limits; None if it cannot fit."""
        return self.filler.scaled(cut.blocks, self.profile(cut))

    def profile(self, cut: Cut) -> dict[str, float]:
        """Return a cut's shares; groups in dropped blocks get the median share of the others of their kind."""
        plan = self.space.plan
        shares = {name: width / plan.group(name).size for name, width in cut.widths.items()}
        inner = [share for name, share in shares.items() if plan.group(name).block is not None]
        usual = float(np.median(inner or list(shares.values()) or [1.0]))
        return {group.name: shares.get(group.name, usual) for group in plan.groups}

    def _tilted(self, profile: Profile, rng: np.random.Generator) -> dict[str, float]:
        """Return a profile whose early, late, shared or inner groups are wider than before."""
        plan = self.space.plan
        last = max(1, len(plan.groups) - 1)
        slope, between = 0.5 * rng.standard_normal(2)
        tilted = {}
        for place, group in enumerate(plan.groups):
            shift = slope * (2 * place / last - 1) + (between / 2 if group.block is None else -between / 2)
            tilted[group.name] = profile[group.name] * math.exp(shift)
        return tilted

    def _toggled(self, cut: Cut, rng: np.random.Generator) -> tuple[str, ...] | None:
        """Drop a block, restore one, or replace it by another kind."""
        if self.space.depth_order:
            order = self.space.depth_order
            dropped = sum(cut.blocks[index] == DROPPED for index in order)
            change = 1 if rng.random() < 0.5 else -1
            if not 0 <= dropped + change <= len(order):
                return None
            return self._with(cut, {order[dropped if change > 0 else dropped - 1]: DROPPED if change > 0 else UNPRUNED})
        several = [index for index, choices in enumerate(self.space.choices) if len(choices) > 1]
        if not several:
            return None
        index = int(rng.choice(several))
        others = [kind for kind in self.space.choices[index] if kind != cut.blocks[index]]
        return self._with(cut, {index: str(rng.choice(others))})

    def _exchanged(self, cut: Cut, rng: np.random.Generator) -> tuple[str, ...] | None:
        """Restore a dropped block and drop a kept one."""
        droppable = self.space.droppable
        dropped = [index for index in droppable if cut.blocks[index] == DROPPED]
        kept = [index for index in droppable if cut.blocks[index] != DROPPED]
        if self.space.depth_order or not dropped or not kept:
            return None
        return self._with(cut, {int(rng.choice(dropped)): UNPRUNED, int(rng.choice(kept)): DROPPED})

    @staticmethod
    def _with(cut: Cut, changes: dict[int, str]) -> tuple[str, ...]:
        return tuple(changes.get(index, kind) for index, kind in enumerate(cut.blocks))
