"""Orders in which blocks are dropped, for spaces in which the depth of a student is a number."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.pruning.plan import DROPPED, KeptUnits, Plan
from nas_distill.pruning.statistics import batch_norms
from nas_distill.pruning.surgery import prune
from nas_distill.utils.modules import device_of

LOOKED_AT = 256
"""Samples by which blocks are ordered: one batch."""


def depth_order(
    module: nn.Module, plan: Plan, data: Dataset, *, by: Literal["redundancy", "position"], samples: int = 2048
) -> tuple[int, ...]:
    """Return the indices of the droppable blocks, the one that goes first at the front.

    Args:
        module: the teacher; left as it is.
        plan: its blocks.
        data: of its training samples, ``samples`` drawn ones are looked at, ``LOOKED_AT`` at most.
        by: ``redundancy`` takes away one block after the other, each time the one that adds least to the logits'
            divergence from the teacher's; ``position`` keeps what is left evenly spaced over the depth (as DistilBERT
            takes every other layer; Sanh et al., 2019, arXiv:1910.01108).
        samples: how many.
    """
    droppable = [index for index, block in enumerate(plan.blocks) if block.droppable]
    if by == "position":
        return spaced_out(droppable)
    index = random_indices(len(data.train), min(samples, LOOKED_AT))
    x = data.batch("train", index)[0].to(device_of(module))
    wanted = _log_probabilities(copy.deepcopy(module), x)

    def divergence(gone: Sequence[int]) -> float:
        shorter = prune(copy.deepcopy(module), plan, KeptUnits(units={}, replacements=dict.fromkeys(gone, DROPPED)))
        return float(functional.kl_div(_log_probabilities(shorter, x), wanted, reduction="batchmean", log_target=True))

    return _greedy(droppable, divergence)


def _greedy(blocks: Sequence[int], divergence: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    """Return the blocks in the order in which each adds least to the divergence, measuring few of the combinations.

    What a block adds hardly falls as others go, so an old measurement is taken for a lower bound: in each round only
    those are measured again whose bound is below what was measured in it (Minoux, 1978, of submodular functions).
    """
    added = dict.fromkeys(blocks, -math.inf)
    gone: list[int] = []
    before = 0.0
    while added:
        measured: dict[int, float] = {}
        while (nearest := min(added, key=lambda block: (added[block], block))) not in measured:
            measured[nearest] = divergence([*gone, nearest])
            added[nearest] = measured[nearest] - before
        before = measured[nearest]
        gone.append(nearest)
        del added[nearest]
    return tuple(gone)


def spaced_out(droppable: Sequence[int]) -> tuple[int, ...]:
    """Return which goes first, second, ...: each time the one whose going leaves the others closest to even spacing.

    The first and the last stay longest.
    """
    gone: list[int] = []
    while len(gone) < len(droppable):
        left = [block for block in droppable if block not in gone]
        inner = left[1:-1] or left[::-1]
        gaps = {block: left[left.index(block) + 1] - left[left.index(block) - 1] for block in inner if len(left) > 2}
        gone.append(min(inner, key=lambda block: (gaps.get(block, 0), block)) if gaps else inner[0])
    return tuple(gone)


def _log_probabilities(copied: nn.Module, x: Tensor) -> Tensor:
    """Return log-probabilities, with batch norm by the statistics of ``x``, as those of a cut network do not fit."""
    copied.eval()
    for norm in batch_norms([copied]):
        norm.train()
    with torch.no_grad():
        result: Tensor = copied(x).double().log_softmax(1)
        return result
