"""Costs of a search problem: counting, checks before timing, and the latency predictor."""

from dataclasses import replace

import pytest

from nas_distill.config import SearchFile
from nas_distill.costs.registry import counted_names
from nas_distill.spaces import SearchSpace
from nas_distill.study.latency import fit_latency_predictor, restore_latency_predictor
from nas_distill.study.problem import SearchProblem
from nas_distill.teacher import freeze
from nas_distill.utils.errors import BudgetError, CostError


@pytest.fixture
def problem(given):
    """Make the problem of a search from Python, with other sections where given."""

    def make(**sections):
        content = {"data": "x", "teacher": "x", "space": "x", **sections}
        space = SearchSpace.from_dict(given["space"], builder=given["builder"])
        return SearchProblem(
            SearchFile.model_validate(content), given["data"], freeze(given["teacher"], given["data"]), space, ()
        )

    return make


def test_required_costs_are_those_of_limits_and_objectives(problem):
    given = problem(budget={"params": 1}, search={"costs": ["flops", "latency_ms"]})
    assert given.required_costs == {"params", "flops", "latency_ms"}
    scalar = problem(search={"scalar": {"cost": "weight_bytes", "target": "1KiB"}})
    assert "weight_bytes" in scalar.required_costs


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"budget": {"flop": 3}}, "did you mean 'flops'"),
        ({"search": {"costs": ["energy"]}}, "unknown cost 'energy'"),
        ({"budget": {"flops": "2Q"}}, "unit 'Q'"),
        ({"budget": {"flops": ["3M", "2M"]}}, "lower end"),
        ({"budget": {"latency_ms": "2M"}}, "unit 'M'"),
        ({"search": {"scalar": {"cost": "flops", "target": "much"}}}, "'much'"),
        ({"search": {"scalar": {"cost": "flop", "target": "1M"}}}, "did you mean 'flops'"),
        ({"search": {"scalar": {"cost": "latency_ms", "target": "50%"}}}, "latency_ms is not known here"),
    ],
    ids=str,
)
def test_invalid_costs_and_amounts_are_refused(problem, sections, expected):
    with pytest.raises(BudgetError, match=expected):
        problem(**sections).check_costs()


def test_a_percentage_of_the_teachers_latency_is_resolved_after_its_measurement(problem):
    given = problem(budget={"latency_ms": "50%", "flops": "10%"})
    given.check_costs()
    pricing = given.pricing(None, 4.0)
    assert pricing.budget.limits["latency_ms"].high == 2.0
    assert pricing.teacher["latency_ms"] == 4.0
    with pytest.raises(BudgetError, match="latency_ms is not known here"):
        given.pricing()


def test_costs_of_an_architecture_are_counted_the_same_each_time(problem):
    given = problem()
    pricing = given.pricing()
    assert pricing.names == counted_names()
    largest = pricing(given.space.largest())
    assert set(largest) == set(counted_names())
    assert pricing(given.space.largest()) == largest
    assert all(largest[name] > value for name, value in pricing(given.space.smallest()).items())


def test_latency_is_fitted_only_if_required_or_calibrated(problem):
    assert fit_latency_predictor(problem(latency={"calibrate": 0}), lambda done, total: None) is None
    assert restore_latency_predictor(None) is None


def test_a_space_of_too_few_networks_is_an_error_only_if_latency_is_required(problem):
    few = problem(latency={"calibrate": 4, "repeats": 5})
    assert fit_latency_predictor(few, lambda done, total: None) is None
    asked = replace(few, config=few.config.model_copy(update={"budget": {"latency_ms": 1.0}}))
    with pytest.raises(CostError, match="at least 8 timed networks"):
        fit_latency_predictor(asked, lambda done, total: None)


@pytest.mark.parametrize("widths", [[4], [4, 8, 16]])
def test_all_architectures_of_a_small_space_are_timed(given, problem, widths):
    few = problem(latency={"calibrate": 30, "repeats": 5}, budget={"latency_ms": 5.0})
    few = replace(few, space=SearchSpace.from_dict({"width": widths, "depth": [1]}, builder=given["builder"]))
    latency = fit_latency_predictor(few, lambda done, total: None)
    assert latency.error.count == 8
    assert few.pricing(latency, 1.0)(few.space.largest())["latency_ms"] > 0


def test_a_latency_predictor_predicts_and_is_restored(given, problem):
    content = {"width": {"int": [4, 16]}, "depth": [1, 2]}
    wide = replace(
        problem(latency={"calibrate": 9, "repeats": 5}), space=SearchSpace.from_dict(content, builder=given["builder"])
    )
    steps = []
    latency = fit_latency_predictor(wide, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (9, 9)
    pricing = wide.pricing(latency, 1.0)
    assert pricing(wide.space.largest())["latency_ms"] > 0
    again = wide.pricing(restore_latency_predictor(latency.to_dict()), 1.0)
    assert again(wide.space.largest()) == pricing(wide.space.largest())
