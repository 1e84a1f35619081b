import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.distill.losses.attention_transfer import attention_difference
from nas_distill.teacher.signal import attention_map
from nas_distill.utils.errors import TrainingError

MAPS = [(3, 4, 4), (5, 2, 2)]
WIDER = [(6, 4, 4), (2, 2, 2)]


def by_hand(ours, theirs):
    """Mean over samples and places, in float64 (maps of one resolution)."""
    total = 0.0
    for one, other in zip(ours, theirs):
        maps = [(value**2).mean(axis=1).reshape(len(value), -1) for value in (one, other)]
        maps = [value / np.sqrt((value**2).sum(axis=1, keepdims=True)) for value in maps]
        total += ((maps[0] - maps[1]) ** 2).mean()
    return total


def test_a_value_worked_out_by_hand():
    # Squares over two channels: the student's attention is (5, 0), the teacher's (3, 4); normalised (1, 0), (.6, .8).
    student = torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    assert float(attention_difference(student, teacher)) == pytest.approx((0.4**2 + 0.8**2) / 2, rel=1e-12)


def test_it_is_the_mean_over_samples_and_places_and_the_sum_over_layers(make_case, as_numpy):
    case = make_case("at", MAPS, WIDER)
    ours, theirs = case.draw()
    value = float(case(ours, theirs))
    assert value == pytest.approx(by_hand(as_numpy(ours), as_numpy(theirs)), rel=1e-10)
    repeated = case([v.repeat(3, 1, 1, 1) for v in ours], [v.repeat(3, 1, 1, 1) for v in theirs])
    assert float(repeated) == pytest.approx(value, rel=1e-10)


def test_the_larger_map_is_averaged_to_the_smaller():
    generator = torch.Generator().manual_seed(0)
    large, small = torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 3, 2, 2, generator=generator)
    pool = torch.nn.AvgPool2d(2)
    for student, teacher in [(large, small), (small, large)]:
        maps = [attention_map(value) for value in (student, teacher)]
        maps = [(pool(value) if value.shape[1] == 4 else value).flatten(1) for value in maps]
        first, second = (value / value.norm(dim=1, keepdim=True) for value in maps)
        expected = (first - second).square().mean()
        torch.testing.assert_close(attention_difference(student, attention_map(teacher)), expected)


@settings(deadline=None)  # the first example loads what torch loads late
@given(st.floats(0.01, 1000), st.floats(0.01, 1000), st.integers(0, 100))
def test_neither_the_size_of_the_features_nor_their_sign_counts(ours, theirs, seed):
    student, teacher = torch.randn(2, 3, 4, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = attention_difference(student, attention_map(teacher))
    scaled = attention_difference(-student * ours, attention_map(teacher * theirs))
    torch.testing.assert_close(scaled, value, rtol=1e-9, atol=1e-12)
    assert 0 <= float(value) <= 4 / 9


def test_gradient_minimum_and_stability(make_case):
    make_case("at", MAPS, WIDER).check_gradient()
    make_case("at", [(3, 4, 4)], [(3, 2, 2)]).check_gradient()
    make_case("at", MAPS, MAPS).check_minimum()
    make_case("at", MAPS, WIDER, dtype=torch.float32).check_stability()


@pytest.mark.parametrize("shape", [(5, 8), (8,)])
def test_layers_without_places_are_refused(make_case, shape):
    with pytest.raises(TrainingError, match=r"'at' compares a map \(C, H, W\).*take 'sp' or 'pkt'"):
        make_case("at", [shape], [shape])


def test_no_layer_is_refused(make_case):
    with pytest.raises(TrainingError, match="at least one pair of layers"):
        make_case("at", [], [])


def test_layers_of_a_single_place_are_refused_unless_there_are_others(make_case):
    for student, teacher in [([(3, 1, 1)], [(4, 5, 5)]), ([(3, 4, 4), (3, 1, 1)], [(3, 1, 1), (3, 1, 1)])]:
        with pytest.raises(TrainingError, match=r"'at' compares where .* single position.*name"):
            make_case("at", student, teacher)
    case = make_case("at", [(3, 4, 4), (3, 1, 1)], [(3, 4, 4), (5, 1, 1)])
    ours, theirs = case.draw()
    alone = make_case("at", [(3, 4, 4)], [(3, 4, 4)])
    assert float(case(ours, theirs)) == pytest.approx(float(alone(ours[:1], theirs[:1])))
