"""Training of all alternatives of all blocks on the teacher's activations."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.blockwise.alternatives import Alternative, Alternatives
from nas_distill.blockwise.block_calls import BlockCall, BlockRecorder
from nas_distill.blockwise.channels import along, axis_of, by_channel, first_tensor, restrict, train_norms_only
from nas_distill.blockwise.modules import Ends, kept_channels, make_modules
from nas_distill.config import BlockwiseConfig
from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.distill.loop import TrainingLoop
from nas_distill.distill.schedule import Length
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.statistics import recalibrating
from nas_distill.utils.errors import TrainingError
from nas_distill.utils.modules import memory_format, place

STATISTICS = 2048
"""Number of training samples for means, variances and batch-norm statistics."""
BATCH = 128
_SAVE_EVERY = 60.0
_FLOOR = 0.01
_EXACT = 1e-6


@dataclass(frozen=True)
class OutputStatistics:
    """Statistics of a block's output: ``mean`` and ``variance`` (C,) per channel, ``deviation`` of all values.

    Variances are at least a hundredth of their mean, since errors are divided by them.
    """

    mean: Tensor
    variance: Tensor
    deviation: float


class LocalTraining(TrainingLoop):
    """Training of the modules of all alternatives on the teacher's activations.

    A checkpoint is resumed only with the same ``identity``. Alternatives share an optimiser, which updates each weight
    independently, and gradients are clipped per alternative, so that alternatives do not affect each other.

    Attributes:
        modules: of the alternatives, by key.
        ends: the channels in their inputs and outputs, by key.
        statistics: of the teacher's output of each block.
        logit_statistics: of the teacher's logits.
        changed: the alternatives that differ from the teacher's own blocks.
        learning, heldout: indices in the training split of samples to train and to score on.
    """

    def __init__(
        self,
        alternatives: Alternatives,
        inheritance: WeightInheritance,
        data: Dataset,
        settings: BlockwiseConfig,
        *,
        seed: int,
        identity: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        self.learning, self.heldout = _split(len(data.train), settings.heldout, seed)
        super().__init__(
            data,
            self.learning,
            Length(len(self.learning), settings.batch_size, settings.epochs),
            settings.optimizer,
            warmup=settings.warmup,
            seed=seed,
            order=("blockwise", "order"),
            device=device,
        )
        self.identity = identity
        self.alternatives = alternatives
        self.settings = settings
        teacher = copy.deepcopy(inheritance.module).eval().requires_grad_(False)
        self._format = memory_format(teacher)
        self.teacher = place(teacher, self.device, self._format)
        modules = make_modules(alternatives, inheritance, seed=seed)
        self.modules = {key: module.to(self.device) for key, module in modules.items()}
        ends = kept_channels(alternatives, inheritance)
        self.ends = {key: Ends(_to(end.input, self.device), _to(end.output, self.device)) for key, end in ends.items()}
        self.statistics, self.logit_statistics = self._measure()
        # An exact slice of the teacher's block has nothing to learn, and its statistics are correct.
        self.changed = [one for one, loss in self._inherited() if not loss < _EXACT]
        self._trained = [one for one in self.changed if any(True for _ in self.modules[one.key].parameters())]
        weights = [weight for one in self._trained for weight in self.modules[one.key].parameters()]
        if not any(weight.requires_grad for weight in weights):
            weights = [nn.Parameter(torch.zeros(()))]  # an optimiser needs at least one
        self.optimize(weights, independent=True)

    @property
    def presented(self) -> int:
        """Number of samples presented so far; a sample counts once for all alternatives."""
        return self.step * self.batch_size

    def train(self, folder: Path, on_step: Callable[[int, int], None] | None = None) -> None:
        """Train to the end; saves checkpoints in ``folder``, also before an exception of ``on_step`` is passed on."""
        saved = time.monotonic()

        def after() -> None:
            nonlocal saved
            if on_step is not None:
                try:
                    on_step(self.step, self.total_steps)
                except BaseException:
                    self.save(folder)
                    raise
            if time.monotonic() - saved > _SAVE_EVERY:
                self.save(folder)
                saved = time.monotonic()

        self.advance(self.total_steps, after)

    def recalibrate_batch_norm(self) -> None:
        """Estimate the batch-norm statistics of all alternatives again, without augmentation; then set eval mode."""
        with self.recorder() as recorder, recalibrating([self.modules[entry.key] for entry in self.changed]):
            for x in self.statistics_batches():
                _, calls = recorder.run(x)
                for entry in self.changed:
                    with torch.no_grad():
                        self.returned(entry, calls[entry.block])

    def recorder(self) -> BlockRecorder:
        """Return a recorder of the teacher's blocks."""
        return BlockRecorder(self.teacher, [block.module for block in self.alternatives.plan.blocks])

    def returned(self, entry: Alternative, call: BlockCall) -> Tensor:
        """Return the output of an alternative for a call of its block."""
        block = self.alternatives.plan.blocks[entry.block]
        input = restrict(call.input, self.ends[entry.key].input, axis_of(block.tokens))
        return first_tensor(self.modules[entry.key](input, *call.args, **call.kwargs), block.module)

    def batch(self, index: Tensor, view: int | None = None) -> Tensor:
        """Return training samples on the teacher's device."""
        x, _ = self.data.batch("train", index, view)
        return x.to(self.device, memory_format=self._format) if x.dim() == 4 else x.to(self.device)

    def statistics_batches(self) -> Iterator[Tensor]:
        """Yield the batches for statistics, always the same, and all of one size."""
        size = min(BATCH, len(self.learning))
        for index in self.learning[: min(STATISTICS, len(self.learning)) // size * size].split(size):
            yield self.batch(index)

    @contextmanager
    def _training_context(self) -> Iterator[None]:
        for entry in self._trained:
            train_norms_only(self.modules[entry.key])
        with self.recorder() as self._recorder:
            yield

    def _compute_gradients(self, index: Tensor, view: int) -> None:
        _, calls = self._recorder.run(self.batch(index, view))
        for entry, loss in self._losses(self._trained, calls):
            if not bool(torch.isfinite(loss)):
                continue  # without a finite score it is never chosen; the others continue
            self._backward(loss)
            self._clip(self.modules[entry.key].parameters())

    def _identity(self) -> str:
        return self.identity

    def _state(self) -> dict[str, Any]:
        return {"modules": {key: module.state_dict() for key, module in self.modules.items()}}

    def _restore(self, state: dict[str, Any]) -> None:
        for key, weights in state["modules"].items():
            self.modules[key].load_state_dict(weights)

    def _losses(
        self, entries: Sequence[Alternative], calls: Sequence[BlockCall]
    ) -> Iterator[tuple[Alternative, Tensor]]:
        """Yield each alternative's loss, its noise-to-signal ratio; at least 0."""
        targets: dict[tuple[int, int | None], tuple[Tensor, Tensor]] = {}
        for entry in entries:
            if (entry.block, entry.output) not in targets:
                targets[entry.block, entry.output] = self._target(entry, calls[entry.block].output)
            target, weight = targets[entry.block, entry.output]
            yield entry, ((self.returned(entry, calls[entry.block]) - target).square() * weight).mean()

    @torch.no_grad()
    def _inherited(self) -> list[tuple[Alternative, float]]:
        """Return each alternative's loss with its inherited weights and statistics."""
        for module in self.modules.values():
            module.eval()
        with self.recorder() as recorder:
            _, calls = recorder.run(self.batch(self.learning[:BATCH]))
            return [(entry, float(loss)) for entry, loss in self._losses(self.alternatives.entries, calls)]

    def _target(self, entry: Alternative, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target of the alternatives with this output width, and the weight of each channel."""
        axis, kept = axis_of(self.alternatives.plan.blocks[entry.block].tokens), self.ends[entry.key].output
        variance = self.statistics[entry.block].variance
        variance = variance if kept is None else variance[kept]
        return restrict(output, kept, axis), along(1 / variance, output.dim(), axis).to(output)

    def _measure(self) -> tuple[list[OutputStatistics], OutputStatistics]:
        """Return the statistics of each block's output, and of the logits."""
        axes = [axis_of(block.tokens) for block in self.alternatives.plan.blocks]
        sums = [_ChannelSums(axis) for axis in [*axes, 1]]
        with self.recorder() as recorder:
            for x in self.statistics_batches():
                logits, calls = recorder.run(x)
                for one, tensor in zip(sums, [*(call.output for call in calls), logits], strict=True):
                    one.add(tensor)
        *blocks, last = (one.statistics() for one in sums)
        return blocks, last


class _ChannelSums:
    """Running sums for the mean and the variance of channels."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._batches = 0
        self._sums: list[Tensor] = []

    def add(self, tensor: Tensor) -> None:
        """Add a batch; all batches must have the same size."""
        found = [by_channel(tensor, self._axis), by_channel(tensor.double().square(), self._axis)]
        self._sums = [sum + one for sum, one in zip(self._sums, found)] if self._sums else found
        self._batches += 1

    def statistics(self) -> OutputStatistics:
        """Return the statistics of the added batches."""
        mean, square = (total / self._batches for total in self._sums)
        variance = (square - mean.square()).clamp_min(0)
        floor = max(_FLOOR * float(variance.mean()), 1e-12)
        deviation = math.sqrt(float(variance.mean() + mean.var(correction=0)))
        return OutputStatistics(mean.float(), variance.clamp_min(floor).float(), max(deviation, 1e-6))


def _split(samples: int, heldout: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the training split to train on, and those to score on, at most a fifth.

    Both are in random order, since a training split may be sorted by class.
    """
    order = random_indices(samples, samples, seed, "blockwise", "heldout")
    count = max(1, min(heldout, samples // 5))
    if samples < 2:
        raise TrainingError(
            "Blockwise distillation needs at least two training samples, one of which is held out for the scores."
        )
    return order[count:], order[:count]


def _to(kept: Tensor | None, device: torch.device) -> Tensor | None:
    return None if kept is None else kept.to(device)
