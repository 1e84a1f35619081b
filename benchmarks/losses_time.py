"""Time per step with each loss of benchmarks/losses.py, added by peers, and saved by the store.

All is timed in blocks that take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common import interleaved
from losses_cases import CASES, KD, STRATEGIES, STUDENT, space_of, training
from losses_mutual import side_by_side
from losses_train import Trainings

from nas_distill.distill import Distiller
from nas_distill.distill.mutual import advance_mutual
from nas_distill.spaces import NetworkBuilder
from nas_distill.teacher import TeacherSignal

LIVE = " with the live teacher"
# A training of which only the beginning is seen, where rates are low and no loss diverges.
_EPOCHS = 1000.0
STORED = (KD, "kd+at", "kd+rkd")  # only logits, with attention maps, with pooled vectors


@dataclass(frozen=True)
class Block:
    """Some steps of a training, or of several side by side, timed; returns milliseconds a step of all."""

    distillers: Sequence[Distiller]
    steps: int

    def __call__(self) -> float:
        to_step = self.distillers[0].step + self.steps
        began = time.perf_counter()
        if len(self.distillers) == 1:
            self.distillers[0].advance(to_step)
        else:
            advance_mutual(self.distillers, to_step)
        return 1e3 * (time.perf_counter() - began) / self.steps


def timed_rows() -> list[str]:
    """Return the rows of which steps are timed: all losses, and what trains peers along."""
    return [case.name for case in CASES] + [strategy.name for strategy in STRATEGIES if strategy.peers]


def measure(trainings: Trainings, *, rounds: int, steps: int) -> dict[str, Any]:
    """Return milliseconds a step of every round for each row, and bytes on disk and of a sample for each store."""
    data, space = trainings.data, space_of(STUDENT)
    blocks: dict[str, Callable[[], float]] = {}

    def add(name: str, case_name: str, signal: TeacherSignal | None) -> None:
        case = next(case for case in CASES if case.name == case_name)
        model = NetworkBuilder.of(space, data).build(space.smallest(), 0)
        blocks[name] = Block([Distiller(model, data, training(case, _EPOCHS), signal=signal, seed=0)], steps)

    bytes_of = {}
    for case in CASES:
        add(case.name, case.name, trainings.signal(case) if case.taught else None)
        if case.name in STORED:
            add(case.name + LIVE, case.name, trainings.live(case))
            bytes_of[case.name] = trainings.store(trainings.shipped, trainings.features(case)).bytes
    for strategy in STRATEGIES:
        if strategy.peers:
            networks, plain = (STUDENT, *strategy.peers), trainings.store(trainings.shipped)
            together = side_by_side(data, networks, training(CASES[0], _EPOCHS), plain, seed=0)
            blocks[strategy.name] = Block(together, steps)
    return {"rounds": interleaved(blocks, rounds), "bytes": bytes_of, "steps": steps}
