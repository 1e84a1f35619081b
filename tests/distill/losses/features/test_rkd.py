import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.distill.losses import find_loss
from nas_distill.distill.losses.relational import angles, distances
from nas_distill.utils.errors import ConfigError


def smooth(x):
    x = np.abs(x)
    return np.where(x < 1, x**2 / 2, x - 0.5).mean()


def by_hand(one, other, distance, angle):
    pairs, triples = [], []
    for value in (one, other):
        count = len(value)
        found = np.array([[math.dist(a, b) for b in value] for a in value])
        pairs.append(found / (found.sum() / (count * (count - 1))))
        cosines = np.zeros((count, count, count))
        for i in range(count):
            for j in range(count):
                for k in range(count):
                    if i not in (j, k):
                        cosines[i, j, k] = (value[j] - value[i]) @ (value[k] - value[i]) / found[i, j] / found[i, k]
        triples.append(cosines)
    return distance * smooth(pairs[0] - pairs[1]) + angle * smooth(triples[0] - triples[1])


def test_a_value_worked_out_by_hand():
    # A right angle at the first sample with sides 3 and 4.
    corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]], dtype=torch.float64) / 4
    torch.testing.assert_close(distances(corner), expected)
    cosines = angles(corner)
    assert float(cosines[0, 1, 2]) == pytest.approx(0, abs=1e-12)
    assert float(cosines[1, 0, 2]) == pytest.approx(3 / 5, rel=1e-12)
    assert float(cosines[2, 0, 1]) == pytest.approx(4 / 5, rel=1e-12)
    assert float(cosines[0, 1, 1]) == pytest.approx(1, rel=1e-12)
    assert not cosines[torch.arange(3), torch.arange(3)].any()


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 2.0)])
def test_it_is_the_formula(make_case, as_numpy, weights):
    case = make_case("rkd", [(3,)], [(4,)], distance=weights[0], angle=weights[1])
    ours, theirs = case.draw(5)
    assert float(case(ours, theirs)) == pytest.approx(by_hand(*as_numpy([*ours, *theirs]), *weights), rel=1e-9)


def test_the_paper_s_weights_are_the_default(make_case):
    case = make_case("rkd", [(3,)], [(4,)])
    assert case.options == {"distance": 25.0, "angle": 50.0}
    assert case.spec.weight == 1.0


def test_maps_and_tokens_are_pooled(make_case):
    case = make_case("rkd", [(3, 2, 2)], [(4, 5)])
    ours, theirs = case.draw(5)
    plain = make_case("rkd", [(3,)], [(5,)])
    torch.testing.assert_close(case(ours, theirs), plain([ours[0].mean(dim=(2, 3))], [theirs[0].mean(dim=1)]))


@settings(deadline=None)  # the first example loads what torch loads late
@given(st.integers(0, 100), st.floats(1e-2, 1e4), st.floats(-5, 5))
def test_a_factor_a_shift_and_a_rotation_change_nothing(seed, factor, shift):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    moved = (x @ turn + shift) * factor
    torch.testing.assert_close(distances(moved), distances(x), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(angles(moved), angles(x), rtol=1e-6, atol=1e-9)


def test_gradient_minimum_and_stability(make_case):
    make_case("rkd", [(3,)], [(4,)]).check_gradient()
    make_case("rkd", [(3,)], [(3,)]).check_minimum()
    make_case("rkd", [(3,)], [(4,)], dtype=torch.float32).check_stability()


def test_a_single_sample_has_no_relations(make_case):
    case = make_case("rkd", [(3,)], [(4,)])
    ours, theirs = case.draw(1)
    ours[0].requires_grad_()
    value = case(ours, theirs)
    value.backward()
    assert float(value.detach()) == 0
    assert not ours[0].grad.any()


def test_a_negative_weight_is_refused(make_case):
    with pytest.raises(ConfigError, match="'angle'"):
        make_case("rkd", [(3,)], [(4,)], angle=-1.0)


def test_both_weights_0_are_refused():
    with pytest.raises(ConfigError, match=r"loss.0 \(rkd\): 'distance' and 'angle' are 0"):
        find_loss("rkd").check({"distance": 0, "angle": 0}, "loss.0")
    assert find_loss("rkd").check({"distance": 0}, "loss.0") == {"distance": 0, "angle": 50}
