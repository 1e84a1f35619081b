"""Averaged weights, which are what a training is read out by."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nas_distill.common.modules import buffer_places


class AveragedWeights:
    """An exponential moving average of a module's weights and float buffers (Polyak and Juditsky, 1992).

    The window is ``horizon`` steps, but never more than about a ninth of the steps done, so that early rungs are not
    held back by the weights of the first steps. A horizon of 0 follows the module exactly.
    """

    def __init__(self, module: nn.Module, horizon: float) -> None:
        self.module = copy.deepcopy(module)
        self.module.eval()  # not chained: many a module that overrides train() forgets to return itself
        self.module.requires_grad_(False)
        self.horizon = horizon
        self._weights = list(zip(self.module.parameters(), module.parameters()))
        # Buffers by place, not by tensor: a forward pass may put another tensor there.
        self._buffers = list(zip(buffer_places(self.module), buffer_places(module)))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the module's weights after optimiser step ``step`` (from 1) into the average."""
        share = 1.0 if self.horizon <= 1 else max(1 / self.horizon, 9 / (9 + step))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for target, source in [*self._weights, *self._buffer_pairs()]:
            if target.is_floating_point():
                averaged.append(target)
                current.append(source.detach())
            else:
                target.copy_(source)
        if averaged:
            torch._foreach_lerp_(averaged, current, share)

    def _buffer_pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (targets, name), (sources, _) in self._buffers:
            target, source = targets[name], sources[name]
            if target is not None and source is not None:
                yield target, source
