"""What a step costs with each loss of benchmarks/losses.py, and what the store brings it, in blocks that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import interleaved
from losses_cases import CASES, KD, STUDENT, space_of, training
from losses_train import Trainings

from nas_distill.common.seeds import seeded_torch
from nas_distill.distill import Distiller
from nas_distill.teacher import TeacherSignal

LIVE = " with the live teacher"
STORED = (KD, "kd+at", "kd+rkd")  # logits alone, with attention maps, with pooled vectors


@dataclass(frozen=True)
class Block:
    """Some steps of one training, timed; returns milliseconds a step."""

    distiller: Distiller
    steps: int

    def __call__(self) -> float:
        began = time.perf_counter()
        self.distiller.advance(self.distiller.step + self.steps)
        return 1e3 * (time.perf_counter() - began) / self.steps


def measure(trainings: Trainings, *, rounds: int, steps: int) -> dict[str, Any]:
    """Return milliseconds a step of every round for each row, and bytes on disk and of a sample for each store."""
    data, space = trainings.data, space_of(STUDENT)
    blocks: dict[str, Callable[[], float]] = {}

    def add(name: str, case_name: str, signal: TeacherSignal | None) -> None:
        case = next(case for case in CASES if case.name == case_name)
        with seeded_torch(0, "init"):
            model = space.build(space.smallest(), input_shape=data.input_shape, num_classes=data.num_classes)
        # A training of which only the beginning is seen, where rates are low and no loss diverges.
        blocks[name] = Block(Distiller(model, data, training(case, 1000.0), signal=signal, seed=0), steps)

    bytes_of = {}
    for case in CASES:
        add(case.name, case.name, trainings.signal(case) if case.taught else None)
        if case.name in STORED:
            add(case.name + LIVE, case.name, trainings.live(case))
            bytes_of[case.name] = trainings.store(trainings.shipped, trainings.features(case)).bytes
    return {"rounds": interleaved(blocks, rounds), "bytes": bytes_of, "steps": steps}
