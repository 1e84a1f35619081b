"""Inline backend: one worker process without Ray; and one without any process, for tests."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nas_distill.engine.backends.relay import Relay
from nas_distill.engine.backends.worker import Message, Worker
from nas_distill.engine.child import CallError, CallStoppedError, CallTimeoutError, Child, ChildDiedError, pickled
from nas_distill.engine.work import (
    Evaluator,
    Limit,
    Outcome,
    RungResult,
    Work,
    WorkRun,
    WorkSource,
    last_rung,
    over_limit,
)
from nas_distill.utils.errors import StorageError, first_line


class InProcessBackend:
    """Implements ``Backend`` with a loop. A native crash, or ``os._exit``, takes the whole search with it."""

    def run(self, source: WorkSource, evaluator: Evaluator) -> None:
        """Train what the source hands out until there is no more, or the source is stopping.

        Errors of the source are raised; errors of the evaluator end that work as failed, except for a StorageError,
        which the work has not caused: it is interrupted, and the error raised.
        """
        while not source.stopping:
            work = source.next()
            if work is None:
                return
            try:
                outcome = _train(source, evaluator, work)
            except (KeyboardInterrupt, StorageError):
                source.finish(work.key, Outcome("interrupted"))
                raise
            source.finish(work.key, outcome)


def _train(source: WorkSource, evaluator: Evaluator, work: Work) -> Outcome:
    run: WorkRun | None = None
    try:
        while not source.stopping:  # it may have been asked to stop while it looked for this work
            # Only the evaluator's errors are the work's own; those of source.report are for the caller.
            result: RungResult
            try:
                run = run or evaluator.start(work)
                result = run.next_rung()
            except StorageError:
                raise
            except Exception as error:
                return Outcome("failed", first_line(error))
            if not source.report(work.key, result):
                return Outcome("stopped")
            if result.rung >= last_rung(work):
                return Outcome("complete")
        return Outcome("interrupted")
    finally:
        if run is not None:
            with suppress(Exception):
                run.close()


_CLOSING_SECONDS = 10.0


class InlineBackend:
    """Executes the work of a source in one worker process, which is replaced after a failed work and when it dies.

    ``threads`` torch threads train. A work whose worker died is started again from its checkpoint up to ``retries``
    times; one that takes longer than ``limit`` says is ended as failed. ``places``: folders that are written to; where
    a worker dies while one of them is full, no work is blamed for it.
    """

    def __init__(
        self, *, threads: int = 1, retries: int = 1, limit: Limit | None = None, places: Sequence[Path] = ()
    ) -> None:
        self._threads = threads
        self._retries = retries
        self._limit = limit
        self._places = places

    def run(self, source: WorkSource, evaluator: Evaluator) -> None:
        """Train what the source hands out until there is no more, or the source is stopping.

        Raises:
            RunError: the evaluator cannot be sent to the worker.
            StorageError: a disk is full; what was in flight is interrupted.
            Exception: whatever the source raised.
        """
        relay = Relay(source, retries=self._retries, places=self._places)
        began: dict[str, float] = {}
        try:
            with Child(_Host(pickled(evaluator), self._threads), threads=self._threads) as child:
                while (work := relay.next()) is not None:
                    self._train(relay, child, work, began)
                if not relay.ending:
                    _close(child)
        finally:
            relay.interrupt()
        if relay.error is not None:
            raise relay.error

    def _train(self, relay: Relay, child: Child, work: Work, began: dict[str, float]) -> None:
        limit = None if self._limit is None else self._limit(work)

        def call(method: str, *arguments: Work) -> Message:
            left = None if limit is None else max(0.0, began[work.key] + limit - time.monotonic())
            message: Message = child.call(method, *arguments, seconds=left, ending=lambda: relay.ending)
            return message

        try:
            child.call("prepare", ending=lambda: relay.ending)
            began[work.key] = began.get(work.key, time.monotonic())
            message = call("begin", work)
            while relay.take(message):
                message = call("step")
            if message.cause is not None:
                child.close()  # the work may have changed what the next one would use, such as a function of torch
        except CallStoppedError:
            relay.interrupt()
        except CallTimeoutError:
            relay.fail(work.key, over_limit(limit or 0.0))
        except ChildDiedError as error:
            if relay.died(work.key, str(error)):
                relay.hand_out_again(work.key)
        except CallError as error:
            relay.fail(work.key, str(error))
            child.close()
        except StorageError as error:
            relay.give_up(error)


class _Host:
    """Target of the worker process; a work fails where its evaluator cannot be unpickled."""

    def __init__(self, evaluator: bytes, threads: int) -> None:
        self._evaluator = evaluator
        self._threads = threads
        self._worker: Worker | None = None

    def prepare(self) -> None:
        """Unpack the evaluator, where that is not done."""
        if self._worker is None:
            self._worker = Worker(lambda: pickle.loads(self._evaluator), threads=self._threads)
        self._worker.prepare()

    def begin(self, work: Work) -> Message:
        """Train a work up to its first rung; the one before it is closed."""
        assert self._worker is not None
        self._worker.load(work)
        return self._worker.step()

    def step(self) -> Message:
        """Train it up to its next rung."""
        assert self._worker is not None
        return self._worker.step()

    def close(self) -> None:
        """Free what the last work held."""
        if self._worker is not None:
            self._worker.close()


def _close(child: Child) -> None:
    with suppress(CallError):
        child.call("close", seconds=_CLOSING_SECONDS)
