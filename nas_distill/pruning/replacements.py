"""Replacements of the teacher's blocks: cheaper modules with random weights, and the skip of a dropped block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nas_distill.models.layers import conv_bn, initialise
from nas_distill.pruning.plan import Block
from nas_distill.utils.errors import SpaceError, did_you_mean


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch norm, the input added where shapes allow.

    MobileNet's block (Howard et al., 2017, arXiv:1704.04861), with the shortcut of residual networks. It ends with a
    ReLU unless it is ``signed``, as the replaced block is.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, signed: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(inputs, inputs, 3, stride, groups=inputs), nn.ReLU(inplace=True), *conv_bn(inputs, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs
        self.last = nn.Identity() if signed else nn.ReLU(inplace=True)
        initialise(self)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        made = self.body(x)
        result: Tensor = self.last(made + x if self.residual else made)
        return result


class TokenLinear(nn.Module):
    """A linear map of each token, the input added if widths are equal; other arguments, such as a mask, are ignored."""

    def __init__(self, inputs: int, outputs: int, wrapped: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.wrapped = wrapped

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor]:
        """Map (B, N, inputs) to (B, N, outputs)."""
        made = self.linear(x)
        made = made + x if made.shape == x.shape else made
        return (made,) if self.wrapped else made


class Skip(nn.Module):
    """The substitute for a dropped block: it returns its first argument and ignores others, such as a mask.

    ``wrapped``: returns it as the only entry of a tuple, as the block did.
    """

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return ``x``."""
        return (x,) if self.wrapped else x


@dataclass(frozen=True)
class Replacement:
    """A kind of cheaper block: its constructor, whether it maps tokens, and a description."""

    make: Callable[[Block, int, int], nn.Module]
    tokens: bool
    about: str


REPLACEMENTS: Mapping[str, Replacement] = {
    "separable": Replacement(
        lambda block, inputs, outputs: Separable(inputs, outputs, block.stride, block.signed),
        tokens=False,
        about="depthwise 3x3 and pointwise convolution, with batch norm",
    ),
    "linear": Replacement(
        lambda block, inputs, outputs: TokenLinear(inputs, outputs, block.wrapped),
        tokens=True,
        about="a linear map of each token",
    ),
}


def fits(name: str, block: Block) -> bool:
    """Say whether a replacement fits a block: both map tokens, or both map maps, of known channels and sizes.

    Raises:
        SpaceError: the replacement is unknown.
    """
    known = _known(name)
    same = known.tokens == block.tokens and (known.tokens or (block.dims == 2 and block.stride > 0))
    return same and block.inputs > 0 and block.outputs > 0


def make_replacement(name: str, block: Block, inputs: int, outputs: int) -> nn.Module:
    """Return a replacement for ``block`` from ``inputs`` to ``outputs`` channels.

    Weights come from torch's global generator, which the caller seeds.

    Raises:
        SpaceError: the replacement is unknown, or does not fit the block.
    """
    if not fits(name, block):
        raise SpaceError(f"block '{block.module}' cannot be replaced by '{name}'.")
    return _known(name).make(block, inputs, outputs)


def _known(name: str) -> Replacement:
    if name not in REPLACEMENTS:
        raise SpaceError(f"unknown block replacement '{name}'{did_you_mean(name, REPLACEMENTS)}")
    return REPLACEMENTS[name]
