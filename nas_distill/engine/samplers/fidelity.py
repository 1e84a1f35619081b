"""Final qualities estimated from the scores that candidates had when they were stopped, or have so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas_distill.engine.samplers.knowledge import Past

Array = NDArray[np.float64]

_PAIRS = 3  # complete candidates with a score at a rung before its gain is estimated from them


@dataclass(frozen=True)
class Estimates:
    """Candidates with a score: their final quality [N] (higher is better), and the variance of its estimate [N]."""

    past: list[Past]
    quality: Array
    variance: Array


def estimate(past: Sequence[Past]) -> Estimates | None:
    """Return the estimated final quality of all candidates with a score, None before the first is complete.

    It is the score itself for complete ones. For others it is the last score plus the average gain, from that rung to
    the last, of those that are complete, with the variance of these gains.
    """
    scored = [each for each in past if each.scores and each.state != "failed"]
    complete = [each for each in scored if each.state == "complete"]
    if not complete:
        return None
    finals = np.array([each.scores[max(each.scores)] for each in complete])
    unknown = (0.0, float(np.var(finals)))
    gains: dict[int, tuple[float, float]] = {}
    for rung in {max(each.scores) for each in scored if each.state != "complete"}:
        found = [final - each.scores[rung] for each, final in zip(complete, finals, strict=True) if rung in each.scores]
        gains[rung] = (float(np.mean(found)), float(np.var(found, ddof=1))) if len(found) >= _PAIRS else unknown
    quality, variance = [], []
    for each in scored:
        rung = max(each.scores)
        gain, spread = (0.0, 0.0) if each.state == "complete" else gains[rung]
        quality.append(each.scores[rung] + gain)
        variance.append(spread)
    return Estimates(scored, np.array(quality), np.array(variance))
