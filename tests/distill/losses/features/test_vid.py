import math

import numpy as np
import pytest
import torch

from nas_distill.utils.errors import ConfigError, TrainingError


def by_hand(x, y, weights):
    """The loss of (B, C, places) and (B, D, places)."""
    rho, *layers = weights
    for place in range(0, 6, 2):
        x = np.einsum("oi,bip->bop", layers[place][:, :, 0], x) + layers[place + 1][:, None]
        x = np.maximum(x, 0) if place < 4 else x
    variance = (np.log1p(np.exp(rho)) + 1e-5)[:, None]
    return (((y - x) ** 2 / variance + np.log(variance)) / 2).mean()


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 4, 4), (5, 4, 4)), ((3, 4, 4), (5, 2, 2)), ((4, 3), (4, 5)), ((3,), (5,))]
)
def test_it_is_the_formula(make_case, as_numpy, student, teacher):
    case = make_case("vid", [student], [teacher])
    ours, theirs = case.draw()
    x, y = as_numpy([*ours, *theirs])
    if teacher == (5, 2, 2):
        x = x.reshape(4, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    x, y = ((v.transpose(0, 2, 1) if v.ndim == 3 else v.reshape(4, v.shape[1], -1)) for v in (x, y))
    expected = by_hand(x, y, as_numpy(case.module.parameters()))
    assert float(case(ours, theirs).detach()) == pytest.approx(expected, rel=1e-9)


def test_the_variance_starts_as_told_and_learns(make_case):
    for variance in (5.0, 0.1, 300.0):
        case = make_case("vid", [(3,)], [(3,)], variance=variance)
        rho = case.module.gaussians[0].rho
        found = torch.nn.functional.softplus(rho.detach()) + 1e-5
        torch.testing.assert_close(found, torch.full_like(found, variance), rtol=1e-5, atol=0)
    assert any(weight is rho for weight in case.module.parameters())
    # The best variance is the mean square error, where the loss is (1 + log variance) / 2.
    case = make_case("vid", [(3,)], [(1,)])
    ours, theirs = case.draw(64)
    with torch.no_grad():
        for weight in case.module.gaussians[0].mean.parameters():
            weight.zero_()
    optimizer = torch.optim.LBFGS([case.module.gaussians[0].rho], max_iter=100, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        value = case(ours, theirs)
        value.backward()
        return value

    optimizer.step(step)
    expected = (1 + math.log(float(theirs[0].square().mean()))) / 2
    assert float(case(ours, theirs).detach()) == pytest.approx(expected, abs=1e-5)


def test_a_repeated_batch_and_another_layer(make_case):
    case = make_case("vid", [(4,), (3,)], [(4,), (2,)])
    ours, theirs = case.draw()
    value = float(case(ours, theirs).detach())
    assert float(case([v.repeat(3, 1) for v in ours], [v.repeat(3, 1) for v in theirs]).detach()) == pytest.approx(
        value
    )
    assert len(case.module.gaussians) == 2


def test_gradient_and_stability(make_case):
    make_case("vid", [(3, 2, 2), (4, 3)], [(5, 2, 2), (4, 2)]).check_gradient()
    make_case("vid", [(3, 4, 4), (2,)], [(5, 2, 2), (3,)], dtype=torch.float32).check_stability()


def test_what_does_not_fit_is_refused(make_case):
    with pytest.raises(TrainingError, match=r"'vid' compares position by position.*take 'sp' or 'pkt'"):
        make_case("vid", [(4, 3)], [(5, 3)])
    with pytest.raises(ConfigError, match="'variance'"):
        make_case("vid", [(3,)], [(3,)], variance=0.0)
