"""Callbacks for the progress of a search: a terminal, a notebook, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nas_distill.api.problem import SearchProblem
from nas_distill.engine.finalists import FinalProgress
from nas_distill.engine.pricing import Pricing
from nas_distill.engine.progress import Event, Progress
from nas_distill.engine.survey import Estimate, Survey
from nas_distill.report.model import FinalReport
from nas_distill.run.facts import Finalist


class Observer(Protocol):
    """Told what happens, from the thread that searches; must return quickly and not raise."""

    def phase(self, name: str) -> None:
        """A phase begins: teacher store, calibration, noise probe, search, full distillation, evaluation, export."""
        ...

    def step(self, done: int, total: int, text: str = "") -> None:
        """The phase has done ``done`` of ``total``."""
        ...

    def event(self, event: Event, progress: Callable[[], Progress]) -> None:
        """Something happened to a trial.

        ``progress`` returns a snapshot of the search as it is when it is called, from this thread only.
        """
        ...

    def note(self, text: str) -> None:
        """Something a user should know, in a sentence."""
        ...

    def survey(self, survey: Survey, estimate: Estimate, pricing: Pricing, inputs: SearchProblem) -> None:
        """The space has been looked at; nothing has been trained."""
        ...

    def finalist(self, finalist: Finalist, progress: FinalProgress) -> None:
        """A finalist, or a baseline, has trained another epoch or come to its end; ``progress`` is that of all."""
        ...

    def finished(self, report: FinalReport) -> None:
        """The search has come to its end."""
        ...


class Silent:
    """Tells nobody."""

    def phase(self, name: str) -> None:
        """Ignore it."""

    def step(self, done: int, total: int, text: str = "") -> None:
        """Ignore it."""

    def event(self, event: Event, progress: Callable[[], Progress]) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def survey(self, survey: Survey, estimate: Estimate, pricing: Pricing, inputs: SearchProblem) -> None:
        """Ignore it."""

    def finalist(self, finalist: Finalist, progress: FinalProgress) -> None:
        """Ignore it."""

    def finished(self, report: FinalReport) -> None:
        """Ignore it."""
