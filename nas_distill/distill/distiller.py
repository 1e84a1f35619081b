"""Distiller: training of a network on labels and the teacher's answers, short or full."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.config import TrainingConfig
from nas_distill.data import Dataset
from nas_distill.distill.curriculum import curriculum_error, selected_indices
from nas_distill.distill.loop import TrainingLoop
from nas_distill.distill.losses import Batch, Outputs, Shapes
from nas_distill.distill.objective import Objective
from nas_distill.distill.pairing import TermPairs
from nas_distill.distill.schedule import AveragedWeights, Length
from nas_distill.distill.terms import LossTerms, sample_inputs
from nas_distill.evaluate.predict import predict_logits
from nas_distill.tasks import find_task
from nas_distill.teacher.signal import Answer, TeacherSignal
from nas_distill.utils.checkpoints import json_digest
from nas_distill.utils.errors import TrainingError, first_line
from nas_distill.utils.layers import Tap
from nas_distill.utils.modules import eval_mode, memory_format, place, preserved_buffers
from nas_distill.utils.seeds import seeded_torch

_CHECK_EVERY = 20


class Distiller(TrainingLoop):
    """Training of ``model`` on ``data`` for ``training.epochs``, with the teacher ``signal`` (None: labels only).

    The terms of ``training.loss`` may have learnable parts and memories. These are trained and saved beside the model,
    and are not part of the student. ``loss_sum`` is the loss summed over all steps (Ru et al., 2021, arXiv:2006.04492).

    The model is trained in place; the result is ``student()``, a copy with averaged weights.

    Raises:
        TrainingError: the model's logits do not fit the data's classes.
        TeacherError: the teacher's answers are not for these data.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        training: TrainingConfig,
        *,
        signal: TeacherSignal | None,
        seed: int,
        device: torch.device | str = "cpu",
        paths: Sequence[Path] = (),
    ) -> None:
        length = Length(len(data.train), training.batch_size, training.epochs)
        super().__init__(
            data,
            torch.arange(len(data.train)),
            length,
            training.optimizer,
            warmup=training.warmup,
            decay=training.decay,
            seed=seed,
            device=device,
        )
        self.training = training
        self.signal = signal
        self.loss_sum = 0.0
        self._unchecked: list[Tensor] = []
        self._format = memory_format(model)
        self.model = place(model, self.device, self._format)
        self._check_fit()
        self.averaged = AveragedWeights(self.model, training.ema * self.total_steps)
        self.objective = self._make_objective(paths)
        trained = nn.ModuleList([self.model, self.objective])
        self._weights = [weight for weight in trained.parameters() if weight.requires_grad]
        self.optimize(self._weights, half=_half_type(self.device))

    def by_epoch(self, folder: Path) -> Iterator[float]:
        """Resume from the checkpoint in ``folder``, if any; save it and yield the quality after each epoch.

        Raises:
            TrainingError: see ``advance`` and ``load``.
            StorageError: see ``save``.
        """
        self.load(folder)
        while self.step < self.total_steps:
            self.advance(self.epoch_end)
            self.save(folder)
            yield self.quality()

    def quality(self, *, last: bool = False) -> float:
        """Return the quality of the averaged weights on the validation split, at most 1; higher is better.

        It is accuracy, mean average precision or R^2, by task; NaN if outputs are not finite. ``last`` evaluates the
        weights of the last step instead.
        """
        logits = self.validation_logits(last=last)
        # A diverged network has no quality; the caller reports it.
        if not bool(torch.isfinite(logits).all()):
            return math.nan
        return find_task(self.data.task).quality(logits, self.data.labels("val"))

    def validation_logits(self, *, last: bool = False) -> Tensor:
        """Return the averaged weights' logits (N, classes) on the validation split, on the CPU; see ``quality``."""
        batches = map(self._place, self.data.inputs("val"))
        return predict_logits(self.model if last else self.averaged.module, batches, self.device)

    def student(self) -> nn.Module:
        """Return a module with the averaged weights, in eval mode and contiguous layout, on the CPU."""
        copied = copy.deepcopy(self.averaged.module)
        return place(copied, "cpu", torch.contiguous_format)

    @contextmanager
    def _training_context(self) -> Iterator[None]:
        self.model.train()
        self.objective.train()
        yield
        self._check_finite()

    def _compute_gradients(self, index: Tensor, view: int) -> None:
        x, labels = self.data.batch("train", index, view)
        x, labels = self._place(x), labels.to(self.device, non_blocking=True)
        answer = None if self.signal is None else self.signal.answer("train", index, view, x)
        logits = self._forward(x)
        loss = self._loss(logits, answer, Batch(labels, index, (self.step + 0.5) / self.total_steps, x))
        self._backward(loss)
        self._clip(self._weights)
        self._unchecked.append(loss.detach())

    def _train_step(self, index: Tensor, view: int) -> None:
        super()._train_step(index, view)
        self.averaged.update(self.step)
        if len(self._unchecked) == _CHECK_EVERY:
            self._check_finite()

    def _state(self) -> dict[str, Any]:
        return {
            "loss_sum": self.loss_sum,
            "objective": self.objective.state_dict(),
            "model": self.model.state_dict(),
            "averaged": self.averaged.module.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.module.load_state_dict(state["averaged"])
        self.objective.load_state_dict(state["objective"])
        self.loss_sum = state["loss_sum"]

    def _forward(self, x: Tensor) -> Tensor:
        precision = nullcontext() if self.half is None else torch.autocast(self.device.type, self.half)
        with precision, self._tap if self._tap is not None else nullcontext():
            logits: Tensor = self.model(x)
        return logits.float()

    def _loss(self, logits: Tensor, answer: Answer | None, batch: Batch) -> Tensor:
        """Return the loss of the batch, or of the samples that the curriculum selects."""
        outputs = self._outputs(logits, answer)
        teacher = None if answer is None else answer.logits
        indices = selected_indices(self.training.curriculum, logits, teacher, batch, self.data.task)
        if indices is not None:
            outputs = [(ours.at(indices), None if theirs is None else theirs.at(indices)) for ours, theirs in outputs]
            batch = batch.at(indices)
        result: Tensor = self.objective(outputs, batch)
        return result

    def _outputs(self, logits: Tensor, answer: Answer | None) -> list[tuple[Outputs, Outputs | None]]:
        """Return the outputs of student and teacher per term, with the features that the term compares."""
        found: list[tuple[Outputs, Outputs | None]] = []
        for read in self._reads:
            theirs = None
            if answer is not None:
                theirs = Outputs(answer.logits, tuple(answer.features[key] for key in read.teacher))
            found.append((self._own(logits, read), theirs))
        return found

    def _own(self, logits: Tensor, read: TermPairs) -> Outputs:
        """Return the outputs of the student's last forward pass, with the features that a term reads."""
        features = {} if self._tap is None else self._tap.features
        return Outputs(logits, tuple(features[name].float() for name in read.student), partial(self._again, read=read))

    def _again(self, x: Tensor, read: TermPairs) -> Outputs:
        """Return the student's outputs for other inputs; see ``Outputs.again``."""
        with preserved_buffers(self.model):
            logits = self._forward(self._place(x))
        return self._own(logits, read)

    def _make_objective(self, paths: Sequence[Path]) -> Objective:
        """Return the objective: resolve the terms, find the layers to compare, create the learnable parts."""
        signal = self.signal
        loss = LossTerms.of(self.training.loss, task=self.data.task, paths=paths, taught=signal is not None)
        self._reads = loss.pairs(
            self.model, () if signal is None else signal.features, self._place(sample_inputs(self.data))
        )
        names = [name for read in self._reads for name in read.student]
        self._tap = Tap(self.model, names) if names else None
        sizes = self.data.num_classes, len(self.data.train), self.total_steps
        shapes = [Shapes(*sizes, read.shapes, self.data.input_shape) for read in self._reads]
        with seeded_torch(self.seed, "objective"):
            return Objective(loss.terms, shapes).to(self.device)

    def _place(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return x.to(self.device, memory_format=self._format, non_blocking=True)
        return x.to(self.device, non_blocking=True)

    def _check_finite(self) -> None:
        # Checked in groups, because each check waits for the device. The losses are added one by one in double
        # precision, so that the sum does not depend on where a training was stopped.
        for loss in torch.stack(self._unchecked).tolist() if self._unchecked else ():
            self.loss_sum += loss
        if not math.isfinite(self.loss_sum):
            raise TrainingError(
                f"The loss became NaN or infinite by step {self.step} of {self.total_steps}; a lower learning rate or "
                "gradient clipping may help."
            )
        self._unchecked.clear()

    def _check_fit(self) -> None:
        classes, task = self.data.num_classes, self.data.task
        wrong = curriculum_error(self.training.curriculum, task)
        if wrong is not None:
            raise TrainingError(f"curriculum.by: {wrong}.")
        if self.signal is not None:
            self.signal.check(self.data)
        x = self._place(self.data.batch("val", torch.arange(min(2, len(self.data.val))))[0])
        try:
            with eval_mode(self.model), torch.no_grad():
                logits = self.model(x)
        except Exception as error:
            raise TrainingError(
                f"The student fails on a batch of shape {tuple(x.shape)} ({first_line(error)})."
            ) from error
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(x), classes):
            shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise TrainingError(
                f"The student returns {shown} for a batch of {len(x)}; with {classes} {find_task(task).outputs} it "
                f"must return ({len(x)}, {classes})."
            )

    def _identity(self) -> str:
        parts = [
            self.training.model_dump(mode="json"),
            self.seed,
            self.data.fingerprint,
            self.data.views.recipe(),
            "labels" if self.signal is None else self.signal.identity(),
            [[key, list(value.shape)] for key, value in self.model.state_dict().items()],
        ]
        return json_digest(parts)


def _half_type(device: torch.device) -> torch.dtype | None:
    """Return the half-precision type for CUDA (bfloat16 if supported, as it needs no loss scaling), else None."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
