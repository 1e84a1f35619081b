"""Interruption by Ctrl-C and SIGTERM: the first one ends cleanly."""

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
    """The search was asked to stop; its message says how to go on."""

    interrupted = True


class Interruption:
    """Passes a stop signal on to whatever is running now; where nothing takes it, the block is left at once."""

    def __init__(self) -> None:
        self.asked = False
        self._stop: Callable[[], None] | None = None

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Within the block the first signal calls ``stop`` and the block ends by itself; a second one leaves it."""
        self._stop = stop
        try:
            if self.asked:
                stop()
            yield
        finally:
            self._stop = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._stop is None or self.asked:
            self.asked = True
            raise KeyboardInterrupt
        self.asked = True
        self._stop()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Take SIGINT and SIGTERM for the length of a block (in the main thread alone; elsewhere nothing is taken)."""
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
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """Within the block, Ctrl-C and SIGTERM end it with a sentence.

    Raises:
        InterruptedSearchError: one of them came; it says ``how_to_go_on``.
    """
    try:
        with interruptible():
            yield
    except KeyboardInterrupt as error:
        raise InterruptedSearchError(f"Stopped. {how_to_go_on}") from error


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
