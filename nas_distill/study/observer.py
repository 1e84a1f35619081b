"""Observers of a search's progress: silent, or on a terminal or in a notebook."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console

from nas_distill.engine.candidates import Pricing
from nas_distill.engine.finalists import FinalProgress
from nas_distill.engine.progress import Event, Progress
from nas_distill.engine.survey import Estimate, Survey
from nas_distill.reports import formatting
from nas_distill.reports.final import final_table
from nas_distill.reports.live import ProgressDisplay, make_console
from nas_distill.reports.model import CostSummary, FinalReport, ProgressView
from nas_distill.reports.tables import cost_table
from nas_distill.runs.metadata import Finalist, Phase
from nas_distill.study.problem import SearchProblem
from nas_distill.study.reporting import cost_summary, progress_view


class Observer(Protocol):
    """Callbacks for a search's progress, called from the searching thread; they must return quickly and not raise."""

    def phase(self, name: str) -> None:
        """Note that a phase begins, such as teacher store, search or full distillation."""
        ...

    def step(self, done: int, total: int, text: str = "") -> None:
        """Note that the phase has completed ``done`` of ``total`` steps."""
        ...

    def event(self, event: Event, progress: Callable[[], Progress]) -> None:
        """Note an event of a trial.

        ``progress`` returns a snapshot of the search at the time of its call; call it from this thread only.
        """
        ...

    def note(self, text: str) -> None:
        """Show a sentence that a user should know."""
        ...

    def survey(self, survey: Survey, estimate: Estimate, pricing: Pricing, problem: SearchProblem) -> None:
        """Note the costs of sampled candidates, before any training."""
        ...

    def finalist(self, finalist: Finalist, progress: FinalProgress) -> None:
        """Note that a finalist or baseline trained an epoch or ended; ``progress`` is of all full distillations."""
        ...

    def finished(self, report: FinalReport) -> None:
        """Note the end of the search."""
        ...


class Silent:
    """An observer that ignores everything."""

    def phase(self, name: str) -> None:
        """Ignore it."""

    def step(self, done: int, total: int, text: str = "") -> None:
        """Ignore it."""

    def event(self, event: Event, progress: Callable[[], Progress]) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def survey(self, survey: Survey, estimate: Estimate, pricing: Pricing, problem: SearchProblem) -> None:
        """Ignore it."""

    def finalist(self, finalist: Finalist, progress: FinalProgress) -> None:
        """Ignore it."""

    def finished(self, report: FinalReport) -> None:
        """Ignore it."""


_OUTCOMES = {"complete": "complete", "pruned": "stopped", "failed": "failed", "interrupted": "interrupted"}
_UNITS: dict[str, str] = {
    Phase.TEACHER_VALIDATION: "samples",
    Phase.TEACHER_STORE: "samples",
    Phase.SURVEY: "candidates",
    Phase.LATENCY: "networks",
    Phase.ALLOCATION: "untrained candidates",
    Phase.CALIBRATION: "trainings",
    Phase.FULL_DISTILLATION: "epochs",
}


class ConsoleObserver:
    """A console view of a search; a context manager, so that the terminal is always restored."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or make_console()
        self.quiet = quiet
        self.summary: CostSummary | None = None
        self._view = ProgressDisplay(self.console, mode="quiet" if quiet else "auto")
        self._phase = ""
        self._began = time.monotonic()
        self._reached: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.stop()

    def phase(self, name: str) -> None:
        """Begin a phase."""
        self._phase = name
        self._began = time.monotonic()
        self._view.update(ProgressView(name, unit=_UNITS.get(name, "steps")))

    def step(self, done: int, total: int, text: str = "") -> None:
        """Show the progress of the phase."""
        elapsed = time.monotonic() - self._began
        left = elapsed * (total - done) / done if done else None
        unit = "epochs" if text else _UNITS.get(self._phase, "steps")
        self._view.update(ProgressView(self._phase, done, total, unit, elapsed_seconds=elapsed, left_seconds=left))
        if text:
            self._view.event(text)

    def event(self, event: Event, progress: Callable[[], Progress]) -> None:
        """Show the state of the search and the event of a trial."""
        if self.quiet:
            return
        now = progress()
        self._view.update(progress_view(Phase.SEARCH, now))
        if event.kind == "rung":
            self._reached[event.key or ""] = event.text
        elif event.kind in _OUTCOMES:
            text = event.text or self._reached.get(event.key or "", "")
            self._view.event(f"trial {event.number} {_OUTCOMES[event.kind]}{': ' if text else ''}{text}")
        elif event.kind == "ended" and now.done + now.running < now.requested and not now.stopping:
            self._view.note(f"No more candidates: {event.text.rstrip('.')}.")

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._view.note(text)

    def survey(self, survey: Survey, estimate: Estimate, pricing: Pricing, problem: SearchProblem) -> None:
        """Print the table of costs."""
        self.summary = cost_summary(survey, estimate, pricing, problem)
        if not self.quiet:
            self.console.print(cost_table(self.summary))

    def finalist(self, finalist: Finalist, progress: FinalProgress) -> None:
        """Show the progress of the full distillations, per epoch."""
        elapsed = time.monotonic() - self._began
        self._view.update(
            ProgressView(
                Phase.FULL_DISTILLATION,
                progress.done,
                progress.total,
                "epochs",
                elapsed_seconds=elapsed,
                left_seconds=progress.seconds_left,
            )
        )
        what = f"{finalist.title} {'taught' if finalist.taught else 'on labels only'}"
        if finalist.quality is not None:
            # One that was stopped early and is near the budget's limit has no short score.
            scored = finalist.score is not None and math.isfinite(finalist.score)
            short = "" if not scored else f" (short: {formatting.percent(finalist.score)})"
            self._view.event(f"{what}: {formatting.percent(finalist.quality)} on validation data{short}")
        elif finalist.cause is not None:
            self._view.event(f"{what} failed: {finalist.cause}")
        elif len(finalist.qualities) < progress.length:  # the last epoch is reported with the end
            reached = f"{formatting.percent(finalist.qualities[-1])} after epoch {len(finalist.qualities)}"
            reached += f" of {progress.length}"
            left = progress.seconds_left
            # The live view shows the time left itself.
            remaining = (
                f"; about {formatting.duration(left)} left" if left is not None and self._view.mode == "plain" else ""
            )
            self._view.event(f"{what}: {reached}{remaining}")

    def finished(self, report: FinalReport) -> None:
        """Print the result of the search."""
        self._view.stop()
        if not self.quiet:
            self.console.print(final_table(report))


@contextmanager
def default_observer(observer: Observer | None, *, quiet: bool = False) -> Iterator[Observer]:
    """Yield ``observer``, or a console observer where it is None; ``quiet`` makes that show nothing."""
    if observer is not None:
        yield observer
    else:
        with ConsoleObserver(quiet=quiet) as console:
            yield console
