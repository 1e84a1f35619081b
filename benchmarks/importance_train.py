"""The trainings of benchmarks/importance.py: a teacher cut in several ways, before and after a short distillation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from inherit_arms.arms import TEACHER
from inherit_arms.networks import CUTTING, GivenWeights, Known, Widths, pruned, shape_of, space_of, uniform
from scipy.stats import spearmanr
from torch import Tensor, nn
from trainings import Book, Evaluators, ListSource, backend_of, say

from nas_distill.config import OptimizerConfig, TeacherSource, TrainingConfig
from nas_distill.costs.counting import count
from nas_distill.data import Dataset
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.work import Backend, Work
from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.predict import predict_logits
from nas_distill.export.student import load_student
from nas_distill.pruning.depth import depth_order
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.importance import CRITERIA, taylor
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.plan import Plan
from nas_distill.pruning.space import CutSpace
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.study.interruption import InterruptedSearchError, Interruption
from nas_distill.teacher import Teacher, TeacherStore, freeze, load_teacher
from nas_distill.teacher.weights import save_weights
from nas_distill.utils.seeds import derive, numpy_rng

CHANCE = "random"
DRAWN = ("taylor", CHANCE)
"""Criteria that draw something; the others give the same order under every seed."""
ORDERS = ("redundancy", "position", CHANCE)
DROPPED = (2, 4, 6)
DEEP, DEPTH = "deep", "depth"
# The shipped teacher has a single block that can go; this one has seven.
DEEP_ARGUMENTS: dict[str, Any] = {
    "stem": 16,
    "stem_stride": 2,
    "stages": [{"depth": 3, "width": width} for width in (16, 24, 32)],
}
DEEP_EPOCHS = 8.0
REFERENCE, DRAWS = 2048, 5
RESNET = "nas_distill.models.resnet:build"


@dataclass(frozen=True)
class Way:
    """One way to cut: ``part`` is a kind of cut, ``how`` the criterion or order, ``much`` how much of it.

    Parts: ``width``, with reconstruction; ``plain``, the same without that; ``depth``.
    """

    part: str
    how: str
    much: float
    seeds: tuple[int, ...] = field(default=(0,))

    def key(self, place: int) -> str:
        return f"{self.part}-{self.how}-{self.much:g}-seed{place}"


class Study:
    """Makes everything that the page shows; what the work folder has already is not made again."""

    def __init__(
        self,
        data: Dataset,
        folder: Path,
        *,
        seeds: int,
        epochs: float,
        rate: float,
        limits: Sequence[float],
        depths: bool,
    ) -> None:
        self.data = data
        self.folder = folder
        self.seeds = seeds
        self.epochs = epochs
        self.rate = rate
        self.book = Book(folder / "results.json")
        self.before = Book(folder / "before.json")
        self.after = Book(folder / "after.json")
        self._flops: dict[str, float] = {}
        self.book.hold({"epochs": epochs, "rate": rate, "data": data.fingerprint, "deep": DEEP_ARGUMENTS})
        places = tuple(range(seeds))
        self.widths = [Way("width", how, share, places) for share in limits for how in CRITERIA]
        self.plain = [Way("plain", how, share, places) for share in limits for how in CRITERIA]
        self.depths = [Way(DEPTH, how, dropped, places) for dropped in DROPPED for how in ORDERS if depths]

    def run(self, interruption: Interruption, *, workers: int) -> None:
        """Make whatever is missing.

        Raises:
            InterruptedSearchError: it was asked to stop.
        """
        narrowed = sorted([*self.widths, *self.plain], key=lambda way: way.much)  # the cheap ones first
        for way in narrowed:
            for place in way.seeds:
                self._cut(way, place)
        self._compare_orders()
        with backend_of(workers, self.folder) as backend:
            self._train_ways(backend, narrowed, interruption)
            if self.depths:
                training = TrainingConfig(epochs=DEEP_EPOCHS)
                teach = self._work(DEEP, _deep_space().smallest(), 0, training=training, taught=False)
                self._train(backend, [teach], self._plain(_deep_space(), self.shipped), interruption)
                for way in self.depths:
                    for place in way.seeds:
                        self._cut(way, place)
                self._train_ways(backend, self.depths, interruption)

    def _train_ways(self, backend: Backend, ways: Sequence[Way], interruption: Interruption) -> None:
        try:
            self._train(backend, self._works(ways), self._evaluators(ways), interruption)
        finally:
            for way in ways:
                for place in way.seeds:
                    if way.key(place) in self.book and self.book[way.key(place)]["quality"] is not None:
                        self._look(way.key(place))

    @cached_property
    def shipped(self) -> Teacher:
        return load_teacher(TeacherSource(name=TEACHER), self.data)

    @cached_property
    def deep(self) -> Teacher:
        """The deeper teacher, which this benchmark has trained."""
        return freeze(load_student(self.folder / "students" / DEEP), self.data, DEEP)

    def validation(self, module: nn.Module) -> float:
        """Return accuracy on the validation split."""
        return accuracy(predict_logits(module, self.data.inputs("val")), self.data.labels("val"))

    def wrong(self, module: nn.Module) -> list[int]:
        """Return the places of the validation images that a network gets wrong."""
        found = predict_logits(module, self.data.inputs("val")).argmax(1) != self.data.labels("val")
        return [int(place) for place in found.nonzero().flatten()]

    def right(self, way: Way, *, trained: bool) -> np.ndarray | None:
        """Return (seeds, images), 1 where the network of a seed is right, before or after its training; else 0.

        None if that is not finished.
        """
        book = self.after if trained else self.before
        if any(way.key(place) not in book for place in way.seeds):
            return None
        found = np.ones((len(way.seeds), len(self.data.val)))
        for row, place in zip(found, way.seeds, strict=True):
            row[book[way.key(place)]["wrong"]] = 0
        return found

    def flops(self, way: Way) -> float:
        """Return the share of its teacher's FLOPs that a cut network has."""
        key = f"{way.how}-{way.much:g}" if way.part == DEPTH else f"{way.much:g}"
        if key not in self._flops:
            teacher = self.deep if way.part == DEPTH else self.shipped
            module = self._space(way).build(
                self._architecture(way, 0), input_shape=self.data.input_shape, num_classes=self.data.num_classes
            )
            own, whole = (count(each, self.data.input_shape, ["flops"])["flops"] for each in (module, teacher.module))
            self._flops[key] = own / whole
        return self._flops[key]

    def _cut(self, way: Way, place: int) -> None:
        """Cut a teacher and note its quality before training, and how long the choice took."""
        key = way.key(place)
        if key in self.before:
            return
        began = time.perf_counter()
        if way.part != DEPTH:
            reconstructed = way.part == "width"
            widths = self._uniform(way.much)
            student = pruned(
                self.shipped,
                widths,
                self.data,
                criterion=way.how,
                reconstructed=reconstructed,
                seed=place if way.how in DRAWN else 0,
                known=self._known,
            )
            save_weights(student, self._weights(key))
        else:
            self.order(way.how, place)
            student = self._space(way).build(
                self._architecture(way, place), input_shape=self.data.input_shape, num_classes=self.data.num_classes
            )
            self._inheritance.fill(student, self._architecture(way, place))
        wrong = self.wrong(student)
        self.before[key] = {"wrong": wrong, "seconds": time.perf_counter() - began}

    def _look(self, key: str) -> None:
        """Note what a trained network gets wrong, and let go of it."""
        if key not in self.after:
            self.after[key] = {"wrong": self.wrong(load_student(self.folder / "students" / key))}

    def _compare_orders(self) -> None:
        """Note how near the scores of ``taylor`` on few samples are to those on other draws and more samples."""
        if "orders" in self.before:
            return
        module, plan = self.shipped.module, self._known.plan
        reference = taylor(module, plan, self.data, REFERENCE, DRAWS)
        draws = [taylor(module, plan, self.data, CUTTING.samples, seed) for seed in range(DRAWS)]
        self.before["orders"] = {
            group.name: [_rank_correlation(one[group.name], reference[group.name]) for one in draws]
            for group in plan.groups
        }

    def order(self, how: str, place: int) -> tuple[int, ...]:
        """Return the deep teacher's droppable blocks, the first to go first."""
        key = f"order-{how}" + (f"-seed{place}" if how == CHANCE else "")
        if key not in self.before:
            began = time.perf_counter()
            if how == CHANCE:
                droppable = [index for index, block in enumerate(self._plan.blocks) if block.droppable]
                found = tuple(numpy_rng(place, "order").permutation(droppable).tolist())
            else:
                found = depth_order(self.deep.module, self._plan, self.data, by=how, samples=CUTTING.samples)  # type: ignore[arg-type]
            self.before[key] = {"order": list(found), "seconds": time.perf_counter() - began}
        return tuple(self.before[key]["order"])

    @cached_property
    def _known(self) -> Known:
        return Known(self.shipped, self.data)

    @cached_property
    def _plan(self) -> Plan:
        return find_plan(self.deep.module, self.data.input_shape)

    @cached_property
    def _cuts(self) -> CutSpace:
        return CutSpace.from_plan(self._plan)

    @cached_property
    def _inheritance(self) -> WeightInheritance:
        return WeightInheritance(self.deep.module, self._cuts, self.data, {}, CUTTING.samples)

    def _uniform(self, share: float) -> Widths:
        whole = count(self.shipped.module, self.data.input_shape, ["flops"])["flops"]
        return uniform(shape_of(self.shipped), share * whole, self.data)

    def _space(self, way: Way) -> SearchSpace:
        if way.part != DEPTH:
            return space_of(self._uniform(way.much))
        arguments = {"teacher": RESNET, "arguments": DEEP_ARGUMENTS, "plan": self._plan.to_dict()}
        return self._cuts.search_space("nas_distill.pruning.build:build", arguments=arguments)

    def _architecture(self, way: Way, place: int) -> Architecture:
        if way.part != DEPTH:
            return self._space(way).smallest()
        cut = self._cuts.unpruned
        for block in self.order(way.how, place)[: int(way.much)]:
            cut = self._cuts.without_block(cut, block)
        return self._cuts.encode(cut)

    def _weights(self, key: str) -> Path:
        return self.folder / "cut" / f"{key}.safetensors"

    def _works(self, ways: Sequence[Way]) -> list[Work]:
        training = TrainingConfig(epochs=self.epochs, optimizer=OptimizerConfig(lr=self.rate))
        return [
            self._work(way.key(place), self._architecture(way, place), place, training=training)
            for way in ways
            for place in way.seeds
        ]

    @property
    def ways(self) -> list[Way]:
        """All rows of the tables."""
        return [*self.widths, *self.plain, *self.depths]

    def _work(
        self, key: str, architecture: Architecture, place: int, *, training: TrainingConfig, taught: bool = True
    ) -> Work:
        return Work(
            key=key,
            architecture=architecture,
            training=training,
            rungs=(1.0,),
            seed=derive(place, "importance"),
            checkpoint=self.folder / "checkpoints" / key,
            teacher=taught,
            output=self.folder / "students" / key,
        )

    def _evaluators(self, ways: Sequence[Way]) -> Evaluators | StudentEvaluator:
        if ways == self.depths:
            return self._plain(self._space(ways[0]), self.deep, self._inheritance)
        special = {}
        for way in ways:
            for place in way.seeds:
                key = way.key(place)
                special[key] = self._plain(self._space(way), self.shipped, GivenWeights(self._weights(key)))
        return Evaluators(next(iter(special.values())), special)

    def _plain(
        self, space: SearchSpace, teacher: Teacher, weights: GivenWeights | WeightInheritance | None = None
    ) -> StudentEvaluator:
        store = TeacherStore.build(self.folder / "store", teacher, self.data)
        return StudentEvaluator(self.data, NetworkBuilder.of(space, self.data, weights), store, "cpu")

    def _train(
        self,
        backend: Backend,
        works: list[Work],
        evaluator: StudentEvaluator | Evaluators,
        interruption: Interruption,
    ) -> None:
        missing = [work for work in works if work.key not in self.book]
        if not missing:
            return
        say(f"{len(missing)} of {len(works)} trainings to do.")
        source = ListSource(works, self.book, self.folder / "checkpoints")
        with interruption.stopping(source.stop):
            backend.run(source, evaluator)
        if source.stopping:
            raise InterruptedSearchError("Stopped.")


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    return float(spearmanr(one, other).statistic)


def _deep_space() -> SearchSpace:
    """Return a space that holds only the deep teacher."""
    stages = [{key: [value] for key, value in stage.items()} for stage in DEEP_ARGUMENTS["stages"]]
    parameters = {"stem": [DEEP_ARGUMENTS["stem"]], "stem_stride": [DEEP_ARGUMENTS["stem_stride"]]}
    return SearchSpace.from_dict(
        {"name": DEEP, "builder": RESNET, "parameters": {**parameters, "stages": {"each": stages}}}
    )
