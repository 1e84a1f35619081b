"""Progress of a search: snapshots on demand, and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from nas_distill.engine.ledger import Ledger
from nas_distill.runs.pareto import hypervolume_of

EventKind = Literal[
    "started", "rung", "complete", "pruned", "failed", "over_budget", "duplicate", "interrupted", "ended"
]


@dataclass(frozen=True)
class Event:
    """Something happened to trial ``number`` (training ``key``); ``text`` says what, in a clause.

    ``ended`` concerns no trial: there will be no further candidates, for the reason in ``text``.
    """

    kind: EventKind
    number: int | None = None
    key: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Best:
    """The best completed candidate: ``quality`` (higher is better) at its last rung, and its costs."""

    number: int
    quality: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Progress:
    """A snapshot.

    ``requested`` trials are to be trained; ``complete``, ``pruned`` and ``failed`` ones have been, ``running`` ones
    are, ``waiting`` ones were interrupted and come next. ``over_budget`` and ``duplicates`` cost nothing; ``below`` of
    the former are not over a limit, but below a lower end. Trials of earlier runs are in none of these numbers, but may
    be on the front and the best.
    ``front_size`` counts completed candidates that nobody beats; ``hypervolume`` in [0, 1] (higher is better) is
    theirs, against ``reference`` (cost -> largest that counts) as ``runs/pareto.py`` defines it. ``seconds_trained``
    is over all workers and sessions; ``seconds_saved`` what stopping saved of it. ``elapsed_seconds`` is this
    session's, ``seconds_left`` an estimate from its pace (None before the first trial has ended).
    """

    requested: int
    running: int
    waiting: int
    complete: int
    pruned: int
    failed: int
    over_budget: int
    duplicates: int
    best: Best | None
    front_size: int
    hypervolume: float
    reference: Mapping[str, float]
    seconds_trained: float
    seconds_saved: float
    elapsed_seconds: float
    seconds_left: float | None
    stopping: bool
    end_reason: str | None
    below: int = 0

    @property
    def done(self) -> int:
        """Number of requested trials that have ended, other than by an interruption."""
        return self.complete + self.pruned + self.failed


def snapshot(
    ledger: Ledger,
    *,
    requested: int,
    costs: Sequence[str],
    reference: Mapping[str, float],
    elapsed_seconds: float,
    done_before: int,
    stopping: bool,
    end_reason: str | None,
    below: int = 0,
) -> Progress:
    """Sum a ledger up.

    ``done_before`` trials had ended before this session began; ``below`` of those over budget are below a lower end.
    """
    done = ledger.trained
    front = ledger.front
    here = done - done_before
    left = None if here <= 0 else max(0, requested - done) * elapsed_seconds / here
    return Progress(
        requested=requested,
        running=ledger.count("running"),
        waiting=ledger.count("waiting"),
        complete=ledger.count("complete") - ledger.taken,
        pruned=ledger.count("pruned"),
        failed=ledger.count("failed"),
        over_budget=ledger.count("over_budget"),
        duplicates=ledger.count("duplicate"),
        best=_best(ledger),
        front_size=len(front),
        hypervolume=_volume(front.points, tuple(reference[name] for name in costs)),
        reference=dict(reference),
        seconds_trained=ledger.seconds_trained,
        seconds_saved=ledger.seconds_saved,
        elapsed_seconds=elapsed_seconds,
        seconds_left=left,
        below=below,
        stopping=stopping,
        end_reason=end_reason,
    )


@lru_cache(maxsize=4)  # the front changes seldom, and is looked at after every event
def _volume(points: tuple[tuple[float, ...], ...], reference: tuple[float, ...]) -> float:
    return hypervolume_of(points, reference)


def _best(ledger: Ledger) -> Best | None:
    front = ledger.front
    if not len(front):
        return None
    # Of equal qualities the cheaper, then the earlier.
    (quality, *_), index = min(zip(front.points, front), key=lambda found: (-found[0][0], found[0][1:], found[1]))
    return Best(ledger[index].number, quality, dict(ledger[index].costs))
