"""Searches whose candidates are allocated: judged before training, at the limits by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import nas_distill as nd
from nas_distill.allocation.assembler import JudgePool
from nas_distill.costs.budget import Budget, Limit
from nas_distill.study import pipeline
from nas_distill.study.allocation import levels_within
from nas_distill.study.interruption import InterruptedSearchError
from nas_distill.study.start import prepare
from nas_distill.utils.errors import BudgetError, ConfigError
from tests.study.conftest import QUICK, tensors, trained

SPACE = {"from_teacher": {"multiple": 2, "samples": 64}}
FEW: dict[str, Any] = {**QUICK, "trials": 4, "allocation": {"candidates": 24, "samples": 32}}


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return trained()


@pytest.fixture
def data() -> nd.Dataset:
    return nd.Dataset.from_tensors(*tensors(), val=0.2)


def search(teacher: nn.Module, data: nd.Dataset, folder: Path, **settings: Any) -> nd.Run:
    chosen = {"budget": {"flops": "40%"}, **FEW, **settings}
    return nd.search(teacher=teacher, data=data, space=SPACE, folder=folder, quiet=True, **chosen)


def test_candidates_spend_the_budget_or_a_share_of_it(teacher: nn.Module, data: nd.Dataset, tmp_path: Path) -> None:
    run = search(teacher, data, tmp_path / "run")
    assert [record.origin for record in run.records] == ["allocated"] * 4
    assert all(record.trained for record in run.records)
    high = run.budget.limits["flops"].high
    assert high is not None
    shares = [record.costs["flops"] / high for record in run.records]
    assert max(shares) <= 1
    assert shares[0] > 0.8
    assert min(shares) < 0.75
    assert run.metadata.timings["allocation"] > 0


def test_a_search_that_is_resumed_for_its_finalists_judges_nothing(
    teacher: nn.Module, data: nd.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "screened_finalists", stop)
        with pytest.raises(InterruptedSearchError):
            search(teacher, data, tmp_path / "run")
    before = [record.architecture for record in nd.open_run(tmp_path / "run").records]
    pools: list[JudgePool] = []
    start = JudgePool.__init__

    def noted(self: JudgePool, *arguments: Any, **named: Any) -> None:
        pools.append(self)
        start(self, *arguments, **named)

    monkeypatch.setattr(JudgePool, "__init__", noted)
    again = search(teacher, data, tmp_path / "run", resume=True)
    assert pools == []
    assert [record.architecture for record in again.records] == before
    assert len(before) == 4


def test_another_budget_is_answered_by_the_judge_and_its_candidate_can_be_distilled(
    teacher: nn.Module, data: nd.Dataset, tmp_path: Path
) -> None:
    run = search(teacher, data, tmp_path / "run")
    found = run.assemble({"flops": "25%"}, count=3, quiet=True)
    high = run.budget_of({"flops": "25%"}).limits["flops"].high
    assert high is not None
    assert 1 <= len(found) <= 3
    assert all(one.costs["flops"] <= high for one in found)
    assert max(one.costs["flops"] for one in found) > 0.6 * high
    assert [one.score for one in found] == sorted(one.score for one in found)
    trial = run.candidate(found[0])
    assert trial.record.state == "untried"
    student = trial.distill(epochs=1, quiet=True)
    assert sum(one.numel() for one in student.module.parameters()) == found[0].costs["params"]
    assert len(nd.open_run(run.folder.path, data=data, teacher=teacher).trials()) == len(run.records)
    with pytest.raises(BudgetError):
        run.assemble({"flops": ">=10%"}, quiet=True)


def strategy(teacher: nn.Module, data: nd.Dataset, *, space: Any = SPACE, **settings: Any) -> tuple[str, int]:
    quick = {key: value for key, value in QUICK.items() if key != "trials"}
    chosen = {"budget": {"flops": "40%"}, **settings}
    budget = chosen.pop("budget")
    problem = prepare(None, teacher=teacher, data=data, space=space, budget=budget, settings={**quick, **chosen})[0]
    return problem.config.search.strategy, problem.config.search.trials


def test_allocation_is_the_default_where_weights_are_inherited_under_an_upper_limit(
    teacher: nn.Module, data: nd.Dataset
) -> None:
    assert strategy(teacher, data) == ("allocate", 12)
    assert strategy(teacher, data, trials=7) == ("allocate", 7)
    assert strategy(teacher, data, strategy="sample") == ("sample", 40)
    assert strategy(teacher, data, budget=None)[0] == "sample"
    assert strategy(teacher, data, budget={"flops": {"min": "20%"}})[0] == "sample"
    assert strategy(teacher, data, space={"from_teacher": {"start": "random"}})[0] == "sample"


def test_allocation_needs_inherited_weights_and_an_upper_limit(teacher: nn.Module, data: nd.Dataset) -> None:
    with pytest.raises(ConfigError, match="upper limit"):
        strategy(teacher, data, strategy="allocate", budget={"flops": {"min": "20%"}})
    with pytest.raises(ConfigError, match="inherits its weights"):
        strategy(teacher, data, strategy="allocate", space={"from_teacher": {"start": "random"}})


@pytest.mark.parametrize(
    ("limits", "shares"),
    [
        ({"flops": (None, 10.0)}, [1.0, 0.7, 0.5]),
        ({"flops": (6.0, 10.0)}, [1.0, 0.7]),
        ({"flops": (None, 10.0), "params": (9.0, 10.0)}, [1.0]),
        ({"flops": (None, 10.0), "params": (9.0, None)}, [1.0, 0.7, 0.5]),
    ],
)
def test_levels_below_a_lower_limit_are_left_out(
    limits: dict[str, tuple[float | None, float | None]], shares: list[float]
) -> None:
    levels = levels_within(Budget({name: Limit(low, high) for name, (low, high) in limits.items()}))
    assert [share for share, _ in levels] == shares
    assert sum(part for _, part in levels) == pytest.approx(1)


def test_an_infeasible_budget_is_one_sentence(teacher: nn.Module, data: nd.Dataset, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="flops"):
        search(teacher, data, tmp_path / "run", budget={"flops": 10})


def test_an_interrupt_that_a_native_package_reports_as_an_import_error_stops_the_search(
    teacher: nn.Module, data: nd.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: pipeline.Pipeline, *_: Any) -> None:
        self.interruption.stop_requested = True
        raise ImportError("initialization failed")

    def broken(*_: Any) -> None:
        raise ImportError("initialization failed")

    monkeypatch.setattr(pipeline.Pipeline, "_phases", interrupted)
    with pytest.raises(InterruptedSearchError):
        search(teacher, data, tmp_path / "stopped")
    monkeypatch.setattr(pipeline.Pipeline, "_phases", broken)
    with pytest.raises(ImportError):
        search(teacher, data, tmp_path / "broken")
