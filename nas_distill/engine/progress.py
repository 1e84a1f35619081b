"""Where a search stands: a snapshot for whoever shows it, and the events that say when to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nas_distill.engine.ledger import COUNTED, Entry, Ledger
from nas_distill.run.front import hypervolume_of, non_dominated

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
    are, ``waiting`` ones were interrupted and come next. ``over_budget`` and ``duplicates`` cost nothing.
    ``front_size`` counts completed candidates that nobody beats; ``hypervolume`` in [0, 1] (higher is better) is
    theirs, against ``reference`` (cost -> largest that counts) as ``run/front.py`` defines it. ``seconds_trained``
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
    ended: str | None

    @property
    def done(self) -> int:
        """How many of the requested trials have come to an end of their own."""
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
    ended: str | None,
) -> Progress:
    """Sum a ledger up; ``done_before`` trials had ended before this session began."""
    complete = ledger.having("complete")
    done = ledger.count(*COUNTED)
    points = [[_final(entry), *(entry.costs[name] for name in costs)] for entry in complete]
    here = done - done_before
    left = None if here <= 0 else max(0, requested - done) * elapsed_seconds / here
    return Progress(
        requested=requested,
        running=ledger.count("running"),
        waiting=ledger.count("waiting"),
        complete=len(complete),
        pruned=ledger.count("pruned"),
        failed=ledger.count("failed"),
        over_budget=ledger.count("over_budget"),
        duplicates=ledger.count("duplicate"),
        best=_best(complete, costs),
        front_size=int(non_dominated(points, [True] + [False] * len(costs)).sum()),
        hypervolume=hypervolume_of(points, [reference[name] for name in costs]),
        reference=dict(reference),
        seconds_trained=sum(entry.seconds for entry in ledger),
        seconds_saved=sum(entry.seconds_saved for entry in ledger),
        elapsed_seconds=elapsed_seconds,
        seconds_left=left,
        stopping=stopping,
        ended=ended,
    )


def _best(complete: Sequence[Entry], costs: Sequence[str]) -> Best | None:
    if not complete:
        return None
    # Of equal qualities the cheaper, then the earlier.
    entry = min(complete, key=lambda entry: (-_final(entry), *(entry.costs[name] for name in costs), entry.index))
    return Best(entry.number, _final(entry), dict(entry.costs))


def _final(entry: Entry) -> float:
    assert entry.quality is not None
    return entry.quality
