import numpy as np
import pytest
import torch
from conformance import check_finite, drawn

from nas_distill.distill.losses import Shapes, find_loss
from nas_distill.distill.losses.masked_reconstruction import make_decoder
from nas_distill.utils.errors import ConfigError, TrainingError

IMAGE = (2, 6, 6)
NAME = "masked_reconstruction"
CASES = {
    "map": (IMAGE, (3, 3, 3), {"patch": 2}),
    "map that does not divide": ((1, 5, 7), (3, 2, 3), {"patch": 2}),
    "patches that are cut": ((1, 9, 5), (3, 3, 2), {"patch": 4}),
    "tokens": (IMAGE, (9, 4), {"patch": 3, "masked": 0.5}),
    "class token": (IMAGE, (10, 4), {"patch": 3}),
    "wide image": ((1, 4, 8), (8, 4), {}),
    "vector": (IMAGE, (5,), {"patch": 2}),
    "sequence": ((5, 3), (5, 4), {}),
    "sequence with a class token": ((5, 3), (6, 4), {"masked": 0.4}),
    "values": ((8,), (5,), {"masked": 0.25}),
}
EACH = pytest.mark.parametrize(("inputs", "feature", "options"), CASES.values(), ids=list(CASES))


def hidden_of(asked, x):
    """Where what the student was shown is not the sample, (B, ...)."""
    with torch.no_grad():
        asked.module.stand_in.fill_(77.0)
    asked.seen.clear()
    asked(x)
    return (asked.seen[0] == 77.0).numpy()


def test_a_value_worked_out_by_hand(make_asked):
    # Two values, one of them hidden; what is made is 3 whatever is seen, so the error is |3 - x| of the hidden one.
    asked = make_asked(NAME, (2,), (2,), masked=0.5)
    with torch.no_grad():
        asked.module.decoder.make.weight.zero_()
        asked.module.decoder.make.bias.fill_(3)
    x = torch.tensor([[1.0, 1.0], [5.0, 5.0], [0.0, 0.0]]).double()
    assert float(asked(x).detach()) == pytest.approx((2 + 2 + 3) / 3, rel=1e-12)


@EACH
def test_it_is_the_mean_error_over_what_is_hidden(make_asked, inputs, feature, options):
    asked, x = make_asked(NAME, inputs, feature, **options), drawn(6, *inputs)
    hidden = hidden_of(asked, x)
    (seen,) = asked.seen
    kept = ~hidden
    np.testing.assert_array_equal(seen.numpy()[kept], x.numpy()[kept])
    made = asked.module.decoder((seen.flatten(1) @ asked.weight).unflatten(1, feature)).detach().numpy()
    assert made.shape == x.shape
    expected = np.abs(made - x.numpy())[hidden].mean()
    assert float(asked(x).detach()) == pytest.approx(expected, rel=1e-9)


@EACH
def test_of_each_sample_the_same_number_of_patches_is_hidden_in_all_channels(make_asked, inputs, feature, options):
    asked, x = make_asked(NAME, inputs, feature, **options), drawn(6, *inputs)
    hidden = hidden_of(asked, x)
    assert hidden.any()
    if len(inputs) == 3:
        assert (hidden == hidden[:, :1]).all()
    if len(inputs) == 2:
        assert (hidden == hidden[:, :, :1]).all()
        hidden = hidden[:, :, 0]
    cells = hidden if len(inputs) < 3 else first_of_each_patch(hidden[:, 0], options.get("patch", 2))
    assert (cells.reshape(6, -1).sum(1) == asked.module.hidden).all()
    assert len({tuple(row) for row in cells.reshape(6, -1)}) > 1


def first_of_each_patch(hidden, side):
    cells = hidden[:, ::side, ::side]
    whole = np.kron(cells, np.ones((1, side, side), dtype=bool))[:, : hidden.shape[1], : hidden.shape[2]]
    np.testing.assert_array_equal(hidden, whole)
    return cells


