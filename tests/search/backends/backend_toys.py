"""A source that follows a script and records what it is told, and an evaluator that does what a work says."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nas_distill.common.errors import BuildError, TrainingError
from nas_distill.config import TrainingConfig
from nas_distill.search.work import Outcome, RungResult, Work
from nas_distill.space import Architecture


def make_work(folder: Path, key: str, act: str = "train", *, rungs: int = 3, at: int = 1, seed: int = 0) -> Work:
    """A work of ``rungs`` rungs that does ``act`` at rung ``at``."""
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

    def say(self, line: str) -> None:
        with (self.work.checkpoint / "diary.txt").open("a") as stream:
            stream.write(line + "\n")

    def next_rung(self) -> RungResult:
        rung, quality = self.rung, float(self.rung)
        metrics = {"pid": float(os.getpid()), "resumed_at": float(self.resumed_at)}
        if rung == self.values["at"]:
            quality = self.act(str(self.values["act"]), quality, metrics)
        self.rung = rung + 1
        self.saved.write_text(str(self.rung))
        self.say(f"rung {rung}")
        return RungResult(rung, 10 * (rung + 1), quality, 0.5, metrics)

    def act(self, name: str, quality: float, metrics: dict[str, float]) -> float:
        first = self.attempt == 0
        if name == "fail":
            raise TrainingError("the loss is not finite")
        if name == "raise":
            raise KeyError("no such\nthing")
        if name == "nan":
            return float("nan")
        if name == "infinite":
            return float("inf")
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
            convolve()
        if name == "write":
            assert self.evaluator.array is not None
            metrics["sum"] = float(self.evaluator.array.sum())
            self.evaluator.array[0] = 1
        return quality

    def close(self) -> None:
        self.say("close")
        if self.values["act"] == "die when closed":
            os.kill(os.getpid(), signal.SIGKILL)


def convolve() -> None:
    """Do what corrupts the heap of torch 2.13 on CPUs with AVX2: few channels, stride 2, channels last, backward."""
    import torch

    torch.set_num_threads(1)
    for _ in range(20):
        convolution = torch.nn.Conv2d(4, 16, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
        x = torch.randn(128, 4, 28, 28).to(memory_format=torch.channels_last).requires_grad_()
        convolution(x).sum().backward()


@dataclass
class Trainer:
    """A tiny real training; ``careless`` draws from the global generators that what ran before has used."""

    x: np.ndarray
    y: np.ndarray
    careless: bool = False

    def start(self, work: Work) -> TrainerRun:
        return TrainerRun(self, work)


class TrainerRun:
    def __init__(self, evaluator: Trainer, work: Work) -> None:
        import torch

        from nas_distill.common.seeds import seeded_torch

        self.evaluator, self.work, self.rung = evaluator, work, 0
        self.x = torch.tensor(evaluator.x)
        self.y = torch.tensor(evaluator.y)
        with seeded_torch(work.seed, "init"):
            self.model = self.build(int(work.architecture.values["at"]))
        if evaluator.careless:
            self.model = self.build(int(work.architecture.values["at"]))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def build(self, width: int) -> Any:
        from torch import nn

        return nn.Sequential(nn.Linear(self.x.shape[1], width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3))

    def next_rung(self) -> RungResult:
        import torch

        from nas_distill.common.seeds import seeded_torch

        if self.evaluator.careless:
            noise = float(np.random.rand())
        else:
            noise = 0.0
        with seeded_torch(self.work.seed, "steps", self.rung):
            for _ in range(20):
                self.optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(self.model(self.x), self.y)
                loss.backward()
                self.optimizer.step()
        self.rung += 1
        weights = sum(parameter.double().abs().sum().item() for parameter in self.model.parameters())
        figures = {"weights": weights, "noise": noise, "threads": float(torch.get_num_threads())}
        return RungResult(self.rung - 1, 20 * self.rung, -loss.item(), 0.0, figures)

    def close(self) -> None:
        del self.model
