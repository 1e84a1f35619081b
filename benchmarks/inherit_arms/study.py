"""The whole comparison: learning rates, what precedes each arm's last training, and the last trainings."""

from __future__ import annotations

import argparse
import math
from functools import cached_property
from pathlib import Path

from trainings import Book, Evaluators, ListSource, say

from inherit_arms.arms import (
    ARMS,
    FASTNAS,
    INHERITED,
    LIMITS,
    RANDOM,
    RATES,
    RECONSTRUCTED,
    STARTS,
    TEACHER,
    Arm,
    training,
)
from inherit_arms.jobs import Job, run_jobs
from inherit_arms.networks import CUTTING, GivenWeights, Widths, pruned, shape_of, space_of, uniform
from inherit_arms.peer import Peer
from inherit_arms.prepared import Prepared, steps_left
from inherit_arms.searches import Searches, prepared, template
from nas_distill.config import TeacherSource
from nas_distill.costs.counting import count
from nas_distill.data import Dataset
from nas_distill.engine.backends.tune import TuneBackend
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.work import Work
from nas_distill.spaces import Architecture, InitialWeights, NetworkBuilder, SearchSpace
from nas_distill.study.interruption import InterruptedSearchError, Interruption, interruptible
from nas_distill.study.problem import resolve
from nas_distill.teacher import Teacher, TeacherStore, load_teacher
from nas_distill.teacher.weights import save_weights
from nas_distill.utils.seeds import derive

RATES_LIMIT = LIMITS[1]
RATES_SHARE = 0.6
"""Of all images, what a training has that only chooses a learning rate."""