@pytest.mark.parametrize(
    ("image", "patch", "side", "grid"),
    [
        ((3, 224, 224), None, 32, (7, 7)),
        ((1, 28, 28), None, 4, (7, 7)),
        ((1, 8, 8), None, 2, (4, 4)),
        ((1, 9, 30), 4, 4, (3, 8)),
    ],
)
def test_patches_are_a_seventh_of_the_side_unless_told(image, patch, side, grid):
    module = find_loss(NAME).make(Shapes(5, 20, 10, (((4,), ()),), image), patch=patch)
    assert (module.side, module.grid) == (side, grid)
    assert module.hidden == round(0.6 * grid[0] * grid[1])


def test_each_place_of_a_map_makes_its_own_pixels():
    decoder = make_decoder((3, 2, 3), (2, 4, 6)).double()
    feature = drawn(1, 3, 2, 3)
    made = decoder(feature)
    other = feature.clone()
    other[:, :, 1, 2] += 1
    changed = (decoder(other) != made)[0].any(dim=0)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:, 4:] = True
    assert torch.equal(changed, expected)
    # Within a place, the convolution's channels are the image's channels, then rows, then columns.
    own = torch.einsum("od,d->o", decoder.make.weight[:, :, 0, 0], feature[0, :, 0, 1]) + decoder.make.bias
    torch.testing.assert_close(made[0, :, :2, 2:4], own.view(2, 2, 2))


def test_tokens_lie_row_by_row_behind_a_class_token():
    tokens = drawn(2, 7, 4)
    decoder = make_decoder((7, 4), (1, 4, 6)).double()
    as_map = tokens[:, 1:].transpose(1, 2).reshape(2, 4, 2, 3)
    torch.testing.assert_close(decoder(tokens), decoder.map(as_map))


@EACH
def test_its_gradient_is_right(make_asked, inputs, feature, options):
    make_asked(NAME, inputs, feature, **options).check_gradient(drawn(3, *inputs))


def test_what_is_hidden_is_drawn_anew_and_repeats_with_its_seed(make_asked):
    asked, x = make_asked(NAME, IMAGE, (3, 3, 3)), drawn(4, *IMAGE)
    values = [float(asked(x, seed=seed).detach()) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_a_sample_made_right_is_the_minimum_0(make_asked):
    asked = make_asked(NAME, (4,), (4,), masked=0.5)
    with torch.no_grad():
        asked.module.decoder.make.weight.zero_()
        asked.module.decoder.make.bias.copy_(torch.arange(4.0))
    x = torch.arange(4.0).double().expand(3, 4)
    assert float(asked(x).detach()) == 0
    assert float(asked(x + 0.1).detach()) == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e3])
def test_half_precision_and_large_features_give_finite_values_and_gradients(make_asked, dtype, size):
    asked, x = make_asked(NAME, IMAGE, (3, 3, 3), dtype=torch.float32), drawn(4, *IMAGE, dtype=torch.float32)
    weight = (asked.weight * size).requires_grad_()
    value = asked(x, weight, dtype=dtype)
    assert float(value.detach()) == pytest.approx(float(asked(x, weight).detach()), rel=2e-2)
    check_finite(value, weight)


@pytest.mark.parametrize(
    ("inputs", "feature", "options", "sentence"),
    [
        ((1, 2, 2, 2), (5,), {}, r"hides patches of images \(C, H, W\).*\(1, 2, 2, 2\)"),
        ((5, 3), (5, 4), {"patch": 2}, "the latter two without 'patch'"),
        (IMAGE, (3, 3, 3), {"patch": 6}, "smaller 'patch'"),
        ((1,), (3,), {}, "smaller 'patch'"),
        (IMAGE, (7, 4), {}, r"layer \(7, 4\) to parts of a sample \(2, 6, 6\)"),
        ((5, 3), (3, 4, 4), {}, "name another layer, such as the vector"),
        ((8,), (8, 4), {}, "name another layer"),
    ],
)
def test_what_cannot_be_hidden_or_made_is_refused(make_asked, inputs, feature, options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        make_asked(NAME, inputs, feature, **options)


@pytest.mark.parametrize("options", [{"masked": 0.0}, {"masked": 1.0}, {"patch": 0}])
def test_options_out_of_range_are_refused(make_asked, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_asked(NAME, IMAGE, (3, 3, 3), **options)
