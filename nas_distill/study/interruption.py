"""Interruption by Ctrl-C and SIGTERM: the first signal stops cleanly, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from nas_distill.utils.errors import NasDistillError

if TYPE_CHECKING:
    from nas_distill.engine.work import Backend, Evaluator, WorkSource
    from nas_distill.study.observer import Observer


class InterruptedSearchError(NasDistillError):
    """A search stopped on request; its message says how to resume."""

    interrupted = True


class Interruption:
    """Handler of stop signals, which calls the current stop function, or raises KeyboardInterrupt without one."""

    def __init__(self) -> None:
        self.stop_requested = False
        self._stop: Callable[[], None] | None = None

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop`` at the first signal within the block, which then ends by itself; a second signal leaves it."""
        self._stop = stop
        try:
            if self.stop_requested:
                stop()
            yield
        finally:
            self._stop = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._stop is None or self.stop_requested:
            self.stop_requested = True
            raise KeyboardInterrupt
        self.stop_requested = True
        self._stop()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handle SIGINT and SIGTERM within a block; only in the main thread, in others signals are not handled."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        for number in numbers:
            signal.signal(number, interruption.handle)
        yield interruption
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler or signal.SIG_DFL)  # None: set from outside Python


@contextmanager
def stoppable(how_to_resume: str) -> Iterator[None]:
    """End a block with one sentence at Ctrl-C or SIGTERM.

    Raises:
        InterruptedSearchError: a signal came; its message contains ``how_to_resume``.
    """
    try:
        with interruptible():
            yield
    except KeyboardInterrupt as error:
        raise InterruptedSearchError(f"Stopped. {how_to_resume}") from error


def run_stoppably(
    backend: Backend, source: WorkSource, evaluator: Evaluator, interruption: Interruption, observer: Observer
) -> None:
    """Run a source's work; the first Ctrl-C stops the source with a note and sets ``source.stopping``."""

    def stop() -> None:
        source.stop()
        with suppress(RuntimeError):  # the signal may have interrupted another print
            observer.note("Stopping; finished work is kept. Press Ctrl-C again to quit at once.")

    with interruption.stopping(stop):
        backend.run(source, evaluator)