class Study:
    """Makes everything that the page compares; what the work folder has already is not made again."""

    def __init__(self, data: Dataset, options: argparse.Namespace) -> None:
        self.data = data
        self.options = options
        self.folder: Path = options.work
        self.book = Book(self.folder / "results.json")
        self.preparations = Book(self.folder / "preparations.json")
        self.batch = min(128, len(data.train))
        self.book.hold(
            {
                "images": options.images,
                "data": data.fingerprint,
                "views": data.views.recipe(),
                "search": options.file.read_text(encoding="utf-8"),
                "quick": options.quick,
            }
        )

    @property
    def arms(self) -> list[Arm]:
        """The arms that were asked for and can be had."""
        chosen = [ARMS[letter] for letter in sorted(self.options.arms)]
        return [arm for arm in chosen if arm.widths != FASTNAS or self.options.peer is not None]

    @property
    def limits(self) -> dict[str, float]:
        """Shares of the teacher's FLOPs, by name."""
        return {f"{round(100 * share):02d}": share for share in self.options.limits}

    @cached_property
    def teacher(self) -> Teacher:
        return load_teacher(TeacherSource(name=TEACHER), self.data)

    @cached_property
    def teacher_costs(self) -> dict[str, float]:
        return dict(count(self.teacher.module, self.data.input_shape, ["flops", "params"]))

    @cached_property
    def store(self) -> TeacherStore:
        """The teacher's answers, which all arms read."""
        return TeacherStore.build(self.folder / "store", self.teacher, self.data)

    @cached_property
    def peer(self) -> Peer:
        extra = ["--score", "100", "--batch", "4", "--divisor", "8"] if self.options.quick else []
        return Peer(self.options.peer, self.folder / "fastnas", root=self.options.root, options=extra)

    def run(self) -> None:
        """Make whatever is missing.

        Raises:
            InterruptedSearchError: it was asked to stop.
        """
        with interruptible() as interruption:
            say("The teacher's answers.")
            _ = self.store
            self._uniform_weights()
            self._train("learning rates", self._rate_works(), interruption)
            # The others at other limits take the blocks that the first search of such has distilled.
            for first in (True, False):
                run_jobs(self._jobs(first=first), interruption, workers=self.options.workers)
            for arm in self.arms:
                for name in self.limits:
                    self._prepare(arm, name)
            self._train("last trainings", self._last_works(), interruption)

    def _jobs(self, *, first: bool) -> list[Job]:
        """Return the searches to do; ``first``: those that need nothing of another, the longest at the front."""
        library = self._library
        found = []
        for limit, share in self.limits.items():
            for arm in self.arms:
                key = self.key(arm, limit)
                takes = arm.assembles and key != library
                if takes is first:
                    continue
                if arm.search and not self._searches.there(key):
                    found.append(self._searches.job(arm, share, key, library if takes else None))
                elif arm.widths == FASTNAS and arm.start == INHERITED and not self.peer.there(limit):
                    found.append(self.peer.job(limit, share * self.teacher_costs["flops"]))
        return sorted(found, key=lambda job: job.name != f"search {library}")

    @property
    def _library(self) -> str | None:
        """Name the search that distils blocks for all that need them."""
        first = next((arm for arm in self.arms if arm.assembles), None)
        return None if first is None else self.key(first, next(iter(self.limits)))

    def key(self, arm: Arm, limit: str, place: int | None = None) -> str:
        """Name an arm at a limit, or one of its last trainings."""
        return f"{arm.letter}-{limit}" + ("" if place is None else f"-seed{place}")

    def prepared(self, arm: Arm, limit: str) -> Prepared | None:
        """Return what an arm has before its last training, None where it is not there yet."""
        key = self.key(arm, limit)
        return Prepared(**self.preparations[key]) if key in self.preparations else None

    def rate(self, start: str) -> float | None:
        """Return the learning rate that was best on validation data for a kind of start; of equals the lower."""
        if any(rate_key(start, rate) not in self.book for rate in RATES):
            return None
        return max(sorted(RATES), key=lambda rate: _quality(self.book[rate_key(start, rate)]))

    @property
    def finished(self) -> list[str]:
        """Keys of the last trainings that have come to their end, with finite logits."""
        keys = [
            self.key(arm, limit, place)
            for arm in ARMS.values()
            for limit in self.limits
            for place in range(self.options.seeds)
        ]
        return [key for key in keys if key in self.book and _quality(self.book[key]) > 0]

    def last_steps(self, arm: Arm, limit: str) -> int:
        """Return the optimiser steps of an arm's last training."""
        found = self.prepared(arm, limit)
        assert found is not None
        return steps_left(self.options.images, found.spent, self.batch)

    def student(self, key: str) -> Path:
        return self.folder / "students" / key

    def _prepare(self, arm: Arm, limit: str) -> None:
        if self.prepared(arm, limit) is not None:
            return
        say(f"Arm {arm.letter} at {limit} %.")
        key = self.key(arm, limit)
        if arm.search:
            run = self._searches.run(key)
            inputs = resolve(run.config, (self.folder,), data=self.data)
            library = self._searches.run(self._library) if arm.assembles and self._library is not None else None
            self.preparations[key] = prepared(run, inputs, library).to_dict()
            return
        widths = self._widths(arm, limit)
        looks, seconds = 0, 0.0
        if arm.widths == FASTNAS:
            found = self.peer.found(limit)
            looks, seconds = found["looks"], found["seconds"]
        elif arm.start != RANDOM:
            looks = 2 * CUTTING.samples  # importance, and batch-norm statistics
            looks += CUTTING.samples * (arm.start == RECONSTRUCTED)  # moments of layers' inputs
        space = space_of(widths)
        module = NetworkBuilder.of(space, self.data).build(space.smallest())
        self.preparations[key] = Prepared(
            architecture=space.smallest().to_dict(),
            shown=widths.text(),
            costs=dict(count(module, self.data.input_shape, ["flops", "params"])),
            looks=looks,
            seconds=seconds,
        ).to_dict()

    @cached_property
    def _searches(self) -> Searches:
        rates = {start: rate for start in STARTS if (rate := self.rate(start)) is not None}
        return Searches(template(self.options, self.data, self.folder / "store"), self.folder / "searches", rates)

    def _widths(self, arm: Arm, limit: str) -> Widths:
        if arm.widths == FASTNAS:
            return self.peer.widths(limit)
        return uniform(shape_of(self.teacher), self.limits[limit] * self.teacher_costs["flops"], self.data)

    def _uniform_file(self, limit: str, start: str) -> Path:
        return self.folder / "uniform" / f"{limit}-{start}.safetensors"

    def _uniform_weights(self) -> None:
        """Prune the teacher uniformly to each limit, and to the one that learning rates are chosen at."""
        for name, share in {**self.limits, "rates": RATES_LIMIT}.items():
            for start in (INHERITED, RECONSTRUCTED):
                file = self._uniform_file(name, start)
                if not file.exists():
                    widths = uniform(shape_of(self.teacher), share * self.teacher_costs["flops"], self.data)
                    reconstructed = start == RECONSTRUCTED
                    save_weights(pruned(self.teacher, widths, self.data, reconstructed=reconstructed), file)

    def _rate_works(self) -> list[Work]:
        space = self._rates_space
        steps = steps_left(round(RATES_SHARE * self.options.images), 0, self.batch)
        return [
            self._work(rate_key(start, rate), space.smallest(), steps, rate, len(LIMITS) + self.options.seeds)
            for start in STARTS
            for rate in RATES
        ]

    def _last_works(self) -> list[Work]:
        return [
            self._work(key, Architecture(found.architecture), self.last_steps(arm, limit), rate, place, keep=True)
            for place in range(self.options.seeds)
            for limit in self.limits
            for arm in self.arms
            if (found := self.prepared(arm, limit)) and (rate := self.rate(arm.start))
            for key in [self.key(arm, limit, place)]
        ]

    def _work(
        self, key: str, architecture: Architecture, steps: int, rate: float, place: int, *, keep: bool = False
    ) -> Work:
        epochs = steps / (len(self.data.train) // self.batch)
        return Work(
            key=key,
            architecture=architecture,
            training=training(epochs, rate),
            rungs=(0.5, 1.0),
            seed=derive(place, "inherit"),
            checkpoint=self.folder / "checkpoints" / key,
            output=self.student(key) if keep else None,
        )

    def _train(self, what: str, works: list[Work], interruption: Interruption) -> None:
        missing = [work for work in works if work.key not in self.book]
        if not missing:
            return
        say(f"{what}: {len(missing)} of {len(works)} trainings to do.")
        source = ListSource(works, self.book, self.folder / "checkpoints")
        evaluators = self._evaluators(missing)
        backend = TuneBackend(workers=self.options.workers, retries=1, folder=self.folder)
        with interruption.stopping(source.stop):
            backend.run(source, evaluators)
        if source.stopping:
            raise InterruptedSearchError("Stopped.")

    def _evaluators(self, works: list[Work]) -> Evaluators:
        """Return who trains: each arm at each limit has a space, and weights to begin with, of its own."""
        keys = {work.key for work in works}
        special = {rate_key(RANDOM, ""): self._plain(self._rates_space, None)}
        for start in (INHERITED, RECONSTRUCTED):
            weights = GivenWeights(self._uniform_file("rates", start))
            special[rate_key(start, "")] = self._plain(self._rates_space, weights)
        for arm in self.arms:
            for limit in self.limits:
                begins = f"{self.key(arm, limit)}-"
                if any(key.startswith(begins) for key in keys):
                    special[begins] = self._evaluator(arm, limit)
        return Evaluators(self._plain(self._rates_space, None), special)

    @cached_property
    def _rates_space(self) -> SearchSpace:
        widths = uniform(shape_of(self.teacher), RATES_LIMIT * self.teacher_costs["flops"], self.data)
        return space_of(widths)

    def _plain(self, space: SearchSpace, weights: InitialWeights | None) -> StudentEvaluator:
        return StudentEvaluator(self.data, NetworkBuilder.of(space, self.data, weights), self.store, "cpu")

    def _evaluator(self, arm: Arm, limit: str) -> StudentEvaluator:
        if arm.search:
            run = self._searches.run(self.key(arm, limit))
            return resolve(run.config, (self.folder,), data=self.data).evaluator(self.store, run.folder)
        weights = None
        if arm.start != RANDOM:
            path = self.peer.weights(limit) if arm.widths == FASTNAS else self._uniform_file(limit, arm.start)
            weights = GivenWeights(path)
        return self._plain(space_of(self._widths(arm, limit)), weights)


def rate_key(start: str, rate: float | str) -> str:
    """Name a training that only chooses a learning rate."""
    return f"rate-{start}-{rate}"


def _quality(entry: dict[str, float | None]) -> float:
    """Return the validation accuracy of a training, 0 where it failed."""
    quality = entry["quality"]
    return quality if quality is not None and math.isfinite(quality) else 0.0
