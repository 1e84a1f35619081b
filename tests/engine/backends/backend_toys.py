"""A source that follows a script and records what it is told, and an evaluator that does what a work says."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nas_distill.config import TrainingConfig
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.spaces import Architecture
from nas_distill.utils.errors import BuildError, StorageError, TrainingError
from nas_distill.utils.files import write_text


class PanicError(BaseException):
    """No Exception."""


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def make_work(folder: Path, key: str, act: str = "train", *, rungs: int = 3, at: int = 1, seed: int = 0) -> Work:
    """A work of ``rungs`` rungs that does ``act`` at rung ``at``, or as it starts (-1)."""
    shares = tuple((rung + 1) / rungs for rung in range(rungs))
    architecture = Architecture({"act": act, "at": at})
    return Work(key, architecture, TrainingConfig(), shares, seed, folder / "checkpoints" / key)


def diary(work: Work) -> list[str]:
    """What happened on the workers to a work, in order."""
    path = work.checkpoint / "diary.txt"
    return path.read_text().splitlines() if path.exists() else []


@dataclass
class Script:
    """Hands out ``works``; ``answer(key, rung)`` says whether a work goes on; ``on_event`` may interfere."""

    works: list[Work]
    answer: Callable[[str, int], bool] = lambda key, rung: True
    on_event: Callable[[Script, tuple[Any, ...]], None] = lambda script, event: None
    events: list[tuple[Any, ...]] = field(default_factory=list)
    results: dict[str, list[RungResult]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    def __post_init__(self) -> None:
        self.lock = threading.Lock()  # as journals have: a source cannot be pickled
        self._left = list(self.works)

    def stop(self) -> None:
        self.stopping = True

    def next(self) -> Work | None:
        work = self._left.pop(0) if self._left else None
        self._note("next", work.key if work else None)
        return work

    def report(self, key: str, result: RungResult) -> bool:
        self.results.setdefault(key, []).append(result)
        self._note("report", key, result.rung)
        return self.answer(key, result.rung)

    def finish(self, key: str, outcome: Outcome) -> None:
        self.finished[key] += 1
        self.outcomes[key] = outcome
        self._note("finish", key, outcome.kind)

    def kinds(self) -> dict[str, str]:
        return {key: outcome.kind for key, outcome in self.outcomes.items()}

    def rungs(self, key: str) -> list[int]:
        return [result.rung for result in self.results.get(key, [])]

    def handed_out(self) -> list[str]:
        return [event[1] for event in self.events if event[0] == "next" and event[1] is not None]

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self.on_event(self, event)


@dataclass
class Actor:
    """An evaluator that acts as the architecture says; it saves itself after each rung, as real ones do."""

    array: np.ndarray | None = None

    def start(self, work: Work) -> ActorRun:
        return ActorRun(self, work)


class ActorRun:
    def __init__(self, evaluator: Actor, work: Work) -> None:
        self.evaluator, self.work = evaluator, work
        self.values = work.architecture.values
        work.checkpoint.mkdir(parents=True, exist_ok=True)
        self.saved = work.checkpoint / "rung.txt"
        self.rung = int(self.saved.read_text()) if self.saved.exists() else 0
        self.resumed_at = self.rung
        self.attempt = sum(line.startswith("start") for line in diary(work))
        self.say(f"start {self.rung}")
        if self.values["act"] == "fail to start":
            raise BuildError("this architecture cannot be built")
        if self.values["act"] == "raise at start":
            raise ZeroDivisionError("at the start")
        if self.values["at"] == -1:
            self.act(str(self.values["act"]), 0.0, {})

    def say(self, line: str) -> None:
        with (self.work.checkpoint / "diary.txt").open("a") as stream:
            stream.write(line + "\n")

    def next_rung(self) -> RungResult:
        rung, quality = self.rung, float(self.rung)
        metrics = {"pid": float(os.getpid()), "resumed_at": float(self.resumed_at)}
        if rung == self.values["at"]:
            quality = self.act(str(self.values["act"]), quality, metrics)
        self.rung = rung + 1
        write_text(self.saved, str(self.rung))
        self.say(f"rung {rung}")
        return RungResult(rung, 10 * (rung + 1), quality, 0.5, metrics)

    def act(self, name: str, quality: float, metrics: dict[str, float]) -> float:
        first = self.attempt == 0
        if name == "fail":
            raise TrainingError("the loss is not finite")
        if name == "find the disk full":
            raise StorageError("Checkpoint state.pt cannot be written (No space left on device)")
        if name == "raise":
            raise KeyError("no such\nthing")
        if name == "nan":
            return float("nan")
        if name == "infinite":
            return float("inf")
        if name == "find no room":
            raise RuntimeError("cannot save") from OSError(errno.ENOSPC, "No space left on device", "/somewhere/it")
        if name == "interrupt":
            raise KeyboardInterrupt
        if name == "panic":
            raise PanicError("over and out")
        if name == "raise what has no words":
            raise WordlessError
        if name == "talk and leave a thread":
            print("words " * 1000)
            print("more " * 1000, file=sys.stderr)
            threading.Thread(target=time.sleep, args=(600,)).start()
        if name == "spoil its process":
            type(self).say = lambda run, line: sys.exit(4)
            self.say("never written")
        if name == "fork":
            os.fork()
        if name == "loop":
            while True:
                pass
        if name == "exit politely":
            sys.exit(3)
        if name == "exit":
            os._exit(3)
        if name == "kill always" or (name == "kill once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "wait once" and first:
            time.sleep(60)
        if name == "wait":
            self.say("waiting")
            time.sleep(120)
            self.say("waited")
        if name == "null":
            ctypes.string_at(0)
        if name == "abort":
            os.abort()
        if name == "convolve":
            from backend_crash import convolve

            convolve()
        if name == "describe":
            assert self.evaluator.array is not None
            flags = self.evaluator.array.flags
            metrics.update(
                sum=float(self.evaluator.array.sum()), owns=float(flags.owndata), writes=float(flags.writeable)
            )
        if name == "write":
            assert self.evaluator.array is not None
            self.evaluator.array[0] = 1
        return quality

    def close(self) -> None:
        self.say("close")
        if self.values["act"] == "die when closed":
            os.kill(os.getpid(), signal.SIGKILL)
