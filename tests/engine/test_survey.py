import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.config import SearchFile, TrainingConfig
from nas_distill.costs.budget import Budget
from nas_distill.data import Dataset
from nas_distill.engine import survey as module
from nas_distill.engine.backends import choose_backend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.survey import (
    estimate_seconds,
    overhead_seconds,
    seconds_per_step,
    survey_space,
    trial_limit,
    typical_overhead,
)
from nas_distill.engine.work import Work
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.utils.errors import BudgetError, RunError

torch.set_num_threads(1)
LIMIT = {"flops": 100}


def build(*, width, depth, num_classes):
    if width == 12:
        raise ValueError("no twelve")
    inner = [nn.Linear(width, width) for _ in range(depth)]
    return nn.Sequential(nn.Flatten(), nn.Linear(9, width), *inner, nn.Linear(width, num_classes))


@pytest.fixture
def space():
    return SearchSpace.from_dict({"width": {"int": [4, 40], "step": 4}, "depth": [1, 2, 3]}, builder=build)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return Dataset.from_tensors(rng.integers(0, 256, (40, 1, 3, 3), dtype=np.uint8), np.arange(40) % 2)


def costs(architecture):
    width, depth = architecture.values["width"], architecture.values["depth"]
    if width == 12:
        raise ValueError("no twelve")
    return {"flops": float(width**2 * depth), "params": float(width * depth)}


def survey(space, limits=None, **options):
    return survey_space(space, Pricing(costs, Budget.parse(limits or {})), **{"by": "flops", "seed": 0, **options})


