import math

import numpy as np
import pytest
import torch
from conformance import check_finite, drawn

from nas_distill.distill.losses.rotation import rotated
from nas_distill.utils.errors import TrainingError

IMAGE = (2, 4, 4)


def cross_entropy(logits, turns):
    logits = logits - logits.max(1, keepdims=True)
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_shares[np.arange(len(turns)), turns].mean()


def draws(count, seed=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.randint(4, (count,)).numpy()


def test_images_are_turned_each_by_its_own_number():
    x, turns = drawn(9, *IMAGE), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0])
    for made, image, number in zip(rotated(x, turns), x, turns):
        np.testing.assert_array_equal(made.numpy(), np.rot90(image.numpy(), int(number), axes=(1, 2)))


def test_a_head_that_knows_nothing_gives_log_four(make_asked):
    asked = make_asked("rotation", IMAGE, (6,))
    with torch.no_grad():
        asked.module.head.weight.zero_()
        asked.module.head.bias.zero_()
    assert float(asked(drawn(5, *IMAGE)).detach()) == pytest.approx(math.log(4), rel=1e-12)


@pytest.mark.parametrize("feature", [(6,), (3, 2, 2), (4, 3)])
def test_it_is_the_formula(make_asked, feature):
    asked, x = make_asked("rotation", IMAGE, feature), drawn(7, *IMAGE)
    turns = draws(7)
    assert len(set(turns)) > 2
    seen = np.stack([np.rot90(image, k, axes=(1, 2)) for image, k in zip(x.numpy(), turns)])
    made = (seen.reshape(7, -1) @ asked.weight.numpy()).reshape(7, *feature)
    pooled = {1: made, 3: made.mean(axis=(2, 3)) if made.ndim == 4 else None, 2: made.mean(axis=1)}[len(feature)]
    weight, bias = (value.detach().numpy() for value in asked.module.head.parameters())
    assert float(asked(x).detach()) == pytest.approx(cross_entropy(pooled @ weight.T + bias, turns), rel=1e-10)


def test_every_image_by_every_turn_is_the_mean_of_all_four(make_asked):
    asked, x = make_asked("rotation", IMAGE, (6,), every=True), drawn(3, *IMAGE)
    value = float(asked(x).detach())
    (seen,) = asked.seen
    assert len(seen) == 12
    weight, bias = (value.detach().numpy() for value in asked.module.head.parameters())
    parts = []
    for k in range(4):
        turned_by = np.rot90(x.numpy(), k, axes=(2, 3)).reshape(3, -1)
        logits = turned_by @ asked.weight.numpy() @ weight.T + bias
        parts.append(cross_entropy(logits, np.full(3, k)))
    assert value == pytest.approx(np.mean(parts), rel=1e-10)
    assert value == float(asked(x, seed=4).detach())  # nothing is drawn


def test_turns_are_drawn_anew_and_repeat_with_their_seed(make_asked):
    asked, x = make_asked("rotation", IMAGE, (6,)), drawn(8, *IMAGE)
    values = [float(asked(x, seed=seed).detach()) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("every", [False, True])
def test_its_gradient_is_right(make_asked, every):
    make_asked("rotation", IMAGE, (3, 2, 2), every=every).check_gradient(drawn(4, *IMAGE))


def test_right_answers_are_the_minimum_0(make_asked):
    # A corner that only this turn brings to this place: its four places are the feature, and the head reads it.
    asked = make_asked("rotation", (1, 2, 2), (4,))
    x = torch.zeros(6, 1, 2, 2).double()
    x[:, 0, 0, 0] = 1
    corners = [int(rotated(x[:1], torch.tensor([k])).flatten().argmax()) for k in range(4)]
    with torch.no_grad():
        asked.module.head.bias.zero_()
        asked.module.head.weight.zero_()
        asked.module.head.weight[range(4), corners] = 50.0
    assert 0 <= float(asked(x, torch.eye(4).double()).detach()) < 1e-12
    with torch.no_grad():
        asked.module.head.weight.neg_()
    assert float(asked(x, torch.eye(4).double()).detach()) > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e3])
def test_half_precision_and_large_features_give_finite_values_and_gradients(make_asked, dtype, size):
    asked, x = make_asked("rotation", IMAGE, (6,), dtype=torch.float32), drawn(4, *IMAGE, dtype=torch.float32)
    weight = (asked.weight * size).requires_grad_()
    value = asked(x, weight, dtype=dtype)
    exact = float(asked(x, weight).detach())
    assert float(value.detach()) == pytest.approx(exact, rel=2e-2, abs=1e-6)
    check_finite(value, weight)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (1, 4, 6)])
def test_what_cannot_be_turned_is_refused(make_asked, shape):
    with pytest.raises(TrainingError, match=r"'rotation' needs square images .*'masked"):
        make_asked("rotation", shape, (6,))
