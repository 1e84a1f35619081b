"""The loss interface: a function or module of student output, teacher answer and batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from nas_distill.utils.errors import TrainingError


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch.

    ``logits``: (B, classes) float32, of a regression its values. ``features``: the outputs of the layers that the loss
    reads, shallow first; those of student and teacher are pairs. A teacher's features carry no gradient and are reduced
    as the loss is registered. ``ask``: see ``again``; a student's alone.
    """

    logits: Tensor
    features: tuple[Tensor, ...] = ()
    ask: Callable[[Tensor], Outputs] | None = None

    def again(self, x: Tensor) -> Outputs:
        """Return what the student says of other inputs (B', ...), in train mode and with gradients: a forward pass.

        Its batch norms go by the statistics of ``x``, and its running statistics, as all its buffers, stay as they are:
        what is kept and exported is of the training's own samples alone.

        Raises:
            TrainingError: these are not a student's outputs in a training.
        """
        if self.ask is None:
            raise TrainingError("Only a student in training can be asked about other inputs, not a stored answer.")
        return self.ask(x)

    def at(self, places: Tensor) -> Outputs:
        """Return what is said of some of the batch's samples; ``places``: (K,) int64."""
        return Outputs(
            self.logits[places],
            # Stacked queries, keys and values have their batch second.
            tuple(value[:, places] if value.dim() == 5 else value[places] for value in self.features),
            self.ask,
        )


@dataclass(frozen=True)
class Batch:
    """What else is known of a batch.

    ``labels``: (B,) int64 classes, or (B, K) float32 labels or targets. ``index``: (B,) int64, the samples' places in
    the training split. ``done``: share of the training's budget that is done, in [0, 1). ``x``: (B, ...) float32, the
    view that the student saw.
    """

    labels: Tensor
    index: Tensor
    done: float
    x: Tensor | None = None

    def at(self, places: Tensor) -> Batch:
        """Return what is known of some of the batch's samples; ``places``: (K,) int64."""
        x = None if self.x is None else self.x[places]
        return Batch(self.labels[places], self.index[places.to(self.index.device)], self.done, x)


@dataclass(frozen=True)
class Shapes:
    """What a loss is made for: ``features`` holds (student, teacher) shapes without the batch, one pair a layer.

    ``classes``: number of outputs of both: classes, labels or targets. ``samples``: size of the training split.
    ``steps``: optimiser steps of the training. ``inputs``: shape of one sample.
    """

    classes: int
    samples: int
    steps: int
    features: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    inputs: tuple[int, ...] = ()


class Loss(nn.Module):
    """A loss with learnable parts or with a memory; one without is simply a function (see ``registry.loss``).

    Its parameters are trained beside the student's and its state is in the checkpoint; neither is ever part of the
    student. A subclass takes ``shapes``, and its options as keywords, and makes its parts in ``__init__``.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the loss, a scalar; lower is better."""
        raise NotImplementedError
