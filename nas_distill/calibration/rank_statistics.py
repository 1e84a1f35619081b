"""Rank statistics: correlations, top-k recall and regret of one figure against another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas_distill.evaluate.intervals import Array, bootstrap_weights, percentile_interval

MISSING = 0.05
"""Share of bootstrap draws without a slope above which none is advised."""


def near(costs: ArrayLike, factor: float) -> NDArray[np.bool_]:
    """Return which pairs [N, N] of networks cost about the same: less than ``factor`` apart (a pair of one never)."""
    logs = np.log(np.asarray(costs, dtype=float))
    close = np.abs(np.subtract.outer(logs, logs)) < math.log(factor)
    np.fill_diagonal(close, False)
    return np.array(close, dtype=bool)


def top_recall(score: ArrayLike, target: ArrayLike, k: int) -> float:
    """Return the share of the target's best ``k`` that is among the score's best ``k``; higher is better.

    Where several tie for the last places, each holds its share of them.
    """
    return float((_places(_floats(score), k) * _places(_floats(target), k)).sum() / k)


def regret(score: ArrayLike, target: ArrayLike) -> float:
    """Return what taking the score's best costs in target, against the target's best (0 is best).

    Of several best, each would have been as likely a choice.
    """
    values, aims = _floats(score), _floats(target)
    return float(aims.max() - aims[values == values.max()].mean())


def leave_one_out(features: Sequence[ArrayLike], target: ArrayLike) -> Array:
    """Return for each network what a linear least-squares fit on all others predicts of it [N].

    ``features``: one array [N] each; a constant is added. By the hat matrix: the residual over one less the leverage.
    A fit is not flattered by it; a useless one is even punished, as what is left of the mean without a network is the
    lower, the higher the network itself.

    Raises:
        ValueError: there are too few networks to leave one out.
    """
    aims = _floats(target)
    columns = [np.ones(len(aims))]
    for feature in map(_floats, features):
        spread = float(feature.std())
        if spread > 0:  # what is the same for all tells nothing, and would make the fit singular
            columns.append((feature - feature.mean()) / spread)
    matrix = np.column_stack(columns)
    if len(aims) <= matrix.shape[1] + 1:
        raise ValueError(f"{len(aims)} networks are too few to fit {matrix.shape[1]} figures and leave one out")
    hat = matrix @ np.linalg.pinv(matrix)
    left = np.clip(1 - np.diag(hat), 1e-9, None)
    return np.array(aims - (aims - hat @ aims) / left, dtype=float)


@dataclass(frozen=True)
class CostSlope:
    """How much a doubling of the cost is worth beside a short score.

    ``slope``: in units of quality, so that ``score + slope * log2(cost)`` ranks as the least-squares fit of both does.
    ``error_with``, ``error_without``: root mean square error of quality left one out, with cost and score and with the
    score only; lower is better. ``interval``: 95 % bootstrap interval of the slope, over the draws of networks that
    have one; None where none has. ``missing``: share of the draws that have none, since in them the score does not
    raise quality.
    """

    slope: float
    error_with: float
    error_without: float
    interval: tuple[float, float] | None
    missing: float

    @property
    def helps(self) -> bool:
        """Whether cost and score together tell the quality of a network that was left out better than the score."""
        return self.slope > 0 and self.error_with < self.error_without

    @property
    def sure(self) -> bool:
        """Whether the slope is known well enough to choose by: above 0, and to within about its own size."""
        if self.interval is None or self.missing > MISSING:
            return False
        low, high = self.interval
        return low > 0 and high - low <= 2 * self.slope


def cost_slope(score: ArrayLike, cost: ArrayLike, target: ArrayLike) -> CostSlope | None:
    """Fit quality by a short score [N] and the logarithm of a cost [N]; None where the score does not raise it.

    Raises:
        ValueError: there are too few networks to leave one out.
    """
    values, doublings, aims = _floats(score), np.log2(_floats(cost)), _floats(target)
    errors = [
        float(np.sqrt(np.mean((leave_one_out(features, aims) - aims) ** 2)))
        for features in ([values, doublings], [values])
    ]
    whole = float(_slopes(values, doublings, aims, np.ones((1, len(aims))))[0])
    if math.isnan(whole):
        return None
    draws = _slopes(values, doublings, aims, bootstrap_weights(len(aims)))
    return CostSlope(whole, errors[0], errors[1], percentile_interval(draws), float(np.isnan(draws).mean()))


def _slopes(score: Array, doublings: Array, target: Array, weights: Array) -> Array:
    """Return the slope [D] of samples in which network i comes up ``weights[d, i]`` times; NaN where there is none."""
    columns = np.column_stack([score, doublings, target])
    means = weights @ columns / weights.sum(axis=1, keepdims=True)
    centred = columns[None] - means[:, None]
    products = np.einsum("dn,dni,dnj->dij", weights, centred, centred)
    (ss, sd, st), (_, dd, dt) = products[:, 0].T, products[:, 1].T
    by_score, by_cost = st * dd - dt * sd, dt * ss - st * sd  # both times the determinant, which is above 0
    known = (by_score > 0) & (ss * dd - sd**2 > 1e-12 * ss * dd)
    slopes: NDArray[np.float64] = np.divide(by_cost, by_score, out=np.full(len(weights), np.nan), where=known)
    return slopes


def seed_deviation(seeds: Sequence[ArrayLike]) -> float | None:
    """Return the standard deviation of quality between seeds, pooled over networks; ``seeds``: one array [N] a seed.

    None with fewer than two seeds or without a network that has two.
    """
    if len(seeds) < 2:
        return None
    table = np.array([_floats(values) for values in seeds])
    table = table[:, np.isfinite(table).all(axis=0)]
    return float(np.sqrt(table.var(axis=0, ddof=1).mean())) if table.shape[1] else None


def _places(values: Array, k: int) -> Array:
    """Return each one's share [N] of the best ``k`` places."""
    if not 1 <= k <= len(values):
        raise ValueError(f"the best {k} of {len(values)} networks")
    threshold = np.sort(values)[-k]
    sure, tied = values > threshold, values == threshold
    return np.array(sure + tied * (k - sure.sum()) / tied.sum(), dtype=float)


def _floats(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=float)
