"""How far a figure read on a sample of the world is to be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

_DRAWS, _FEWEST_DRAWS, _VALUES = 200, 40, 4e8


def halfwidth(accuracy: float, samples: int) -> float:
    """Return half the width of the 95 % interval (Wilson's) of an accuracy read on ``samples`` independent samples."""
    if samples < 1:
        return math.nan
    z2 = 1.96**2
    spread = accuracy * (1 - accuracy) / samples + z2 / (4 * samples**2)
    return math.sqrt(z2 * spread) / (1 + z2 / samples)


def bootstrap_halfwidth(figure: Callable[[Tensor, Tensor], float], outputs: Tensor, labels: Tensor) -> float:
    """Return half the width of the 95 % interval of ``figure(outputs, labels)`` when samples are drawn anew (Efron).

    Percentiles of 200 draws with replacement, fewer of very many values; the draws are seeded. Draws of which the
    figure cannot be told count nothing; NaN where that is so of all.

    Args:
        figure: of outputs and labels; DataError where it cannot be told.
        outputs: (N, K).
        labels: (N, K).
    """
    import numpy as np
    import torch

    from nas_distill.common.errors import DataError
    from nas_distill.common.seeds import numpy_rng

    rng, found = numpy_rng(0, "bootstrap"), []
    for _ in range(int(np.clip(_VALUES / max(1, outputs.numel()), _FEWEST_DRAWS, _DRAWS))):
        drawn = torch.from_numpy(rng.integers(0, len(outputs), len(outputs)))
        try:
            found.append(figure(outputs[drawn], labels[drawn]))
        except DataError:
            continue
    if not found:
        return math.nan
    low, high = np.percentile(found, [2.5, 97.5])
    return float(high - low) / 2


def crossed_interval(values: ArrayLike) -> tuple[float, float]:
    """Return the mean of figures read once per seed and sample, and half the width of its 95 % interval.

    Seeds and samples are both taken as drawn at random. Half the width is the root of the sum of two squares, each the
    half-width of Student's interval of a mean: of the seeds' means, and of the samples' means. So three seeds count as
    three, and samples count where seeds agree.

    Args:
        values: (seeds, samples), such as the difference of two networks' being right; one seed says nothing of seeds.
    """
    import numpy as np
    from scipy.stats import t as student_t

    table = np.asarray(values, dtype=float)
    squares = 0.0
    for means in (table.mean(axis=0), table.mean(axis=1)):
        count = len(means)
        if count > 1:
            squares += float(student_t.ppf(0.975, count - 1)) ** 2 * float(means.var(ddof=1)) / count
    return float(table.mean()), math.sqrt(squares)
