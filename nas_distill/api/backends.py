"""The backend that a search file asks for, and running work on one so that it can be stopped."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from nas_distill.api.interruption import Interruption
from nas_distill.api.observer import Observer
from nas_distill.common.disk import places_written
from nas_distill.config import SearchConfig
from nas_distill.engine.backends.inline import InlineBackend
from nas_distill.engine.survey import choose_backend
from nas_distill.engine.work import Backend, Evaluator, Limit, WorkSource


def make_backend(
    search: SearchConfig, folder: Path, limit: Limit, seconds: float | None = None
) -> AbstractContextManager[Backend]:
    """Return the backend of a search file, to be entered; ``folder`` gets its logs, ``limit`` ends what takes long.

    ``seconds`` is what the work takes on one worker, where that is known: ``auto`` chooses by it.
    """
    if choose_backend(search, seconds) == "inline":
        return nullcontext(
            InlineBackend(threads=search.threads, retries=search.retries, limit=limit, places=places_written(folder))
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


def run_stoppably(
    backend: Backend, source: WorkSource, evaluator: Evaluator, interruption: Interruption, observer: Observer
) -> None:
    """Run a source's work; the first Ctrl-C stops the source and says so, and ``source.stopping`` tells afterwards."""

    def stop() -> None:
        source.stop()
        with suppress(RuntimeError):  # the signal may have come in the middle of another line
            observer.note("Stopping; what is finished is kept. Press Ctrl-C again to leave at once.")

    with interruption.stopping(stop):
        backend.run(source, evaluator)
