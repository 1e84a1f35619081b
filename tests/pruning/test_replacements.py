import pytest
import torch
from torch import nn

from nas_distill.pruning.plan import Block
from nas_distill.pruning.replacements import REPLACEMENTS, Skip, fits, make_replacement
from nas_distill.utils.errors import SpaceError

MAPS = Block("blocks.0", False, "a", "b", 2, 16, 24)
TOKENS = Block("blocks.0", True, "a", "a", 1, 16, 16, tokens=True)


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(16, 24, 2), (16, 16, 1), (16, 16, 2), (4, 8, 1)])
def test_separable_has_the_shape_of_the_block(inputs, outputs, stride, size):
    block = Block("a", False, None, None, stride, inputs, outputs)
    made = make_replacement("separable", block, inputs, outputs)
    assert made(torch.randn(2, inputs, size, size)).shape == (2, outputs, -(-size // stride), -(-size // stride))
    kernels = [(part.kernel_size[0], part.groups) for part in made.modules() if isinstance(part, nn.Conv2d)]
    assert kernels == [(3, inputs), (1, 1)]


def test_separable_adds_its_input_where_shapes_allow():
    made = make_replacement("separable", Block("a", False, None, None, 1, 4, 4), 4, 4).eval()
    for part in made.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(made(x), x)
    wider = make_replacement("separable", Block("a", False, None, None, 1, 4, 6), 4, 6)
    assert not wider.residual


@pytest.mark.parametrize("signed", [True, False])
def test_separable_ends_as_the_block_does(signed):
    made = make_replacement("separable", Block("a", False, None, None, 1, 4, 4, signed=signed), 4, 4)
    assert bool((made(torch.randn(2, 4, 5, 5)) < 0).any()) == signed


def test_linear_maps_each_token_separately():
    made = make_replacement("linear", TOKENS, 16, 16)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(made(x, "a mask")[:, 3], made(x[:, 3:4])[:, 0])
    torch.testing.assert_close(made(x), x + made.linear(x))
    assert make_replacement("linear", TOKENS, 16, 8)(x).shape == (2, 5, 8)


def test_linear_wraps_what_the_block_wraps():
    block = Block("a", True, None, None, 1, 4, 4, tokens=True, wrapped=True)
    (made,) = make_replacement("linear", block, 4, 4)(torch.randn(2, 5, 4))
    assert made.shape == (2, 5, 4)


def test_which_replacements_fit_which_blocks():
    assert {name for name in REPLACEMENTS if fits(name, MAPS)} == {"separable"}
    assert {name for name in REPLACEMENTS if fits(name, TOKENS)} == {"linear"}
    assert not fits("separable", Block("a", False, None, None, 1, 0, 16))
    assert not fits("separable", Block("a", False, None, None, 0, 16, 16))
    assert not fits("separable", Block("a", False, None, None, 1, 16, 16, dims=1))


def test_unknown_replacements():
    with pytest.raises(SpaceError, match="'linea'; did you mean 'linear'"):
        fits("linea", TOKENS)
    with pytest.raises(SpaceError, match="cannot be replaced by 'linear'"):
        make_replacement("linear", MAPS, 16, 24)


def test_a_skip_returns_its_first_argument():
    x = torch.randn(2, 3)
    assert Skip()(x, "mask", is_causal=True) is x
    assert Skip(wrapped=True)(x) == (x,)
    assert not list(Skip().parameters())
