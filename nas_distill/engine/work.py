"""Interfaces of the engine: work sources decide, backends execute, evaluators train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from nas_distill.config import TrainingConfig
from nas_distill.distill.schedule import epochs_begun
from nas_distill.export.provenance import Provenance
from nas_distill.spaces import Architecture


@dataclass(frozen=True)
class Work:
    """One training to do.

    ``key`` names it (unique in a run, also a file name). ``rungs`` are the shares of ``training.epochs`` after which it
    reports, rising to 1; a share of 0 reports before anything is trained. ``teacher`` False trains on labels only.
    ``checkpoint`` is the folder where it saves itself at each rung, and continues from if one exists.
    ``output``: the folder for the finished student, or None; ``provenance``: what is written of it there.
    ``watch`` asks for more figures of each rung, for studies of scores: ``last`` (the quality of the last, not the
    averaged weights) and ``loss`` (the sum of the training loss so far), in ``RungResult.metrics``.
    """

    key: str
    architecture: Architecture
    training: TrainingConfig
    rungs: tuple[float, ...]
    seed: int
    checkpoint: Path
    teacher: bool = True
    output: Path | None = None
    provenance: Provenance | None = None
    watch: bool = False


@dataclass(frozen=True)
class RungResult:
    """Result of a work at rung ``rung`` (an index): ``quality`` (higher is better, on validation data, may be NaN),
    ``step`` (optimiser steps so far), ``seconds`` spent training since the start of the work (over all its resumptions)
    and further named figures.
    """

    rung: int
    step: int
    quality: float
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a work.

    ``complete``: reached its last rung. ``stopped``: the source said so at its last report. ``failed``: ``cause`` says
    why (its builder raised, its loss was not finite, its worker died more often than the retries allow).
    ``interrupted``: the search was asked to stop; the work continues when the run is resumed.
    """

    kind: Literal["complete", "stopped", "failed", "interrupted"]
    cause: str | None = None


class WorkSource(Protocol):
    """Source of work that decides on its reports. Called from one thread of the driver only."""

    @property
    def stopping(self) -> bool:
        """True once the search was asked to stop: the backend ends what is in flight, as ``interrupted``."""
        ...

    def stop(self) -> None:
        """Ask the source to stop; safe from a signal handler."""
        ...

    def next(self) -> Work | None:
        """Return the next work; None means that there will be no more."""
        ...

    def report(self, key: str, result: RungResult) -> bool:
        """Record a result and return whether the work continues; a repeated (key, rung) gets the stored answer."""
        ...

    def finish(self, key: str, outcome: Outcome) -> None:
        """Record how a work ended; called exactly once for each work handed out."""
        ...


class WorkRun(Protocol):
    """One work being trained, on a worker."""

    def next_rung(self) -> RungResult:
        """Train up to the next rung and report.

        Raises:
            StorageError: what it keeps cannot be written; the work is interrupted and the whole search ends.
            NasDistillError: the training failed; the work ends as ``failed`` with this message.
        """
        ...

    def close(self) -> None:
        """Free what it holds; called once, also after an error."""
        ...


class Evaluator(Protocol):
    """Starts works. Picklable: a backend sends it to its workers once."""

    def start(self, work: Work) -> WorkRun:
        """Begin or continue a work; raises the errors of ``next_rung``."""
        ...


class Backend(Protocol):
    """Executes the work of a source."""

    def run(self, source: WorkSource, evaluator: Evaluator) -> None:
        """Run until the source has no more work and all is finished, or the source is stopping.

        A worker that dies is replaced; its work starts again from its checkpoint, up to ``retries`` times. Errors in
        the source itself are raised here, after the workers have been ended.
        """
        ...


Limit = Callable[[Work], float | None]
"""Seconds that a work may take from its first beginning in this session; None means no limit."""


def over_limit(seconds: float) -> str:
    """Return the cause of a work that was ended for taking longer."""
    return (
        f"it was ended because it took longer than its limit of {seconds / 60:.3g} minutes (search.trial_limit_minutes)"
    )


def last_rung(work: Work) -> int:
    """Return the index of a work's last rung."""
    return len(work.rungs) - 1


def epoch_rungs(epochs: float) -> tuple[float, ...]:
    """Return the rungs of a work that reports after each epoch: shares of ``epochs``, rising to 1.

    Every epoch but the last is whole; the last is what is left of ``epochs``, as in ``Distiller.by_epoch``.
    """
    return tuple(min(1.0, (epoch + 1) / epochs) for epoch in range(max(1, epochs_begun(epochs))))
