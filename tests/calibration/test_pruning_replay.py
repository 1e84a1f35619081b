"""Replay of the dominance rule over finished trainings."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.calibration.pruning_replay import replay_pruning

COSTS = [{"flops": value} for value in (1.0, 2.0, 3.0, 4.0)]
SHARES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=10)


def replayed(rungs, final, margin):
    return replay_pruning(COSTS, rungs, final, margin, ["flops"])


def test_a_stopped_member_of_the_front_counts_with_its_loss():
    found = replayed([[0.5, 0.4, 0.6, 0.55]], [0.6, 0.75, 0.8, 0.7], 0.0)
    # The second and the fourth are behind at the rung; the second would have ended on the front, 0.15 above the first.
    assert (found.count, found.front, found.stopped, found.front_stopped) == (4, 3, 2, 1)
    assert found.loss == np.float64(0.75) - 0.6


def test_candidates_behind_by_less_than_the_margin_are_not_stopped():
    assert replayed([[0.5, 0.4, 0.6, 0.55]], [0.6, 0.75, 0.8, 0.7], 0.075).stopped == 1
    assert replayed([[0.5, 0.4, 0.6, 0.55]], [0.6, 0.75, 0.8, 0.7], 0.2).stopped == 0


def test_stops_of_all_rungs_are_counted():
    assert replayed([[0.5, 0.4, 0.6, 0.7], [0.5, 0.6, 0.7, 0.6]], [0.6, 0.7, 0.8, 0.7], 0.0).stopped == 2


def test_qualities_that_are_not_finite_neither_stop_nor_are_stopped():
    assert replayed([[np.nan, 0.4, 0.6, np.inf]], [0.6, 0.7, 0.8, 0.9], 0.0).stopped == 0


@given(SHARES, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_larger_margin_never_stops_more_and_the_cheapest_is_never_stopped(pairs, one, other):
    rung, final = np.array(pairs).T
    costs = [{"flops": float(index + 1)} for index in range(len(rung))]
    low, high = (replay_pruning(costs, [rung], final, margin, ["flops"]) for margin in sorted((one, other)))
    assert high.stopped <= low.stopped < low.count
    assert 0 <= low.front_stopped <= min(low.front, low.stopped)
    assert low.loss >= 0


@given(SHARES)
def test_stopping_at_the_last_rung_stops_no_member_of_the_front(pairs):
    _, final = np.array(pairs).T
    costs = [{"flops": float(index + 1)} for index in range(len(final))]
    assert replay_pruning(costs, [final], final, 0.0, ["flops"]).front_stopped == 0
