"""What is lost by an alternative, on training samples that it never saw; lower is better for all three scores."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.blockwise.channels import axis_of, by_channel, fill, put_first
from nas_distill.blockwise.norms import anew
from nas_distill.blockwise.training import BATCH, LocalTraining, Signal
from nas_distill.blockwise.watching import Passage
from nas_distill.cut.ancestor import Ancestor


@dataclass(frozen=True)
class Score:
    """What is lost where one alternative stands in for its block of the teacher; 0 is nothing.

    Channels that an alternative does not return count as if it returned their mean.

    Attributes:
        nsr: squared error over the teacher's variance, each channel's own, meant over all the teacher's channels
            (noise-to-signal ratio; Moons et al., 2021, arXiv:2012.08859). 1 is as bad as the mean.
        relative_l1: mean absolute error over the standard deviation of all values (Li et al., 2020, arXiv:1911.13053).
        kl: divergence of the classes' probabilities from the teacher's, KL(teacher ‖ with the alternative), in nats a
            sample, the rest of the network being the teacher's (Molchanov et al., 2022, arXiv:2107.10624).
    """

    nsr: float
    relative_l1: float
    kl: float


class _Sums:
    """Means over samples of what a score is made of."""

    def __init__(self) -> None:
        self._count = 0
        self._totals = [0.0, 0.0, 0.0]

    def add(self, samples: int, ours: Tensor, wanted: Tensor, axis: int, signal: Signal) -> None:
        error = ours.double() - wanted.double()
        nsr = by_channel(error.square(), axis) / signal.variance.double()
        self._totals[0] += samples * float(nsr.mean())
        self._totals[1] += samples * float(error.abs().mean()) / signal.deviation
        self._count += samples

    def add_logits(self, ours: Tensor, wanted: Tensor) -> None:
        log_ours, log_wanted = ours.double().log_softmax(1), wanted.double().log_softmax(1)
        self._totals[2] += float(functional.kl_div(log_ours, log_wanted, reduction="sum", log_target=True))

    def score(self) -> Score:
        means = [total / self._count for total in self._totals]
        # Rounding may leave a divergence a hair below 0.
        return Score(*(max(0.0, mean) if math.isfinite(mean) else math.inf for mean in means))


@torch.no_grad()
def score_block(training: LocalTraining, block: int) -> dict[str, Score]:
    """Return the score of each alternative of one block by its key. Batch norms must have been settled."""
    entries = training.alternatives.of_block(block)
    plan_block = training.alternatives.plan.blocks[block]
    axis, signal = axis_of(plan_block.tokens), training.signals[block]
    sums = {entry.key: _Sums() for entry in entries}
    tail = _Tail(training, block)  # before the watch: a copy of a watched network would be watched too
    with training.watch() as watch:
        for index in training.heldout.split(BATCH):
            x = training.batch(index)
            logits, passages = watch.run(x)
            for entry in entries:
                ours = fill(training.returned(entry, passages[block]), training.ends[entry.key].made, axis, signal.mean)
                sums[entry.key].add(len(x), ours, passages[block].made, axis, signal)
                sums[entry.key].add_logits(tail(x, passages[: block + 1], ours), logits)
    return {key: one.score() for key, one in sums.items()}


@torch.no_grad()
def score_width(training: LocalTraining, ancestor: Ancestor, group: str, width: int) -> Score:
    """Return what is lost at the logits by a teacher in which one shared group alone is narrower.

    For groups that end at no block, which no alternative is made for: all three scores are of the logits.
    """
    network = ancestor.heir(training.alternatives.cut_values({}, {group: width})).to(training.device)
    with anew([network]):
        for x in training.looks():
            network(x)
    wanted = torch.cat([training.teacher(x) for x in training.looks()]).double()
    variance = wanted.var(0, correction=0)
    signal = Signal(wanted.mean(0), variance.clamp_min(1e-12), max(float(wanted.std(correction=0)), 1e-6))
    sums = _Sums()
    for index in training.heldout.split(BATCH):
        x = training.batch(index)
        ours, logits = network(x), training.teacher(x)
        sums.add(len(x), ours, logits, 1, signal)
        sums.add_logits(ours, logits)
    return sums.score()


class _Tail:
    """The teacher after a block, which is given what the block returns.

    It is a copy of the teacher in which the blocks up to there do not compute. They stay what they are but for their
    forward: a network may look at attributes of its blocks.
    """

    def __init__(self, training: LocalTraining, block: int) -> None:
        self._module = copy.deepcopy(training.teacher)
        self._outputs: list[Any] = [None] * (block + 1)
        for index, replaced in enumerate(training.alternatives.plan.blocks[: block + 1]):
            self._module.get_submodule(replaced.module).forward = self._stand_in(index)

    def __call__(self, x: Tensor, passages: list[Passage], made: Tensor) -> Tensor:
        """Return the logits where the last of the blocks returns ``made`` and those before it what they returned."""
        tensors = [*(passage.made.clone() for passage in passages[:-1]), made.clone()]
        self._outputs[:] = [put_first(passage.output, tensor) for passage, tensor in zip(passages, tensors)]
        logits: Tensor = self._module(x)
        return logits

    def _stand_in(self, index: int) -> Any:
        return lambda *args, **named: self._outputs[index]
