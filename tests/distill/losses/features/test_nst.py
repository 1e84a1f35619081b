import numpy as np
import pytest
import torch

from nas_distill.distill.losses.nst import squared_mmd
from nas_distill.utils.errors import TrainingError


def by_hand(student, teacher):
    """Mean over samples and pairs of channels of (B, C, places)."""
    student, teacher = (v / np.sqrt((v**2).sum(axis=2, keepdims=True)) for v in (student, teacher))

    def kernel(one, other):
        return np.mean([[[(a @ b) ** 2 for b in y] for a in x] for x, y in zip(one, other)])

    return kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)


def test_a_value_worked_out_by_hand():
    # One channel each, at right angles: 1 + 1 - 0; with an angle of cosine 3/5: 2 - 2 * 9/25.
    one = torch.tensor([[[2.0, 0.0]]], dtype=torch.float64)
    assert float(squared_mmd(one, one.flip(2))) == pytest.approx(2, rel=1e-12)
    assert float(squared_mmd(one, torch.tensor([[[3.0, 4.0]]]).double())) == pytest.approx(2 - 18 / 25, rel=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 2, 3), (5, 2, 3)), ((3, 4, 4), (2, 2, 2)), ((3, 2, 2), (2, 4, 4)), ((4, 3), (4, 5))]
)
def test_it_is_the_formula(make_case, as_numpy, student, teacher):
    case = make_case("nst", [student], [teacher])
    ours, theirs = case.draw()
    plain = []
    for value in as_numpy([*ours, *theirs]):
        if value.shape[2:] == (4, 4):
            value = value.reshape(4, value.shape[1], 2, 2, 2, 2).mean(axis=(3, 5))
        plain.append(value.transpose(0, 2, 1) if value.ndim == 3 else value.reshape(4, value.shape[1], -1))
    value = float(case(ours, theirs))
    assert value == pytest.approx(by_hand(*plain), rel=1e-9)
    repeated = case([ours[0].repeat(3, *[1] * len(student))], [theirs[0].repeat(3, *[1] * len(teacher))])
    assert float(repeated) == pytest.approx(value, rel=1e-9)
    both = make_case("nst", [student] * 2, [teacher] * 2)(ours * 2, theirs * 2)
    assert float(both) == pytest.approx(2 * value, rel=1e-9)


def test_order_and_number_of_equal_channels_do_not_count():
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for other in (x.flip(1), torch.cat([x, x], dim=1), -x * 3):
        assert float(squared_mmd(other, x)) == pytest.approx(0, abs=1e-12)


def test_gradient_minimum_and_stability(make_case):
    make_case("nst", [(3, 4, 4), (4, 3)], [(2, 2, 2), (4, 2)]).check_gradient()
    make_case("nst", [(3, 4, 4), (4, 3)], [(3, 4, 4), (4, 3)]).check_minimum()
    make_case("nst", [(3, 4, 4)], [(2, 2, 2)], dtype=torch.float32).check_stability()


def test_what_does_not_fit_is_refused(make_case):
    with pytest.raises(TrainingError, match=r"'nst' compares a map \(C, H, W\) or tokens.*take 'pkt' or 'rkd'"):
        make_case("nst", [(4,)], [(4,)])
    with pytest.raises(TrainingError, match=r"'nst' compares position by position.*take 'sp' or 'pkt'"):
        make_case("nst", [(4, 3)], [(5, 3)])


def test_layers_of_a_single_place_are_refused_unless_there_are_others(make_case):
    for student, teacher in [([(3, 1, 1)], [(4, 5, 5)]), ([(3, 4, 4), (3, 1, 1)], [(3, 1, 1), (3, 1, 1)])]:
        with pytest.raises(TrainingError, match=r"'nst' compares where .* single position.*name"):
            make_case("nst", student, teacher)
    case = make_case("nst", [(3, 4, 4), (3, 1, 1)], [(3, 4, 4), (5, 1, 1)])
    ours, theirs = case.draw()
    alone = make_case("nst", [(3, 4, 4)], [(3, 4, 4)])
    assert float(case(ours, theirs)) == pytest.approx(float(alone(ours[:1], theirs[:1])))
