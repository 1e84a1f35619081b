"""Fit of block weights: how much each local score predicts the quality of trained students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from nas_distill.evaluate.intervals import RankCorrelation, rank_correlation
from nas_distill.utils.errors import ConfigError

Array = np.ndarray

MINIMUM = 12
"""Smallest number of students to which weights are fitted."""
_STRENGTHS = (*(10.0**power for power in range(-2, 3)), math.inf)


@dataclass(frozen=True)
class BlockWeights:
    """Weights of blocks fitted to trained students.

    Attributes:
        weights: factors of local scores, one per block, at least 0, with mean 1; all 1 if no score predicts quality.
        slope: loss of quality per unit of the weighted sum; at least 0.
        intercept: quality at a sum of 0.
        strength: strength of the regularisation towards equal weights; infinite for the plain sum.
        plain: rank correlation of quality with the negative plain sum.
        fitted: rank correlation of quality with predictions by weights (and strength) fitted without that student.
        held_out: those predictions, in the order of the students.
    """

    weights: tuple[float, ...]
    slope: float
    intercept: float
    strength: float
    plain: RankCorrelation
    fitted: RankCorrelation
    held_out: tuple[float, ...]

    def predict(self, scores: Sequence[float]) -> float:
        """Return the expected quality of a student from its unweighted block scores; higher is better."""
        return self.intercept - self.slope * float(np.dot(self.weights, scores))


def fit(scores: Sequence[Sequence[float]], qualities: Sequence[float], *, seed: int = 0) -> BlockWeights:
    """Fit the weights of blocks.

    Args:
        scores: (students, blocks) local scores of each student's alternatives; lower is better.
        qualities: measured qualities of the students; higher is better.
        seed: of the bootstrap.

    Raises:
        ConfigError: there are fewer than ``MINIMUM`` students, a value is not finite, or sizes do not match.
    """
    x, y = _checked(scores, qualities)
    held_out = np.array([_prediction(np.delete(x, i, 0), np.delete(y, i), x[i]) for i in range(len(y))])
    strength = _best_strength(x, y)
    slopes, intercept = _solve(x, y, strength)
    mean = float(slopes.mean())
    weights = slopes / mean if mean > 0 else np.ones_like(slopes)
    return BlockWeights(
        weights=tuple(float(weight) for weight in weights),
        slope=mean,
        intercept=intercept,
        strength=strength,
        plain=rank_correlation(-x.sum(1), y, seed=seed),
        fitted=rank_correlation(held_out, y, seed=seed),
        held_out=tuple(float(one) for one in held_out),
    )


def _prediction(x: Array, y: Array, student: Array) -> float:
    slopes, intercept = _solve(x, y, _best_strength(x, y))
    return intercept - float(student @ slopes)


def _best_strength(x: Array, y: Array) -> float:
    """Return the strength with the smallest leave-one-out error; the strongest of ties."""
    errors: dict[float, float] = {}
    for strength in reversed(_STRENGTHS):
        squared = 0.0
        for left_out in range(len(y)):
            slopes, intercept = _solve(np.delete(x, left_out, 0), np.delete(y, left_out), strength)
            squared += (intercept - float(x[left_out] @ slopes) - y[left_out]) ** 2
        errors[strength] = squared
    return min(errors, key=lambda strength: errors[strength])


def _solve(x: Array, y: Array, strength: float) -> tuple[Array, float]:
    """Return slopes (blocks,) >= 0 and the intercept of ``y = intercept - x @ slopes``.

    Least squares plus ``strength`` times the squared distances of slopes from a common slope, which is fitted too, in
    units of the scores' mean variance.
    """
    centred, target = x - x.mean(0), y.mean() - y
    blocks = x.shape[1]
    if math.isinf(strength):
        common, _ = nnls(centred.sum(1, keepdims=True), target)
        slopes = np.full(blocks, common[0])
    else:
        pull = math.sqrt(strength * float(np.square(centred).sum()) / blocks)
        towards = np.hstack([pull * np.eye(blocks), np.full((blocks, 1), -pull)])
        rows = np.vstack([np.hstack([centred, np.zeros((len(y), 1))]), towards])
        solved, _ = nnls(rows, np.concatenate([target, np.zeros(blocks)]))
        slopes = solved[:blocks]
    return slopes, float(y.mean() + x.mean(0) @ slopes)


def _checked(scores: Sequence[Sequence[float]], qualities: Sequence[float]) -> tuple[Array, Array]:
    x, y = np.asarray(scores, dtype=float), np.asarray(qualities, dtype=float)
    if len(y) < MINIMUM:
        raise ConfigError(f"block weights cannot be fitted to {len(y)} trained students; train at least {MINIMUM}.")
    if x.ndim != 2 or len(x) != len(y) or not x.shape[1]:
        raise ConfigError(
            f"scores of shape {x.shape} do not match {len(y)} qualities; their shape must be (students, blocks)."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError(
            "block weights cannot be fitted to scores or qualities that are not finite; leave such students out."
        )
    return x, y
