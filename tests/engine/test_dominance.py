import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.engine.early_stopping import Dominance, History, NoRule, QualityHalving, Report, Rule

quick = settings(deadline=None, max_examples=60)
costs = st.integers(1, 5).map(float)
qualities = st.integers(0, 10).map(lambda tenths: tenths / 10)


def report(number: int, flops: float, quality: float, params: float = 1.0) -> Report:
    return Report(number, {"flops": flops, "params": params}, quality)


@st.composite
def histories(draw: st.DrawFn, least: int = 0) -> list[Report]:
    rows = draw(st.lists(st.tuples(costs, costs, qualities), min_size=least, max_size=8))
    return [report(number, flops, quality, params) for number, (flops, params, quality) in enumerate(rows)]


RULES: list[Rule] = [
    NoRule(),
    Dominance(("flops",)),
    Dominance(("flops", "params"), margin=0.1, min_dominators=2),
    QualityHalving(3),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_first_to_report_continues(rule: Rule) -> None:
    assert not rule.judge(0, 0.0, {"flops": 9.0, "params": 9.0}, []).stop


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("quality", [math.nan, math.inf, -math.inf])
def test_a_quality_that_is_not_finite_is_not_judged(rule: Rule, quality: float) -> None:
    with pytest.raises(ValueError, match="cannot be judged"):
        rule.judge(0, quality, {"flops": 1.0, "params": 1.0}, [report(0, 1, 0.5)])


@quick
@given(history=histories(), quality=qualities, flops=costs, params=costs, data=st.data())
def test_the_order_of_the_history_says_nothing(
    history: list[Report], quality: float, flops: float, params: float, data: st.DataObject
) -> None:
    own = {"flops": flops, "params": params}
    shuffled = data.draw(st.permutations(history))
    for rule in RULES:
        assert rule.judge(0, quality, own, shuffled) == rule.judge(0, quality, own, history)


@quick
@given(history=histories(), quality=qualities, flops=costs, params=costs)
def test_a_history_that_grew_is_judged_as_the_list_of_its_reports(
    history: list[Report], quality: float, flops: float, params: float
) -> None:
    own, grown = {"flops": flops, "params": params}, History()
    for count, entry in enumerate(history, start=1):
        grown.append(entry)
        for rule in RULES:
            assert rule.judge(0, quality, own, grown) == rule.judge(0, quality, own, history[:count])
    if history:
        grown.renumber(0, 77)
        assert list(grown) == [replace(history[0], number=77), *history[1:]]


@quick
@given(history=histories(), quality=qualities, margin=st.floats(0, 0.5), min_dominators=st.integers(1, 3))
def test_the_cheapest_is_never_stopped(
    history: list[Report], quality: float, margin: float, min_dominators: int
) -> None:
    rule = Dominance(("flops", "params"), margin=margin, min_dominators=min_dominators)
    cheapest = min((entry.costs["flops"] for entry in history), default=1.0)
    assert not rule.judge(0, quality, {"flops": cheapest * 0.999, "params": 5.0}, history).stop


@quick
@given(
    history=histories(least=1), flops=costs, params=costs, quality=qualities, margin=st.sampled_from([0.0, 0.1, 0.3])
)
def test_it_stops_exactly_what_one_that_costs_no_more_beats_by_more_than_the_margin(
    history: list[Report], flops: float, params: float, quality: float, margin: float
) -> None:
    own = {"flops": flops, "params": params}
    beating = [
        entry
        for entry in history
        if all(entry.costs[name] <= own[name] for name in own) and entry.quality > quality + margin
    ]
    verdict = Dominance(("flops", "params"), margin=margin).judge(0, quality, own, history)
    assert verdict.stop == bool(beating)
    if verdict.stop:
        dominator = history[verdict.dominated_by if verdict.dominated_by is not None else -1]
        assert dominator in beating
        assert dominator.quality == verdict.dominating_quality == max(entry.quality for entry in beating)
        assert verdict.margin == margin
        assert f"trial {dominator.number} costs no more" in verdict.reason


@quick
@given(history=histories(least=1), flops=costs, quality=qualities, min_dominators=st.integers(1, 4))
def test_as_many_dominators_as_asked_for_must_be_ahead(
    history: list[Report], flops: float, quality: float, min_dominators: int
) -> None:
    ahead = [entry for entry in history if entry.costs["flops"] <= flops and entry.quality > quality]
    verdict = Dominance(("flops",), min_dominators=min_dominators).judge(0, quality, {"flops": flops}, history)
    assert verdict.stop == (len(ahead) >= min_dominators)


@quick
@given(history=histories(least=1), flops=costs, quality=qualities, more=st.integers(1, 3))
def test_with_too_few_reports_all_continue(history: list[Report], flops: float, quality: float, more: int) -> None:
    rule = Dominance(("flops",), min_reports=len(history) + more)
    assert not rule.judge(0, quality, {"flops": flops}, history).stop


@quick
@given(history=histories(), flops=costs, quality=qualities)
def test_a_nan_in_the_history_does_not_dominate_or_count(history: list[Report], flops: float, quality: float) -> None:
    rule = Dominance(("flops",), min_reports=2)
    with_nan = [*history, report(99, 0.1, math.nan)]
    own = {"flops": flops}
    assert rule.judge(0, quality, own, with_nan) == rule.judge(0, quality, own, history)


def test_ties_continue() -> None:
    twin = [report(0, 1, 0.5)]
    assert not Dominance(("flops",)).judge(0, 0.5, {"flops": 1.0}, twin).stop
    assert not Dominance(("flops",), margin=0.25).judge(0, 0.25, {"flops": 1.0}, twin).stop
    assert Dominance(("flops",), margin=0.25).judge(0, 0.2, {"flops": 1.0}, twin).stop


@pytest.mark.parametrize(("rung", "stops"), [(0, False), (1, True), (2, True)])
def test_a_margin_may_differ_by_rung_and_the_last_one_holds_on(rung: int, stops: bool) -> None:
    rule = Dominance(("flops",), margin=(0.3, 0.1))
    assert rule.judge(rung, 0.5, {"flops": 1.0}, [report(0, 1, 0.7)]).stop is stops


@pytest.mark.parametrize(
    ("tolerance", "stops"), [(0.0, False), (0.05, True), ({"flops": 0.05}, True), ({"params": 0.05}, False)]
)
def test_a_measured_cost_may_be_a_little_above(tolerance: Any, stops: bool) -> None:
    rule = Dominance(("flops",), tolerance=tolerance)
    assert rule.judge(0, 0.1, {"flops": 100.0}, [report(0, 104, 0.9)]).stop is stops


def test_of_equal_dominators_the_cheapest_is_named() -> None:
    history = [report(3, 2, 0.9), report(7, 1, 0.9), report(9, 1, 0.9)]
    assert Dominance(("flops",)).judge(0, 0.1, {"flops": 2.0}, history).dominated_by == 7


def test_one_that_costs_more_in_any_cost_does_not_dominate() -> None:
    rule = Dominance(("flops", "params"))
    assert not rule.judge(0, 0.1, {"flops": 2.0, "params": 1.0}, [report(0, 1, 0.9, params=1.5)]).stop


@quick
@given(history=histories(least=1), flops=costs)
def test_a_candidate_that_dominates_all_others_continues(history: list[Report], flops: float) -> None:
    """The bug of a rank taken for an order: the best newcomer was the one that was stopped."""
    for rule in RULES:
        assert not rule.judge(0, 1.1, {"flops": flops, "params": 0.5}, history).stop


def test_quality_halving_keeps_the_best_share_and_so_destroys_the_front() -> None:
    rule = QualityHalving(3)
    history = [report(number, 5, number / 10) for number in range(8)]
    kept = [quality for quality in (0.05, 0.45, 0.55, 0.75) if not rule.judge(0, quality, {"flops": 1}, history).stop]
    assert kept == [0.55, 0.75]  # at most two of eight are better
    cheap = {"flops": 0.001, "params": 0.001}
    assert rule.judge(0, 0.05, cheap, history).stop
    assert not Dominance(("flops",)).judge(0, 0.05, cheap, history).stop


@pytest.mark.parametrize("wrong", [{"costs": ()}, {"costs": ("flops",), "min_dominators": 0}])
def test_a_rule_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Dominance(**wrong)
