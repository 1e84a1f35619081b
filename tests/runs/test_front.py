import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas_distill.runs.pareto import RunningFront, hypervolume, hypervolume_of, non_dominated

quick = settings(deadline=None, max_examples=50)
values = st.integers(0, 6).map(float)


def clouds(dimensions: int, most: int = 12) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(float, st.tuples(st.integers(0, most), st.just(dimensions)), elements=values)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    """Maximise the first column, minimise the others."""
    no_worse = a[0] >= b[0] and all(a[1:] <= b[1:])
    return bool(no_worse and (a[0] > b[0] or any(a[1:] < b[1:])))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@quick
@given(data=st.data())
def test_the_front_is_what_nobody_dominates(dimensions: int, data: st.DataObject) -> None:
    points = data.draw(clouds(dimensions))
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points, [True] + [False] * (dimensions - 1)).tolist() == expected


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@quick
@given(data=st.data())
def test_a_running_front_is_the_front_after_every_addition(dimensions: int, data: st.DataObject) -> None:
    points = data.draw(clouds(dimensions))
    maximise = [True] + [False] * (dimensions - 1)
    running: RunningFront[int] = RunningFront(maximise)
    assert not running.add(-1, [math.nan] * dimensions)
    for count, point in enumerate(points, start=1):
        joined = running.add(count - 1, point)
        expected = np.flatnonzero(non_dominated(points[:count], maximise)).tolist()
        assert sorted(running) == expected
        assert joined == (count - 1 in expected)
        assert list(running.points) == [tuple(points[key]) for key in running]
        assert len(running) == len(expected)


def test_a_nan_is_on_no_front_and_beats_nobody() -> None:
    points = [[math.nan, 1.0], [0.5, 2.0], [0.9, math.nan]]
    assert non_dominated(points, [True, False]).tolist() == [False, True, False]
    assert hypervolume(points, [0.0, 3.0], [True, False]) == 0.5


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@quick
@given(data=st.data())
def test_the_hypervolume_counts_the_cells_that_are_dominated(dimensions: int, data: st.DataObject) -> None:
    points = data.draw(clouds(dimensions, most=6))
    # All coordinates are whole, so the dominated region is a union of unit cells between 0 and 5.
    cells = itertools.product(range(5), repeat=dimensions)
    covered = sum(any(all(point <= np.array(cell)) for point in points) for cell in cells)
    reference = [5.0] * dimensions
    assert hypervolume(points, reference, [False] * dimensions) == pytest.approx(covered)
    assert hypervolume(-points, [-5.0] * dimensions, [True] * dimensions) == pytest.approx(covered)


@quick
@given(points=clouds(3, most=8), more=clouds(3, most=3))
def test_more_points_never_cover_less(points: np.ndarray, more: np.ndarray) -> None:
    reference, maximise = [0.0, 6.0, 6.0], [True, False, False]
    with_more = np.concatenate([points, more])
    assert hypervolume(with_more, reference, maximise) >= hypervolume(points, reference, maximise) - 1e-9


def test_one_candidate_covers_its_quality_times_the_share_of_budgets_it_fits() -> None:
    assert hypervolume_of([], [100.0]) == 0
    assert hypervolume_of([[0.8, 10.0]], [100.0]) == pytest.approx(0.8 * 0.5)  # one decade of the two
    assert hypervolume_of([[0.8, 1.0]], [100.0]) == pytest.approx(0.8)
    assert hypervolume_of([[0.8, 0.1]], [100.0]) == pytest.approx(0.8)  # cheaper than what is looked at
    assert hypervolume_of([[0.8, 100.0]], [100.0]) == 0
    assert hypervolume_of([[0.8, 500.0]], [100.0]) == 0
    assert hypervolume_of([[0.8, 10.0, 10.0]], [100.0, 100.0]) == pytest.approx(0.8 * 0.25)
    assert hypervolume_of([[0.5, 1.0], [0.8, 10.0]], [100.0]) == pytest.approx(0.5 * 0.5 + 0.8 * 0.5)
