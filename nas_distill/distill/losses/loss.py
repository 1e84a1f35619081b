"""What a loss is: a function, or a module with learnable parts, of what student and teacher say of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch.

    ``logits``: (B, classes) float32. ``features``: the outputs of the layers that the loss reads, shallow first; those
    of student and teacher are pairs. A teacher's features carry no gradient and are reduced as the loss is registered.
    """

    logits: Tensor
    features: tuple[Tensor, ...] = ()

    def at(self, places: Tensor) -> Outputs:
        """Return what is said of some of the batch's samples; ``places``: (K,) int64."""
        return Outputs(
            self.logits[places],
            # Stacked queries, keys and values have their batch second.
            tuple(value[:, places] if value.dim() == 5 else value[places] for value in self.features),
        )


@dataclass(frozen=True)
class Batch:
    """What else is known of a batch.

    ``labels``: (B,) int64. ``index``: (B,) int64, the samples' places in the training split. ``done``: share of the
    training's budget that is done, in [0, 1).
    """

    labels: Tensor
    index: Tensor
    done: float


@dataclass(frozen=True)
class Shapes:
    """What a loss is made for: ``features`` holds (student, teacher) shapes without the batch, one pair a layer.

    ``classes``: logits of both. ``samples``: size of the training split. ``steps``: optimiser steps of the training.
    """

    classes: int
    samples: int
    steps: int
    features: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()


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
