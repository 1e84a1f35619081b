"""An observer that tells a terminal: the table before the search, the live view, a line for what happens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console

from nas_distill.api.costing import Costing
from nas_distill.api.inputs import Inputs
from nas_distill.api.reporting import cost_summary, progress_view
from nas_distill.engine.finalists import Finalist
from nas_distill.engine.progress import Event, Progress
from nas_distill.engine.survey import Estimate, Survey
from nas_distill.report import words
from nas_distill.report.model import CostSummary, ProgressView
from nas_distill.report.progress import Progress as LiveView
from nas_distill.report.tables import cost_table

_WORDS = {"complete": "complete", "pruned": "stopped", "failed": "failed", "interrupted": "interrupted"}
_UNITS = {
    "teacher store": "samples",
    "latency calibration": "networks",
    "calibration": "trainings",
    "full distillation": "epochs",
}


class ConsoleObserver:
    """Shows a search on a console; a context manager, so that the terminal is given back whatever happens."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console()
        self.quiet = quiet
        self.summary: CostSummary | None = None
        self._view = LiveView(self.console, mode="quiet" if quiet else "auto")
        self._phase = ""
        self._began = time.monotonic()
        self._epochs: dict[str, int] = {}
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
        """Show how far the phase is."""
        elapsed = time.monotonic() - self._began
        left = elapsed * (total - done) / done if done else None
        unit = "epochs" if text else _UNITS.get(self._phase, "steps")
        self._view.update(ProgressView(self._phase, done, total, unit, elapsed_seconds=elapsed, left_seconds=left))
        if text:
            self._view.event(text)

    def event(self, event: Event, progress: Callable[[], Progress]) -> None:
        """Show the search's state, and say what happened to a trial."""
        if self.quiet:
            return
        now = progress()
        self._view.update(progress_view("search", now))
        if event.kind == "rung":
            self._reached[event.key or ""] = event.text
        elif event.kind in _WORDS:
            text = event.text or self._reached.get(event.key or "", "")
            self._view.event(f"trial {event.number} {_WORDS[event.kind]}{': ' if text else ''}{text}")
        elif event.kind == "ended" and now.done + now.running < now.requested and not now.stopping:
            self._view.note(f"No more candidates: {event.text.rstrip('.')}.")

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._view.note(text)

    def survey(self, survey: Survey, estimate: Estimate, costing: Costing, inputs: Inputs) -> None:
        """Print what candidates cost."""
        self.summary = cost_summary(survey, estimate, costing, inputs)
        if not self.quiet:
            self.console.print(cost_table(self.summary))

    def finalist(self, finalist: Finalist) -> None:
        """Show how far the full distillations are."""
        self._epochs[finalist.key] = len(finalist.qualities)
        elapsed = time.monotonic() - self._began
        self._view.update(
            ProgressView("full distillation", sum(self._epochs.values()), 0, "epochs", elapsed_seconds=elapsed)
        )
        kind = "taught" if finalist.taught else "on labels alone"
        if finalist.quality is not None:
            # One that was stopped early and is near the budget's limit has no short score.
            scored = finalist.short is not None and math.isfinite(finalist.short)
            short = "" if not scored else f" (short: {words.percent(finalist.short)})"
            reached = words.percent(finalist.quality)
            self._view.event(f"trial {finalist.trial} {kind}: {reached} on validation data{short}")
        elif finalist.cause is not None:
            self._view.event(f"trial {finalist.trial} {kind} failed: {finalist.cause}")
