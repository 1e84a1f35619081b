"""nas_distill: from a teacher, data, a search space and a hardware budget to the best student.

Everything a user needs is here; each name is imported when it is first used, so ``import nas_distill`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_distill.data import Dataset, Views
    from nas_distill.export.student import load_student
    from nas_distill.spaces import Architecture, SearchSpace
    from nas_distill.study import Run, Student, Trial, open_run, search
    from nas_distill.utils.errors import NasDistillError


_HOMES = {
    "search": "nas_distill.study",
    "open_run": "nas_distill.study",
    "Run": "nas_distill.study",
    "Trial": "nas_distill.study",
    "Student": "nas_distill.study",
    "Dataset": "nas_distill.data",
    "Views": "nas_distill.data",
    "SearchSpace": "nas_distill.spaces",
    "Architecture": "nas_distill.spaces",
    "load_student": "nas_distill.export.student",
    "NasDistillError": "nas_distill.utils.errors",
}

__all__ = [
    "Architecture",
    "Dataset",
    "NasDistillError",
    "Run",
    "SearchSpace",
    "Student",
    "Trial",
    "Views",
    "load_student",
    "open_run",
    "search",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas_distill' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
