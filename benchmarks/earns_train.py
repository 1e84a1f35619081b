"""One cut, made in one of the ways of benchmarks/earns.py, its distillation and its evaluation on test data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import fashion
from inherit_arms.prepared import LOOK, steps_left

from nas_distill.allocation.filling import Filler
from nas_distill.allocation.judge import CutJudge
from nas_distill.allocation.moves import Moves
from nas_distill.allocation.polynomial import CostPolynomial, random_cut
from nas_distill.allocation.search import FINER, AllocationSearch, best_by_depth
from nas_distill.config import (
    RECONSTRUCTED_LR,
    AllocationConfig,
    FromTeacherConfig,
    OptimizerConfig,
    TeacherSource,
    TrainingConfig,
)
from nas_distill.costs.counting import count
from nas_distill.data import Dataset
from nas_distill.distill.distiller import Distiller
from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.predict import predict_logits
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import WeightInheritance, make_inheritance
from nas_distill.pruning.plan import DROPPED, Cut
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.surgery import prune, structure_of
from nas_distill.study.cutting import FINE_MULTIPLE, FINE_WIDTHS
from nas_distill.teacher import Teacher, TeacherStore, load_teacher
from nas_distill.utils.seeds import numpy_rng

ARMS = ("uniform", "halved", "random", "allocated", "raced")
RACE = 3_000
"""Images of the short distillation of each cut that a race compares."""
COSTS = ("flops", "params")
BATCH = 128
CANDIDATES = round(0.7 * AllocationConfig().candidates)
"""Of a search as it is by default, what it judges at the limit itself."""


@dataclass(frozen=True)
class Job:
    """A cut of a teacher to a share of its FLOPs, in one way, under one seed."""

    teacher: str
    share: float
    arm: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.teacher}-{round(100 * self.share):02d}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Settings:
    """Settings of all jobs: data, the deep teacher's folder, images that an arm may see, and the folder of stores."""

    root: str | None
    deep: str | None
    images: int
    work: Path


class Setting:
    """A teacher with its data, its answers and all that its cuts need."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.data: Dataset = fashion(settings.root, settings.images)
        source = "fashion-resnet" if name == "shipped" else settings.deep
        self.teacher: Teacher = load_teacher(TeacherSource(name=source), self.data)
        self.store = TeacherStore.build(settings.work / "store", self.teacher, self.data)
        plan = find_plan(self.teacher.module, self.data.input_shape)
        self.space = CutSpace.from_plan(plan, widths=FINE_WIDTHS, multiple=FINE_MULTIPLE)

    @cached_property
    def inheritance(self) -> WeightInheritance:
        return make_inheritance(self.teacher, self.space, self.data, FromTeacherConfig())

    def costs(self, cut: Cut) -> Mapping[str, float]:
        module = prune(structure_of(self.teacher.module), self.space.plan, cut.units(self.space.plan))
        return count(module, self.data.input_shape, COSTS)

    def moves(self, share: float) -> Moves:
        limit = share * self.costs(self.space.unpruned)["flops"]
        return Moves(Filler(self.space, CostPolynomial.fit(self.space, self.costs, ["flops"]), {"flops": limit}))

    def distilled(self, cut: Cut, steps: int, seed: int) -> Distiller:
        """Return the finished training of a cut."""
        network = self.inheritance.pruned_teacher(cut)
        self.inheritance.recalibrate_batch_norm(network)
        training = TrainingConfig(
            epochs=steps / (len(self.data.train) // BATCH),
            batch_size=BATCH,
            optimizer=OptimizerConfig(lr=RECONSTRUCTED_LR),
        )
        distiller = Distiller(network, self.data, training, signal=self.store, seed=seed)
        distiller.advance(distiller.total_steps)
        return distiller


def run_job(job: Job, settings: Settings) -> dict[str, Any]:
    """Make the cut, distil and evaluate it; return a row of the page's table."""
    torch.set_num_threads(1)
    setting = Setting(job.teacher, settings)
    began = time.monotonic()
    cut, looks, trained, divergence = _cut(job, setting)
    searched = time.monotonic() - began
    config = FromTeacherConfig()
    looks += 3 * config.samples  # importance, moments of inputs, batch-norm statistics
    steps = steps_left(settings.images, trained + LOOK * looks, BATCH)
    began = time.monotonic()
    distiller = setting.distilled(cut, steps, job.seed)
    logits = predict_logits(distiller.student(), setting.data.inputs("test"))
    return {
        "teacher": job.teacher,
        "share": job.share,
        "arm": job.arm,
        "seed": job.seed,
        **setting.costs(cut),
        "blocks": len(cut.kept_blocks),
        "divergence": divergence,
        "looks": looks,
        "trained": trained,
        "steps": distiller.total_steps,
        "search_seconds": round(searched, 1),
        "training_seconds": round(time.monotonic() - began, 1),
        "validation": distiller.quality(),
        "test": accuracy(logits, setting.data.labels("test")),
        "cut": {"widths": dict(cut.widths), "blocks": list(cut.blocks)},
    }


def _cut(job: Job, setting: Setting) -> tuple[Cut, int, int, float | None]:
    """Return the cut of a way; the images that networks were shown and trained on before; its divergence if judged."""
    moves = setting.moves(job.share)
    rng = numpy_rng(job.seed, "earns", job.arm)
    found: Cut | None
    if job.arm == "uniform":
        found = moves.uniform()
    elif job.arm == "halved":
        found = moves.filler.scaled(_halved(setting.space), {})
    elif job.arm == "random":
        found = _random(moves, rng)
    else:
        return _allocated(job, setting, moves)
    if found is None:
        raise SystemExit(f"{job.key}: nothing fits.")
    return found, 0, 0, None


def _halved(space: CutSpace) -> tuple[str, ...]:
    """Drop every second of the blocks that can be dropped; of a single one, none."""
    dropped = set(space.droppable[1::2])
    return tuple(DROPPED if index in dropped else kind for index, kind in enumerate(space.unpruned.blocks))


def _random(moves: Moves, rng: np.random.Generator) -> Cut | None:
    """Return a random cut, its widths scaled to spend the limit."""
    while True:
        drawn = random_cut(moves.space, rng)
        found = moves.filler.scaled(drawn.blocks, moves.profile(drawn), rng)
        if found is not None:
            return found


def _allocated(job: Job, setting: Setting, moves: Moves) -> tuple[Cut, int, int, float]:
    """Return the cut that a search judges best before training, or after a short one of the best of each depth."""
    samples = AllocationConfig().samples
    judge = CutJudge.make(setting.inheritance, setting.store, FINER * samples, seed=job.seed)
    looks = 0

    def judged(cuts: Any, count: int) -> list[float]:
        nonlocal looks
        looks += count * len(cuts)
        return [judge.divergence(cut, count) for cut in cuts]

    search = AllocationSearch(
        moves.filler,
        judged,
        setting.costs,
        candidates=CANDIDATES,
        samples=samples,
        seed=job.seed,
        levels=[(1.0, 1.0)],
    )
    found = search.run()[0]
    if job.arm == "allocated":
        return found[0].cut, looks, 0, found[0].divergence
    runners = best_by_depth(found, 1)
    steps = RACE // BATCH
    qualities = [setting.distilled(one.cut, steps, job.seed).quality() for one in runners]
    best = runners[int(np.argmax(qualities))]
    return best.cut, looks, steps * BATCH * len(runners), best.divergence
