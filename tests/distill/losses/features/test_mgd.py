import pytest
import torch
from torch.nn import functional

from nas_distill.utils.errors import ConfigError, TrainingError

MAP, WIDER = [(3, 4, 4)], [(5, 2, 2)]


def test_a_value_worked_out_by_hand(make_case):
    # The generator's last layer gives 1 everywhere and the teacher 3: 2^2 for each of 2 * 2 * 2 elements of a sample.
    case = make_case("mgd", [(2, 2, 2)], [(2, 2, 2)])
    with torch.no_grad():
        case.module.generators[0].make[2].weight.zero_()
        case.module.generators[0].make[2].bias.fill_(1)
    (ours,), _ = case.draw(3)
    assert float(case([ours], [torch.full_like(ours, 3)]).detach()) == pytest.approx(4 * 8, rel=1e-12)


@pytest.mark.parametrize("mask", ["channel", "spatial"])
def test_it_is_the_formula(make_case, as_numpy, mask):
    case = make_case("mgd", MAP, WIDER, mask=mask, masked=0.5)
    (ours,), (theirs,) = case.draw(6)
    align, align_bias, first, first_bias, second, second_bias = (w.detach() for w in case.module.parameters())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kept = torch.rand((6, 5, 1, 1) if mask == "channel" else (6, 1, 2, 2)) >= 0.5
    assert 0 < int(kept.sum()) < kept.numel()
    x = functional.conv2d(functional.avg_pool2d(ours, 2), align, align_bias) * kept
    x = functional.conv2d(functional.conv2d(x, first, first_bias, padding=1).relu(), second, second_bias, padding=1)
    made, wanted = as_numpy([x, theirs])
    value = float(case([ours], [theirs], seed=3).detach())
    assert value == pytest.approx(((made - wanted) ** 2).sum() / 6, rel=1e-9)


def test_the_mask_is_drawn_anew_and_repeats_with_its_seed(make_case):
    case = make_case("mgd", MAP, WIDER, masked=0.5)
    ours, theirs = case.draw()
    values = [float(case(ours, theirs, seed=seed).detach()) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_the_sum_over_elements_and_the_mean_over_the_batch(make_case):
    case = make_case("mgd", MAP, WIDER, masked=0.0)
    ours, theirs = case.draw()
    value = float(case(ours, theirs).detach())
    repeated = case([ours[0].repeat(3, 1, 1, 1)], [theirs[0].repeat(3, 1, 1, 1)])
    assert float(repeated.detach()) == pytest.approx(value, rel=1e-9)
    assert case.spec.weight == 7e-5


def test_widths_that_agree_need_no_alignment(make_case):
    assert len(list(make_case("mgd", MAP, MAP).module.parameters())) == 4
    assert len(list(make_case("mgd", MAP, WIDER).module.parameters())) == 6


@pytest.mark.parametrize("mask", ["channel", "spatial"])
def test_gradient(make_case, mask):
    make_case("mgd", MAP, WIDER, mask=mask, masked=0.4).check_gradient()


def test_stability(make_case):
    make_case("mgd", MAP, WIDER, dtype=torch.float32).check_stability()


def test_what_does_not_fit_is_refused(make_case):
    for shape in [(5, 8), (8,)]:
        with pytest.raises(TrainingError, match=r"'mgd' compares a map \(C, H, W\).*take 'hint'"):
            make_case("mgd", [shape], [shape])
    for options in ({"masked": 1.0}, {"mask": "both"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            make_case("mgd", MAP, WIDER, **options)
