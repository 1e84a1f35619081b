"""Proposals from a library of blocks, and assembly for other budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import nas_distill as nd
from nas_distill.blockwise.assembler import Assembly
from nas_distill.blockwise.fit import MINIMUM
from nas_distill.config import BlockwiseConfig, TrainingConfig
from nas_distill.costs.budget import Limit
from nas_distill.distill import Distiller
from nas_distill.spaces import Architecture
from nas_distill.study import assembly as study_assembly
from nas_distill.study.assembly import STEP, LibraryAssembler
from nas_distill.tasks import find_task, task_names
from nas_distill.utils.errors import RunError
from tests.study.conftest import QUICK, tensors


class Pairs:
    """A space of cuts as plain values."""

    def encode(self, cut: Any) -> Architecture:
        return Architecture(cut)

    def decode(self, architecture: Architecture) -> Any:
        return architecture.to_dict()


LIBRARY = SimpleNamespace(alternatives=SimpleNamespace(space=Pairs()))


def assembly(a: int, b: int) -> Assembly:
    cut: Any = {"a": a, "b": b}
    return Assembly(cut, (f"a{a}", f"b{b}"), {"flops": float(a + b)}, float(a + b), (float(a), float(b)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replacements of the integer program, which record their calls and answer by the weights."""
    calls: list[dict[str, Any]] = []

    def solve(library: Any, limits: Any, *, count: int, weights: Any = None, **more: Any) -> list[Assembly]:
        calls.append({"weights": weights, "limits": dict(limits), "count": count})
        first = 0 if weights is None else 20
        return [assembly(first + index, 1) for index in range(count)]

    def sweep(library: Any, limits: Any, cost: str, *, points: Any, weights: Any = None, **more: Any) -> list[Assembly]:
        calls.append({"weights": weights, "points": points, "cost": cost})
        first = 10 if weights is None else 25
        return [assembly(first + index, 2) for index in range(3)]

    def local(library: Any, values: Any, score: str) -> tuple[float, ...] | None:
        return None if values["a"] == 60 else (values["a"] / 60, values["b"] / 60)

    monkeypatch.setattr(study_assembly, "assemblies", solve)
    monkeypatch.setattr(study_assembly, "front", sweep)
    monkeypatch.setattr(study_assembly, "block_scores", local)
    return calls


def make(limits: dict[str, Limit], **options: Any) -> LibraryAssembler:
    settings = BlockwiseConfig(solutions=options.pop("solutions", 4))
    return LibraryAssembler(LIBRARY, limits, by="flops", settings=settings, alone=True, seed=0)  # type: ignore[arg-type]


def propose_all(assembler: LibraryAssembler, quality: Any) -> list[Architecture]:
    scored: list[tuple[Architecture, float]] = []
    while (found := assembler.propose(scored, {each.hash for each, _ in scored})) is not None:
        scored.append((found, quality(found.to_dict())))
    return [each for each, _ in scored]


def test_the_front_is_swept_down_from_the_budget_most_expensive_first(asked: list[dict[str, Any]]) -> None:
    found = propose_all(make({"flops": Limit(None, 100.0), "latency_ms": Limit(None, 1.0)}), lambda values: 0.5)
    assert [values.to_dict() for values in found] == [
        {"a": 12, "b": 2},
        {"a": 11, "b": 2},
        {"a": 0, "b": 1},
        {"a": 1, "b": 1},
    ]
    assert asked[0]["points"] == pytest.approx([100.0 * STEP**index for index in range(4)])
    assert asked[1]["limits"] == {"flops": Limit(None, 100.0)}  # latency is no sum over blocks


def test_without_a_limit_the_whole_front_is_swept(asked: list[dict[str, Any]]) -> None:
    make({}).propose([], set())
    assert asked[0]["points"] == 4


def test_the_best_assemblies_by_fitted_weights_follow_after_enough_trials(asked: list[dict[str, Any]]) -> None:
    """Quality depends only on block a here, so its weight rises; no assembly is proposed twice."""
    found = propose_all(make({}, solutions=MINIMUM), lambda values: 1 - values["a"] / 40)
    assert len(found) > MINIMUM
    assert len(set(found)) == len(found)
    fitted = [call["weights"] for call in asked if call["weights"] is not None]
    assert fitted
    assert all(a > b for a, b in fitted)


def test_weights_are_not_fitted_to_too_few_trials(asked: list[dict[str, Any]]) -> None:
    assembler = make({})
    unknown = [(Architecture({"a": 60, "b": index}), 0.5) for index in range(MINIMUM)]
    known = [(Architecture({"a": index, "b": index}), 0.5 + index / 100) for index in range(MINIMUM)]
    assert assembler.fit([*unknown, *known[:-1]]) is None
    fitted = assembler.fit([*unknown, *known])
    assert fitted is not None
    assert fitted.plain.count == MINIMUM


