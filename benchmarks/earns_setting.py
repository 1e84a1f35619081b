"""A teacher of benchmarks/earns.py with its data, the costs and times of its cuts, and the training of a student."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import median

from common import fashion
from earns_jobs import FLOPS, Limit, Settings
from torch import nn

from nas_distill.allocation.filling import Filler
from nas_distill.allocation.moves import Moves
from nas_distill.allocation.polynomial import CostPolynomial
from nas_distill.config import (
    ADAMW_LR,
    RECONSTRUCTED_LR,
    FromTeacherConfig,
    LatencyConfig,
    OptimizerConfig,
    TeacherSource,
    TrainingConfig,
)
from nas_distill.costs.latency import LATENCY, LatencyModel
from nas_distill.costs.model import CostModel
from nas_distill.costs.timing import LatencySample, export_for_timing, time_modules
from nas_distill.costs.tracing import attends
from nas_distill.data import Dataset
from nas_distill.distill.distiller import Distiller
from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import WeightInheritance, make_inheritance
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.space import CutSpace, multiple_for
from nas_distill.pruning.surgery import prune, structure_of
from nas_distill.study.cutting import FINE_MULTIPLE, FINE_WIDTHS
from nas_distill.teacher import Teacher, TeacherStore, load_teacher
from nas_distill.utils.errors import NasDistillError
from nas_distill.utils.files import write_json
from nas_distill.utils.seeds import numpy_rng

BATCH = 128
REPEATS, VISITS = 100, 9
"""Timed runs of a network in each visit, of which the median counts, and undisturbed visits."""
MOST_VISITS, DISTURBED = 40, 1.05
"""Visits after which those that there are have to do, and the teacher's time, as a factor, that a disturbed one has."""


class Setting:
    """A teacher with all that its cuts to a limit of one cost need.

    As in a search, widths are finer for FLOPs than for milliseconds, and these are predicted by a model that is fitted
    to timed cuts of the space.
    """

    def __init__(self, name: str, cost: str, settings: Settings) -> None:
        self.name, self.cost, self._work = name, cost, settings.work
        self.data: Dataset = fashion(settings.root, settings.images)
        source = TeacherSource(name=settings.teachers[name])
        self.teacher: Teacher = load_teacher(source, self.data, [Path(__file__).parent])
        self.store = TeacherStore.build(settings.work / "store", self.teacher, self.data)
        plan = find_plan(self.teacher.module, self.data.input_shape)
        multiple = min(FINE_MULTIPLE, multiple_for(plan)) if cost == FLOPS else multiple_for(plan)
        self.space = CutSpace.from_plan(plan, widths=FINE_WIDTHS, multiple=multiple)

    @cached_property
    def inheritance(self) -> WeightInheritance:
        return make_inheritance(self.teacher, self.space, self.data, FromTeacherConfig())

    def untrained(self, cut: Cut) -> nn.Module:
        """Return the structure of a cut, whose costs do not depend on weights."""
        return prune(structure_of(self.teacher.module), self.space.plan, cut.units(self.space.plan))

    def costs(self, cut: Cut) -> Mapping[str, float]:
        return self._model.costs(self.untrained(cut))

    def moves(self, factor: float, share: float) -> Moves:
        """Return moves at ``factor`` times a share of the teacher's cost."""
        limit = factor * share * self.teacher_cost
        return Moves(Filler(self.space, self._polynomial, {self.cost: limit}))

    @cached_property
    def teacher_cost(self) -> float:
        """The teacher's multiply-adds, or its time as predictions have it."""
        return self.costs(self.space.unpruned)[FLOPS] if self.cost == FLOPS else self._timed[1]

    @cached_property
    def _model(self) -> CostModel:
        latency = None if self.cost == FLOPS else self._timed[0]
        names = (FLOPS, "params") if latency is None else (FLOPS, "params", LATENCY)
        return CostModel(names, self.data.input_shape, latency)

    @cached_property
    def _polynomial(self) -> CostPolynomial:
        return CostPolynomial.fit(self.space, self.costs, [self.cost])

    @cached_property
    def _timed(self) -> tuple[LatencyModel, float]:
        """The predictor of latency and the teacher's ms at that time, measured once per work folder."""
        file = self._work / f"latency-{self.name}.json"
        if not file.exists():
            config = LatencyConfig()
            searched = self.space.search_space(CutBuilder(self.teacher.module, self.space.plan))
            spread = searched.spread(config.calibrate, numpy_rng(0, "calibrate"))
            networks = [self.untrained(self.space.decode(one)) for one in spread]
            fitted = LatencyModel.calibrate(networks, self.data.input_shape, repeats=config.repeats)
            write_json(file, {"model": fitted.to_dict(), "teacher": self.milliseconds([])[0]})
        content = json.loads(file.read_text(encoding="utf-8"))
        return LatencyModel.from_dict(content["model"]), float(content["teacher"])

    def milliseconds(self, networks: Sequence[nn.Module]) -> list[float]:
        """Time the teacher, and then networks, in interleaved rounds; call it only while nothing else of yours runs.

        It returns the median over visits. Those in which the teacher takes longer than in its quickest one were
        disturbed by other programs, and do not count.
        """
        shape = self.data.input_shape
        exported = [export_for_timing(network, (1, *shape)) for network in (self.teacher.module, *networks)]
        visits: list[list[float]] = []
        quiet: list[list[float]] = []
        while len(quiet) < VISITS and len(visits) < MOST_VISITS:
            visits.append([_median(one) for one in time_modules(exported, shape, repeats=REPEATS)])
            quickest = min(visit[0] for visit in visits)
            quiet = [visit for visit in visits if visit[0] <= DISTURBED * quickest]
        return [median(times) for times in zip(*quiet, strict=True)]

    def within(self, cuts: Sequence[Cut], share: float) -> list[bool]:
        """Return for each cut whether its measured time is at most a share of the teacher's."""
        teacher, *times = self.milliseconds([self.untrained(cut) for cut in cuts])
        return [time <= share * teacher for time in times]

    def student(self, cut: Cut) -> nn.Module:
        """Return a cut's network with its weights from the teacher, reconstructed."""
        network = self.inheritance.pruned_teacher(cut)
        self.inheritance.recalibrate_batch_norm(network)
        return network

    def distilled(self, network: nn.Module, steps: int, seed: int, rate: float = RECONSTRUCTED_LR) -> Distiller:
        """Return the finished training of a network, by the optimiser that a search takes; ``rate`` is that of SGD."""
        attention = attends(self.teacher.module, self.data.input_shape)
        optimizer = OptimizerConfig(name="adamw", lr=ADAMW_LR) if attention else OptimizerConfig(lr=rate)
        epochs = steps / (len(self.data.train) // BATCH)
        training = TrainingConfig(epochs=epochs, batch_size=BATCH, optimizer=optimizer)
        distiller = Distiller(network, self.data, training, signal=self.store, seed=seed)
        distiller.advance(distiller.total_steps)
        return distiller


def _median(sample: LatencySample | NasDistillError) -> float:
    if isinstance(sample, NasDistillError):
        raise sample
    return sample.p50_ms


@lru_cache(maxsize=2)
def _setting(name: str, cost: str, root: str | None, source: str, images: int, work: Path) -> Setting:
    return Setting(name, cost, Settings(root, {name: source}, images, work))


def setting_of(name: str, limit: Limit, settings: Settings) -> Setting:
    """Return a setting, made once per process."""
    source = settings.teachers[name]
    return _setting(name, limit.cost, settings.root, source, settings.images, settings.work)
