"""A simulated training and a search over it, for tests that decide much and train nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from nas_distill.config import ScoreConfig, SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.controller import Controller
from nas_distill.engine.ledger import Status
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.work import RungResult, Work
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import open_journal, read_study
from nas_distill.runs.pareto import non_dominated
from nas_distill.runs.records import TrialRecord, read_records
from nas_distill.spaces import Architecture, SearchSpace

SPACE = {
    "width": {"int": [8, 64], "step": 8},
    "kernel": [3, 5, 7],
    "act": ["relu", "silu"],
    "depth": [1, 2, 3],
    "blocks": {"repeat": "depth", "of": {"expand": [1, 2, 4], "attention": [False, True]}},
}
STEPS = 90


def build(**_: Any) -> None:
    raise AssertionError("these tests build nothing")


def simulated_costs(architecture: Architecture) -> dict[str, float]:
    values = architecture.values
    blocks = sum(block["expand"] * (2 if block["attention"] else 1) for block in values["blocks"])
    flops = values["width"] ** 2 * values["kernel"] * blocks
    return {"flops": float(flops), "params": float(values["width"] * blocks)}


def simulated_quality(architecture: Architecture, share: float) -> float:
    capacity = math.log(simulated_costs(architecture)["flops"]) / 14
    noise = int(architecture.hash[:6], 16) / 16**6 * 0.2
    return float(np.clip(min(0.95, 0.4 * capacity + 0.3 + noise) * (1 - 0.5 * math.exp(-4 * share)), 0, 1))


@dataclass
class Simulated:
    """An evaluator whose trainings take no time, and go on from their checkpoints."""

    quality: Callable[[Architecture, float], float] = simulated_quality
    started: list[str] = field(default_factory=list)

    def start(self, work: Work) -> SimulatedRun:
        self.started.append(work.key)
        return SimulatedRun(self, work)


class SimulatedRun:
    def __init__(self, evaluator: Simulated, work: Work) -> None:
        self._evaluator, self._work = evaluator, work
        self._file = work.checkpoint / "rung.json"
        # As the real one: the last rung reached may not have been reported, so it is reported again.
        self._rung = json.loads(self._file.read_text()) if self._file.exists() else 0

    def next_rung(self) -> RungResult:
        rung, work = self._rung, self._work
        share = work.rungs[rung]
        quality = self._evaluator.quality(work.architecture, share)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(rung))
        self._rung = rung + 1
        return RungResult(rung, round(share * STEPS), quality, share * 10)

    def close(self) -> None:
        pass


@dataclass
class Bench:
    """A run folder and what is needed to search in it, again and again."""

    folder: RunFolder
    search: SearchConfig = field(default_factory=lambda: SearchConfig(trials=12, seeds=3))
    score: ScoreConfig = field(default_factory=lambda: ScoreConfig(rungs=(1 / 9, 1 / 3, 1.0)))
    budget: Budget = field(default_factory=Budget)
    space: SearchSpace = field(default_factory=lambda: SearchSpace.from_dict(SPACE, builder=build))
    costs: Callable[[Architecture], dict[str, float]] = simulated_costs
    evaluator: Simulated = field(default_factory=Simulated)
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def controller(self, **options: Any) -> Iterator[Controller]:
        objectives = options.pop("objectives", None) or Objectives.from_config(self.search)
        with self.folder.lock():
            journal = open_journal(self.folder, directions=objectives.directions, names=objectives.names)
            yield Controller(
                journal,
                self.folder,
                space=self.space,
                pricing=Pricing(self.costs, self.budget),
                search=self.search,
                score=self.score,
                seed=self.seed,
                objectives=objectives,
                **{**self.options, **options},
            )

    def run(self, **options: Any) -> Controller:
        with self.controller(**options) as controller:
            InProcessBackend().run(controller, self.evaluator)
            check_sums(controller)
            return controller

    def records(self) -> list[TrialRecord]:
        return read_records(read_study(self.folder))


def check_sums(controller: Controller) -> None:
    """Compare what the ledger keeps up as entries change with what a look at all of them finds."""
    ledger, costs = controller._ledger, controller._objectives.costs
    entries = list(ledger)
    for status in get_args(Status):
        assert ledger.having(status) == [entry for entry in entries if entry.status == status]
        assert ledger.count(status) == len(ledger.having(status))
    complete = ledger.having("complete")
    points = [[entry.quality, *(entry.costs[name] for name in costs)] for entry in complete]
    mask = non_dominated(points, [True] + [False] * len(costs))
    assert set(ledger.front) == {entry.index for entry, kept in zip(complete, mask) if kept}
    assert ledger.seconds_trained == pytest.approx(sum(entry.seconds for entry in entries))
    assert ledger.seconds_saved == pytest.approx(sum(entry.seconds_saved for entry in entries))
    for rung in {rung for entry in entries for rung in entry.reports}:
        found = {report.number: report.quality for report in ledger.reports_at(rung)}
        assert found == {entry.number: entry.reports[rung].quality for entry in entries if rung in entry.reports}


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk: these tests simulate deaths of the process, which lose nothing that was written."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def bench(tmp_path: Path, no_fsync: None) -> Bench:
    return Bench(RunFolder(tmp_path / "run"))


@pytest.fixture
def make_bench(tmp_path: Path, no_fsync: None) -> Callable[..., Bench]:
    count = iter(range(10_000))

    def make(**options: Any) -> Bench:
        return Bench(RunFolder(tmp_path / f"run{next(count)}"), **options)

    return make
