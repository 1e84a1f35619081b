import pytest
import torch

from nas_distill.utils.errors import TrainingError

MAP, WIDER = [(3, 4, 4)], [(5, 2, 2)]


def test_it_is_the_mean_square_over_all_elements(make_case):
    case = make_case("hint", [(2,)], [(2,)], always=False)
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    value = case([student.double()], [teacher.double()])
    assert float(value) == pytest.approx((4 + 9 + 1) / 4, rel=1e-12)


def test_a_map_is_averaged_convolved_and_normalised_by_the_batch(make_case, as_numpy):
    case = make_case("hint", MAP, WIDER)
    ours, theirs = case.draw()
    weight, scale, shift = as_numpy(case.module.parameters())
    x, y = as_numpy([*ours, *theirs])
    pooled = x.reshape(4, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    mapped = (weight[:, :, 0, 0] @ pooled.reshape(4, 3, 4)).reshape(4, 5, 2, 2)
    mean, variance = (f(mapped, axis=(0, 2, 3))[:, None, None] for f in (type(x).mean, type(x).var))
    normed = (mapped - mean) / (variance + 1e-5) ** 0.5 * scale[:, None, None] + shift[:, None, None]
    assert float(case(ours, theirs).detach()) == pytest.approx(((normed - y) ** 2).mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("student", "teacher"), [(MAP, WIDER), ([(4, 3)], [(4, 6)]), ([(3,)], [(5,)]), ([*MAP, (4,)], [*WIDER, (2,)])]
)
def test_gradient(make_case, student, teacher):
    make_case("hint", student, teacher).check_gradient()


def test_minimum_and_stability(make_case):
    make_case("hint", MAP, MAP, always=False).check_minimum()
    make_case("hint", MAP, WIDER, dtype=torch.float32).check_stability()
    make_case("hint", [(4,)], [(4,)], dtype=torch.float32, always=False).check_stability()


def test_a_repeated_batch_and_another_layer(make_case):
    case = make_case("hint", [(4,), (4,)], [(4,), (4,)], always=False)
    ours, theirs = case.draw()
    value = float(case(ours, theirs))
    assert float(case([v.repeat(3, 1) for v in ours], [v.repeat(3, 1) for v in theirs])) == pytest.approx(value)
    one = make_case("hint", [(4,)], [(4,)], always=False)
    assert value == pytest.approx(sum(float(one([a], [b])) for a, b in zip(ours, theirs)))


def test_a_regressor_is_learned_unless_it_is_not_wanted(make_case):
    assert len(list(make_case("hint", MAP, MAP).module.parameters())) == 3
    assert not list(make_case("hint", MAP, MAP, always=False).module.parameters())
    assert list(make_case("hint", MAP, WIDER, always=False).module.parameters())


@pytest.mark.parametrize(("student", "teacher"), [([(4, 3)], [(5, 3)]), ([(4, 3)], [(3, 2, 2)]), ([(3, 2, 2)], [(3,)])])
def test_layers_that_do_not_fit_are_refused(make_case, student, teacher):
    with pytest.raises(TrainingError, match=r"'hint' compares position by position.*take 'sp' or 'pkt'"):
        make_case("hint", student, teacher)


def test_a_batch_of_one_place_is_learnt_from_too(make_case):
    case = make_case("hint", [(3, 1, 1)], [(4, 1, 1)])
    ours, theirs = case.draw(1)
    before = {key: value.clone() for key, value in case.module.state_dict().items()}
    value = case([ours[0].requires_grad_()], theirs)
    value.backward()
    assert torch.isfinite(value)
    assert float(ours[0].grad.abs().max()) > 0
    # One value has no variance, so running statistics stay what they were.
    assert all(torch.equal(value, before[key]) for key, value in case.module.state_dict().items())
    case(*case.draw(2))
    assert any(not torch.equal(value, before[key]) for key, value in case.module.state_dict().items())
