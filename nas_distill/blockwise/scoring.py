"""Local scores of alternatives on held-out training samples; lower is better."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas_distill.blockwise.block_calls import BlockCall
from nas_distill.blockwise.channels import along, axis_of, by_channel, fill, put_first, restrict
from nas_distill.blockwise.modules import channels_of
from nas_distill.blockwise.training import BATCH, LocalTraining, OutputStatistics
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.statistics import recalibrating
from nas_distill.tasks import find_task


@dataclass(frozen=True)
class LocalScores:
    """The errors of a network in which one alternative replaces its block of the teacher; 0 without any error.

    An alternative is scored on the channels that it returns. The loss by removed channels is counted where they are
    missing, in the alternatives of the next block, which have fewer inputs. If it were counted in both, narrow networks
    would look far worse than they are.

    Attributes:
        nsr: noise-to-signal ratio: squared error divided by the teacher's variance, per channel, averaged over channels
            (Moons et al., 2021, arXiv:2012.08859). Always predicting the mean has 1.
        relative_l1: mean absolute error divided by the standard deviation of all the block's values (Li et al., 2020,
            arXiv:1911.13053).
        kl: the task's divergence of the outputs from the teacher's, with everything else from the teacher, including
            the channels that the alternative does not return (replacement of one block: Molchanov et al., 2022,
            arXiv:2107.10624).
    """

    nsr: float
    relative_l1: float
    kl: float


class _ScoreSums:
    """Running averages over samples of the three local scores."""

    def __init__(self, training: LocalTraining) -> None:
        self._task = find_task(training.data.task)
        self._variance = training.logit_statistics.variance
        self._count = 0
        self._totals = [0.0, 0.0, 0.0]

    def add(
        self, samples: int, ours: Tensor, wanted: Tensor, axis: int, statistics: OutputStatistics, kept: Tensor | None
    ) -> None:
        error = ours.double() - wanted.double()
        variance = statistics.variance if kept is None else statistics.variance[kept]
        self._totals[0] += samples * float((by_channel(error.square(), axis) / variance.double()).mean())
        self._totals[1] += samples * float(error.abs().mean()) / statistics.deviation
        self._count += samples

    def add_logits(self, ours: Tensor, wanted: Tensor) -> None:
        self._totals[2] += float(self._task.divergence(ours, wanted, self._variance).sum())

    def score(self) -> LocalScores:
        means = [total / self._count for total in self._totals]
        # Rounding may make a divergence slightly negative.
        return LocalScores(*(max(0.0, mean) if math.isfinite(mean) else math.inf for mean in means))


@torch.no_grad()
def score_block(training: LocalTraining, block: int) -> dict[str, LocalScores]:
    """Return the scores of each alternative of one block by its key. Batch norms must be recalibrated before."""
    entries = training.alternatives.of_block(block)
    plan_block = training.alternatives.plan.blocks[block]
    axis, statistics = axis_of(plan_block.tokens), training.statistics[block]
    sums = {entry.key: _ScoreSums(training) for entry in entries}
    tail = _Tail(training, block)  # before recording: a copy of a recorded network would be recorded too
    with training.recorder() as recorder:
        for index in training.heldout.split(BATCH):
            x = training.batch(index)
            logits, calls = recorder.run(x)
            output = calls[block].output
            for entry in entries:
                kept = training.ends[entry.key].output
                ours = training.returned(entry, calls[block])
                sums[entry.key].add(len(x), ours, restrict(output, kept, axis), axis, statistics, kept)
                sums[entry.key].add_logits(tail(x, calls[: block + 1], fill(ours, kept, axis, output)), logits)
    return {key: one.score() for key, one in sums.items()}


@torch.no_grad()
def score_width(training: LocalTraining, inheritance: WeightInheritance, group: str, width: int) -> LocalScores:
    """Return the errors of the logits if layers outside of the blocks read fewer units of a shared group.

    If blocks return these units, the removed channels of the last such block are set to their mean; otherwise the
    teacher is pruned in this group only. All three scores are of the logits.
    """
    plan = training.alternatives.plan
    if width == plan.group(group).size:
        return LocalScores(0.0, 0.0, 0.0)
    makers = [index for index, block in enumerate(plan.blocks) if block.output == group]
    narrowed = (
        _with_mean_channels(training, inheritance, group, width, makers[-1])
        if makers
        else _with_pruned_group(training, inheritance, group, width)
    )
    sums = _ScoreSums(training)
    with training.recorder() as recorder:
        for index in training.heldout.split(BATCH):
            x = training.batch(index)
            logits, calls = recorder.run(x)
            ours = narrowed(x, calls)
            sums.add(len(x), ours, logits, 1, training.logit_statistics, None)
            sums.add_logits(ours, logits)
    return sums.score()


def _with_mean_channels(
    training: LocalTraining, inheritance: WeightInheritance, group: str, width: int, block: int
) -> Callable[[Tensor, list[BlockCall]], Tensor]:
    """Return a function of the logits with the removed channels of a block's output at their mean."""
    plan, mean = training.alternatives.plan, training.statistics[block].mean
    axis = axis_of(plan.blocks[block].tokens)
    cut = training.alternatives.partial_cut({}, {group: width})
    kept = channels_of(plan, cut.units(plan, inheritance.orders).units, group, plan.blocks[block].outputs)
    assert kept is not None  # the width is smaller than the teacher's
    kept, tail = kept.to(training.device), _Tail(training, block)

    def logits(x: Tensor, calls: list[BlockCall]) -> Tensor:
        output = calls[block].output
        others = along(mean, output.dim(), axis).expand_as(output)
        return tail(x, calls[: block + 1], fill(restrict(output, kept, axis), kept, axis, others))

    return logits


def _with_pruned_group(
    training: LocalTraining, inheritance: WeightInheritance, group: str, width: int
) -> Callable[[Tensor, list[BlockCall]], Tensor]:
    """Return a function of the logits of the teacher with one pruned group."""
    network = inheritance.pruned_teacher(training.alternatives.partial_cut({}, {group: width})).to(training.device)
    with recalibrating([network]):
        for x in training.statistics_batches():
            network(x)
    return lambda x, calls: network(x)


class _Tail:
    """The part of the teacher behind a block, as a function of the block's output.

    It is a copy of the teacher in which the blocks up to this one return stored outputs. Only their ``forward`` is
    replaced, since a network may read attributes of its blocks.
    """

    def __init__(self, training: LocalTraining, block: int) -> None:
        self._module = copy.deepcopy(training.teacher)
        self._outputs: list[Any] = [None] * (block + 1)
        for index, replaced in enumerate(training.alternatives.plan.blocks[: block + 1]):
            self._module.get_submodule(replaced.module).forward = self._stored_output(index)

    def __call__(self, x: Tensor, calls: list[BlockCall], output: Tensor) -> Tensor:
        """Return the logits if the last block returns ``output``, and those before it their recorded outputs."""
        tensors = [*(call.output.clone() for call in calls[:-1]), output.clone()]
        self._outputs[:] = [put_first(call.returned, tensor) for call, tensor in zip(calls, tensors)]
        logits: Tensor = self._module(x)
        return logits

    def _stored_output(self, index: int) -> Any:
        return lambda *args, **kwargs: self._outputs[index]
