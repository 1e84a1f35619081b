"""Backends, which execute trainings: Ray Tune, or one worker process."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from nas_distill.config import SearchConfig
from nas_distill.engine.backends.inline import InlineBackend
from nas_distill.engine.work import Backend, Limit
from nas_distill.utils.files import written_folders

__all__ = ["choose_backend", "make_backend"]

_STARTUP_SECONDS = 8.0
"""What worker processes take to start, on a machine of two cores."""


def choose_backend(search: SearchConfig, seconds: float | None) -> Literal["tune", "inline"]:
    """Return the backend of a search, or of a part of it that takes so many ``seconds`` on one worker.

    ``auto`` takes worker processes unless starting them takes longer than they save.
    """
    if search.backend != "auto":
        return search.backend
    if search.address is not None or search.gpus_per_worker > 0 or seconds is None:
        return "tune"
    return "inline" if seconds * (1 - 1 / search.workers) < _STARTUP_SECONDS else "tune"


def make_backend(
    search: SearchConfig, folder: Path, limit: Limit, seconds: float | None = None
) -> AbstractContextManager[Backend]:
    """Return the backend of a search file, to be entered.

    Args:
        search: names the backend, and how many workers it has.
        folder: gets its logs.
        limit: ends works that take longer.
        seconds: that the work takes on one worker, where that is known: ``auto`` chooses by it.
    """
    if choose_backend(search, seconds) == "inline":
        return nullcontext(
            InlineBackend(threads=search.threads, retries=search.retries, limit=limit, places=written_folders(folder))
        )
    from nas_distill.engine.backends.tune import TuneBackend

    return TuneBackend(
        workers=search.workers,
        threads=search.threads,
        gpus_per_worker=search.gpus_per_worker,
        retries=search.retries,
        address=search.address,
        folder=folder,
        limit=limit,
    )
