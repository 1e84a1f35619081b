"""Averaged weights, which are what a training is read out by."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AveragedWeights:
    """An exponential moving average of a module's weights and float buffers (Polyak and Juditsky, 1992).

    The window is ``horizon`` steps, but never more than about a ninth of the steps done, so that early rungs are not
    held back by the weights of the first steps. A horizon of 0 follows the module exactly.
    """

    def __init__(self, module: nn.Module, horizon: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.horizon = horizon
        self._pairs = _float_tensors(self.module), _float_tensors(module)
        self._others = _other_tensors(self.module), _other_tensors(module)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the module's weights after optimiser step ``step`` (from 1) into the average."""
        share = 1.0 if self.horizon <= 1 else max(1 / self.horizon, 9 / (9 + step))
        averaged, current = self._pairs
        if averaged:
            torch._foreach_lerp_(averaged, current, share)
        for target, source in zip(*self._others):
            target.copy_(source)


def _float_tensors(module: nn.Module) -> list[Tensor]:
    tensors = [*module.parameters(), *module.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]


def _other_tensors(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in module.buffers() if not tensor.is_floating_point()]
