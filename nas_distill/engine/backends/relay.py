"""Driver side of a parallel backend: between a work source and its workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nas_distill.engine.backends.worker import Message
from nas_distill.engine.work import Outcome, RungResult, Work, WorkSource, last_rung
from nas_distill.utils.errors import StorageError
from nas_distill.utils.files import disk_full_message, first_full_folder, mentions_full_disk

Answer = TypeVar("Answer")


class Relay:
    """Relay of work and reports between a source and an executor, which guarantees the protocol of the source.

    Each work handed out is finished exactly once; a source that raised is never called again (``error`` keeps what it
    raised, for the backend to raise once the workers have ended); a work whose worker died is handed out again up to
    ``retries`` times. Where a worker dies while one of the folders ``places`` has no room left to write, no work is
    blamed: everything ends as interrupted, with a StorageError. Not thread-safe: everything is called from the one
    thread that runs the backend.
    """

    def __init__(self, source: WorkSource, *, retries: int, places: Sequence[Path] = ()) -> None:
        self.error: BaseException | None = None
        self._source = source
        self._retries = retries
        self._places = places
        self._open: dict[str, Work] = {}
        self._again: deque[str] = deque()
        self._deaths: dict[str, int] = {}
        self._exhausted = False

    @property
    def ending(self) -> bool:
        """True once everything in flight is to be ended: the source asked to stop, or raised."""
        return self.error is not None or bool(self._call(lambda: self._source.stopping, True))

    @property
    def done(self) -> bool:
        """True when there is nothing left to hand out and nothing in flight."""
        return self._exhausted and not self._open

    @property
    def in_flight(self) -> tuple[str, ...]:
        """Keys handed out and not finished."""
        return tuple(self._open)

    def open_work(self, key: str) -> Work | None:
        """Return a work that was handed out and not finished; None if there is none of that key."""
        return self._open.get(key)

    def next(self) -> Work | None:
        """Return the next work to execute: one to be tried again, else the source's next; None when there is none."""
        if self.ending:
            return None
        while self._again:
            key = self._again.popleft()
            if key in self._open:
                return self._open[key]
        if self._exhausted:
            return None
        work = self._call(self._source.next, None)
        if work is None:
            self._exhausted = True
            return None
        self._open[work.key] = work
        return work

    def report(self, key: str, result: RungResult) -> bool:
        """Give a result to the source and return whether the work continues; finishes it where it does not."""
        work = self._open.get(key)
        if work is None:
            return False
        goes_on = self._call(lambda: self._source.report(key, result), False)
        if self.error is not None:
            return False
        if not goes_on:
            self._finish(key, Outcome("stopped"))
        elif result.rung >= last_rung(work):
            self._finish(key, Outcome("complete"))
        return key in self._open

    def take(self, message: Message) -> bool:
        """Pass a worker's message on, and return whether its work continues."""
        if message.result is not None:
            return self.report(message.key, message.result)
        cause = message.cause or "the evaluation failed"
        if message.storage or mentions_full_disk(cause):
            self.give_up(StorageError(f"{cause.rstrip('.')}."))
        else:
            self.fail(message.key, cause)
        return False

    def blame_disk(self) -> bool:
        """Return whether a disk is full, so that no work has caused a failure; if so, everything has been ended."""
        place = first_full_folder(self._places)
        if place is not None:
            self.give_up(StorageError(disk_full_message(place)))
        return place is not None

    def fail(self, key: str, cause: str) -> None:
        """Finish a work whose evaluator raised; it is not tried again, since it would raise again."""
        self._finish(key, Outcome("failed", cause))

    def died(self, key: str, cause: str) -> bool:
        """Record that the worker of ``key`` died; True if it may be tried again, else it is finished as failed."""
        if key not in self._open or self.blame_disk():
            return False
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] <= self._retries:
            return True
        times = f", {self._deaths[key]} times" if self._deaths[key] > 1 else ""
        self._finish(key, Outcome("failed", f"{cause}{times}"))
        return False

    def hand_out_again(self, key: str) -> None:
        """Put an unfinished work before the source's next one."""
        if key in self._open and key not in self._again:
            self._again.append(key)

    def lost(self, cause: str) -> None:
        """Treat what is in flight, and not yet waiting to be handed out again, as if its worker had died."""
        for key in self.in_flight:
            if key not in self._again and self.died(key, cause):
                self._again.append(key)

    def give_up(self, error: Exception) -> None:
        """End everything, with what is in flight as interrupted, for an error that no work has caused."""
        self.interrupt()
        self.error = self.error or error

    def interrupt(self) -> None:
        """Finish all that is in flight as interrupted; nothing is handed out afterwards."""
        self._exhausted = True
        for key in self.in_flight:
            self._finish(key, Outcome("interrupted"))

    def _finish(self, key: str, outcome: Outcome) -> None:
        if self._open.pop(key, None) is not None:
            self._call(lambda: self._source.finish(key, outcome), None)

    def _call(self, ask: Callable[[], Answer], instead: Answer) -> Answer:
        if self.error is not None:
            return instead
        try:
            return ask()
        except BaseException as error:  # kept, and raised by the backend: an executor must not swallow or log it
            self.error = error
            return instead
