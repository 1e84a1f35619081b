"""Rivals of the search: random search of equal training cost, scaled networks, hard labels, more seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainings import Book, Evaluators, ListSource, say

from nas_distill.costs.counting import count
from nas_distill.distill.schedule import Length
from nas_distill.engine.backends.tune import TuneBackend
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.finalists import best_finalist, choose_finalists
from nas_distill.engine.work import Work, epoch_rungs
from nas_distill.models.layers import round_channels
from nas_distill.runs.metadata import Finalist
from nas_distill.runs.records import Rung, TrialRecord
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.study import Run
from nas_distill.study.interruption import InterruptedSearchError, Interruption
from nas_distill.study.observer import Silent
from nas_distill.study.signals import teacher_signal
from nas_distill.utils.seeds import derive, numpy_rng

OURS, RANDOM, LABELS = "ours", "random", "labels"
SCALED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "scaled-resnet": (
        "the teacher, narrower",
        "nas_distill.models.resnet:build",
        {"stem": 32, "stages": [{"depth": 1, "width": width} for width in (32, 64, 128)]},
    ),
}
_WIDTHS = ("stem", "width")


@dataclass(frozen=True)
class Network:
    """One network of the comparison: its costs, and the folders of its students, one a seed."""

    name: str
    about: str
    costs: dict[str, float]
    students: tuple[Path, ...]


class Rivals:
    """Trains everything that the report compares; what the work folder has already is not trained again."""

    def __init__(self, run: Run, folder: Path, *, seeds: int) -> None:
        self.run = run
        self.folder = folder
        self.book = Book(folder / "results.json")
        self._problem = run.problem
        self._config = run.config
        self._seeds = [self._config.seed + extra for extra in range(seeds)]
        winner = best_finalist(run.metadata.finalists.values())
        assert winner is not None  # a finished run has one
        self.winner: Finalist = winner
        self.scaled = {name: self._scale(name) for name in SCALED}

    def train(self, interruption: Interruption) -> None:
        """Train whatever is missing.

        Raises:
            InterruptedSearchError: it was asked to stop.
        """
        with TuneBackend(
            workers=self._config.search.workers, threads=self._config.search.threads, retries=1, folder=self.folder
        ) as backend:
            for stage, works in self._stages():
                missing = [work for work in works if work.key not in self.book]
                if not missing:
                    continue
                say(f"{stage}: {len(missing)} of {len(works)} trainings to do.")
                source = ListSource(works, self.book, self.folder / "checkpoints")
                with interruption.stopping(source.stop):
                    backend.run(source, self._evaluators)
                if source.stopping:
                    raise InterruptedSearchError("Stopped.")

    def _stages(self) -> Iterator[tuple[str, list[Work]]]:
        """Each stage is worked out when those before it are finished: random search's finalists, then its winner."""
        yield "random search", [self._short(place, entry) for place, entry in enumerate(self.drawn)]
        yield (
            "full distillation of its finalists",
            [self._full(self._random_key(record), record.architecture, 0) for record in self._random_finalists],
        )
        works = []
        for place in range(len(self._seeds)):
            for name, (architecture, _) in self.scaled.items():
                works.append(self._full(name, architecture, place))
            best = self.random_best.architecture
            if place:  # the searches have trained their own under the first seed
                ours = Architecture(self.winner.architecture)
                works.append(self._full(OURS, ours, place))
                works.append(self._full(LABELS, ours, place, taught=False))
                works.append(self._full(self._random_key(self.random_best), best, place))
        yield "final networks", works

    def networks(self) -> list[Network]:
        """Return what was trained, in the order of the report."""
        students = self.run.folder.students
        more = range(1, len(self._seeds))
        ours = [students / self.winner.key, *(self._student(OURS, place) for place in more)]
        labels = [students / f"{self.winner.key}-labels", *(self._student(LABELS, place) for place in more)]
        best = self.random_best
        everyone = range(len(self._seeds))
        return [
            Network(OURS, "nas_distill's student", self.winner.costs, tuple(ours)),
            Network(LABELS, "the same on hard labels", self.winner.costs, tuple(labels)),
            Network(
                RANDOM,
                "best of random search",
                best.costs,
                tuple(self._student(self._random_key(best), place) for place in everyone),
            ),
            *(
                Network(name, SCALED[name][0], costs, tuple(self._student(name, place) for place in everyone))
                for name, (_, costs) in self.scaled.items()
            ),
        ]

    @cached_property
    def training_cost(self) -> float:
        """Sum over our trials of optimiser steps times FLOPs; a trial that was interrupted counts once."""
        furthest: dict[str, float] = {}
        for record in self.run.records:
            if record.reports:
                steps = max(report.step for report in record.reports.values())
                furthest[record.key] = steps * record.costs["flops"]
        return sum(furthest.values())

    @cached_property
    def drawn(self) -> list[tuple[Architecture, dict[str, float]]]:
        """Random search's candidates: as many of those within the budget as our training cost pays for."""
        config, space = self._config, self._problem.space
        training = config.score.training
        steps = Length(len(self._problem.data.train), training.batch_size, training.epochs).steps
        rng = numpy_rng(config.seed, "random search")
        found: dict[Architecture, dict[str, float]] = {}
        spent = 0.0
        seen: set[Architecture] = set()
        while True:
            architecture = space.sample(rng)
            if architecture in seen:
                continue
            seen.add(architecture)
            costs = self._costs(architecture, space)
            if not self.run.budget.fits(costs):
                continue
            spent += steps * costs["flops"]
            if spent > self.training_cost and found:
                return list(found.items())
            found[architecture] = costs

    def random_records(self) -> list[TrialRecord]:
        """Return random search's trials as a run would have recorded them."""
        return [
            TrialRecord(
                number=place,
                index=place,
                key=f"{RANDOM}-{place:03d}",
                state="complete",
                architecture=architecture,
                origin="random",
                costs=costs,
                reports={0: Rung(entry["quality"], entry["steps"], entry["seconds"], 1.0)},
            )
            for place, (architecture, costs) in enumerate(self.drawn)
            if (entry := self.book[f"{RANDOM}-{place:03d}"])["quality"] is not None
        ]

    @property
    def random_best(self) -> TrialRecord:
        """Random search's winner: the finalist of the best validation accuracy after its full distillation."""
        done = [record for record in self._random_finalists if self._random_full(record) is not None]
        return max(done, key=lambda record: self._random_full(record) or 0.0)

    @property
    def _random_finalists(self) -> list[TrialRecord]:
        limits = {name: limit.high for name, limit in self.run.budget.limits.items() if limit.high is not None}
        final = self._config.final
        return choose_finalists(self.random_records(), self._config.search.objectives, limits, final.count, final.slope)

    def _random_full(self, record: TrialRecord) -> float | None:
        quality: float | None = self.book[f"{self._random_key(record)}-seed0"]["quality"]
        return quality

    def _random_key(self, record: TrialRecord) -> str:
        return f"{record.key}-full"

    def _student(self, name: str, place: int) -> Path:
        return self.folder / "students" / f"{name}-seed{place}"

    def _costs(self, architecture: Architecture, space: SearchSpace) -> dict[str, float]:
        shape = self._problem.input_shape
        builder = NetworkBuilder.of(space, self._problem.data)
        module = builder.build(architecture, self._config.seed, stream="costing")
        return dict(count(module, shape, ["flops", "params"]))

    def _scale(self, name: str) -> tuple[Architecture, dict[str, float]]:
        """Return the widest network of a family that fits: all widths times one factor, in multiples of 8."""
        best: tuple[Architecture, dict[str, float]] | None = None
        for percent in range(10, 400):
            architecture, space = _fixed(name, percent / 100)
            costs = self._costs(architecture, space)
            if not self.run.budget.fits(costs):
                break
            best = architecture, costs
        if best is None:
            raise SystemExit(f"Even the narrowest {name} is over the budget.")
        return best

    @cached_property
    def _evaluators(self) -> Evaluators:
        problem = self._problem
        signal = teacher_signal(
            problem, self.run.folder, Silent(), self._config.score.training, self._config.final.training
        )
        special = {
            name: StudentEvaluator(
                problem.data, NetworkBuilder.of(_fixed(name, 1.0)[1], problem.data), signal, self._config.device
            )
            for name in SCALED
        }
        return Evaluators(StudentEvaluator(problem.data, problem.builder, signal, self._config.device), special)

    def _short(self, place: int, drawn: tuple[Architecture, dict[str, float]]) -> Work:
        key = f"{RANDOM}-{place:03d}"
        return Work(
            key=key,
            architecture=drawn[0],
            training=self._config.score.training,
            rungs=(1.0,),
            seed=derive(self._config.seed, "training"),  # as the search's own trials
            checkpoint=self.folder / "checkpoints" / key,
        )

    def _full(self, name: str, architecture: Architecture, place: int, *, taught: bool = True) -> Work:
        key = f"{name}-seed{place}"
        return Work(
            key=key,
            architecture=architecture,
            training=self._config.final.training,
            rungs=epoch_rungs(self._config.final.training.epochs),
            seed=derive(self._seeds[place], "final"),
            checkpoint=self.folder / "checkpoints" / key,
            teacher=taught,
            output=self._student(name, place),
        )


def teacher_costs(run: Run) -> dict[str, float]:
    """Return what the teacher pays, as the run counted it."""
    teacher = run.metadata.teacher
    assert teacher is not None  # a finished run has counted it
    costs = teacher.costs
    return costs


def _fixed(name: str, factor: float) -> tuple[Architecture, SearchSpace]:
    """Return a family's network with its widths times ``factor``, and a space that holds only it."""
    _, builder, values = SCALED[name]

    def scaled(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {inner: scaled(entry, inner) for inner, entry in value.items()}
        if isinstance(value, list):
            return {"each": [scaled(entry) for entry in value]}
        return [round_channels(value * factor) if key in _WIDTHS else value]

    space = SearchSpace.from_dict({"name": name, "builder": builder, "parameters": scaled(values)})
    return space.smallest(), space
