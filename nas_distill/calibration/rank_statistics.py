"""Rank statistics of a score and a target: top-k recall, regret, leave-one-out fits and the slope of cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas_distill.evaluate.intervals import Array, bootstrap_weights, percentile_interval

MISSING = 0.05
"""Share of bootstrap draws without a slope above which none is advised."""


def similar_cost_pairs(costs: ArrayLike, factor: float) -> NDArray[np.bool_]:
    """Return the mask [N, N] of pairs of networks whose costs differ by less than ``factor``; the diagonal is False."""
    logs = np.log(np.asarray(costs, dtype=float))
    close = np.abs(np.subtract.outer(logs, logs)) < math.log(factor)
    np.fill_diagonal(close, False)
    return np.array(close, dtype=bool)


def top_recall(score: ArrayLike, target: ArrayLike, k: int) -> float:
    """Return the share of the target's best ``k`` that is among the score's best ``k``; higher is better.

    Networks that tie for the last places share them equally.
    """
    return float((_top_shares(_floats(score), k) * _top_shares(_floats(target), k)).sum() / k)


def regret(score: ArrayLike, target: ArrayLike) -> float:
    """Return the target's best value less its value for the network of the best score (0 is best).

    Where several networks have the best score, their target values are averaged.
    """
    values, aims = _floats(score), _floats(target)
    return float(aims.max() - aims[values == values.max()].mean())


def leave_one_out(features: Sequence[ArrayLike], target: ArrayLike) -> Array:
    """Return the leave-one-out predictions [N] of a linear least-squares fit.

    ``features``: an array [N] per feature; a constant is added. Computed from the hat matrix, as the residual divided
    by one minus the leverage. The predictions are not biased in favour of the fit. Features without information are
    even penalised, because the mean of the others is the lower, the higher the network that is left out.

    Raises:
        ValueError: there are too few networks to leave one out.
    """
    aims = _floats(target)
    columns = [np.ones(len(aims))]
    for feature in map(_floats, features):
        spread = float(feature.std())
        if spread > 0:  # a constant feature has no information and would make the fit singular
            columns.append((feature - feature.mean()) / spread)
    matrix = np.column_stack(columns)
    if len(aims) <= matrix.shape[1] + 1:
        raise ValueError(f"{len(aims)} networks are too few to fit {matrix.shape[1]} figures and leave one out")
    hat = matrix @ np.linalg.pinv(matrix)
    left = np.clip(1 - np.diag(hat), 1e-9, None)
    return np.array(aims - (aims - hat @ aims) / left, dtype=float)


@dataclass(frozen=True)
class CostSlope:
    """The gain in expected quality per doubling of the cost, beside a short score.

    Attributes:
        slope: in units of quality; ``score + slope * log2(cost)`` ranks networks as the least-squares fit of both does.
        error_with: root mean square leave-one-out error of quality predicted by score and cost; lower is better.
        error_without: the same for the score only.
        interval: 95 % bootstrap interval of the slope, over the draws that have one; None where none has.
        missing: share of the draws without a slope, because quality does not rise with the score in them.
    """

    slope: float
    error_with: float
    error_without: float
    interval: tuple[float, float] | None
    missing: float

    @property
    def helps(self) -> bool:
        """True where cost and score together predict left-out networks better than the score only."""
        return self.slope > 0 and self.error_with < self.error_without

    @property
    def sure(self) -> bool:
        """True where the slope is known well enough to choose by: above 0, and to within about its own size."""
        if self.interval is None or self.missing > MISSING:
            return False
        low, high = self.interval
        return low > 0 and high - low <= 2 * self.slope


def cost_slope(score: ArrayLike, cost: ArrayLike, target: ArrayLike) -> CostSlope | None:
    """Fit quality by a short score [N] and the logarithm of a cost [N]; None where quality does not rise with the
    score.

    Raises:
        ValueError: there are too few networks to leave one out.
    """
    values, doublings, aims = _floats(score), np.log2(_floats(cost)), _floats(target)
    errors = [
        float(np.sqrt(np.mean((leave_one_out(features, aims) - aims) ** 2)))
        for features in ([values, doublings], [values])
    ]
    slope = float(_slopes(values, doublings, aims, np.ones((1, len(aims))))[0])
    if math.isnan(slope):
        return None
    draws = _slopes(values, doublings, aims, bootstrap_weights(len(aims)))
    return CostSlope(slope, errors[0], errors[1], percentile_interval(draws), float(np.isnan(draws).mean()))


def _slopes(score: Array, doublings: Array, target: Array, weights: Array) -> Array:
    """Return the slope [D] of bootstrap samples that contain network i ``weights[d, i]`` times; NaN where undefined."""
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
    """Return the standard deviation of quality between seeds, pooled over networks; ``seeds``: an array [N] per seed.

    None with fewer than two seeds, or where no network has them all.
    """
    if len(seeds) < 2:
        return None
    table = np.array([_floats(values) for values in seeds])
    table = table[:, np.isfinite(table).all(axis=0)]
    return float(np.sqrt(table.var(axis=0, ddof=1).mean())) if table.shape[1] else None


def _top_shares(values: Array, k: int) -> Array:
    """Return each network's share [N] of the best ``k`` places."""
    if not 1 <= k <= len(values):
        raise ValueError(f"the best {k} of {len(values)} networks cannot be chosen")
    threshold = np.sort(values)[-k]
    sure, tied = values > threshold, values == threshold
    return np.array(sure + tied * (k - sure.sum()) / tied.sum(), dtype=float)


def _floats(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=float)
