"""What users call: ``search``, ``open_run``, and the run, trials and students that come of them.

Each is imported when it is first used, so that the command line need not wait for torch to print its help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_distill.api.run import Run
    from nas_distill.api.start import open_run, search
    from nas_distill.api.student import Student
    from nas_distill.api.trial import Trial

__all__ = ["Run", "Student", "Trial", "open_run", "search"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nas_distill.api' has no attribute '{name}'")
    from nas_distill.api import run, start, student, trial

    room = {"Run": run, "Trial": trial, "Student": student}.get(name, start)
    return getattr(room, name)
