"""Local search over cuts of equal cost, judged before any training.

The search allocates a budget to widths and blocks. Every cut that it looks at spends the limits by construction; it is
judged by its divergence from the teacher as it begins, reconstructed and untrained. The additive estimates of layers
(HALP, Shen et al., NeurIPS 2022) do not see how cuts interact; SPDY (Frantar and Alistarh, ICML 2022, arXiv:2201.13096)
therefore searches over the estimates, judging whole networks. Here the search is over the widths and blocks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas_distill.allocation.filling import Filler
from nas_distill.allocation.moves import Moves
from nas_distill.pruning.plan import DROPPED, UNPRUNED, Cut
from nas_distill.pruning.space import CutSpace
from nas_distill.utils.seeds import numpy_rng

SURVIVORS = 24
"""Cuts that are judged again on more samples, and from which cheaper ones begin."""
DEPTHS = 5
"""Classes of depth, by the share of dropped blocks, each with its own survivors.

Before training, a shallow network often diverges least, and a deeper one ends higher after it. Short distillation has
to decide between them, so the search keeps the best of each (as quality-diversity search does: Mouret and Clune, 2015,
arXiv:1504.04909).
"""
FINER = 4
"""Factor of the number of samples in the second judgement."""
BATCH = 8
"""Cuts per step of the search; constant, so that results do not depend on the number of processes."""
LEVELS = ((1.0, 0.7), (0.7, 0.15), (0.5, 0.15))
"""Shares of the limits that are searched, each with its share of the judgements; the cheaper ones make the front."""
BAND = 0.97
_TRIES = 4
_IDLE = 50
_LEAST = 1e-12  # an approximate polynomial may predict nothing, or less, for a small cut

Judge = Callable[[Sequence[Cut], int], list[float]]
"""Returns the divergence of each cut over a number of samples."""
Count = Callable[[Cut], Mapping[str, float] | None]
"""Returns the counted costs of a cut; None where it cannot be built."""


@dataclass(frozen=True)
class JudgedCut:
    """A cut with its divergence from the teacher before training, in nats; lower is better."""

    cut: Cut
    divergence: float


class AllocationSearch:
    """A search for the cuts of least divergence at the limits and at shares of them.

    Args:
        filler: spends the limits, by predicted costs.
        judge: of the cuts.
        count: counts costs that are not predicted exactly.
        candidates: number of cuts that are judged.
        samples: of the first judgement.
        seed: of all that is random; results depend on nothing else.
        levels: shares of the limits to search at, from the largest, each with its share of the candidates.
        on_step: called with the number of judged cuts and of all.
    """

    def __init__(
        self,
        filler: Filler,
        judge: Judge,
        count: Count,
        *,
        candidates: int,
        samples: int,
        seed: int,
        levels: Sequence[tuple[float, float]] = LEVELS,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self._filler = filler
        self._judge = judge
        self._count = count
        self._total = candidates
        self._samples = samples
        self._seed = seed
        self._levels = levels
        self._on_step = on_step or (lambda done, total: None)
        self._done = 0
        self._inexact = [name for name in filler.limits if not filler.costs.is_exact(name)]

    def run(self) -> list[list[JudgedCut]]:
        """Return the survivors at each level, the best first; a level at which nothing fits is empty."""
        found: list[list[JudgedCut]] = []
        for level, (share, part) in enumerate(self._levels):
            limits = {name: share * high for name, high in self._filler.limits.items()}
            moves = Moves(replace(self._filler, limits=limits))
            seeds = [] if not found else [moves.rescaled(one.cut) for one in found[-1]]
            begin = [*moves.starts(), *seeds]
            rng = numpy_rng(self._seed, "allocation", level)
            found.append(self._level(moves, begin, max(BATCH, round(part * self._total)), rng))
        return found

    def _level(
        self, moves: Moves, begin: Sequence[Cut | None], count: int, rng: np.random.Generator
    ) -> list[JudgedCut]:
        seen: set[Cut] = set()
        population: list[JudgedCut] = []
        each = max(1, SURVIVORS // depth_classes(moves.space))

        def judge(cuts: Sequence[Cut | None]) -> None:
            fresh = [cut for cut in dict.fromkeys(self._within(moves, cut) for cut in cuts) if cut is not None]
            fresh = [cut for cut in fresh if cut not in seen][: count - len(seen)]
            seen.update(fresh)
            scores = self._judge(fresh, self._samples) if fresh else []
            population.extend(JudgedCut(cut, score) for cut, score in zip(fresh, scores))
            population[:] = best_by_depth(population, each)
            self._done += len(fresh)
            self._on_step(min(self._done, self._total), self._total)

        judge(begin)
        idle = 0
        while population and len(seen) < count and idle < _IDLE:
            before = len(seen)
            parents = [population[int(min(rng.integers(len(population), size=2)))] for _ in range(BATCH)]
            judge([moves.neighbour(parent.cut, rng) for parent in parents])
            idle = idle + 1 if len(seen) == before else 0
        cuts = [one.cut for one in population]
        again = [JudgedCut(cut, score) for cut, score in zip(cuts, self._judge(cuts, FINER * self._samples))]
        return sorted(again, key=lambda one: one.divergence)

    def _within(self, moves: Moves, cut: Cut | None) -> Cut | None:
        """Return a cut near the limits by its counted costs; None if none is found."""
        if cut is None or not self._inexact:
            return cut
        filler, fitting = moves.filler, None
        for _ in range(_TRIES):
            found = self._count(cut)
            if found is None:
                return fitting
            use = max(found[name] / high for name, high in filler.limits.items())
            if use <= 1:
                fitting = cut
                if use >= BAND:
                    return cut
            predicted = filler.costs.predict(cut)
            filler = replace(
                filler, correction={name: found[name] / max(predicted[name], _LEAST) for name in self._inexact}
            )
            changed = filler.filled(cut, Moves(filler).profile(cut))
            if changed is None or changed == cut:
                return fitting
            cut = changed
        return fitting


def depth_class(cut: Cut) -> int:
    """Return the class of a cut by the share of its blocks that are dropped: 0 to ``DEPTHS`` - 1."""
    if not cut.blocks:
        return 0
    return min(DEPTHS - 1, DEPTHS * cut.blocks.count(DROPPED) // len(cut.blocks))


def depth_classes(space: CutSpace) -> int:
    """Return the number of classes of depth that a space has."""
    shallowest = tuple(DROPPED if index in space.droppable else UNPRUNED for index in range(len(space.choices)))
    return 1 + depth_class(Cut({}, shallowest))


def best_by_depth(judged: Sequence[JudgedCut], each: int) -> list[JudgedCut]:
    """Return up to ``each`` of the best cuts of each class of depth, all together the best first."""
    kept: dict[int, int] = {}
    found = []
    for one in sorted(judged, key=lambda one: one.divergence):
        place = depth_class(one.cut)
        if kept.get(place, 0) < each:
            kept[place] = kept.get(place, 0) + 1
            found.append(one)
    return found


def diverse(judged: Sequence[JudgedCut], count: int, *, least: float = 0.02) -> list[Cut]:
    """Return up to ``count`` of the best cuts: first the best of each class of depth, then others unlike those.

    Cuts are unlike if they differ by at least ``least``, the mean over groups of the difference of their widths, as a
    share of the larger one; a group in a dropped block has none. If too few are unlike, the best of the others follow.
    """
    chosen = best_by_depth(judged, 1)[:count]
    for one in judged:
        if len(chosen) < count and all(_difference(one.cut, other.cut) >= least for other in chosen):
            chosen.append(one)
    others = [one for one in judged if one not in chosen]
    return [one.cut for one in [*chosen, *others][:count]]


def _difference(one: Cut, other: Cut) -> float:
    names = {*one.widths, *other.widths}
    changes = [
        abs(one.widths.get(name, 0) - other.widths.get(name, 0))
        / max(one.widths.get(name, 0), other.widths.get(name, 0))
        for name in names
    ]
    return sum(changes) / max(1, len(changes))
