"""The trainings of benchmarks/losses.py: who teaches each, and what they came to."""

from __future__ import annotations

import math
import sys
from functools import cached_property
from pathlib import Path

import torch
from losses_cases import (
    ASSISTANT,
    CASES,
    INVERTED,
    KD,
    NARROW,
    NETWORKS,
    STRATEGIES,
    STUDENT,
    Case,
    Strategy,
    space_of,
    training,
)
from losses_mutual import MutualEvaluator
from trainings import Book, Evaluators, ListSource, say

from nas_distill.config import CurriculumConfig, TeacherSource
from nas_distill.data import Dataset
from nas_distill.distill.terms import LossTerms
from nas_distill.engine.backends.tune import TuneBackend
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.work import Evaluator, Work
from nas_distill.evaluate.predict import predict_logits
from nas_distill.export.student import load_student
from nas_distill.spaces import NetworkBuilder
from nas_distill.study.interruption import InterruptedSearchError, Interruption
from nas_distill.tasks.classification import Classification, ClassificationEvaluation
from nas_distill.teacher import LiveSignal, Teacher, TeacherSignal, TeacherStore, freeze, load_teacher
from nas_distill.teacher.signal import CombinedSignal, Feature
from nas_distill.teacher.store_writer import Contents
from nas_distill.utils.seeds import derive

SHIPPED = "fashion-resnet"


