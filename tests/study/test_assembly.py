"""Assemblies of a run for other budgets, for tasks with labels and with numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import nas_distill as nd
from nas_distill.blockwise.fit import MINIMUM
from nas_distill.config import TrainingConfig
from nas_distill.distill import Distiller
from nas_distill.study.assembly import scored
from nas_distill.tasks import find_task, task_names
from nas_distill.utils.errors import RunError
from tests.study.conftest import QUICK, tensors


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
    fitted = [quality for _, quality in scored(case.run.records)]
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
    monkeypatch.setattr("nas_distill.blockwise.assembler.MINIMUM", 1000)
    said = cli("assemble", case.run.folder.path).out
    assert "too few trials" in said
    assert "Expected:" not in said


def test_a_run_without_blocks_names_the_strategies_that_make_them(own_run: nd.Run) -> None:
    with pytest.raises(RunError, match=r"has no library of blocks .* strategy 'blockwise' or 'hybrid'"):
        own_run.assemble({"flops": "50%"})
