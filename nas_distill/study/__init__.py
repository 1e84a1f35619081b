"""The public interface: searches, runs, trials and students."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_distill.study.run import Run
    from nas_distill.study.start import open_run, search
    from nas_distill.study.student import Student
    from nas_distill.study.trial import Trial


__all__ = ["Run", "Student", "Trial", "open_run", "search"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nas_distill.study' has no attribute '{name}'")
    from nas_distill.study import run, start, student, trial

    room = {"Run": run, "Trial": trial, "Student": student}.get(name, start)
    return getattr(room, name)
