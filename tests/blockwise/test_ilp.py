"""The integer program, compared with exhaustive search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.blockwise.alternatives import Decision, Option, Selection
from nas_distill.blockwise.ilp import best, conflict, diverse, sweep
from nas_distill.costs.budget import Limit
from nas_distill.utils.errors import BudgetError

Limits = Mapping[str, Limit]
GROUPS, WIDTHS, COSTS = ("stem", "middle", "last"), (8, 16), ("flops", "params", "weight_bytes")


def everything(decisions: Sequence[Decision]) -> Iterator[tuple[tuple[int, ...], dict[str, float], float]]:
    """Yield all selections whose options agree on the shared widths, with costs and score."""
    for chosen in itertools.product(*(range(len(decision.options)) for decision in decisions)):
        options = [place.options[index] for place, index in zip(decisions, chosen)]
        widths: dict[str, set[int]] = {}
        for option in options:
            for group, width in option.widths.items():
                widths.setdefault(group, set()).add(width)
        if all(len(seen) == 1 for seen in widths.values()) and all(math.isfinite(one.score) for one in options):
            costs = {name: math.fsum(option.costs.get(name, 0.0) for option in options) for name in COSTS}
            yield chosen, costs, math.fsum(option.score for option in options)


def meets(costs: Mapping[str, float], limits: Limits) -> bool:
    return all(limit.excess(costs[name]) == 0 for name, limit in limits.items())


def feasible(decisions: Sequence[Decision], limits: Limits) -> list[tuple[tuple[int, ...], dict[str, float], float]]:
    return [one for one in everything(decisions) if meets(one[1], limits)]


def is_right(selection: Selection, decisions: Sequence[Decision], limits: Limits) -> None:
    """Check that a selection exists, is within the limits, and has the right costs and score."""
    found = {chosen: (costs, score) for chosen, costs, score in feasible(decisions, limits)}
    costs, score = found[selection.options]
    assert {name: selection.costs.get(name, 0.0) for name in COSTS} == costs
    assert selection.score == score
    options = [place.options[index] for place, index in zip(decisions, selection.options)]
    assert all(selection.widths[group] == width for option in options for group, width in option.widths.items())


amounts = st.one_of(st.integers(0, 12), st.integers(0, 4_000_000_000))
scores = st.one_of(st.integers(0, 20).map(lambda value: value / 10), st.just(math.inf), st.just(math.nan))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Decision], dict[str, Limit]]:
    decisions = []
    for index in range(draw(st.integers(1, 4))):
        used = GROUPS[index % 3 :][:2]
        options = []
        for place in range(draw(st.integers(1, 4))):
            widths = {group: draw(st.sampled_from(WIDTHS)) for group in used if draw(st.booleans())}
            costs = {name: float(draw(amounts)) for name in COSTS if draw(st.booleans())}
            options.append(Option(f"option {place}", draw(scores), costs, widths))
        decisions.append(Decision(f"block {index}", tuple(options), counts=draw(st.booleans())))
    limits = {}
    costs_there = [costs for _, costs, _ in everything(decisions)]
    for name in COSTS:
        # Limits that selections meet exactly are the hard cases.
        ends = st.sampled_from([costs[name] for costs in costs_there]) if costs_there else amounts.map(float)
        kind = draw(st.sampled_from(["none", "high", "low", "both"]))
        if kind != "none":
            low = draw(ends) if kind in ("low", "both") else None
            high = draw(ends) if kind in ("high", "both") else None
            if low is None or high is None or low <= high:
                limits[name] = Limit(low, high)
    return decisions, limits


@given(problems())
@settings(max_examples=80, deadline=None)
def test_the_best_selection_equals_exhaustive_search(problem: tuple[list[Decision], dict[str, Limit]]) -> None:
    decisions, limits = problem
    there = feasible(decisions, limits)
    if not there:
        with pytest.raises(BudgetError):
            best(decisions, limits)
        return
    found = best(decisions, limits)
    is_right(found, decisions, limits)
    assert found.score == pytest.approx(min(score for _, _, score in there), abs=1e-7)


@given(problems(), st.sampled_from([0.0, 0.34, 0.5, 0.8, 1.0]))
@settings(max_examples=60, deadline=None)
def test_each_solution_is_the_best_of_those_unlike_the_ones_before(
    problem: tuple[list[Decision], dict[str, Limit]], overlap: float
) -> None:
    decisions, limits = problem
    left = feasible(decisions, limits)
    if not left:
        return
    counted = [index for index, place in enumerate(decisions) if place.counts]
    alike = min(math.floor(overlap * len(counted)), len(counted) - 1)
    found = diverse(decisions, limits, count=4, overlap=overlap)
    for selection in found:
        is_right(selection, decisions, limits)
        assert selection.options in {chosen for chosen, _, _ in left}
        assert selection.score == pytest.approx(min(score for _, _, score in left), abs=1e-7)
        left = [one for one in left if sum(one[0][i] == selection.options[i] for i in counted) <= alike]
    assert len(found) == 4 or not left
    assert [one.score for one in found] == pytest.approx(sorted(one.score for one in found), abs=1e-7)


@given(problems())
@settings(max_examples=80, deadline=None)
def test_a_conflict_is_infeasible_and_minimal(
    problem: tuple[list[Decision], dict[str, Limit]],
) -> None:
    decisions, limits = problem
    if not list(everything(decisions)):
        with pytest.raises(BudgetError, match="nothing can be assembled"):
            conflict(decisions, limits)
        return
    ends = conflict(decisions, limits)
    assert bool(ends) == (not feasible(decisions, limits))
    for left_out in [None, *ends] if ends else []:
        kept: dict[str, Limit] = {}
        for name, end in ends:
            if (name, end) != left_out:
                low, high = kept.get(name, Limit()).low, kept.get(name, Limit()).high
                low, high = (limits[name].low, high) if end == "low" else (low, limits[name].high)
                kept[name] = Limit(low, high)
        assert bool(feasible(decisions, kept)) == (left_out is not None)


@given(problems(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_sweep_is_a_subset_of_the_front(problem: tuple[list[Decision], dict[str, Limit]], points: int) -> None:
    decisions, limits = problem
    others = {name: limit for name, limit in limits.items() if name != "flops"}
    there = feasible(decisions, others)
    if not there:
        return
    front = sweep(decisions, others, "flops", points)
    assert front
    for one in front:
        is_right(one, decisions, others)
        assert not any(
            score < one.score - 1e-7 and costs["flops"] <= one.costs.get("flops", 0.0) for _, costs, score in there
        )
    flops, quality = ([one.costs.get("flops", 0.0) for one in front], [one.score for one in front])
    assert flops == sorted(set(flops))
    assert quality == sorted(set(quality), reverse=True)
    assert front[-1].score == pytest.approx(min(score for _, _, score in there), abs=1e-7)
    if points > 1:
        assert flops[0] == min(costs["flops"] for _, costs, _ in there)


def line(*entries: tuple[float, float, float]) -> list[Decision]:
    """One decision; an entry is score, flops, params."""
    return [Decision("b", tuple(Option(str(i), s, {"flops": f, "params": p}) for i, (s, f, p) in enumerate(entries)))]


def test_an_infeasible_limit_is_reported_with_the_least_cost() -> None:
    with pytest.raises(BudgetError, match=r"'flops' \(at most 2 k\) binds; the least that any assembly has is 3 k"):
        best(line((1, 3000, 5), (0, 9000, 1)), {"params": Limit(None, 7), "flops": Limit(None, 2000)})


def test_an_infeasible_lower_bound_is_reported_with_the_largest_cost() -> None:
    with pytest.raises(BudgetError, match=r"'flops' \(at least 10 k\) binds; the most that any assembly has is 9 k"):
        best(line((1, 3000, 5), (0, 9000, 1)), {"flops": Limit(10_000, 20_000)})


def test_limits_in_conflict_are_reported_together() -> None:
    with pytest.raises(
        BudgetError,
        match=r"'flops' \(at most 4 k\) and 'params' \(at most 2\) cannot be met together; with the other met, "
        r"the least 'flops' that any assembly has is 9 k",
    ):
        best(line((1, 3000, 5), (0, 9000, 1)), {"flops": Limit(None, 4000), "params": Limit(None, 2)})


def test_a_block_without_a_finite_score_is_reported() -> None:
    with pytest.raises(BudgetError, match="'b' has no alternative with a finite score"):
        best(line((math.nan, 1, 1)), {})


def test_options_of_different_widths_are_incompatible() -> None:
    decisions = [
        Decision("a", (Option("narrow", 0.0, {}, {"g": 8}),)),
        Decision("b", (Option("wide", 0.0, {}, {"g": 16}),)),
    ]
    with pytest.raises(BudgetError, match="no alternatives of all blocks agree"):
        best(decisions, {})


def test_limits_are_exact_to_a_millionth() -> None:
    limit = 1_000_000_000.0
    found = best(line((0, limit + 1, 0), (1, limit, 0), (2, 1, 0)), {"flops": Limit(None, limit)})
    assert found.options == (1,)


def test_decisions_that_do_not_count_are_ignored_in_the_overlap() -> None:
    decisions = [*line((0, 1, 1), (1, 2, 2)), Decision("outside", (Option("x", 0.0), Option("y", 0.5)), counts=False)]
    assert [one.options for one in diverse(decisions, {}, count=9)] == [(0, 0), (1, 0)]


def test_a_large_instance_with_three_limits_is_solved_within_them() -> None:
    decisions = []
    for block in range(24):
        options = tuple(
            Option(
                f"{before}-{after}-{inner}",
                (1 + (block * 7 + inner * 5) % 11 / 10) / (inner * before * after),
                {"flops": 997.0 * before * after * inner, "params": 31.0 * before * inner + block, "weight_bytes": 4.0},
                {f"g{block // 6}": before, f"g{(block + 1) // 6}": after},
            )
            for before in (1, 2, 4)
            for after in (1, 2, 4)
            if block % 6 == 5 or before == after
            for inner in range(1, 13)
        )
        decisions.append(Decision(f"b{block}", options))
    limits = {"flops": Limit(None, 500_000), "params": Limit(5_000, 20_000), "weight_bytes": Limit(None, 96)}
    found = diverse(decisions, limits, count=3, overlap=0.8)
    assert len(found) == 3
    assert all(limit.excess(one.costs[name]) == 0 for one in found for name, limit in limits.items())
    assert sum(a == b for a, b in zip(found[0].options, found[1].options)) <= 19
