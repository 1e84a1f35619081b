"""Loss interface: a function or module of student outputs, teacher outputs and batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from nas_distill.utils.errors import TrainingError


@dataclass(frozen=True)
class Outputs:
    """Outputs of a network for a batch.

    ``logits``: (B, classes) float32, the values for a regression. ``features``: outputs of the layers that the loss
    reads, shallow first, paired between student and teacher. A teacher's features have no gradient, and the reduction
    that the loss is registered with. ``ask``: see ``again``; students only.
    """

    logits: Tensor
    features: tuple[Tensor, ...] = ()
    ask: Callable[[Tensor], Outputs] | None = None

    def again(self, x: Tensor) -> Outputs:
        """Return the student's outputs for other inputs (B', ...), by a forward pass in train mode with gradients.

        Its batch norms use the statistics of ``x``. Running statistics and all other buffers are not changed, so that
        the exported student has statistics of the training samples only.

        Raises:
            TrainingError: these are not the outputs of a student in training.
        """
        if self.ask is None:
            raise TrainingError("Only a student in training can run on other inputs; stored answers cannot.")
        return self.ask(x)

    def at(self, indices: Tensor) -> Outputs:
        """Return the outputs for some samples of the batch; ``indices``: (K,) int64."""
        return Outputs(
            self.logits[indices],
            # Stacked queries, keys and values have the batch as second dimension.
            tuple(value[:, indices] if value.dim() == 5 else value[indices] for value in self.features),
            self.ask,
        )


@dataclass(frozen=True)
class Batch:
    """Labels and further facts of a batch.

    ``labels``: (B,) int64 classes, or (B, K) float32 labels or targets. ``index``: (B,) int64, the samples' indices in
    the training split. ``done``: share of the training's budget that is done, in [0, 1). ``x``: (B, ...) float32, the
    student's inputs.
    """

    labels: Tensor
    index: Tensor
    done: float
    x: Tensor | None = None

    def at(self, indices: Tensor) -> Batch:
        """Return the facts of some samples of the batch; ``indices``: (K,) int64."""
        x = None if self.x is None else self.x[indices]
        return Batch(self.labels[indices], self.index[indices.to(self.index.device)], self.done, x)


@dataclass(frozen=True)
class Shapes:
    """Shapes that a loss is created for: ``features`` has (student, teacher) shapes per sample, one pair per layer.

    ``classes``: number of outputs of both networks: classes, labels or targets. ``samples``: size of the training
    split. ``steps``: optimiser steps of the training. ``inputs``: shape of one sample.
    """

    classes: int
    samples: int
    steps: int
    features: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    inputs: tuple[int, ...] = ()


class Loss(nn.Module):
    """A loss with learnable parts or a memory; a loss without is a function (see ``registry.loss``).

    Its parameters are trained beside the student's, and its state is in the checkpoint; neither is part of the
    student. A subclass takes ``shapes``, and its options as keywords, and creates its parts in ``__init__``.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the loss, a scalar; lower is better."""
        raise NotImplementedError
