"""Candidates that began with the teacher's weights beside those that began with random ones, in one run."""

from __future__ import annotations

from collections.abc import Sequence

from nas_distill.cut.cuts import INHERITED, RANDOM
from nas_distill.cut.space import start_of
from nas_distill.report import words
from nas_distill.run.records import TrialRecord

WORDS = {INHERITED: "with the teacher's weights", RANDOM: "with random ones"}


def compare_starts(records: Sequence[TrialRecord]) -> str | None:
    """Return a sentence that tells both kinds apart; None where a run has no such choice.

    Args:
        records: of the run; those trained to their last rung are compared by quality, others are counted alone.
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
