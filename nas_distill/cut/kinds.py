"""Cheaper kinds of a block: what may stand in for one of the teacher's, with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nas_distill.common.errors import SpaceError, did_you_mean
from nas_distill.cut.plan import Block
from nas_distill.models.layers import conv_bn, initialise


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch norm, the input added where shapes allow.

    MobileNet's block (Howard et al., 2017, arXiv:1704.04861), with the shortcut of residual networks. A ReLU ends it
    unless it is ``signed``, as the block that it stands in for is.
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


class Linear(nn.Module):
    """A linear map of each token, the input added where widths allow; further arguments, a mask say, are not used."""

    def __init__(self, inputs: int, outputs: int, wrapped: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.wrapped = wrapped

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor]:
        """Map (B, N, inputs) to (B, N, outputs)."""
        made = self.linear(x)
        made = made + x if made.shape == x.shape else made
        return (made,) if self.wrapped else made


@dataclass(frozen=True)
class Kind:
    """How a cheaper kind is made, for what blocks, and what it is."""

    make: Callable[[Block, int, int], nn.Module]
    tokens: bool
    about: str


KINDS: Mapping[str, Kind] = {
    "separable": Kind(
        lambda block, inputs, outputs: Separable(inputs, outputs, block.stride, block.signed),
        tokens=False,
        about="depthwise 3x3 and pointwise convolution, with batch norm",
    ),
    "linear": Kind(
        lambda block, inputs, outputs: Linear(inputs, outputs, block.wrapped),
        tokens=True,
        about="a linear map of each token",
    ),
}


def fits(kind: str, block: Block) -> bool:
    """Say whether a block can be replaced by one of ``kind``: it maps what that maps, between known channels and sizes.

    Raises:
        SpaceError: there is no such kind.
    """
    known = _known(kind)
    same = known.tokens == block.tokens and (known.tokens or (block.dims == 2 and block.stride > 0))
    return same and block.inputs > 0 and block.outputs > 0


def make_kind(kind: str, block: Block, inputs: int, outputs: int) -> nn.Module:
    """Return a module of ``kind`` that can stand in for ``block`` between ``inputs`` and ``outputs`` channels.

    Weights come from torch's global generator, which the caller seeds.

    Raises:
        SpaceError: there is no such kind, or it does not fit the block.
    """
    if not fits(kind, block):
        raise SpaceError(f"block '{block.module}' cannot be replaced by the kind '{kind}'.")
    return _known(kind).make(block, inputs, outputs)


def _known(kind: str) -> Kind:
    if kind not in KINDS:
        raise SpaceError(f"unknown kind of a block '{kind}'{did_you_mean(kind, KINDS)}")
    return KINDS[kind]
