"""Student evaluator: builds an architecture on a worker, trains it rung by rung, and saves it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_distill.data import Dataset
from nas_distill.distill import Distiller
from nas_distill.engine.work import RungResult, Work, last_rung
from nas_distill.export.provenance import Provenance
from nas_distill.export.student import save_student
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.tasks import find_task
from nas_distill.teacher import TeacherSignal
from nas_distill.utils.modules import resolve_device


@dataclass(frozen=True)
class StudentEvaluator:
    """Starts the trainings of one search; sent to each worker once.

    A score depends on (data, teacher, training, seed, architecture) only: initial weights, order and views are the
    same for all candidates (common random numbers), whatever ran on the worker before.
    """

    data: Dataset
    builder: NetworkBuilder
    signal: TeacherSignal
    device: str = "auto"
    paths: tuple[Path, ...] = ()

    def start(self, work: Work) -> StudentRun:
        """Build the work's architecture, or continue from its checkpoint.

        Raises:
            NasDistillError: the builder fails, or its network does not fit data and teacher.
        """
        return StudentRun(self, work)


class StudentRun:
    """One student in training."""

    def __init__(self, evaluator: StudentEvaluator, work: Work) -> None:
        self._evaluator = evaluator
        self._work = work
        self._distiller = Distiller(
            evaluator.builder.build_student(work.architecture, work.seed),
            evaluator.data,
            work.training,
            signal=evaluator.signal if work.teacher else None,
            seed=work.seed,
            device=resolve_device(evaluator.device),
            paths=evaluator.paths,
        )
        self._distiller.load(work.checkpoint)
        # Rungs so close together that they end at one step are reported one after the other, without training.
        self._stops = [self._distiller.length.at(share) for share in work.rungs]
        # What was reached last may have died before it was reported; reporting it twice is harmless.
        reached = max((stop for stop in self._stops if stop <= self._distiller.step), default=self._stops[0])
        self._next = self._stops.index(reached)

    def next_rung(self) -> RungResult:
        """Train up to the next rung, save, and report; at the last one, write the finished student too.

        A network whose logits are no longer finite has the quality NaN, and is not written.

        Raises:
            TrainingError: the loss became NaN or infinite.
            StorageError: the checkpoint or the student cannot be written.
        """
        rung, distiller, work = self._next, self._distiller, self._work
        distiller.advance(self._stops[rung])
        quality = distiller.quality()
        if rung == last_rung(work) and work.output is not None and math.isfinite(quality):
            self._write(quality)
        distiller.save(work.checkpoint)
        self._next = rung + 1
        metrics = {"last": distiller.quality(last=True), "loss": distiller.loss_sum} if work.watch else {}
        return RungResult(rung, distiller.step, quality, distiller.seconds, metrics)

    def close(self) -> None:
        """Free the network, so that an actor that is used again starts clean."""
        del self._distiller

    def _write(self, quality: float) -> None:
        work = self._work
        assert work.output is not None
        write_student(
            work.output,
            self._distiller,
            work.architecture,
            self._evaluator.builder.space,
            quality=quality,
            provenance=work.provenance
            or Provenance(kind="final" if work.teacher else "labels", key=work.key, trial=work.key),
            seed=work.seed,
        )


def write_student(
    output: Path,
    distiller: Distiller,
    architecture: Architecture,
    space: SearchSpace,
    *,
    quality: float,
    provenance: Provenance,
    seed: int,
    **more: Any,
) -> None:
    """Write what a training has come to as a student's folder.

    Args:
        output: the folder.
        distiller: the training.
        architecture: the student's.
        space: that of the architecture.
        quality: on the validation split of the training's data.
        provenance: how it was trained; data, quality and split are filled in here.
        seed: of the training.
        more: further JSON values to keep.
    """
    data = distiller.data
    save_student(
        output,
        distiller.student(),
        architecture,
        space,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        normalisation=data.normalisation(),
        class_names=data.classes,
        provenance=provenance.model_copy(
            update={
                "data": data.fingerprint,
                "data_name": data.name,
                "measure": find_task(data.task).quality_name,
                "quality": quality,
                "split": "val",
            }
        ),
        metadata={
            "epochs": distiller.training.epochs,
            "seconds": distiller.seconds,
            "seed": seed,
            **more,
        },
    )
