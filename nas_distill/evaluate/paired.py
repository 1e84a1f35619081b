"""Differences of two networks' quality on the same samples, with paired 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas_distill.evaluate.intervals import LEVEL, percentile_interval
from nas_distill.utils.seeds import numpy_rng

if TYPE_CHECKING:
    from torch import Tensor

_DRAWS, _FEWEST_DRAWS, _VALUES = 400, 100, 4e7


@dataclass(frozen=True)
class PairedDifference:
    """Quality of one network minus that of another; above 0 the first is better.

    ``low`` and ``high`` are the 95 % interval over samples: it covers other samples of the same kind, not other
    trainings of the networks. Both are None if it is undefined.
    """

    difference: float
    low: float | None
    high: float | None


def paired_proportions(one: Tensor, other: Tensor) -> PairedDifference:
    """Return the difference of two accuracies on the same samples, from masks (N,) of correct predictions.

    Only samples that one of the two predicts correctly contribute to the error. The interval is Wald's with the
    adjustment of Bonett and Price (2012, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data"): one is added to the count of each kind of such samples. So it is not empty if the networks
    agree on all samples, and it covers well for few of them.
    """
    from scipy.stats import norm

    count = len(one)
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    more, less = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    reach = float(norm.ppf(0.5 + LEVEL / 200)) * math.sqrt((more + less - (more - less) ** 2) / (count + 2))
    centre = more - less
    return PairedDifference((gained - lost) / count, max(-1.0, centre - reach), min(1.0, centre + reach))


def paired_bootstrap(
    metric: Callable[[Tensor, Tensor], float], one: Tensor, other: Tensor, labels: Tensor
) -> PairedDifference:
    """Return the difference of a metric of two networks on the same samples.

    The interval is from percentiles of seeded bootstrap draws of samples with replacement (Efron), each draw the same
    for both networks: 400 draws, or fewer for very many values. Draws for which the metric is undefined are left out.

    Args:
        metric: a function of outputs and labels, higher is better, which raises DataError if it is undefined.
        one: outputs (N, ...).
        other: outputs (N, ...).
        labels: (N, ...).
    """
    import torch

    from nas_distill.utils.errors import DataError

    rng, found = numpy_rng(0, "paired bootstrap"), []
    for _ in range(int(np.clip(_VALUES / max(1, one.numel()), _FEWEST_DRAWS, _DRAWS))):
        drawn = torch.from_numpy(rng.integers(0, len(labels), len(labels)))
        try:
            found.append(metric(one[drawn], labels[drawn]) - metric(other[drawn], labels[drawn]))
        except DataError:
            continue
    low, high = percentile_interval(found) or (None, None)
    return PairedDifference(metric(one, labels) - metric(other, labels), low, high)
