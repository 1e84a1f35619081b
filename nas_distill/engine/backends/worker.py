"""Worker side of a parallel backend: one training at a time, errors as data."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from nas_distill.engine.backends.shared import SharedFolder
from nas_distill.engine.death import fault_file
from nas_distill.engine.work import Evaluator, RungResult, Work, WorkRun, last_rung
from nas_distill.utils.errors import StorageError, failure_message
from nas_distill.utils.files import disk_error_message, full_disk_error
from nas_distill.utils.references import search_first
from nas_distill.utils.seeds import derive


@dataclass(frozen=True)
class Message:
    """Message of a worker after a rung: a result, or the cause of a failure; ``begun`` is when it began (Unix time).

    ``storage``: the cause is a StorageError, which the work has not caused.
    """

    key: str
    begun: float
    result: RungResult | None = None
    cause: str | None = None
    storage: bool = False


@dataclass(frozen=True)
class Parcel:
    """A pickled work, which an executor may copy and print freely."""

    data: bytes = field(repr=False)

    @classmethod
    def of(cls, work: Work) -> Parcel:
        """Pack a work."""
        return cls(pickle.dumps(work))

    def open(self) -> Work:
        """Unpack it."""
        return cast(Work, pickle.loads(self.data))


class Worker:
    """Executes works one after the other in a process of its own.

    ``fetch`` returns the evaluator (called once, on the first work, so that an evaluator that cannot be unpickled here
    fails works instead of killing the process). ``threads`` torch threads are used. ``faults`` is a folder for the
    traces of native crashes, one file a work; None where they are looked after. ``paths`` is the driver's import
    path, so that a name means the same module here as there. ``shared`` is the driver's run folder, which is looked for
    before the first work where this may be another machine. Ctrl-C, which a terminal sends to every process, is left
    to the driver.
    """

    def __init__(
        self,
        fetch: Callable[[], Evaluator],
        *,
        threads: int,
        faults: Path | None = None,
        paths: Sequence[str] = (),
        shared: SharedFolder | None = None,
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # Ray would turn it into SystemExit within the training, which would look like a fault of the builder's.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        search_first(paths)
        self._process = os.getpid()
        self._fetch = fetch
        self._threads = threads
        self._faults = faults
        self._shared = shared
        self._evaluator: Evaluator | None = None
        self._work: Work | None = None
        self._run: WorkRun | None = None
        self._trace: int | None = None

    def prepare(self) -> None:
        """Fetch the evaluator before the first work, whose time it does not count to; that fails where this does."""
        with contextlib.suppress(BaseException):
            self._look()
            self._evaluator = self._evaluator or self._fetch()

    def load(self, work: Work) -> None:
        """Take a work; the one before it is closed."""
        self.close()
        self._work = work

    def step(self) -> Message:
        """Train the loaded work up to its next rung; a work that has failed must be loaded again.

        Raises:
            RuntimeError: no work is loaded.
        """
        work = self._work
        if work is None:
            raise RuntimeError("no work is loaded")
        begun = time.time()
        try:
            self._limit_threads()
            if self._run is None:
                evaluator = self._prepare(work)
                begun = time.time()
                self._run = evaluator.start(work)
            result = self._run.next_rung()
            self._end_copy()
        except BaseException as error:  # SystemExit, say, would end the process, and a retry would meet it again
            self._end_copy()
            _print(error)
            self.close()
            self._work = None  # an executor may ask for another step before it has ended this process
            full = full_disk_error(error)
            if full is not None and not isinstance(error, StorageError):
                error = StorageError(disk_error_message(full))
            return Message(work.key, begun, cause=failure_message(error), storage=isinstance(error, StorageError))
        if result.rung >= last_rung(work):
            self.close()
        return Message(work.key, begun, result=result)

    def close(self) -> None:
        """Free what the work held; safe to call twice."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.close()
        except BaseException as error:  # its results are in; there is nobody left to tell but the worker's log
            _print(error)
        del run
        gc.collect()

    def _end_copy(self) -> None:
        """End a copy of the process that the user's code has forked, which must not report too."""
        if os.getpid() != self._process:
            os._exit(0)

    def _prepare(self, work: Work) -> Evaluator:
        """Make the process as it would be for the first work, whatever ran before."""
        self._watch(work.key)
        if self._evaluator is None:
            self._look()  # first: the evaluator may have to open files there
            self._evaluator = self._fetch()
        self._limit_threads()
        # Nothing of ours draws from global generators, but a builder of the user's may.
        seed = derive(work.seed, "worker", work.architecture.hash)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if (torch := sys.modules.get("torch")) is not None:
            torch.manual_seed(seed)
        return self._evaluator

    def _look(self) -> None:
        """Look for the run folder, once.

        Raises:
            StorageError: it is not there.
        """
        if self._shared is not None:
            self._shared.check()
            self._shared = None

    def _limit_threads(self) -> None:
        torch = sys.modules.get("torch")  # importing it for an evaluator that does without would cost seconds
        if torch is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def _watch(self, key: str) -> None:
        """Have Python write the trace of a native crash where the driver finds it."""
        if self._faults is None:
            return
        with contextlib.suppress(OSError):  # a node without the driver's folder goes without traces
            trace = os.open(fault_file(self._faults, key), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            faulthandler.enable(trace, all_threads=False)
            if self._trace is not None:
                os.close(self._trace)
            self._trace = trace


def _print(error: BaseException) -> None:
    """Print a traceback for the worker's log; an exception of the user's may fail even at that."""
    with contextlib.suppress(BaseException):
        traceback.print_exception(error)
