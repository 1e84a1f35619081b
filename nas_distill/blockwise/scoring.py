"""Local scores of alternatives on held-out training samples; lower is better."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas_distill.blockwise.channels import along, axis_of, by_channel, fill, put_first, restrict
from nas_distill.blockwise.growing import channels_of
from nas_distill.blockwise.training import BATCH, LocalTraining, Signal
from nas_distill.blockwise.watching import Passage
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.statistics import recalibrating
from nas_distill.tasks import find_task


@dataclass(frozen=True)
class Score:
    """What is lost where one alternative stands in for its block of the teacher; 0 is nothing.

    An alternative answers for the channels that it returns: what is lost by the lack of others is counted where they
    are missed, in the alternatives of the next block, which are given fewer. Counted in both, it makes narrow networks
    look far worse than they turn out.

    Attributes:
        nsr: squared error over the teacher's variance, each channel's own, meant over channels (noise-to-signal ratio;
            Moons et al., 2021, arXiv:2012.08859). 1 is as bad as the mean.
        relative_l1: mean absolute error over the standard deviation of all the block's values (Li et al., 2020,
            arXiv:1911.13053).
        kl: the task's divergence of the answers from the teacher's, all the rest being the teacher's, also the
            channels that the alternative does not return (replacing one block: Molchanov et al., 2022,
            arXiv:2107.10624).
    """

    nsr: float
    relative_l1: float
    kl: float


class _Sums:
    """Means over samples of what a score is made of."""

    def __init__(self, training: LocalTraining) -> None:
        self._task = find_task(training.data.task)
        self._variance = training.answers.variance
        self._count = 0
        self._totals = [0.0, 0.0, 0.0]

    def add(self, samples: int, ours: Tensor, wanted: Tensor, axis: int, signal: Signal, kept: Tensor | None) -> None:
        error = ours.double() - wanted.double()
        variance = signal.variance if kept is None else signal.variance[kept]
        self._totals[0] += samples * float((by_channel(error.square(), axis) / variance.double()).mean())
        self._totals[1] += samples * float(error.abs().mean()) / signal.deviation
        self._count += samples

    def add_logits(self, ours: Tensor, wanted: Tensor) -> None:
        self._totals[2] += float(self._task.divergence(ours, wanted, self._variance).sum())

    def score(self) -> Score:
        means = [total / self._count for total in self._totals]
        # Rounding may leave a divergence a hair below 0.
        return Score(*(max(0.0, mean) if math.isfinite(mean) else math.inf for mean in means))


@torch.no_grad()
def score_block(training: LocalTraining, block: int) -> dict[str, Score]:
    """Return the score of each alternative of one block by its key. Batch norms must have been recalibrated."""
    entries = training.alternatives.of_block(block)
    plan_block = training.alternatives.plan.blocks[block]
    axis, signal = axis_of(plan_block.tokens), training.signals[block]
    sums = {entry.key: _Sums(training) for entry in entries}
    tail = _Tail(training, block)  # before the watch: a copy of a watched network would be watched too
    with training.watch() as watch:
        for index in training.heldout.split(BATCH):
            x = training.batch(index)
            logits, passages = watch.run(x)
            made = passages[block].made
            for entry in entries:
                kept = training.ends[entry.key].made
                ours = training.returned(entry, passages[block])
                sums[entry.key].add(len(x), ours, restrict(made, kept, axis), axis, signal, kept)
                sums[entry.key].add_logits(tail(x, passages[: block + 1], fill(ours, kept, axis, made)), logits)
    return {key: one.score() for key, one in sums.items()}


@torch.no_grad()
def score_width(training: LocalTraining, inheritance: WeightInheritance, group: str, width: int) -> Score:
    """Return what is lost at the logits if what is outside of the blocks reads fewer units of a shared group.

    Where blocks return them, the last of these has its other channels at their mean; where none does, the teacher is
    cut in this group only. All three scores are of the logits.
    """
    plan = training.alternatives.plan
    if width == plan.group(group).size:
        return Score(0.0, 0.0, 0.0)
    makers = [index for index, block in enumerate(plan.blocks) if block.output == group]
    narrowed = (
        _behind(training, inheritance, group, width, makers[-1])
        if makers
        else _cut(training, inheritance, group, width)
    )
    sums = _Sums(training)
    with training.watch() as watch:
        for index in training.heldout.split(BATCH):
            x = training.batch(index)
            logits, passages = watch.run(x)
            ours = narrowed(x, passages)
            sums.add(len(x), ours, logits, 1, training.answers, None)
            sums.add_logits(ours, logits)
    return sums.score()


def _behind(
    training: LocalTraining, inheritance: WeightInheritance, group: str, width: int, block: int
) -> Callable[[Tensor, list[Passage]], Tensor]:
    """Return what gives the logits where some channels that a block returns are at their mean."""
    plan, mean = training.alternatives.plan, training.signals[block].mean
    axis = axis_of(plan.blocks[block].tokens)
    cut = training.alternatives.partial_cut({}, {group: width})
    kept = channels_of(plan, cut.units(plan, inheritance.orders).units, group, plan.blocks[block].outputs)
    assert kept is not None  # it is narrower than the teacher's
    kept, tail = kept.to(training.device), _Tail(training, block)

    def logits(x: Tensor, passages: list[Passage]) -> Tensor:
        made = passages[block].made
        others = along(mean, made.dim(), axis).expand_as(made)
        return tail(x, passages[: block + 1], fill(restrict(made, kept, axis), kept, axis, others))

    return logits


def _cut(
    training: LocalTraining, inheritance: WeightInheritance, group: str, width: int
) -> Callable[[Tensor, list[Passage]], Tensor]:
    """Return what gives the logits of the teacher with one group narrower."""
    network = inheritance.pruned_teacher(training.alternatives.partial_cut({}, {group: width})).to(training.device)
    with recalibrating([network]):
        for x in training.looks():
            network(x)
    return lambda x, passages: network(x)


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
