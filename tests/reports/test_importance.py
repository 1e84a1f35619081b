import numpy as np
import pytest

from nas_distill.reports.importance import parameter_importance
from nas_distill.utils.errors import RunError


def trials(record, count=60, *, rungs=1, noise=0.002):
    rng = np.random.default_rng(3)
    found = []
    for number in range(count):
        width, kind, depth = int(rng.choice([8, 16, 32])), str(rng.choice(["a", "b"])), int(rng.integers(1, 4))
        values = {"width": width, "kind": kind, "depth": depth, "idle": int(rng.integers(5)), "fixed": 3}
        if depth > 1:
            values["inner"] = int(rng.integers(3))
        quality = 0.5 + 0.08 * np.log2(width / 8) + 0.05 * (kind == "a") + rng.normal(0, noise)
        qualities = tuple(quality - 0.1 * (rungs - 1 - rung) for rung in range(rungs))
        found.append(record(number, flops=1e4 * width, qualities=qualities, values=values))
    return found


@pytest.fixture(scope="module")
def report(record):
    return parameter_importance(trials(record), "flops")


def test_the_most_important_parameter_comes_first(report):
    assert [row.parameter for row in report.rows[:2]] == ["width", "kind"]
    others = [row.quality for row in report.rows[2:]]
    assert max(others) < 0.1 * report.rows[1].quality
    assert report.explained > 0.8


def test_a_parameter_that_acts_through_cost_is_not_important_beyond_cost(report):
    by_name = {row.parameter: row for row in report.rows}
    assert by_name["width"].quality > by_name["kind"].quality
    assert by_name["kind"].beyond_cost > 10 * by_name["width"].beyond_cost
    assert 0.5 < report.explained_by_cost < 1
    assert report.explained_beyond_cost > 0.8


def test_parameters_that_never_vary_are_left_out_and_conditional_ones_are_not(report):
    names = {row.parameter for row in report.rows}
    assert names == {"width", "kind", "depth", "idle", "inner"}
    assert report.trials == 60


def test_pure_noise_explains_nothing(record):
    rng = np.random.default_rng(0)
    records = [
        record(n, flops=1e5, qualities=(rng.normal(0.8, 0.01),), values={"a": int(rng.integers(5))}) for n in range(60)
    ]
    found = parameter_importance(records, "flops")
    assert found.explained < 0.15
    assert found.explained_by_cost == pytest.approx(0, abs=1e-9)
    assert all(row.quality >= 0 for row in found.rows)


def test_equal_qualities_have_no_importance(record):
    records = [record(n, qualities=(0.5,), values={"a": n % 3}) for n in range(20)]
    (row,) = parameter_importance(records, "flops").rows
    assert (row.quality, row.beyond_cost) == (0, 0)


def test_stopped_trials_count_at_the_rung_that_half_reached(record):
    complete = trials(record, 12, rungs=2)
    stopped = [
        record(100 + n, "pruned", flops=r.costs["flops"], qualities=(r.rungs[0],), values=r.params)
        for n, r in enumerate(trials(record, 20, rungs=2))
    ]
    found = parameter_importance([*complete, *stopped], "flops")
    assert (found.rung, found.trials) == (0, 32)
    assert parameter_importance([*complete, *stopped[:8]], "flops").rung == 1


def test_importances_are_reproducible(record, report):
    assert parameter_importance(trials(record), "flops") == report


def test_too_few_trials_or_constant_parameters_are_an_error(record, run):
    with pytest.raises(RunError, match="at least 10 trials that reported at one rung, not 9"):
        parameter_importance(trials(record, 9), "flops")
    with pytest.raises(RunError, match="not 0"):
        parameter_importance(run, "latency_ms")
    with pytest.raises(RunError, match="same values"):
        parameter_importance([record(n, values={"a": 1}) for n in range(20)], "flops")