def test_candidates_go_from_the_smallest_to_the_largest(space):
    found = survey(space)
    prices = [candidate.costs["flops"] for candidate in found.candidates]
    assert prices == sorted(prices)
    assert found.cheapest.architecture == space.smallest()
    assert found.largest.architecture == space.largest()
    assert (prices[0], prices[-1]) == (16, 4800)
    assert found.median.costs["flops"] == prices[len(prices) // 2]
    hashes = [candidate.architecture.hash for candidate in found.candidates]
    assert len(set(hashes)) == len(hashes)
    assert found.share == 1.0
    assert found.fitting == found.candidates


def test_what_fails_to_build_is_left_out_and_kept_with_its_cause(space):
    found = survey(space)
    assert all(candidate.architecture.values["width"] != 12 for candidate in found.candidates)
    assert set(found.failures) == {"ValueError: no twelve"}


def test_shares_are_counted_over_all_candidates(space):
    found = survey(space, {"flops": 1000, "params": {"min": 20, "max": 60}})
    prices = [candidate.costs for candidate in found.candidates]
    flops = [cost["flops"] <= 1000 for cost in prices]
    params = [20 <= cost["params"] <= 60 for cost in prices]
    assert found.shares == {"flops": np.mean(flops), "params": np.mean(params)}
    both = [a and b for a, b in zip(flops, params)]
    assert found.share == np.mean(both)
    assert 0 < found.share < min(found.shares.values())
    assert [candidate.costs for candidate in found.fitting] == [cost for cost, fits in zip(prices, both) if fits]
    assert found.typical in found.fitting


def test_it_is_the_same_for_the_same_seed(space):
    assert survey(space) == survey(space)
    big = SearchSpace.from_dict({"width": {"int": [4, 4000], "step": 4}, "depth": [1, 2, 3]}, builder=build)
    assert survey(big, samples=20) != survey(big, samples=20, seed=1)


def test_a_budget_that_nothing_fits_names_the_limit_that_binds_and_the_cheapest_found(space):
    with pytest.raises(BudgetError, match=r"'flops' \(at most 10\) binds, met by 0 of them; the cheapest found has 16"):
        survey(space, {"flops": 10, "params": 1000})


def test_a_space_of_which_nothing_builds_gives_the_first_cause(space):
    def fail(architecture):
        raise RuntimeError("no\nluck.")

    with pytest.raises(RunError, match=r"none of \d+ architectures .* the first failed with: RuntimeError: no luck\.$"):
        survey_space(space, Pricing(fail), by="flops", seed=0)


# Time.


@pytest.mark.parametrize("epochs", [0.01, 1, 50])
def test_a_step_is_timed_on_the_typical_candidate_however_short_the_training(space, data, monkeypatch, epochs):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    seen = []

    class Timed(module.Distiller):
        def _train_step(self, index, view):
            seen.append(self.model[1].out_features)
            clock.now += 0.25
            return super()._train_step(index, view)

    monkeypatch.setattr(module, "Distiller", Timed)
    found = survey(space)
    state = torch.get_rng_state()
    step = seconds_per_step(
        found.typical.architecture,
        NetworkBuilder.of(space, data),
        data,
        None,
        TrainingConfig(epochs=epochs, batch_size=64),
        "cpu",
    )
    assert step == pytest.approx(0.25)
    assert set(seen) == {found.typical.architecture.values["width"]}
    assert torch.equal(torch.get_rng_state(), state)


def config(**sections):
    base = {"data": "digits", "teacher": "x", "space": "mbconv"}
    return SearchFile.model_validate({**base, **sections})


def test_the_estimate_counts_steps_of_trials_finalists_and_baseline(data):
    given = config(
        score={"epochs": 2, "batch_size": 10}, final={"epochs": 5, "batch_size": 16, "count": 3}, search={"workers": 2}
    )
    assert len(data.train) == 32
    estimate = estimate_seconds(given, data, 0.5, trials=10)
    assert estimate.trials == 10 * 2 * 3 * 0.5
    assert estimate.finalists == (3 + 1) * 5 * 2 * 0.5
    assert estimate.wall == estimate.trials / estimate.workers + estimate.finalists / estimate.final_workers
    assert (estimate.workers, estimate.final_workers) == (2, 2)
    without = config(final={"epochs": 5, "batch_size": 16, "count": 3, "baseline": False})
    assert estimate_seconds(without, data, 0.5, trials=10).finalists == 3 * 5 * 2 * 0.5


@pytest.mark.parametrize(("budget", "uniform", "trainings"), [({}, True, 4), (LIMIT, True, 5), (LIMIT, False, 4)])
def test_the_estimate_counts_the_uniform_network_where_something_is_limited(data, budget, uniform, trainings):
    final = {"epochs": 5, "batch_size": 16, "count": 3, "uniform": uniform}
    given = config(final=final, budget=budget)
    assert estimate_seconds(given, data, 0.5, trials=10).finalists == trainings * 5 * 2 * 0.5


def test_a_batch_larger_than_the_data_is_one_step_an_epoch(data):
    given = config(score={"epochs": 3, "batch_size": 1000})
    assert estimate_seconds(given, data, 1.0, trials=1).trials == 3


def test_a_survey_that_takes_long_looks_at_fewer_candidates_and_says_how_far_it_is(space, monkeypatch):
    big = SearchSpace.from_dict({"width": {"int": [4, 4000], "step": 4}, "depth": [1, 2, 3]}, builder=build)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    told = []

    def slow(architecture):
        clock.now += 2.0
        return {"flops": 1.0}

    found = survey_space(big, Pricing(slow), by="flops", seed=0, on_step=lambda *step: told.append(step))
    assert module._FEWEST <= len(found.candidates) < 40
    assert [done for done, _ in told] == list(range(len(found.candidates)))
    assert found.seconds == 2.0 * len(found.candidates)
    assert survey(big).candidates != found.candidates


def test_a_step_that_takes_very_long_is_timed_once(space, data, monkeypatch):
    clock = SimpleNamespace(now=0.0, steps=0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)

    class Timed(module.Distiller):
        def _train_step(self, index, view):
            clock.now, clock.steps = clock.now + 30.0, clock.steps + 1
            return super()._train_step(index, view)

    monkeypatch.setattr(module, "Distiller", Timed)
    assert (
        seconds_per_step(
            space.largest(), NetworkBuilder.of(space, data), data, None, TrainingConfig(batch_size=64), "cpu"
        )
        == 30.0
    )
    assert clock.steps == 1


def test_candidates_that_train_nothing_take_what_building_and_judging_them_takes(space, data):
    given = config(score={"rungs": [0]}, final={"count": 1, "baseline": False, "epochs": 1, "batch_size": 16})
    estimate = estimate_seconds(given, data, 0.5, trials=10, overhead=3.0)
    assert estimate.trials == 30.0
    assert estimate_seconds(given, data, None, trials=10, overhead=3.0).trials == 30.0
    assert estimate_seconds(given, data, 0.5, trials=10, overhead=None).trials is None


def test_what_a_candidate_takes_beside_its_training_is_measured(space, data):
    class Slow:
        def fill(self, student, architecture):
            time.sleep(0.05)

    looked = survey(space)
    builder = NetworkBuilder.of(space, data, Slow())
    built, validated = overhead_seconds(looked.typical.architecture, builder, data, "cpu")
    assert built >= 0.05
    assert validated > 0
    assert typical_overhead(looked, builder, data, config(score={"rungs": [0]})) >= 0.05


@pytest.mark.parametrize(
    ("search", "seconds", "chosen"),
    [
        ({}, 0.5, "inline"),
        ({}, 500.0, "tune"),
        ({}, None, "tune"),
        ({"workers": 1}, 500.0, "inline"),
        ({"workers": 1, "address": "auto"}, 0.5, "tune"),
        ({"gpus_per_worker": 1}, 0.5, "tune"),
        ({"backend": "tune"}, 0.5, "tune"),
        ({"backend": "inline"}, 500.0, "inline"),
    ],
)
def test_workers_are_started_where_they_save_more_than_they_take(search, seconds, chosen):
    assert choose_backend(config(search=search).search, seconds) == chosen


def test_the_limit_of_a_trial_is_generous_and_grows_with_its_steps(data):
    def work(training):
        return Work("w", Architecture({}), training, (1.0,), 0, Path())

    given = config(score={"epochs": 4, "batch_size": 16}, final={"epochs": 40, "batch_size": 16})
    short, full = work(given.score.training), work(given.final.training)
    assert trial_limit(given, data, 0.001)(short) == 600  # a floor of minutes
    assert trial_limit(given, data, 100.0)(short) == 10 * 100.0 * 8
    assert trial_limit(given, data, 100.0, spread=3.0)(full) == 30 * 100.0 * 80
    assert trial_limit(given, data)(short) == 24 * 3600
    given = config(score={"epochs": 4, "batch_size": 16}, search={"trial_limit_minutes": 5})
    assert trial_limit(given, data, 100.0)(short) == 300
    assert trial_limit(given, data, 100.0)(full) == 3000
