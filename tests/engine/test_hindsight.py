"""What the dominance rule would have stopped, against what came of everything."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.calibration.pruning_replay import in_hindsight

COSTS = [{"flops": value} for value in (1.0, 2.0, 3.0, 4.0)]
SHARES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=10)


def judged(rungs, final, margin):
    return in_hindsight(COSTS, rungs, final, margin, ["flops"])


def test_one_that_starts_slowly_and_ends_on_the_front_is_counted_with_its_loss():
    found = judged([[0.5, 0.4, 0.6, 0.55]], [0.6, 0.75, 0.8, 0.7], 0.0)
    # The second and the fourth are behind at the rung; the second would have ended on the front, 0.15 above the first.
    assert (found.count, found.front, found.stopped, found.front_stopped) == (4, 3, 2, 1)
    assert found.loss == np.float64(0.75) - 0.6


def test_a_margin_spares_those_that_are_behind_by_less():
    assert judged([[0.5, 0.4, 0.6, 0.55]], [0.6, 0.75, 0.8, 0.7], 0.075).stopped == 1
    assert judged([[0.5, 0.4, 0.6, 0.55]], [0.6, 0.75, 0.8, 0.7], 0.2).stopped == 0


def test_rungs_add_up():
    assert judged([[0.5, 0.4, 0.6, 0.7], [0.5, 0.6, 0.7, 0.6]], [0.6, 0.7, 0.8, 0.7], 0.0).stopped == 2


def test_qualities_that_are_not_finite_are_not_stopped_and_do_not_dominate():
    assert judged([[np.nan, 0.4, 0.6, np.inf]], [0.6, 0.7, 0.8, 0.9], 0.0).stopped == 0


@given(SHARES, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_larger_margin_never_stops_more_and_the_cheapest_is_never_stopped(pairs, one, other):
    rung, final = np.array(pairs).T
    costs = [{"flops": float(place + 1)} for place in range(len(rung))]
    low, high = (in_hindsight(costs, [rung], final, margin, ["flops"]) for margin in sorted((one, other)))
    assert high.stopped <= low.stopped < low.count
    assert 0 <= low.front_stopped <= min(low.front, low.stopped)
    assert low.loss >= 0


@given(SHARES)
def test_a_rung_that_is_the_end_loses_nothing(pairs):
    _, final = np.array(pairs).T
    costs = [{"flops": float(place + 1)} for place in range(len(final))]
    assert in_hindsight(costs, [final], final, 0.0, ["flops"]).front_stopped == 0
