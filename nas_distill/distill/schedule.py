"""Schedules of learning rates and loss weights, and averaging of weights during training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_distill.utils.modules import buffer_slots


@dataclass(frozen=True)
class Length:
    """Length of a training in steps: ``epochs`` passes over ``samples``, in batches of ``batch_size``.

    Batches are full: in each pass, the samples of an incomplete last batch are dropped. A training of any length above
    0 has at least one step.
    """

    samples: int
    batch_size: int
    epochs: float

    @property
    def batch(self) -> int:
        """Samples per step, at most ``samples``."""
        return min(self.batch_size, self.samples)

    @property
    def per_epoch(self) -> int:
        """Steps per epoch."""
        return self.samples // self.batch

    @property
    def steps(self) -> int:
        """Steps of the training."""
        return _at_least_one(self.epochs * self.per_epoch)

    def at(self, share: float) -> int:
        """Return the step at the end of ``share`` of the training, at least 1 for a share above 0."""
        return _at_least_one(share * self.steps)


def epochs_begun(epochs: float) -> int:
    """Return ``epochs`` rounded up; an excess of at most 1e-9, a rounding error, is ignored."""
    return math.ceil(epochs - 1e-9)


def rate_factor(done: float, warmup: float, decay: str) -> float:
    """Return the factor on the learning rate, in [0, 1]; ``decay`` is ``cosine`` or ``constant``."""
    return warmup_cosine(done, warmup) if decay == "cosine" else constant(done, warmup)


def warmup_cosine(done: float, warmup: float) -> float:
    """Return the factor on the learning rate, in [0, 1].

    It rises linearly over the first ``warmup`` of the budget, then falls to 0 along a cosine (Loshchilov and Hutter,
    2017, arXiv:1608.03983, without restarts).

    Args:
        done: share of the budget that is done, in [0, 1]; use the middle of a step, so that no step has rate 0.
        warmup: share of the budget, in [0, 1).
    """
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def constant(done: float, warmup: float) -> float:
    """Return the factor on a learning rate that rises over the first ``warmup`` of the budget, then is constant."""
    return done / warmup if done < warmup else 1.0


def ramp(done: float, start: float, stop: float, warmup: float) -> float:
    """Return the factor on a term's weight, in [0, 1].

    It is 0 before ``start`` and from ``stop``, and rises linearly over ``warmup`` after ``start``; all three are shares
    of the budget. With a ``stop`` of 1 the term never ends.
    """
    if done < start or (stop < 1 and done >= stop):
        return 0.0
    return min(1.0, (done - start) / warmup) if warmup else 1.0


def _at_least_one(steps: float) -> int:
    return max(int(steps > 0), round(steps))


class AveragedWeights:
    """Exponential moving average of a module's weights and float buffers (Polyak and Juditsky, 1992).

    The window is ``horizon`` steps, but at most about a ninth of the steps done, so that the weights of the first steps
    do not degrade early rungs. With a horizon of 0 the average equals the module.
    """

    def __init__(self, module: nn.Module, horizon: float) -> None:
        self.module = copy.deepcopy(module)
        self.module.eval()  # not chained: a module that overrides train() may not return itself
        self.module.requires_grad_(False)
        self.horizon = horizon
        self._weights = list(zip(self.module.parameters(), module.parameters()))
        # Buffers by owner and name, because a forward pass may replace the tensor.
        self._buffers = list(zip(buffer_slots(self.module), buffer_slots(module)))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the module's weights after optimiser step ``step`` (from 1) to the average."""
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