class Trainings:
    """Trains everything that the page compares; what the work folder has already is not trained again."""

    def __init__(self, data: Dataset, folder: Path, *, seeds: int, epochs: float) -> None:
        self.data = data
        self.folder = folder
        self.seeds = seeds
        self.epochs = epochs
        self.book = Book(folder / "results.json")
        self.book.hold({"epochs": epochs, "data": data.fingerprint, "networks": NETWORKS})

    def train(self, interruption: Interruption, *, workers: int) -> None:
        """Train whatever is missing.

        Raises:
            InterruptedSearchError: it was asked to stop.
        """
        with TuneBackend(workers=workers, retries=1, folder=self.folder) as backend:
            # Strategies need what the first stage has trained.
            for stage in ("losses", "strategies"):
                works = self._loss_works() if stage == "losses" else self._strategy_works()
                missing = [work for work in works if work.key not in self.book]
                if not missing:
                    continue
                say(f"{stage}: {len(missing)} of {len(works)} trainings to do.")
                evaluators = self._loss_evaluators() if stage == "losses" else self._strategy_evaluators()
                source = ListSource(works, self.book, self.folder / "checkpoints")
                with interruption.stopping(source.stop):
                    backend.run(source, evaluators)
                if source.stopping:
                    raise InterruptedSearchError("Stopped.")

    @cached_property
    def shipped(self) -> Teacher:
        """The teacher of all losses."""
        return load_teacher(TeacherSource(name=SHIPPED), self.data)

    def features(self, case: Case) -> tuple[Feature, ...]:
        """Return which of the shipped teacher's layers a case reads."""
        terms = LossTerms.of(case.loss, task=self.data.task)
        return terms.features(self.shipped.module, self.data) if case.taught else ()

    def signal(self, case: Case) -> TeacherSignal:
        """Return the store of what the case reads, or the live teacher where that is too large to store."""
        features = self.features(case)
        if any(feature.reduction == "full" for feature in features):
            return self.live(case)
        return self.store(self.shipped, features)

    def live(self, case: Case) -> LiveSignal:
        """Return the teacher itself, telling what the case reads."""
        return LiveSignal(self.shipped, features=self.features(case))

    def store(self, teacher: Teacher, features: tuple[Feature, ...] = ()) -> TeacherStore:
        """Return the store of a teacher's answers, written if need be."""
        return TeacherStore.build(self.folder / "store", teacher, self.data, contents=Contents(features))

    def teacher(self, name: str, place: int = 0) -> Teacher:
        """Return one of NETWORKS that this benchmark has trained, frozen; the student as kd made it."""
        key = f"{KD}-seed{place}" if name == STUDENT else name
        if not self.finished(key):
            sys.exit(f"'{key}' should teach, but its training failed: {self.book[key].get('cause')}")
        return freeze(load_student(self._student(key)), self.data, key)

    def finished(self, key: str) -> bool:
        """Return whether a training has ended with finite logits."""
        quality = self.book[key]["quality"]
        return quality is not None and math.isfinite(quality)

    def tested(self, key: str) -> ClassificationEvaluation:
        """Return the quality of a finished training on test data, agreement being with the shipped teacher."""
        return self._evaluated(load_student(self._student(key)))

    @cached_property
    def shipped_tested(self) -> ClassificationEvaluation:
        """The quality of the shipped teacher on test data."""
        return self._evaluated(self.shipped.module)

    def _evaluated(self, module: torch.nn.Module) -> ClassificationEvaluation:
        return Classification().evaluate(self._test_logits(module), self.data.labels("test"), self._teacher_logits)

    @cached_property
    def _teacher_logits(self) -> torch.Tensor:
        return self._test_logits(self.shipped.module)

    def _test_logits(self, module: torch.nn.Module) -> torch.Tensor:
        return predict_logits(module, self.data.inputs("test"))

    def _student(self, key: str) -> Path:
        return self.folder / "students" / key

    def _loss_works(self) -> list[Work]:
        by_name = {case.name: case for case in CASES}
        labels, kd = by_name["labels"], by_name[KD]
        others = [
            self._work(NARROW, NARROW, labels, 0),
            self._work(INVERTED, INVERTED, labels, 0),
            self._work(ASSISTANT, ASSISTANT, kd, 0),
        ]
        return [
            *others,
            *(
                self._work(f"{case.name}-seed{place}", STUDENT, case, place)
                for place in range(self.seeds)
                for case in CASES
            ),
        ]

    def _strategy_works(self) -> list[Work]:
        kd = CASES[0]
        return [
            self._work(f"{strategy.name}-seed{place}", STUDENT, kd, place, strategy.curriculum)
            for place in range(self.seeds)
            for strategy in STRATEGIES
        ]

    def _work(self, key: str, network: str, case: Case, place: int, curriculum: CurriculumConfig | None = None) -> Work:
        return Work(
            key=key,
            architecture=space_of(network).smallest(),
            training=training(case, self.epochs, curriculum),
            rungs=(0.5, 1.0),
            seed=derive(place, "losses"),
            checkpoint=self.folder / "checkpoints" / key,
            teacher=case.taught,
            output=self._student(key),
        )

    def _loss_evaluators(self) -> Evaluators:
        plain = self.store(self.shipped)
        special = {f"{case.name}-seed": self._evaluator(STUDENT, self.signal(case)) for case in CASES}
        special |= {name: self._evaluator(name, plain) for name in (NARROW, INVERTED, ASSISTANT)}
        return Evaluators(self._evaluator(STUDENT, plain), special)

    def _strategy_evaluators(self) -> Evaluators:
        special = {
            f"{strategy.name}-seed{place}": self._strategy_evaluator(strategy, place)
            for strategy in STRATEGIES
            for place in range(self.seeds)
        }
        return Evaluators(self._evaluator(STUDENT, self.store(self.shipped)), special)

    def _strategy_evaluator(self, strategy: Strategy, place: int) -> Evaluator:
        plain = self.store(self.shipped)
        if strategy.peers:
            return MutualEvaluator(self.data, (STUDENT, *strategy.peers), plain)
        signal: TeacherSignal = plain
        if strategy.via is not None:
            # A student born again must not begin with its teacher's own initial weights.
            signal = self.store(self.teacher(strategy.via, (place + 1) % self.seeds))
        elif strategy.others:
            others = [self.store(self.teacher(name)) for name in strategy.others]
            signal = CombinedSignal([plain, *others], self.data, by=strategy.by)
        return self._evaluator(STUDENT, signal)

    def _evaluator(self, network: str, signal: TeacherSignal) -> StudentEvaluator:
        return StudentEvaluator(self.data, NetworkBuilder.of(space_of(network), self.data), signal, "cpu")
