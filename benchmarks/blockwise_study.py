"""The library and the trainings of benchmarks/blockwise.py."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from trainings import Book, Evaluators, ListSource, backend_of, say

from nas_distill.blockwise.alternatives import Alternative
from nas_distill.blockwise.assembler import SCORES, assemblies, block_scores
from nas_distill.blockwise.library import Library, LocalWeights, build_library
from nas_distill.config import BlockwiseConfig, FromTeacherConfig, TeacherSource, TrainingConfig
from nas_distill.costs.budget import Limit
from nas_distill.costs.counting import count
from nas_distill.data import Dataset
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.work import RungResult, Work
from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.predict import predict_logits
from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import WeightInheritance, make_inheritance
from nas_distill.pruning.plan import Plan
from nas_distill.pruning.space import CutSpace
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.study.interruption import InterruptedSearchError, Interruption
from nas_distill.teacher import Teacher, TeacherStore, load_teacher
from nas_distill.utils.seeds import derive, numpy_rng

LIMITS = (0.10, 0.20, 0.40)
"""Shares of the teacher's FLOPs."""
WITHIN = 0.85
"""Students of a limit have at least this share of it, so that among them FLOPs say little."""
INHERITED = "inherited-"
RECONSTRUCTED, AS_CUT = "reconstructed", "as-cut"
_TRIES = 200_000


@dataclass(frozen=True)
class Student:
    """An assembled student: its FLOPs as a share of the teacher's, and its blocks' alternatives."""

    key: str
    limit: float
    values: dict[str, Any]
    flops: float
    alternatives: tuple[str, ...]


