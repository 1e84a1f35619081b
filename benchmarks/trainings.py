"""A fixed list of trainings on worker processes, whose results are kept as they arrive; a killed script resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.backends.tune import TuneBackend
from nas_distill.engine.work import Backend, Evaluator, Outcome, RungResult, Work, WorkRun
from nas_distill.study.interruption import InterruptedSearchError
from nas_distill.utils.files import write_json

UNFINISHED = 3
"""Exit code of a script that was stopped."""


class Book:
    """Results by key, in one JSON file that is whole after every entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Any:
        return self._entries[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._entries[key] = value
        write_json(self.path, self._entries)

    def items(self) -> ItemsView[str, Any]:
        return self._entries.items()

    def hold(self, settings: Mapping[str, Any]) -> None:
        """Note what the results depend on; results of other settings end the script with a sentence."""
        given = json.loads(json.dumps(settings))  # as it is read again, to compare
        if "settings" not in self:
            self["settings"] = given
        elif self["settings"] != given:
            sys.exit(f"{self.path.parent} was begun with other settings; give another --work, or the settings of then.")


class ListSource:
    """Hands out those works of a list that the book lacks; a WorkSource that stops nothing."""

    def __init__(self, works: Sequence[Work], book: Book, checkpoints: Path) -> None:
        self.stopping = False
        self._waiting = [work for work in works if work.key not in book]
        self._book = book
        self._checkpoints = checkpoints
        self._last: dict[str, RungResult] = {}
        self._began = time.monotonic()

    def stop(self) -> None:
        self.stopping = True

    def next(self) -> Work | None:
        return self._waiting.pop(0) if self._waiting and not self.stopping else None

    def report(self, key: str, result: RungResult) -> bool:
        self._last[key] = result
        minutes = (time.monotonic() - self._began) / 60
        say(f"{minutes:6.1f} min  {key}: step {result.step}, validation {result.quality:.2%}")
        return not self.stopping

    def finish(self, key: str, outcome: Outcome) -> None:
        if outcome.kind == "interrupted":
            return
        last = self._last.get(key)
        if outcome.kind == "complete" and last is not None:
            self._book[key] = {"quality": last.quality, "steps": last.step, "seconds": last.seconds}
        else:
            self._book[key] = {"quality": None, "cause": outcome.cause}
        shutil.rmtree(self._checkpoints / key, ignore_errors=True)


@dataclass(frozen=True)
class Evaluators:
    """Trains works of several spaces: ``special`` by the beginning of their keys, ``usual`` all others."""

    usual: Evaluator
    special: Mapping[str, Evaluator]

    def start(self, work: Work) -> WorkRun:
        for beginning, evaluator in self.special.items():
            if work.key.startswith(beginning):
                return evaluator.start(work)
        return self.usual.start(work)


@contextmanager
def backend_of(workers: int, folder: Path) -> Iterator[Backend]:
    """Give what executes trainings: this process itself for one worker, processes for more."""
    if workers == 1:
        yield InProcessBackend()
        return
    with TuneBackend(workers=workers, retries=1, folder=folder) as backend:
        yield backend


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """Give the folder that was given, made if missing, or one that is gone afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


@contextmanager
def resumable(minutes: float | None) -> Iterator[None]:
    """Run a block that keeps what it finishes; Ctrl-C, or the time being up, ends the script with a sentence."""
    time_box(minutes)
    try:
        yield
    except (InterruptedSearchError, KeyboardInterrupt):
        stop_unfinished()


def stop_unfinished() -> NoReturn:
    """End the script with a note that the same command resumes it."""
    say("Stopped; what is finished is kept, and the same command resumes.")
    sys.exit(UNFINISHED)


def time_box(minutes: float | None) -> None:
    """Ask this process to stop, as Ctrl-C would, when the time is up; what is finished is kept."""
    if minutes is None:
        return
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()


def say(text: str) -> None:
    """Tell how far it is, apart from the page."""
    print(text, file=sys.stderr, flush=True)
