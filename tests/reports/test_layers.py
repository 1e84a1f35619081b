import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.costs.budget import Limit
from nas_distill.reports.front_layers import dominator_rows, envelope, front_layers, quality_range, within
from nas_distill.runs.records import Stop

POINTS = st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(lambda q: q / 10)), max_size=25)


@given(POINTS)
@settings(max_examples=200)
def test_the_envelope_holds_points_better_than_all_cheaper_ones(points):
    found = envelope(points)
    wanted = {(c, q) for c, q in points if not any((d <= c and r > q) or (d < c and r >= q) for d, r in points)}
    assert set(found) == wanted
    assert list(found) == sorted(found)
    assert [q for _, q in found] == sorted({q for _, q in found})


def test_every_trial_is_in_one_layer(run):
    layers = front_layers(run, "flops", {"flops": Limit(high=5e5)})
    states = Counter(record.state for record in run)
    assert len(layers.fitting) + len(layers.beyond) == states["complete"]
    assert len(layers.pruned) == states["pruned"]
    assert len(layers.untrained) == states["over_budget"]
    assert len(layers.failed) == states["failed"] == 1
    assert all(cost <= 5e5 for cost, _ in layers.fitting)
    assert layers.beyond
    assert all(cost > 5e5 for cost, _ in layers.beyond)
    assert set(layers.front) <= set(layers.fitting)


def test_the_front_continues_beyond_the_budget_where_quality_rises(record):
    records = [record(n, flops=f, qualities=(q,)) for n, (f, q) in enumerate([(1, 0.5), (2, 0.6), (3, 0.55), (4, 0.8)])]
    layers = front_layers(records, "flops", {"flops": Limit(high=2)})
    assert layers.front == ((1, 0.5), (2, 0.6))
    assert layers.front_beyond == ((2, 0.6), (4, 0.8))
    assert front_layers(records, "flops", {}).front_beyond == ((4, 0.8),)


def test_another_costs_limit_counts_too(record):
    records = [record(0, flops=1.0, params=9.0), record(1, flops=2.0, params=5.0)]
    layers = front_layers(records, "flops", {"params": Limit(high=6)})
    assert [cost for cost, _ in layers.fitting] == [2.0]
    assert not within({"flops": 1.0}, {"params": Limit(high=6)})


def test_stopped_trials_have_their_last_quality_and_nan_is_left_out(record):
    records = [
        record(0, "pruned", qualities=(0.3, 0.4)),
        record(1, "pruned", qualities=(math.nan,)),
        record(2, flops=0.0),
        record(3, flops=math.nan),
        record(4, "running", qualities=()),
    ]
    layers = front_layers(records, "flops", {})
    assert layers.pruned == ((1e6, 0.4),)
    assert layers.fitting == layers.beyond == layers.front == ()


def test_stopped_trials_do_not_extend_the_range_of_quality(record):
    complete = [record(n, flops=10.0**n, qualities=(0.88 + n / 100,)) for n in range(3)]
    layers = front_layers([*complete, record(9, "pruned", qualities=(0.1,))], "flops", {})
    low, high = quality_range([layers], [0.93])
    assert 0.5 < low < 0.88
    assert 0.93 < high < 1


def test_the_range_contains_all_complete_trials(run):
    low, high = quality_range([front_layers(run, "flops", {})], [])
    complete = [record.quality for record in run if record.state == "complete"]
    assert low < min(complete)
    assert max(complete) < high
    assert quality_range([], []) != quality_range([], [0.9, 0.95])


def test_dominators_and_what_they_stopped(record):
    def stopped(number, dominator, rung):
        stop = Stop(rung, 0.5, dominator, 0.6, 0.01, "why")
        return record(number, "pruned", qualities=(0.4, 0.5)[: rung + 1], stop=stop)

    records = [record(0), record(1), stopped(2, 1, 0), stopped(3, 1, 0), stopped(4, 1, 1), stopped(5, 0, 1)]
    rows = dominator_rows(records)
    assert [(row.number, row.total, row.stops) for row in rows] == [(1, 3, {0: 2, 1: 1}), (0, 1, {1: 1})]
    assert rows[0].seconds_saved == pytest.approx(sum(records[n].seconds_saved for n in (2, 3, 4)))
    assert rows[0].quality == 0.8
    nobody = record(6, "pruned", stop=Stop(0, 0.5, None, None, 0.0, "a rule that names nobody"))
    assert dominator_rows([nobody]) == []
