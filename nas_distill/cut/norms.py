"""Norms over channels without their statistics: what is left of them acts on each channel by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Norms:
    """Takes the mean and the variance out of the layer norms of forward passes, which must all be of one network.

    A group norm of several groups keeps its statistics, also where only one of its groups is left: which of the calls
    is what is learnt from the first pass.
    """

    def __init__(self) -> None:
        self._single: list[bool] = []
        self._learnt = False
        self.any = False

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Run a block, with a forward pass of the network, without statistics."""
        if not self._learnt:
            self._single.clear()
        with _Plain(self):
            yield
        self._learnt = True

    def single(self, call: int, groups: int) -> bool:
        """Say whether group norm number ``call`` of the pass is over all channels."""
        if not self._learnt:
            self._single.append(groups == 1)
        return self._single[call]


class _Plain(TorchFunctionMode):
    def __init__(self, norms: Norms) -> None:
        super().__init__()
        self._norms, self._calls = norms, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (functional.layer_norm, functional.rms_norm):
            self._norms.any = True
            return _affine(*args, **kwargs)
        if func is functional.group_norm:
            groups = args[1] if len(args) > 1 else kwargs["num_groups"]
            self._calls += 1
            if self._norms.single(self._calls - 1, groups):
                self._norms.any = True
                return _affine_maps(*args, **kwargs)
        return func(*args, **kwargs)


def _affine(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: Any = None
) -> Tensor:
    scaled = input if weight is None else input * weight
    return scaled if bias is None else scaled + bias


def _affine_maps(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    shape = (-1, *[1] * (input.dim() - 2))
    return _affine(
        input, None, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape)
    )
