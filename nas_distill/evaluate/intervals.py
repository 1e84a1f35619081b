"""Uncertainty of figures read on samples: intervals, bootstraps, and rank correlation."""

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
"""Draws of a bootstrap over networks."""
LEVEL = 95.0
_SAMPLE_DRAWS, _FEWEST_SAMPLE_DRAWS, _VALUES = 200, 40, 4e8


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b of ``count`` pairs, in [-1, 1], higher is better, with its 95 % bootstrap interval.

    0, with the interval [-1, 1], where one of the two does not vary and so orders nothing.
    """

    tau: float
    low: float
    high: float
    count: int


def accuracy_halfwidth(accuracy: float, samples: int) -> float:
    """Return half the width of the 95 % interval (Wilson's) of an accuracy read on ``samples`` independent samples."""
    from scipy.stats import binomtest

    if samples < 1:
        return math.nan
    interval = binomtest(round(accuracy * samples), samples).proportion_ci(LEVEL / 100, method="wilson")
    return float(interval.high - interval.low) / 2


def bootstrap_halfwidth(figure: Callable[[Tensor, Tensor], float], outputs: Tensor, labels: Tensor) -> float:
    """Return half the width of the 95 % interval of ``figure(outputs, labels)`` over draws of samples (Efron).

    Percentiles of 200 draws with replacement, fewer of very many values; the draws are seeded. Draws of which the
    figure cannot be told are left out; NaN where that is so of all.

    Args:
        figure: of outputs and labels; DataError where it cannot be told.
        outputs: (N, K).
        labels: (N, K).
    """
    import torch

    from nas_distill.utils.errors import DataError

    rng, found = numpy_rng(0, "bootstrap"), []
    for _ in range(int(np.clip(_VALUES / max(1, outputs.numel()), _FEWEST_SAMPLE_DRAWS, _SAMPLE_DRAWS))):
        drawn = torch.from_numpy(rng.integers(0, len(outputs), len(outputs)))
        try:
            found.append(figure(outputs[drawn], labels[drawn]))
        except DataError:
            continue
    interval = percentile_interval(found)
    return math.nan if interval is None else (interval[1] - interval[0]) / 2


def crossed_interval(values: ArrayLike) -> tuple[float, float]:
    """Return the mean of figures read once per seed and sample, and half the width of its 95 % interval.

    Seeds and samples are both taken as drawn at random. Half the width is the root of the sum of two squares, each the
    half-width of Student's interval of a mean: of the seeds' means, and of the samples' means. So three seeds count as
    three, and samples count where seeds agree.

    Args:
        values: (seeds, samples), such as the difference of two networks' being right; one seed says nothing of seeds.
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
    """Return the percentile interval of bootstrap draws, those without a finite value left out; None if none has one.

    ``scipy.stats.bootstrap`` has no such rule: one draw without a value leaves it without an interval.
    """
    values = np.asarray(draws, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [(100 - level) / 2, (100 + level) / 2])
    return float(low), float(high)


def bootstrap_weights(count: int, draws: int = DRAWS, *, seed: int = 0) -> Array:
    """Return how often each of ``count`` entries comes up [draws, count] when as many are drawn with replacement.

    The draws are seeded, and the same for all that is compared on the same entries, so differences are paired.
    """
    rng = numpy_rng(seed, "bootstrap", count)
    return np.array(rng.multinomial(count, np.full(count, 1 / count), size=draws), dtype=float)


def kendall_tau(one: ArrayLike, other: ArrayLike, among: NDArray[np.bool_] | None = None) -> float | None:
    """Return Kendall's tau-b (Kendall 1945) of two samples [N], in [-1, 1]; None where one of them does not vary.

    With ``among`` [N, N] (symmetric) only those pairs count.
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
    """Return tau-b [D] of samples in which entry i comes up ``weights[d, i]`` times; NaN where one does not vary."""
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
    """Return how well predictions order measurements; the interval is of percentiles over draws of the pairs.

    ``groups``: one per entry; entries are then compared within their group only (students of about equal cost, say).
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