class Study:
    """Makes everything that the page shows; what the work folder has already is not made again."""

    def __init__(
        self, data: Dataset, folder: Path, *, epochs: float, each: int, settings: BlockwiseConfig, controls: int
    ) -> None:
        self.data = data
        self.folder = folder
        self.epochs = epochs
        self.each = each
        self.settings = settings
        self.controls = controls
        self.book = Book(folder / "results.json")
        self.before = Book(folder / "before.json")
        self.untrained = Book(folder / "untrained.json")
        self.book.hold(
            {
                "epochs": epochs,
                "each": each,
                "data": data.fingerprint,
                "blockwise": settings.model_dump(mode="json"),
            }
        )

    def run(self, interruption: Interruption, *, workers: int) -> None:
        """Make whatever is missing.

        Raises:
            InterruptedSearchError: it was asked to stop.
        """
        self._distil_blocks(interruption)
        self._score_untrained()
        works = self._works()
        missing = [work for work in works if work.key not in self.book]
        if not missing:
            return
        say(f"{len(missing)} of {len(works)} trainings to do.")
        store = TeacherStore.build(self.folder / "store", self.teacher, self.data)
        inherited = NetworkBuilder.of(self.space, self.data, self.inheritance)
        trained = replace(inherited, weights=LocalWeights(self.inheritance, self.library))
        plain, usual = (StudentEvaluator(self.data, builder, store, "cpu") for builder in (inherited, trained))
        source = _Source(works, self.book, self.folder / "checkpoints", self.before)
        with backend_of(workers, self.folder) as backend, interruption.stopping(source.stop):
            backend.run(source, Evaluators(usual, {INHERITED: plain}))
        if source.stopping:
            raise InterruptedSearchError("Stopped.")

    @cached_property
    def teacher(self) -> Teacher:
        return load_teacher(TeacherSource(name="fashion-resnet"), self.data)

    @cached_property
    def whole(self) -> float:
        """The teacher's FLOPs."""
        return count(self.teacher.module, self.data.input_shape, ["flops"])["flops"]

    @cached_property
    def plan(self) -> Plan:
        return find_plan(self.teacher.module, self.data.input_shape)

    @cached_property
    def cuts(self) -> CutSpace:
        return CutSpace.from_plan(self.plan)

    @cached_property
    def space(self) -> SearchSpace:
        return self.cuts.search_space(CutBuilder(self.teacher.module, self.plan))

    @cached_property
    def inheritance(self) -> WeightInheritance:
        return make_inheritance(self.teacher, self.cuts, self.data, FromTeacherConfig())

    def _score_untrained(self) -> None:
        """Note the quality of the drawn students with only the teacher's weights: reconstructed, and as they were."""
        for name, inheritance in ((RECONSTRUCTED, self.inheritance), (AS_CUT, replace(self.inheritance, moments={}))):
            for student in self.drawn:
                key = f"{name}-{student.key}"
                if key not in self.untrained:
                    pruned = inheritance.pruned_teacher(self.cuts.decode(student.values))
                    inheritance.recalibrate_batch_norm(pruned)
                    logits = predict_logits(pruned, self.data.inputs("val"))
                    self.untrained[key] = accuracy(logits, self.data.labels("val"))

    @property
    def library(self) -> Library:
        """The library, as it is in its folder."""
        return Library.load(self.folder / "library")

    @cached_property
    def drawn(self) -> list[Student]:
        """Random assemblies near below each limit, the same for every caller; correlations are of these."""
        return [student for limit in LIMITS for student in self._draw(limit)]

    @cached_property
    def chosen(self) -> list[Student]:
        """The best by each score within each limit."""
        library = self.library
        found = []
        for limit in LIMITS:
            for score in SCORES:
                (best,) = assemblies(library, {"flops": Limit(None, limit * self.whole)}, count=1, score=score)
                key = f"chosen-{score}-{limit:g}"
                found.append(
                    Student(
                        key,
                        limit,
                        self.cuts.encode(best.cut).to_dict(),
                        best.costs["flops"] / self.whole,
                        best.alternatives,
                    )
                )
        return found

    @property
    def controlled(self) -> list[Student]:
        """Those that are also trained from only the teacher's weights."""
        by_limit = [[student for student in self.drawn if student.limit == limit] for limit in LIMITS]
        drawn = [student for students in by_limit for student in students[: self.controls]]
        return [*drawn, *(student for student in self.chosen if f"-{self.settings.score}-" in student.key)]

    def scores(self, student: Student, score: str) -> list[float]:
        """Return the local score of each block, and of what the classifier loses by the last width."""
        found = block_scores(self.library, self.cuts.decode(student.values), score)  # type: ignore[arg-type]
        assert found is not None  # all students are assembled of the library
        return list(found)

    def finished(self, key: str) -> bool:
        """Return whether a training has ended."""
        return key in self.book and self.book[key]["quality"] is not None

    def exact(self, student: Student) -> float:
        """Return the FLOPs of the built student as a share of the teacher's, counted again."""
        module = self.space.build(
            Architecture(student.values), input_shape=self.data.input_shape, num_classes=self.data.num_classes
        )
        return count(module, self.data.input_shape, ["flops"])["flops"] / self.whole

    def _distil_blocks(self, interruption: Interruption) -> None:
        asked: list[bool] = []
        told = [time.monotonic()]

        def on_step(done: int, total: int) -> None:
            if time.monotonic() - told[0] > 60:
                told[0] = time.monotonic()
                say(f"Blocks: step {done} of {total}.")
            if asked:
                raise InterruptedSearchError("Stopped.")

        with interruption.stopping(lambda: asked.append(True)):
            build_library(
                self.inheritance,
                self.data,
                settings=self.settings,
                seed=0,
                folder=self.folder / "library",
                on_step=on_step,
            )

    def _draw(self, limit: float) -> list[Student]:
        library = self.library
        found: dict[tuple[str, ...], Student] = {}
        rng = numpy_rng(0, "blockwise", f"{limit:g}")
        for _ in range(_TRIES):
            entries, widths = _random_assembly(library, rng)
            share = _flops(library, entries, widths) / self.whole
            if WITHIN * limit <= share <= limit:
                keys = tuple(entry.key for entry in entries)
                values = self.cuts.encode(library.alternatives.cut(entries, widths)).to_dict()
                found.setdefault(keys, Student(f"drawn-{limit:g}-{len(found)}", limit, values, share, keys))
            if len(found) == self.each:
                return list(found.values())
        sys.exit(f"Fewer than {self.each} assemblies are within {limit:.0%} of the teacher's FLOPs.")

    def _works(self) -> list[Work]:
        works = [self._work(student.key, student) for student in [*self.drawn, *self.chosen]]
        return [*works, *(self._work(f"{INHERITED}{student.key}", student) for student in self.controlled)]

    def _work(self, key: str, student: Student) -> Work:
        return Work(
            key=key,
            architecture=Architecture(student.values),
            training=TrainingConfig(epochs=self.epochs),
            rungs=(0.0, 1.0),
            seed=derive(0, "blockwise"),
            checkpoint=self.folder / "checkpoints" / key,
        )


class _Source(ListSource):
    """Also notes the quality of each student before training."""

    def __init__(self, works: Sequence[Work], book: Book, checkpoints: Path, before: Book) -> None:
        super().__init__(works, book, checkpoints)
        self._before = before

    def report(self, key: str, result: RungResult) -> bool:
        if result.rung == 0:
            self._before[key] = result.quality
        return super().report(key, result)


def _random_assembly(library: Library, rng: np.random.Generator) -> tuple[list[Alternative], dict[str, int]]:
    """Draw widths of the shared groups, and for each block one of the alternatives that fit them."""
    found = library.alternatives
    widths = {group: int(rng.choice(options)) for group, options in found.shared.items()}
    entries = []
    for block in range(len(found.plan.blocks)):
        fitting = [entry for entry in found.of_block(block) if found.widths(entry).items() <= widths.items()]
        entries.append(fitting[int(rng.integers(len(fitting)))])
    return entries, widths


def _flops(library: Library, entries: Sequence[Alternative], widths: Mapping[str, int]) -> float:
    costs = library.costs
    parts = [part.costs[tuple(widths[group] for group in part.groups)] for part in costs.parts]
    return sum(one["flops"] for one in [costs.base, *(costs.entries[entry.key] for entry in entries), *parts])
