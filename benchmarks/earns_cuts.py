"""The ways to a cut that benchmarks/earns.py compares."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from earns_jobs import FLOPS, RULES, Job
from earns_setting import BATCH, Setting

from nas_distill.allocation.judge import CutJudge
from nas_distill.allocation.moves import Moves
from nas_distill.allocation.polynomial import random_cut
from nas_distill.allocation.search import FINER, LEVELS, AllocationSearch, JudgedCut, best_by_depth
from nas_distill.config import AllocationConfig
from nas_distill.pruning.plan import DROPPED, Cut
from nas_distill.pruning.space import CutSpace
from nas_distill.utils.seeds import numpy_rng

RACE = 3_000
"""Images of the short distillation of each cut that a race compares."""
_HALVINGS = 6
_WIDEST = 1.6
"""Factor of the limit, by predicted times, up to which a rule's cut is looked for within the limit by measured ones."""


@dataclass(frozen=True)
class Found:
    """A cut, with the images that networks were shown and trained on to find it, and how it was judged."""

    cut: Cut
    looks: int = 0
    trained: int = 0
    divergence: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Searched:
    """Results of a search within the limit, the best first."""

    runners: Sequence[JudgedCut]
    looks: int
    seconds: float


def find_cut(job: Job, setting: Setting) -> Found | None:
    """Return the cut of a job's way; None if a rule has none within the limit."""
    if job.arm in RULES:
        return _of_rule(setting, job.limit.share, job.arm)
    if job.arm == "random":
        return Found(_random(setting, job.limit.share, numpy_rng(job.seed, "earns", job.arm)))
    found = searched(setting, job.limit.share, job.seed)
    if job.arm == "allocated":
        best = found.runners[0]
        return Found(best.cut, found.looks, 0, best.divergence, found.seconds)
    began = time.monotonic()
    runners, steps = best_by_depth(found.runners, 1), RACE // BATCH
    qualities = [setting.distilled(setting.student(one.cut), steps, job.seed).quality() for one in runners]
    best = runners[int(np.argmax(qualities))]
    seconds = found.seconds + time.monotonic() - began
    return Found(best.cut, found.looks, steps * BATCH * len(runners), best.divergence, seconds)


@lru_cache(maxsize=8)
def searched(setting: Setting, share: float, seed: int) -> Searched:
    """Return what an allocation search finds at the limit.

    As in a search, the candidates whose measured time is over the limit are left out, and if all are, those of the next
    cheaper level are taken.
    """
    began = time.monotonic()
    config = AllocationConfig()
    judge = CutJudge.make(setting.inheritance, setting.store, FINER * config.samples, seed=seed)
    looks = 0

    def judged(cuts: Sequence[Cut], count: int) -> list[float]:
        nonlocal looks
        looks += count * len(cuts)
        return [judge.divergence(cut, count) for cut in cuts]

    flops = setting.cost == FLOPS
    levels = AllocationSearch(
        setting.moves(1.0, share).filler,
        judged,
        setting.costs,
        candidates=round(LEVELS[0][1] * config.candidates) if flops else config.candidates,
        samples=config.samples,
        seed=seed,
        levels=[(1.0, 1.0)] if flops else LEVELS,  # cheaper ones are needed where predictions may be wrong
    ).run()
    for level in levels:
        fits = [True] * len(level) if flops else setting.within([one.cut for one in level], share)
        runners = [one for one, fitting in zip(level, fits, strict=True) if fitting]
        if runners:
            return Searched(runners, looks, time.monotonic() - began)
    raise SystemExit(f"{setting.name} at {share:.0%}: nothing that was found is within the limit.")


@lru_cache(maxsize=32)
def _of_rule(setting: Setting, share: float, arm: str) -> Found | None:
    blocks = setting.space.unpruned.blocks if arm == "uniform" else _halved(setting.space)
    best = _largest(setting, share, lambda moves: moves.filler.scaled(blocks, {}))
    return None if best is None else Found(best)


def _largest(setting: Setting, share: float, make: Callable[[Moves], Cut | None]) -> Cut | None:
    """Return the largest cut of a rule within the limit; for a limit of time, by bisection over measured times."""
    if setting.cost == FLOPS:
        return make(setting.moves(1.0, share))
    best, low, high, middle = None, 0.0, _WIDEST, 1.0
    for _ in range(_HALVINGS):
        cut = make(setting.moves(middle, share))
        if cut is not None and not setting.within([cut], share)[0]:
            high = middle
        else:
            low, best = middle, cut or best
        middle = (low + high) / 2
    return best


def _halved(space: CutSpace) -> tuple[str, ...]:
    """Drop every second of the blocks that can be dropped; of a single one, none."""
    dropped = set(space.droppable[1::2])
    return tuple(DROPPED if index in dropped else kind for index, kind in enumerate(space.unpruned.blocks))


def _random(setting: Setting, share: float, rng: np.random.Generator) -> Cut:
    """Return a random cut, its widths scaled to spend the limit."""
    moves = setting.moves(1.0, share)
    while True:
        drawn = random_cut(setting.space, rng)
        found = moves.filler.scaled(drawn.blocks, moves.profile(drawn), rng)
        if found is not None and (setting.cost == FLOPS or setting.within([found], share)[0]):
            return found
