"""The sampler of known costs, and the parts that it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from scipy.stats import spearmanr

from nas_distill.config import SamplerConfig, ScalarConfig, SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives, Scalar
from nas_distill.engine.proposals import Proposals
from nas_distill.engine.samplers import Past, find_sampler
from nas_distill.engine.samplers.acquisition import Staircase, expected_improvement, undominated
from nas_distill.engine.samplers.fidelity import estimate
from nas_distill.engine.samplers.pool import Encoding, PoolMaker, member
from nas_distill.engine.samplers.surrogate import CostSurrogate, CostTrend, QualitySurrogate
from nas_distill.runs.pareto import hypervolume
from nas_distill.spaces import Architecture, SearchSpace

NAME = "known_cost"
GRID = {f"p{index}": list(range(4)) for index in range(6)}


def grid() -> SearchSpace:
    return SearchSpace.from_dict(GRID, builder="builtins:dict")


def places(architecture: Architecture) -> np.ndarray:
    return np.array([architecture.values[f"p{index}"] for index in range(6)], dtype=float)


def grid_costs(architecture: Architecture) -> dict[str, float]:
    return {"flops": float(1 + places(architecture).sum())}


def grid_quality(architecture: Architecture) -> float:
    """Rise with cost, and more so with the first parameters; two of them should be equal."""
    found = places(architecture)
    value = 0.02 * found.sum() + 0.05 * found[0] + 0.04 * found[1] - 0.05 * abs(found[2] - found[3])
    return float(value)


def proposals(name: str, seed: int, budget: Budget, objectives: Objectives | None = None) -> tuple[Proposals, Pricing]:
    pricing = Pricing(grid_costs, budget)
    found = find_sampler(SamplerConfig(name=name))
    objectives = objectives or Objectives(("flops",))
    told = Proposals(grid(), objectives=objectives, pricing=pricing, sampler=found, seed=seed, trials=60)
    return told, pricing


def evaluations_to_find(name: str, wanted: float, seed: int, budget: Budget, front: bool, most: int = 100) -> int:
    """Return after how many evaluations within the budget a quality is reached, at most ``most``."""
    objectives = Objectives(("flops",), None if front else Scalar("flops", 1.0, 0.0))
    told, pricing = proposals(name, seed, budget, objectives)
    seen: set[str] = set()
    count = 0
    while count < most:
        index = len(told)
        proposal = told.ask()
        costs = pricing(proposal.architecture)
        value = grid_quality(proposal.architecture)
        over = budget.violations(costs)
        told.note(index, costs=costs, scores={} if over else {0: value})
        state = TrialState.PRUNED if over else TrialState.COMPLETE
        told.tell(index, state, objectives.values(value, costs), constraints=over or {"flops": 0.0})
        if over or proposal.architecture.hash in seen:
            continue
        seen.add(proposal.architecture.hash)
        count += 1
        if value >= wanted:
            break
    return count


# Searches.


@pytest.mark.parametrize("limit", ["40k", "4k", "1k"])
def test_nothing_is_proposed_twice_or_over_budget(make_bench: Callable[..., Any], limit: str) -> None:
    search = SearchConfig(trials=30, seeds=2, sampler=SamplerConfig(name=NAME))
    bench = make_bench(search=search, budget=Budget.parse({"flops": limit}))
    assert bench.run().progress().done == 30
    drawn = [record for record in bench.records() if record.origin == "sampler"]
    assert len(drawn) == 28
    assert {record.state for record in drawn} <= {"complete", "pruned"}


def test_nothing_is_over_a_limit_on_a_cost_that_is_no_objective(make_bench: Callable[..., Any]) -> None:
    search = SearchConfig(trials=24, seeds=2, sampler=SamplerConfig(name=NAME))
    bench = make_bench(search=search, budget=Budget.parse({"params": {"min": 50, "max": 100}}))
    bench.run()
    drawn = [record for record in bench.records() if record.origin == "sampler"]
    assert {record.state for record in drawn} <= {"complete", "pruned"}


def test_a_search_of_one_reward_within_a_limit(make_bench: Callable[..., Any]) -> None:
    scalar = ScalarConfig(cost="flops", target="40k")
    search = SearchConfig(trials=30, seeds=2, sampler=SamplerConfig(name=NAME), scalar=scalar)
    bench = make_bench(search=search, budget=Budget.parse({"flops": "40k"}))
    bench.run(objectives=Objectives.from_config(search))
    assert {record.state for record in bench.records()} <= {"complete", "pruned"}


def test_two_cost_objectives_give_a_front_of_both(make_bench: Callable[..., Any]) -> None:
    search = SearchConfig(trials=24, seeds=3, sampler=SamplerConfig(name=NAME), costs=("flops", "params"))
    bench = make_bench(search=search)
    assert bench.run().progress().front_size >= 2


@pytest.mark.parametrize("front", [True, False])
def test_the_optimum_is_found_in_fewer_evaluations_than_at_random(front: bool) -> None:
    budget = Budget.parse({"flops": 9})
    feasible = [one for one in grid().every() if grid_costs(one)["flops"] <= 9]
    wanted = sorted(map(grid_quality, feasible))[-3]
    ours = [evaluations_to_find(NAME, wanted, seed, budget, front) for seed in range(3)]
    drawn = [evaluations_to_find("random", wanted, seed, budget, front) for seed in range(3)]
    # Of random draws 100 find one of the best three with a probability below a fifth.
    assert len(feasible) > 1500
    assert sum(ours) < 0.7 * sum(drawn)


def test_a_space_whose_costs_fail_is_searched_where_they_do_not() -> None:
    def costs(architecture: Architecture) -> dict[str, float]:
        if architecture.values["p0"] == 3:
            raise ValueError("too wide")
        return grid_costs(architecture)

    pricing = Pricing(costs, Budget.parse({"flops": 9}))
    found = find_sampler(SamplerConfig(name=NAME))
    told = Proposals(grid(), objectives=Objectives(("flops",)), pricing=pricing, sampler=found, seed=0, trials=20)
    for index in range(20):
        architecture = told.ask().architecture
        assert architecture.values["p0"] != 3
        told.note(index, costs=costs(architecture), scores={0: grid_quality(architecture)})
        told.tell(index, TrialState.COMPLETE, [0.0, 1.0], constraints={"flops": 0.0})


def test_few_costs_are_counted_per_proposal() -> None:
    asked: list[str] = []

    def costs(architecture: Architecture) -> dict[str, float]:
        asked.append(architecture.hash)
        return grid_costs(architecture)

    pricing = Pricing(costs, Budget.parse({"flops": 9}))
    found = find_sampler(SamplerConfig.model_validate({"name": NAME, "pricings": 5}))
    told = Proposals(grid(), objectives=Objectives(("flops",)), pricing=pricing, sampler=found, seed=0, trials=30)
    for index in range(16):
        before = len(asked)
        architecture = told.ask().architecture
        assert len(asked) - before <= 5
        told.note(index, costs=grid_costs(architecture), scores={0: grid_quality(architecture)})
        told.tell(index, TrialState.COMPLETE, [0.0, 1.0], constraints={"flops": 0.0})


def test_what_is_under_way_is_not_proposed_again_nor_its_neighbours_only() -> None:
    told, _ = proposals(NAME, 0, Budget())
    for index in range(12):
        architecture = told.ask().architecture
        told.note(index, costs=grid_costs(architecture), scores={0: grid_quality(architecture)})
        told.tell(index, TrialState.COMPLETE, [0.0, 1.0])
    waiting = []
    for index in range(12, 20):
        waiting.append(told.ask().architecture)
        told.note(index, costs=grid_costs(waiting[-1]))
    assert len(set(waiting)) == 8
    assert len({grid_costs(one)["flops"] for one in waiting}) > 1


# Expected improvement.


def test_expected_improvement_is_that_of_many_draws() -> None:
    drawn = np.random.default_rng(0).normal(0.3, 0.2, 200_000)
    for threshold in (0.1, 0.3, 0.7):
        found = expected_improvement(np.array([0.3]), np.array([0.2]), np.array([threshold]))[0]
        assert found == pytest.approx(np.maximum(drawn - threshold, 0).mean(), abs=0.002)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_improvement_of_a_certain_quality_is_that_of_the_hypervolume(count: int) -> None:
    rng = np.random.default_rng(count)
    quality, costs = rng.random(12), rng.random((12, count))
    corner, floor = np.ones(count), -0.1
    stairs = Staircase(quality, costs, corner, floor)
    directions = [True] + [False] * count

    def volume(*points: np.ndarray) -> float:
        return hypervolume(np.vstack(points), [floor, *corner], directions)

    known = np.column_stack([quality, costs])
    new_quality, new_costs = rng.random(20) * 1.3, rng.random((20, count)) * 1.2 - 0.1
    found = stairs.improvement(new_quality, np.zeros(20), new_costs)
    for gain, point in zip(found, np.column_stack([new_quality, new_costs]), strict=True):
        assert gain == pytest.approx(volume(known, point[None]) - volume(known), abs=1e-9)


def test_the_expected_improvement_of_the_hypervolume_is_that_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    quality, costs = rng.random(8), rng.random((8, 2))
    stairs = Staircase(quality, costs, np.ones(2), 0.0)
    at = np.array([[0.3, 0.5]])
    drawn = rng.normal(0.6, 0.3, 4000)
    each = stairs.improvement(drawn, np.zeros(4000), np.repeat(at, 4000, axis=0))
    found = stairs.improvement(np.array([0.6]), np.array([0.3]), at)[0]
    assert found == pytest.approx(each.mean(), abs=4 * each.std() / math.sqrt(4000))


def test_an_empty_front_leaves_all_to_be_gained() -> None:
    stairs = Staircase(np.zeros(0), np.zeros((0, 1)), np.array([2.0]), 0.5)
    assert stairs.improvement(np.array([1.0]), np.array([0.0]), np.array([[0.0]]))[0] == pytest.approx(1.0)


def test_of_equals_one_is_undominated() -> None:
    quality = np.array([0.5, 0.5, 0.4, 0.4])
    costs = np.array([[1.0], [1.0], [0.5], [2.0]])
    assert sorted(undominated(quality, costs).tolist()) == [0, 2]


# Surrogates.


def test_the_trend_rises_with_cost_whatever_is_observed() -> None:
    rng = np.random.default_rng(1)
    costs = rng.uniform(0, 5, (40, 2))
    for quality in (rng.random(40), costs.sum(axis=1) + rng.random(40), -costs[:, 0]):
        trend = CostTrend(costs, quality, np.ones(40))
        grid_ = np.linspace(-1, 6, 50)
        for fixed in (0.0, 2.0, 5.0):
            assert (np.diff(trend(np.column_stack([grid_, np.full(50, fixed)]))) >= -1e-9).all()


def test_the_trend_follows_quality_that_levels_off() -> None:
    costs = np.linspace(0, 4, 60)[:, None]
    quality = 0.9 - 0.5 * np.exp(-costs[:, 0])
    assert np.abs(CostTrend(costs, quality, np.ones(60))(costs) - quality).max() < 0.05


def test_where_scores_are_noise_the_surrogate_ranks_by_cost() -> None:
    """The quality is a function of cost, and short scores know less of it than the cost does."""
    rng = np.random.default_rng(0)
    members = PoolMaker(grid(), set(), rng).random(60)
    encoding = Encoding(members)
    costs = np.array([[math.log(grid_costs(each.architecture)["flops"])] for each in members])
    scores = 0.1 * costs[:, 0] + rng.normal(0, 0.08, 60)
    model = QualitySurrogate(encoding.rows(members), costs, scores, np.zeros(60), encoding.parameters)
    found, _ = model.predict(encoding.rows(members), costs)
    assert spearmanr(found, costs[:, 0])[0] > spearmanr(scores, costs[:, 0])[0] + 0.1


def test_the_surrogate_learns_what_cost_does_not_explain() -> None:
    rng = np.random.default_rng(0)
    members = PoolMaker(grid(), set(), rng).random(150)
    encoding = Encoding(members)
    costs = np.array([[math.log(grid_costs(each.architecture)["flops"])] for each in members])
    quality = np.array([grid_quality(each.architecture) for each in members])
    rows = encoding.rows(members)
    model = QualitySurrogate(rows[:100], costs[:100], quality[:100], np.zeros(100), encoding.parameters)
    found, spread = model.predict(rows[100:], costs[100:])
    trend = CostTrend(costs[:100], quality[:100], np.ones(100))(costs[100:])
    assert np.mean((found - quality[100:]) ** 2) < 0.3 * np.mean((trend - quality[100:]) ** 2)
    assert np.mean(np.abs(found - quality[100:]) < 3 * spread) > 0.9


def test_costs_are_predicted_from_the_encoding() -> None:
    members = PoolMaker(grid(), set(), np.random.default_rng(0)).random(90)
    encoding = Encoding(members)
    costs = np.array([[math.log(grid_costs(each.architecture)["flops"])] for each in members])
    rows = encoding.rows(members)
    found = CostSurrogate(rows[:60], costs[:60], encoding.parameters).predict(rows[60:])
    assert np.mean((found - costs[60:]) ** 2) < 0.1 * costs.var()


def test_a_difference_in_one_parameter_is_a_distance_of_at_most_one() -> None:
    space = SearchSpace.from_dict(
        {"width": {"int": [8, 24], "step": 8}, "act": ["a", "b"], "heads": {"choice": [1, 2], "when": {"act": ["a"]}}},
        builder="builtins:dict",
    )
    values = [
        {"width": 8, "act": "a", "heads": 1},
        {"width": 16, "act": "a", "heads": 1},
        {"width": 24, "act": "a", "heads": 1},
        {"width": 8, "act": "a", "heads": 2},
        {"width": 8, "act": "b"},
    ]
    members = [member(space, Architecture(each)) for each in values]
    rows = Encoding(members).rows(members)
    squared = ((rows - rows[0]) ** 2).sum(axis=1)
    assert squared.tolist() == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.5])


# Scores at rungs.


def past(state: Any, **scores: float) -> Past:
    return Past(Architecture({"a": 1}), {"flops": 1.0}, {int(rung[1:]): score for rung, score in scores.items()}, state)


def test_stopped_candidates_count_by_their_last_rung_and_the_usual_gain() -> None:
    complete = [past("complete", r0=0.1 * index, r1=0.1 * index + 0.2 + 0.01 * (index % 2)) for index in range(6)]
    found = estimate([*complete, past("stopped", r0=0.3), past("open", r0=0.2), past("open"), past("failed", r0=0.9)])
    assert found is not None
    assert len(found.past) == 8
    assert found.quality[:6].tolist() == [each.scores[1] for each in complete]
    assert found.quality[6:].tolist() == pytest.approx([0.505, 0.405])
    assert (found.variance[:6] == 0).all()
    assert (found.variance[6:] > 0).all()
    assert found.variance[6] < np.var(found.quality[:6])


def test_before_anything_is_complete_nothing_is_estimated() -> None:
    assert estimate([past("stopped", r0=0.3), past("open")]) is None