def test_students_with_a_diverged_block_are_left_out_of_the_fit(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def local(library: Any, values: Any, score: str) -> tuple[float, ...]:
        return (math.inf if values["a"] > 30 else values["a"] / 60, values["b"] / 60)

    monkeypatch.setattr(study_assembly, "block_scores", local)
    fitted = make({}).fit([(Architecture({"a": index, "b": index}), 0.9 - index / 100) for index in range(60)])
    assert fitted is not None
    assert fitted.plain.count == 31


@dataclass(frozen=True)
class Case:
    """A finished search of strategy blockwise."""

    run: nd.Run
    task: str


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Network(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, outputs)
        self.blocks = nn.Sequential(*(Residual() for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).amax((2, 3)))


def labels(task: str, y: torch.Tensor) -> torch.Tensor:
    return {
        "multilabel": torch.stack([y % 2, y > 1, y == 0], 1).float(),
        "regression": torch.stack([y - 1.5, (y - 1.5) ** 2 - 1.25], 1).float(),
    }[task]


def taught(data: nd.Dataset) -> nn.Module:
    settings = TrainingConfig.model_validate({"epochs": 4, "batch_size": 32, "optimizer": {"lr": 0.05}})
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = Network(data.num_classes)
    distiller = Distiller(module, data, settings, signal=None, seed=0)
    distiller.advance(10**6)
    return distiller.student()


@pytest.fixture(scope="module", params=[task for task in task_names() if task != "classification"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, y = tensors()
        task: str = request.param
        data = nd.Dataset.from_tensors(x, labels(task, y), val=0.2, task=task)
        folder = tmp_path_factory.mktemp("assembled") / task
        blockwise = {"trunk": [0.5, 1], "widths": [0.5, 1], "epochs": 1, "heldout": 32, "overlap": 1, "score": "kl"}
        blockwise["solutions"] = MINIMUM
        settings = {**QUICK, "trials": MINIMUM, "strategy": "blockwise", "blockwise": blockwise}
        # No trial is stopped, so that there are enough to fit weights to.
        settings |= {"score": {"epochs": 1, "batch_size": 32, "rungs": [1.0]}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nas_distill.study.pipeline.export_finalists", lambda *_: None)
            space = {"from_teacher": {"multiple": 2, "samples": 64}}
            run = nd.search(
                teacher=taught(data), data=data, space=space, budget={"flops": "70%"}, folder=folder, **settings
            )
        yield Case(run, task)
    finally:
        torch.set_num_threads(threads)


def test_expected_quality_of_assemblies_is_that_of_the_task(case: Case) -> None:
    found = case.run.assemble({"flops": "60%"}, count=4)
    assert len(found) == 4
    limit = case.run.budget_of({"flops": "60%"}).limits["flops"].high
    assert limit is not None
    for entry in found:
        assert entry.costs["flops"] == pytest.approx(entry.predicted["flops"])
        assert entry.costs["flops"] <= limit
        assert entry.expected is not None
        assert entry.expected <= 1
    assert [entry.score for entry in found] == sorted(entry.score for entry in found)
    fitted = [quality for _, quality in study_assembly.scored(case.run.records)]
    assert min(fitted) - 1 < found[0].expected <= 1  # type: ignore[operator]


def test_the_command_names_the_quality_of_the_task(
    case: Case, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_distill.cli.commands.open_run_folder", lambda path, trust=False: case.run)
    answer = cli("assemble", case.run.folder.path, "--budget", "flops=60%", "--count", 2)
    assert (answer.code, answer.err) == (0, "")
    quality = find_task(case.task).quality_name
    assert f"Expected: {quality} of a short distillation" in answer.out
    assert not any(other in answer.out for name in task_names() if (other := find_task(name).quality_name) != quality)
    rows = cli("assemble", case.run.folder.path, "--budget", "flops=60%", "--count", 2, "--json").json
    assert [row["score"] for row in rows] == [entry.score for entry in case.run.assemble({"flops": "60%"}, count=2)]
    names = "".join(answer.out.split())
    assert all(part in names for row in rows for part in row["blocks"][0].split("-"))


def test_without_enough_trials_there_is_no_expected_quality(
    case: Case, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_distill.cli.commands.open_run_folder", lambda path, trust=False: case.run)
    monkeypatch.setattr(study_assembly, "MINIMUM", 1000)
    said = cli("assemble", case.run.folder.path).out
    assert "Nothing is expected of them yet: too few trials" in said
    assert "Expected:" not in said


def test_a_run_without_blocks_names_the_strategies_that_make_them(own_run: nd.Run) -> None:
    with pytest.raises(RunError, match=r"has no library of blocks .* strategy 'blockwise' or 'hybrid'"):
        own_run.assemble({"flops": "50%"})
