"""How far the short scores of a search may be trusted: how they ranked the finalists, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau

from nas_distill.report.model import FinalistResult, Trust

ENOUGH = 5
DRAWS = 2000


def rank_trust(finalists: Sequence[FinalistResult]) -> Trust:
    """Compare short and full qualities of the finalists; those without both, finite, are left out.

    Kendall's tau-b (Kendall 1945), with a 95 % percentile interval over bootstrap draws of finalists where there are at
    least five: fewer say next to nothing, and an interval would pretend otherwise. The draws are seeded.
    """
    pairs = [(entry.short, entry.full) for entry in finalists]
    known = [(short, full) for short, full in pairs if short is not None and full is not None]
    known = [(short, full) for short, full in known if math.isfinite(short) and math.isfinite(full)]
    if not known:
        return Trust(0, None, None, None)
    array = np.array(known, dtype=float)
    short, full = array[:, 0], array[:, 1]
    # Where several share the highest short score, each would have been as likely a choice.
    regret = float(full.max() - full[short == short.max()].mean())
    return Trust(len(array), kendall(short, full), _interval(array) if len(array) >= ENOUGH else None, regret)


def kendall(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Kendall's tau-b of two samples [N], in [-1, 1]; None where one of them does not vary."""
    if len(a) < 2:
        return None
    found = float(kendalltau(a, b).statistic)
    return None if math.isnan(found) else found


def _interval(array: np.ndarray) -> tuple[float, float] | None:
    rng = np.random.default_rng(0)
    drawn = (array[rng.integers(len(array), size=len(array))] for _ in range(DRAWS))
    taus = [tau for sample in drawn if (tau := kendall(sample[:, 0], sample[:, 1])) is not None]
    if not taus:
        return None
    low, high = np.percentile(taus, [2.5, 97.5])
    return float(low), float(high)
