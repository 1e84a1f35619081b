"""The integer programme, held against trying everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.blockwise.alternatives import Option, Place, Selection
from nas_distill.blockwise.ilp import best, conflict, diverse, sweep
from nas_distill.costs.budget import Limit
from nas_distill.utils.errors import BudgetError

Limits = Mapping[str, Limit]
GROUPS, WIDTHS, COSTS = ("stem", "middle", "last"), (8, 16), ("flops", "params", "weight_bytes")


def everything(places: Sequence[Place]) -> Iterator[tuple[tuple[int, ...], dict[str, float], float]]:
    """Every selection whose options agree on the shared widths, with its costs and score."""
    for chosen in itertools.product(*(range(len(place.options)) for place in places)):
        options = [place.options[index] for place, index in zip(places, chosen)]
        widths: dict[str, set[int]] = {}
        for option in options:
            for group, width in option.widths.items():
                widths.setdefault(group, set()).add(width)
        if all(len(seen) == 1 for seen in widths.values()) and all(math.isfinite(one.score) for one in options):
            costs = {name: math.fsum(option.costs.get(name, 0.0) for option in options) for name in COSTS}
            yield chosen, costs, math.fsum(option.score for option in options)


def meets(costs: Mapping[str, float], limits: Limits) -> bool:
    return all(limit.excess(costs[name]) == 0 for name, limit in limits.items())


def feasible(places: Sequence[Place], limits: Limits) -> list[tuple[tuple[int, ...], dict[str, float], float]]:
    return [one for one in everything(places) if meets(one[1], limits)]


def is_right(selection: Selection, places: Sequence[Place], limits: Limits) -> None:
    """A selection is one of those there are, within the limits, and tells the truth of itself."""
    found = {chosen: (costs, score) for chosen, costs, score in feasible(places, limits)}
    costs, score = found[selection.options]
    assert {name: selection.costs.get(name, 0.0) for name in COSTS} == costs
    assert selection.score == score
    options = [place.options[index] for place, index in zip(places, selection.options)]
    assert all(selection.widths[group] == width for option in options for group, width in option.widths.items())


amounts = st.one_of(st.integers(0, 12), st.integers(0, 4_000_000_000))
scores = st.one_of(st.integers(0, 20).map(lambda value: value / 10), st.just(math.inf), st.just(math.nan))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Place], dict[str, Limit]]:
    places = []
    for index in range(draw(st.integers(1, 4))):
        used = GROUPS[index % 3 :][:2]
        options = []
        for place in range(draw(st.integers(1, 4))):
            widths = {group: draw(st.sampled_from(WIDTHS)) for group in used if draw(st.booleans())}
            costs = {name: float(draw(amounts)) for name in COSTS if draw(st.booleans())}
            options.append(Option(f"option {place}", draw(scores), costs, widths))
        places.append(Place(f"block {index}", tuple(options), counts=draw(st.booleans())))
    limits = {}
    costs_there = [costs for _, costs, _ in everything(places)]
    for name in COSTS:
        # Limits that selections meet exactly are the hard ones.
        ends = st.sampled_from([costs[name] for costs in costs_there]) if costs_there else amounts.map(float)
        kind = draw(st.sampled_from(["none", "high", "low", "both"]))
        if kind != "none":
            low = draw(ends) if kind in ("low", "both") else None
            high = draw(ends) if kind in ("high", "both") else None
            if low is None or high is None or low <= high:
                limits[name] = Limit(low, high)
    return places, limits


@given(problems())
@settings(max_examples=80, deadline=None)
def test_the_best_is_what_trying_everything_finds(problem: tuple[list[Place], dict[str, Limit]]) -> None:
    places, limits = problem
    there = feasible(places, limits)
    if not there:
        with pytest.raises(BudgetError):
            best(places, limits)
        return
    found = best(places, limits)
    is_right(found, places, limits)
    assert found.score == pytest.approx(min(score for _, _, score in there), abs=1e-7)


@given(problems(), st.sampled_from([0.0, 0.34, 0.5, 0.8, 1.0]))
@settings(max_examples=60, deadline=None)
def test_each_solution_is_the_best_of_those_unlike_the_ones_before(
    problem: tuple[list[Place], dict[str, Limit]], overlap: float
) -> None:
    places, limits = problem
    left = feasible(places, limits)
    if not left:
        return
    counted = [index for index, place in enumerate(places) if place.counts]
    alike = min(math.floor(overlap * len(counted)), len(counted) - 1)
    found = diverse(places, limits, count=4, overlap=overlap)
    for selection in found:
        is_right(selection, places, limits)
        assert selection.options in {chosen for chosen, _, _ in left}
        assert selection.score == pytest.approx(min(score for _, _, score in left), abs=1e-7)
        left = [one for one in left if sum(one[0][i] == selection.options[i] for i in counted) <= alike]
    assert len(found) == 4 or not left
    assert [one.score for one in found] == pytest.approx(sorted(one.score for one in found), abs=1e-7)


@given(problems())
@settings(max_examples=80, deadline=None)
def test_what_is_said_to_conflict_does_and_nothing_of_it_is_idle(
    problem: tuple[list[Place], dict[str, Limit]],
) -> None:
    places, limits = problem
    if not list(everything(places)):
        with pytest.raises(BudgetError, match="nothing can be assembled"):
            conflict(places, limits)
        return
    ends = conflict(places, limits)
    assert bool(ends) == (not feasible(places, limits))
    for left_out in [None, *ends] if ends else []:
        kept: dict[str, Limit] = {}
        for name, end in ends:
            if (name, end) != left_out:
                low, high = kept.get(name, Limit()).low, kept.get(name, Limit()).high
                low, high = (limits[name].low, high) if end == "low" else (low, limits[name].high)
                kept[name] = Limit(low, high)
        assert bool(feasible(places, kept)) == (left_out is not None)


@given(problems(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_sweep_is_a_part_of_the_front(problem: tuple[list[Place], dict[str, Limit]], points: int) -> None:
    places, limits = problem
    others = {name: limit for name, limit in limits.items() if name != "flops"}
    there = feasible(places, others)
    if not there:
        return
    front = sweep(places, others, "flops", points)
    assert front
    for one in front:
        is_right(one, places, others)
        assert not any(
            score < one.score - 1e-7 and costs["flops"] <= one.costs.get("flops", 0.0) for _, costs, score in there
        )
    flops, quality = ([one.costs.get("flops", 0.0) for one in front], [one.score for one in front])
    assert flops == sorted(set(flops))
    assert quality == sorted(set(quality), reverse=True)
    assert front[-1].score == pytest.approx(min(score for _, _, score in there), abs=1e-7)
    if points > 1:
        assert flops[0] == min(costs["flops"] for _, costs, _ in there)


def line(*entries: tuple[float, float, float]) -> list[Place]:
    """One place; an entry is score, flops, params."""
    return [Place("b", tuple(Option(str(i), s, {"flops": f, "params": p}) for i, (s, f, p) in enumerate(entries)))]


def test_a_limit_that_nothing_meets_is_named_with_the_least_there_is() -> None:
    with pytest.raises(BudgetError, match=r"'flops' \(at most 2 k\) binds; the least that any assembly has is 3 k"):
        best(line((1, 3000, 5), (0, 9000, 1)), {"params": Limit(None, 7), "flops": Limit(None, 2000)})


def test_a_lower_end_that_nothing_reaches_is_named_with_the_most_there_is() -> None:
    with pytest.raises(BudgetError, match=r"'flops' \(at least 10 k\) binds; the most that any assembly has is 9 k"):
        best(line((1, 3000, 5), (0, 9000, 1)), {"flops": Limit(10_000, 20_000)})


def test_limits_that_only_conflict_together_are_named_together() -> None:
    with pytest.raises(
        BudgetError,
        match=r"'flops' \(at most 4 k\) and 'params' \(at most 2\) cannot be met together; with the other met, "
        r"the least 'flops' that any assembly has is 9 k",
    ):
        best(line((1, 3000, 5), (0, 9000, 1)), {"flops": Limit(None, 4000), "params": Limit(None, 2)})


def test_a_block_without_a_finite_score_is_named() -> None:
    with pytest.raises(BudgetError, match="'b' has no alternative with a finite score"):
        best(line((math.nan, 1, 1)), {})


def test_options_that_need_different_widths_cannot_meet() -> None:
    places = [
        Place("a", (Option("narrow", 0.0, {}, {"g": 8}),)),
        Place("b", (Option("wide", 0.0, {}, {"g": 16}),)),
    ]
    with pytest.raises(BudgetError, match="no alternatives of all blocks agree"):
        best(places, {})


def test_a_millionth_over_the_limit_is_over_it() -> None:
    limit = 1_000_000_000.0
    found = best(line((0, limit + 1, 0), (1, limit, 0), (2, 1, 0)), {"flops": Limit(None, limit)})
    assert found.options == (1,)


def test_places_that_do_not_count_tell_no_two_assemblies_apart() -> None:
    places = [*line((0, 1, 1), (1, 2, 2)), Place("outside", (Option("x", 0.0), Option("y", 0.5)), counts=False)]
    assert [one.options for one in diverse(places, {}, count=9)] == [(0, 0), (1, 0)]


def test_a_large_instance_with_three_limits_is_solved_within_them() -> None:
    places = []
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
        places.append(Place(f"b{block}", options))
    limits = {"flops": Limit(None, 500_000), "params": Limit(5_000, 20_000), "weight_bytes": Limit(None, 96)}
    found = diverse(places, limits, count=3, overlap=0.8)
    assert len(found) == 3
    assert all(limit.excess(one.costs[name]) == 0 for one in found for name, limit in limits.items())
    assert sum(a == b for a, b in zip(found[0].options, found[1].options)) <= 19
