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
from nas_distill.blockwise.channels import along, axis_of, by_channel, first_tensor, restrict, train_norms_alone
from nas_distill.blockwise.growing import Ends, grow, kept_channels
from nas_distill.blockwise.watching import Passage, Watch
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
"""Training samples from which means, variances and batch-norm statistics are taken."""
BATCH = 128
_SAVE_EVERY = 60.0
_FLOOR = 0.01
_EXACT = 1e-6


@dataclass(frozen=True)
class Signal:
    """What the teacher returns in one block: ``mean`` and ``variance`` (C,) of channels, ``deviation`` of all values.

    A channel that hardly varies would make any error in it endless, so no variance is below a hundredth of their mean.
    """

    mean: Tensor
    variance: Tensor
    deviation: float


class LocalTraining(TrainingLoop):
    """Alternatives as modules, the teacher that they learn from, and the samples.

    ``identity`` is what a checkpoint must have in common with it. Alternatives share an optimiser, which treats each
    weight by itself, and gradients are bounded for each alternative by itself, so that one does not change another.

    Attributes:
        modules: of the alternatives, by key.
        ends: the channels at their ends.
        signals: what the teacher returns in each block.
        answers: its logits.
        changed: the alternatives that differ from the teacher's own blocks.
        learning, heldout: places in the training split that are learnt from and scored on.
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
        grown = grow(alternatives, inheritance, seed=seed)
        self.modules = {key: module.to(self.device) for key, module in grown.items()}
        ends = kept_channels(alternatives, inheritance)
        self.ends = {key: Ends(_to(end.given, self.device), _to(end.made, self.device)) for key, end in ends.items()}
        self.signals, self.answers = self._measure()
        # What is a slice of the teacher's own block has nothing to learn, and its statistics are right.
        self.changed = [one for one, loss in self._inherited() if not loss < _EXACT]
        self._trained = [one for one in self.changed if any(True for _ in self.modules[one.key].parameters())]
        weights = [weight for one in self._trained for weight in self.modules[one.key].parameters()]
        if not any(weight.requires_grad for weight in weights):
            weights = [nn.Parameter(torch.zeros(()))]  # an optimiser has one at least
        self.optimize(weights, independent=True)

    @property
    def presented(self) -> int:
        """Samples that have been trained on; each passes all alternatives and counts once."""
        return self.step * self.batch_size

    def train(self, folder: Path, on_step: Callable[[int, int], None] | None = None) -> None:
        """Train to the end; saves itself in ``folder`` now and then, and before an error of ``on_step`` passes."""
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
        """Estimate the batch-norm statistics of all alternatives again, by the samples as they are; eval mode."""
        with self.watch() as watch, recalibrating([self.modules[entry.key] for entry in self.changed]):
            for x in self.looks():
                _, passages = watch.run(x)
                for entry in self.changed:
                    with torch.no_grad():
                        self.returned(entry, passages[entry.block])

    def watch(self) -> Watch:
        """Return a watch on the teacher's blocks."""
        return Watch(self.teacher, [block.module for block in self.alternatives.plan.blocks])

    def returned(self, entry: Alternative, passage: Passage) -> Tensor:
        """Return what an alternative makes of what its block is given."""
        block = self.alternatives.plan.blocks[entry.block]
        given = restrict(passage.given, self.ends[entry.key].given, axis_of(block.tokens))
        return first_tensor(self.modules[entry.key](given, *passage.rest, **passage.named), block.module)

    def batch(self, index: Tensor, view: int | None = None) -> Tensor:
        """Return training samples where the teacher is."""
        x, _ = self.data.batch("train", index, view)
        return x.to(self.device, memory_format=self._format) if x.dim() == 4 else x.to(self.device)

    def looks(self) -> Iterator[Tensor]:
        """Return the batches by which statistics are taken, always the same, and all of one size."""
        size = min(BATCH, len(self.learning))
        for index in self.learning[: min(STATISTICS, len(self.learning)) // size * size].split(size):
            yield self.batch(index)

    @contextmanager
    def _training_context(self) -> Iterator[None]:
        for entry in self._trained:
            train_norms_alone(self.modules[entry.key])
        with self.watch() as self._watch:
            yield

    def _compute_gradients(self, index: Tensor, view: int) -> None:
        _, passages = self._watch.run(self.batch(index, view))
        for entry, loss in self._losses(self._trained, passages):
            if not bool(torch.isfinite(loss)):
                continue  # it will not be chosen, having no score; the others go on
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
        self, entries: Sequence[Alternative], passages: Sequence[Passage]
    ) -> Iterator[tuple[Alternative, Tensor]]:
        """Yield each alternative's loss, which is its noise-to-signal ratio; 0 is the least."""
        wanted: dict[tuple[int, int | None], tuple[Tensor, Tensor]] = {}
        for entry in entries:
            if (entry.block, entry.output) not in wanted:
                wanted[entry.block, entry.output] = self._wanted(entry, passages[entry.block].made)
            target, weight = wanted[entry.block, entry.output]
            yield entry, ((self.returned(entry, passages[entry.block]) - target).square() * weight).mean()

    @torch.no_grad()
    def _inherited(self) -> list[tuple[Alternative, float]]:
        """Return each alternative's loss with its inherited weights and statistics."""
        for module in self.modules.values():
            module.eval()
        with self.watch() as watch:
            _, passages = watch.run(self.batch(self.learning[:BATCH]))
            return [(entry, float(loss)) for entry, loss in self._losses(self.alternatives.entries, passages)]

    def _wanted(self, entry: Alternative, made: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the alternatives of a block with this output are to return, and each channel's weight."""
        axis, kept = axis_of(self.alternatives.plan.blocks[entry.block].tokens), self.ends[entry.key].made
        variance = self.signals[entry.block].variance
        variance = variance if kept is None else variance[kept]
        return restrict(made, kept, axis), along(1 / variance, made.dim(), axis).to(made)

    def _measure(self) -> tuple[list[Signal], Signal]:
        """Return mean and variance of each block's channels, and of the logits."""
        axes = [axis_of(block.tokens) for block in self.alternatives.plan.blocks]
        moments = [_Moments(axis) for axis in [*axes, 1]]
        with self.watch() as watch:
            for x in self.looks():
                logits, passages = watch.run(x)
                for one, tensor in zip(moments, [*(passage.made for passage in passages), logits], strict=True):
                    one.add(tensor)
        *blocks, answers = (one.signal() for one in moments)
        return blocks, answers


class _Moments:
    """Sums up what the mean and the variance of channels take."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._batches = 0
        self._sums: list[Tensor] = []

    def add(self, tensor: Tensor) -> None:
        """Take a batch; all are of one size."""
        found = [by_channel(tensor, self._axis), by_channel(tensor.double().square(), self._axis)]
        self._sums = [sum + one for sum, one in zip(self._sums, found)] if self._sums else found
        self._batches += 1

    def signal(self) -> Signal:
        """Return mean and variance of what was taken."""
        mean, square = (total / self._batches for total in self._sums)
        variance = (square - mean.square()).clamp_min(0)
        floor = max(_FLOOR * float(variance.mean()), 1e-12)
        deviation = math.sqrt(float(variance.mean() + mean.var(correction=0)))
        return Signal(mean.float(), variance.clamp_min(floor).float(), max(deviation, 1e-6))


def _split(samples: int, heldout: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the places of the training split that are learnt from, and those that are scored on, a fifth at most.

    Both are in random order: a training split may be sorted by class.
    """
    order = random_indices(samples, samples, seed, "blockwise", "heldout")
    count = max(1, min(heldout, samples // 5))
    if samples < 2:
        raise TrainingError(
            "Blockwise distillation needs two training samples or more: one is held out for the scores."
        )
    return order[count:], order[:count]


def _to(kept: Tensor | None, device: torch.device) -> Tensor | None:
    return None if kept is None else kept.to(device)
