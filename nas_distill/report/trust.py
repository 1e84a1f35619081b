"""How far the short scores of a search may be trusted: how they ranked the finalists, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nas_distill.evaluate.intervals import DRAWS, Array, kendall_tau, percentile_interval, weighted_taus
from nas_distill.report.model import FinalistResult, Trust

ENOUGH = 5


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
    return Trust(len(array), kendall_tau(short, full), _interval(short, full) if len(array) >= ENOUGH else None, regret)


def _interval(short: Array, full: Array) -> tuple[float, float] | None:
    drawn = np.random.default_rng(0).integers(len(short), size=(DRAWS, len(short)))
    times = (drawn[:, :, None] == np.arange(len(short))).sum(axis=1)
    return percentile_interval(weighted_taus(short, full, times))
