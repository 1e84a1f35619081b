"""Trust in short scores: rankings of finalists, initial weights and assembled students."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nas_distill.evaluate.intervals import (
    DRAWS,
    Array,
    RankCorrelation,
    kendall_tau,
    percentile_interval,
    weighted_taus,
)
from nas_distill.pruning.plan import INHERITED, RANDOM
from nas_distill.pruning.space import start_of
from nas_distill.reports import formatting as words
from nas_distill.reports.model import FinalistResult, Trust
from nas_distill.runs.metadata import BlockWeightsRecord
from nas_distill.runs.records import TrialRecord

ENOUGH = 5


def rank_trust(finalists: Sequence[FinalistResult]) -> Trust:
    """Compare short and full qualities of the finalists; those without two finite qualities are left out.

    The measure is Kendall's tau-b (Kendall 1945). From five finalists on, it has a 95 % percentile interval over seeded
    bootstrap draws; for fewer, an interval would suggest more certainty than there is.
    """
    pairs = [(entry.short, entry.full) for entry in finalists]
    known = [(short, full) for short, full in pairs if short is not None and full is not None]
    known = [(short, full) for short, full in known if math.isfinite(short) and math.isfinite(full)]
    if not known:
        return Trust(0, None, None, None)
    array = np.array(known, dtype=float)
    short, full = array[:, 0], array[:, 1]
    # Where several share the highest short score, each is an equally likely choice.
    regret = float(full.max() - full[short == short.max()].mean())
    return Trust(len(array), kendall_tau(short, full), _interval(short, full) if len(array) >= ENOUGH else None, regret)


def _interval(short: Array, full: Array) -> tuple[float, float] | None:
    drawn = np.random.default_rng(0).integers(len(short), size=(DRAWS, len(short)))
    times = (drawn[:, :, None] == np.arange(len(short))).sum(axis=1)
    return percentile_interval(weighted_taus(short, full, times))


WORDS = {INHERITED: "with the teacher's weights", RANDOM: "with random ones"}


def compare_starts(records: Sequence[TrialRecord]) -> str | None:
    """Return a sentence that compares candidates by their initial weights; None for a run without that choice.

    Args:
        records: of the run; those trained to their last rung are compared by quality, others are only counted.
    """
    parts = []
    for start, text in WORDS.items():
        trained = [record for record in records if record.trained and start_of(record.architecture.to_dict()) == start]
        if trained:
            finished = [
                record.quality for record in trained if record.state == "complete" and record.quality is not None
            ]
            best = f", the best at {words.percent(max(finished))}" if finished else ", none to the end"
            stopped = sum(record.state == "pruned" for record in trained)
            parts.append(f"{words.count(len(trained), 'candidate')} began {text} ({stopped} stopped early{best})")
    return f"{' and '.join(parts)}, by short scores." if parts else None


def local_ranking(found: BlockWeightsRecord) -> str:
    """Return a sentence on the rank correlation of local scores with short scores.

    ``found.plain`` is that of the sum of local scores, ``found.fitted`` that of predictions by fitted weights, of
    students left out of the fit. Higher is better.
    """

    def text(one: RankCorrelation) -> str:
        return f"{one.tau:.2f} ({one.low:.2f} to {one.high:.2f})"

    return (
        f"Local scores of blocks ranked {found.plain.count} assembled students with tau {text(found.plain)}, "
        f"with weights fitted to the others {text(found.fitted)}; candidates were ranked by short distillation."
    )
