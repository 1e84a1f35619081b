"""Searches on a virtual clock: the real controller and relay, and workers that only say how long they would train.

Trainings of log-normal duration (stragglers), workers that die, and a driver that is killed between two events. The
quality of an architecture is made up, and deterministic at each rung.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from bookkeeping import SPACE as COARSE
from bookkeeping import costs

from nas_distill.engine.backends.relay import Relay
from nas_distill.engine.work import Outcome, RungResult, Work, WorkSource
from nas_distill.spaces import Architecture
from nas_distill.utils.seeds import numpy_rng

# As bookkeeping's, but so large that ten thousand trials hardly repeat themselves.
SPACE = {**COARSE, "width": {"int": [8, 256]}}
STEPS = 900
RESTART = 20.0  # seconds until a worker that died is replaced


class KilledError(Exception):
    """The driver is gone, as by ``kill -9``: nothing more is said to anybody."""


def quality(architecture: Architecture, share: float) -> float:
    """Return the made-up quality after a share of the training, in [0, 1]; higher is better.

    It grows with the cost, depends on the balance of width and depth and on each choice, and approaches its end at a
    pace of the architecture's own, so that early rungs are mistaken about some.
    """
    values = architecture.values
    blocks: list[dict[str, int]] = values["blocks"]  # type: ignore[assignment]
    width, depth = float(values["width"]), len(blocks)  # type: ignore[arg-type]
    attention = sum(block["attention"] for block in blocks) / depth
    expand = sum(block["expand"] for block in blocks) / depth
    capacity = math.log(costs(architecture)["flops"] / 200) / math.log(1e4)
    balance = (math.log2(width) - 4.5 - 0.4 * depth) ** 2
    suited = 0.05 * (values["act"] == "silu") + 0.04 * (values["kernel"] == 5) + 0.05 * attention
    noise = int(architecture.hash[:6], 16) / 16**6
    end = 0.45 + 0.35 * min(1.0, capacity) + suited - 0.02 * balance - 0.01 * abs(expand - 2) + 0.02 * noise
    pace = 2.5 + 3 * int(architecture.hash[6:10], 16) / 16**4
    return min(0.99, max(0.01, end)) * (1 - 0.7 * math.exp(-pace * share))


@dataclass
class _Attempt:
    """An attempt at a training: its whole duration in seconds, and the share of it at which its worker dies."""

    work: Work
    seconds: float
    death: float
    rung: int
    reached: float
    spent: float = 0.0  # seconds of the step that it is in

    @property
    def target(self) -> float:
        return min(self.work.rungs[self.rung], self.death)

    @property
    def dies(self) -> bool:
        return self.death < self.work.rungs[self.rung]


@dataclass
class Workers:
    """Workers of one search and the checkpoints that they have written, which outlive their driver.

    Args:
        count: how many train at a time.
        deaths: probability that an attempt at a training ends with the death of its worker.
        spread: standard deviation of the logarithm of a training's duration.
        retries: how often a training whose worker died is tried again.
        seed: of durations and deaths, which depend on nothing else but the training's key and attempt.
    """

    count: int
    deaths: float = 0.05
    spread: float = 0.8
    retries: int = 1
    seed: int = 0
    now: float = 0.0
    busy: float = 0.0
    died: int = 0
    checkpoints: dict[str, int] = field(default_factory=dict)  # the rung that a training has reached
    attempts: Counter[str] = field(default_factory=Counter)
    answered: dict[tuple[str, int], float] = field(default_factory=dict)  # qualities that the source has taken

    def clock(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def run(self, source: WorkSource, each: Callable[[], None]) -> None:
        """Execute the source's work until there is no more; ``each`` is called after every event, and may raise.

        Raises:
            Exception: whatever the source or ``each`` raised; the workers are left as they are.
        """
        relay = Relay(source, retries=self.retries)
        flying: dict[str, _Attempt] = {}
        events: list[tuple[float, int, str]] = []  # when, order, training; no training: a new worker is there
        idle, order = self.count, count()
        while True:
            while idle and (work := relay.next()) is not None:
                idle -= 1
                flying[work.key] = self._attempt(work)
                self._train(flying[work.key], events, next(order))
            if relay.error is not None:
                raise relay.error
            if not events:
                return
            self.now, _, key = heapq.heappop(events)
            if not key:
                idle += 1
                continue
            attempt = flying[key]
            self.busy += attempt.spent
            if attempt.dies:
                self.died += 1
                heapq.heappush(events, (self.now + RESTART, next(order), ""))
                if relay.died(key, "worker died (simulated)"):
                    relay.hand_out_again(key)
            elif self._report(relay, key, attempt):
                self._train(attempt, events, next(order))
            else:
                idle += 1
            each()

    def _attempt(self, work: Work) -> _Attempt:
        rng = numpy_rng(self.seed, "attempt", work.key, self.attempts[work.key])
        self.attempts[work.key] += 1
        usual = 60 + costs(work.architecture)["flops"] / 2000
        seconds = float(usual * np.exp(self.spread * rng.standard_normal() - self.spread**2 / 2))
        # As the real evaluator: the last rung that it reached may not have been reported, so it is reported again.
        rung = self.checkpoints.get(work.key, 0)
        reached = work.rungs[rung] if work.key in self.checkpoints else 0.0
        death = float(reached + (1 - reached) * rng.random())
        return _Attempt(work, seconds, death if rng.random() < self.deaths else math.inf, rung, reached)

    def _train(self, attempt: _Attempt, events: list[tuple[float, int, str]], order: int) -> None:
        attempt.spent = attempt.seconds * max(0.0, attempt.target - attempt.reached)
        attempt.reached = attempt.target
        heapq.heappush(events, (self.now + attempt.spent, order, attempt.work.key))

    def _report(self, relay: Relay, key: str, attempt: _Attempt) -> bool:
        """Report a rung and return whether the training continues."""
        rung, work = attempt.rung, attempt.work
        self.checkpoints[key] = rung
        share = work.rungs[rung]
        found = RungResult(rung, round(share * STEPS), quality(work.architecture, share), share * attempt.seconds)
        continues = relay.report(key, found)
        self.answered.setdefault((key, rung), found.quality)
        attempt.rung += 1
        return continues


@dataclass
class Watched:
    """A work source that counts how it was used: what was handed out, and how often each training was finished."""

    source: WorkSource
    handed_out: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)

    @property
    def stopping(self) -> bool:
        return self.source.stopping

    def stop(self) -> None:
        self.source.stop()

    def next(self) -> Work | None:
        work = self.source.next()
        if work is not None:
            self.handed_out[work.key] += 1
        return work

    def report(self, key: str, result: RungResult) -> bool:
        return self.source.report(key, result)

    def finish(self, key: str, outcome: Outcome) -> None:
        self.finished[key] += 1
        self.source.finish(key, outcome)
