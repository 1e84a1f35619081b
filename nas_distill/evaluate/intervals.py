"""Uncertainty of metrics: confidence intervals, bootstraps, and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas_distill.utils.seeds import numpy_rng

if TYPE_CHECKING:
    from torch import Tensor


Array = NDArray[np.float64]
DRAWS = 2000
"""Number of draws of a bootstrap over networks."""
LEVEL = 95.0
_SAMPLE_DRAWS, _FEWEST_SAMPLE_DRAWS, _VALUES = 200, 40, 4e8


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b of ``count`` pairs, in [-1, 1], higher is better, with its 95 % bootstrap interval.

    If one of the two is constant, tau is 0 with the interval [-1, 1].
    """

    tau: float
    low: float
    high: float
    count: int


def accuracy_halfwidth(accuracy: float, samples: int) -> float:
    """Return the half-width of the 95 % interval (Wilson) of an accuracy on ``samples`` independent samples."""
    from scipy.stats import binomtest

    if samples < 1:
        return math.nan
    interval = binomtest(round(accuracy * samples), samples).proportion_ci(LEVEL / 100, method="wilson")
    return float(interval.high - interval.low) / 2


def bootstrap_halfwidth(metric: Callable[[Tensor, Tensor], float], outputs: Tensor, labels: Tensor) -> float:
    """Return the half-width of the 95 % bootstrap interval of ``metric(outputs, labels)`` over samples (Efron).

    It is computed from percentiles of 200 seeded draws with replacement, or fewer for very many values. Draws for which
    the metric is undefined are left out; the result is NaN if it is undefined for all.

    Args:
        metric: a function of outputs and labels, which raises DataError if it is undefined.
        outputs: (N, K).
        labels: (N, K).
    """
    import torch

    from nas_distill.utils.errors import DataError

    rng, found = numpy_rng(0, "bootstrap"), []
    for _ in range(int(np.clip(_VALUES / max(1, outputs.numel()), _FEWEST_SAMPLE_DRAWS, _SAMPLE_DRAWS))):
        drawn = torch.from_numpy(rng.integers(0, len(outputs), len(outputs)))
        try:
            found.append(metric(outputs[drawn], labels[drawn]))
        except DataError:
            continue
    interval = percentile_interval(found)
    return math.nan if interval is None else (interval[1] - interval[0]) / 2


def crossed_interval(values: ArrayLike) -> tuple[float, float]:
    """Return the mean of values per seed and sample, and the half-width of its 95 % interval.

    Seeds and samples are both random effects. The half-width is the root of the sum of two squares, each the half-width
    of Student's interval of a mean: of the means per seed, and of the means per sample. So the interval covers the
    variation between few seeds, and that between samples even if seeds agree.

    Args:
        values: (seeds, samples), such as the difference of two networks' correctness. With one seed, the interval
            covers only samples.
    """
    from scipy.stats import t as student_t

    table = np.asarray(values, dtype=float)
    squares = 0.0
    for means in (table.mean(axis=0), table.mean(axis=1)):
        count = len(means)
        if count > 1:
            squares += float(student_t.ppf(0.975, count - 1)) ** 2 * float(means.var(ddof=1)) / count
    return float(table.mean()), math.sqrt(squares)


def percentile_interval(draws: ArrayLike, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the percentile interval of the finite bootstrap draws; None if no draw is finite.

    ``scipy.stats.bootstrap`` gives no interval if a single draw is not finite.
    """
    values = np.asarray(draws, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [(100 - level) / 2, (100 + level) / 2])
    return float(low), float(high)


def bootstrap_weights(count: int, draws: int = DRAWS, *, seed: int = 0) -> Array:
    """Return the multiplicities (draws, count) of ``count`` entries in bootstrap draws with replacement.

    The draws are seeded, and equal for all comparisons on the same entries, so differences are paired.
    """
    rng = numpy_rng(seed, "bootstrap", count)
    return np.array(rng.multinomial(count, np.full(count, 1 / count), size=draws), dtype=float)


def kendall_tau(one: ArrayLike, other: ArrayLike, among: NDArray[np.bool_] | None = None) -> float | None:
    """Return Kendall's tau-b (Kendall 1945) of two samples (N,), in [-1, 1]; None if one of them is constant.

    ``among`` (N, N), symmetric, restricts it to those pairs.
    """
    from scipy.stats import kendalltau

    first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if among is not None:
        found = float(weighted_taus(first, second, np.ones((1, len(first))), among)[0])
    elif len(first) < 2:
        return None
    else:
        found = float(kendalltau(first, second).statistic)
    return None if math.isnan(found) else found


def weighted_taus(
    one: ArrayLike, other: ArrayLike, weights: ArrayLike, among: NDArray[np.bool_] | None = None
) -> Array:
    """Return tau-b (D,) of samples in which entry i occurs ``weights[d, i]`` times; NaN where one is constant."""
    signs = [np.sign(np.subtract.outer(values, values)) for values in map(_floats, (one, other))]
    if among is not None:
        signs = [np.where(among, sign, 0.0) for sign in signs]
    first, second = signs
    counts = _floats(weights)

    def pairs(matrix: Array) -> Array:
        return np.array(((counts @ matrix) * counts).sum(axis=1), dtype=float)

    scale = np.sqrt(pairs(first**2) * pairs(second**2))
    found = np.full(len(counts), np.nan)
    np.divide(pairs(first * second), scale, out=found, where=scale > 0)
    return found


def rank_correlation(
    predicted: ArrayLike, measured: ArrayLike, *, seed: int, groups: Sequence[object] | None = None
) -> RankCorrelation:
    """Return the rank correlation of predictions and measurements, with a bootstrap interval over entries.

    ``groups``, one per entry, restricts it to pairs within a group (for example, students of about equal cost).
    """
    count = len(_floats(predicted))
    among = None if groups is None else np.array([[one == other for other in groups] for one in groups])
    tau = kendall_tau(predicted, measured, among)
    interval = percentile_interval(weighted_taus(predicted, measured, bootstrap_weights(count, seed=seed), among))
    if tau is None or interval is None:
        return RankCorrelation(0.0, -1.0, 1.0, count)
    return RankCorrelation(tau, *interval, count)


def _floats(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=float)
