"""Searches with a cost of the user's own, whose code may fail in worker processes."""

import pytest

import nas_distill as nd
from nas_distill.study.start import prepare
from nas_distill.utils.errors import ConfigError, CostError

OWN = """
import os
import time

from nas_distill.costs import cost

DRIVER = {driver}


@cost(unit="mJ")
def energy_mj(module, example, *, picojoules: float = 4.6, bad: int = 0, how: str = "exit") -> float:
    assert os.getpid() != DRIVER, "called in the process that searches"
    width = next(module.parameters()).shape[0]
    if width == bad:
        if how == "exit":
            os._exit(3)
        return {{"nan": float("nan"), "negative": -1.0, "text": "much"}}[how]
    return picojoules * width


def flops(module, example):
    return 1.0
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    import os

    (tmp_path / "joules.py").write_text(OWN.format(driver=os.getpid()))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "joules:energy_mj"


@pytest.mark.parametrize("how", ["exit", "nan", "text"])
def test_only_candidates_for_which_the_cost_fails_are_lost(own, given, quick, tmp_path, no_export, how):
    entry = {"name": own, "picojoules": 2.0, "bad": 8, "how": how}
    settings = {**quick, "trials": 3, "costs": ["flops", entry]}
    run = nd.search(**{**given, "budget": {"energy_mj": "100%"}}, folder=tmp_path / "run", quiet=True, **settings)

    complete = [record for record in run.records if record.state == "complete"]
    assert complete
    assert all(record.costs["energy_mj"] == 2.0 * record.architecture.values["width"] for record in complete)
    assert {record.architecture.values["width"] for record in complete} <= {4, 12}
    assert run.metadata.teacher.costs["energy_mj"] == 32.0
    assert run.budget.limits["energy_mj"].high == 32.0
    assert "energy_mj" in run.front()
    opened = nd.open_run(tmp_path / "run")
    assert opened.front(budget={"energy_mj": "8mJ"})["energy_mj"].tolist() == [8.0] * len(
        opened.front({"energy_mj": 8})
    )


def test_a_cost_that_is_only_limited_is_not_an_objective(own, given, quick, tmp_path):
    problem, _ = prepare(
        None,
        **{**given, "budget": {"energy_mj": 30}},
        settings={"costs": ["flops", {"name": own, "objective": False}]},
        folder=tmp_path,
    )
    assert problem.config.search.objectives == ("flops",)
    assert problem.teacher_costs["energy_mj"] == pytest.approx(16 * 4.6)


def test_a_cost_that_fails_for_the_teacher_matters_only_for_percentages(own, given, tmp_path):
    entry = {"name": own, "bad": 16, "how": "negative"}

    def inputs_of(limit):
        settings = {"costs": ["flops", entry]}
        return prepare(None, **{**given, "budget": {"energy_mj": limit}}, settings=settings, folder=tmp_path)[0]

    assert "energy_mj" not in inputs_of(30).teacher_costs
    with pytest.raises(CostError, match=r"percentage of the teacher's.*energy_mj"):
        inputs_of("50%")


def test_a_built_in_name_is_refused(own, given, tmp_path):
    with pytest.raises(ConfigError, match="built-in cost 'flops'"):
        prepare(None, **given, settings={"costs": ["params", "joules:flops"]}, folder=tmp_path)
