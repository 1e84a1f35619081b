"""The learning rate over a training, as a function of the share of the budget that is done."""

from __future__ import annotations

import math


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
