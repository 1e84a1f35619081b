"""The length of a training in steps, and factors on learning rate and weights by the share of it that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Length:
    """The steps of a training of ``epochs`` passes over ``samples``, in batches of ``batch_size``.

    Batches are whole: in each pass, the samples that fill no batch are left out. A training of any length has a step.
    """

    samples: int
    batch_size: int
    epochs: float

    @property
    def batch(self) -> int:
        """Samples of a step: all there are, where a batch asks for more."""
        return min(self.batch_size, self.samples)

    @property
    def per_epoch(self) -> int:
        """Steps of one pass."""
        return self.samples // self.batch

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return _at_least_one(self.epochs * self.per_epoch)

    def at(self, share: float) -> int:
        """Return the step that ends ``share`` of the training; any share above 0 has a step."""
        return _at_least_one(share * self.steps)


def epochs_begun(epochs: float) -> int:
    """Return how many passes have begun by ``epochs``: a part of one counts as one, a billionth of one does not."""
    return math.ceil(epochs - 1e-9)


def rate_factor(done: float, warmup: float, decay: str) -> float:
    """Return the factor on the learning rate, in [0, 1]; ``decay`` is ``cosine`` or ``constant``."""
    return warmup_cosine(done, warmup) if decay == "cosine" else constant(done, warmup)


def warmup_cosine(done: float, warmup: float) -> float:
    """Return the factor on the learning rate, in [0, 1].

    It rises linearly over the first ``warmup`` of the budget, then falls to 0 along a cosine (Loshchilov and Hutter,
    2017, arXiv:1608.03983, without restarts).

    Args:
        done: share of the budget that is done, in [0, 1]; pass the middle of a step, so no step has rate 0.
        warmup: share of the budget, in [0, 1).
    """
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def constant(done: float, warmup: float) -> float:
    """Return the factor on a learning rate that rises over the first ``warmup`` of the budget and then stays."""
    return done / warmup if done < warmup else 1.0


def ramp(done: float, start: float, stop: float, warmup: float) -> float:
    """Return the factor on a term's weight, in [0, 1].

    It is 0 before ``start`` and from ``stop`` on, and rises linearly over ``warmup`` after ``start``; all are shares of
    the budget. A ``stop`` of 1 never ends.
    """
    if done < start or (stop < 1 and done >= stop):
        return 0.0
    return min(1.0, (done - start) / warmup) if warmup else 1.0


def _at_least_one(steps: float) -> int:
    return max(int(steps > 0), round(steps))
