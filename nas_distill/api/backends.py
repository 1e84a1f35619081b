"""The backend that a search file asks for, and running work on one so that it can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import torch

from nas_distill.api.interruption import Interruption
from nas_distill.api.observer import Observer
from nas_distill.config import SearchConfig
from nas_distill.engine.backends.inline import InlineBackend
from nas_distill.engine.survey import choose_backend
from nas_distill.engine.work import Backend, Evaluator, WorkSource


def make_backend(search: SearchConfig, folder: Path, seconds: float | None = None) -> AbstractContextManager[Backend]:
    """Return the backend of a search file, to be entered; ``folder`` gets its logs.

    ``seconds`` is what the work takes on one worker, where that is known: ``auto`` chooses by it.
    """
    if choose_backend(search, seconds) == "inline":
        return _inline(search.threads)
    from nas_distill.engine.backends.tune import TuneBackend

    return TuneBackend(
        workers=search.workers,
        threads=search.threads,
        gpus_per_worker=search.gpus_per_worker,
        retries=search.retries,
        address=search.address,
        folder=folder,
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


@contextmanager
def _inline(threads: int) -> Iterator[Backend]:
    """Train in this process as a worker would: results may depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield InlineBackend()
    finally:
        torch.set_num_threads(before)
