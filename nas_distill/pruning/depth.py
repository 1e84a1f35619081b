"""Orders in which blocks are dropped, for spaces with a depth parameter."""

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

MAX_SAMPLES = 256
"""Largest number of samples that order the blocks: one batch."""


def depth_order(
    module: nn.Module, plan: Plan, data: Dataset, *, by: Literal["redundancy", "position"], samples: int = 2048
) -> tuple[int, ...]:
    """Return the indices of the droppable blocks in the order in which they are dropped.

    Args:
        module: the teacher; not changed.
        plan: its blocks.
        data: the data set; only its training split is used.
        by: ``redundancy`` drops one block after the other, each time the one that adds least to the divergence of the
            logits from the teacher's; ``position`` keeps the remaining blocks evenly spaced over the depth (as
            DistilBERT takes every other layer; Sanh et al., 2019, arXiv:1910.01108).
        samples: number of training samples drawn, at most ``MAX_SAMPLES``.
    """
    droppable = [index for index, block in enumerate(plan.blocks) if block.droppable]
    if by == "position":
        return evenly_spaced_order(droppable)
    index = random_indices(len(data.train), min(samples, MAX_SAMPLES))
    x = data.batch("train", index)[0].to(device_of(module))
    wanted = _log_probabilities(copy.deepcopy(module), x)

    def divergence(dropped: Sequence[int]) -> float:
        shorter = prune(copy.deepcopy(module), plan, KeptUnits(units={}, replacements=dict.fromkeys(dropped, DROPPED)))
        return float(functional.kl_div(_log_probabilities(shorter, x), wanted, reduction="batchmean", log_target=True))

    return _greedy(droppable, divergence)


def _greedy(blocks: Sequence[int], divergence: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    """Return the blocks in greedy order: each one adds least to the divergence. Few combinations are measured.

    The divergence that a block adds hardly falls as others are dropped, so an old measurement serves as a lower bound:
    each round measures only the blocks whose bound is below its best measurement (lazy greedy; Minoux, 1978, for
    submodular functions).
    """
    added = dict.fromkeys(blocks, -math.inf)
    dropped: list[int] = []
    before = 0.0
    while added:
        measured: dict[int, float] = {}
        while (nearest := min(added, key=lambda block: (added[block], block))) not in measured:
            measured[nearest] = divergence([*dropped, nearest])
            added[nearest] = measured[nearest] - before
        before = measured[nearest]
        dropped.append(nearest)
        del added[nearest]
    return tuple(dropped)


def evenly_spaced_order(droppable: Sequence[int]) -> tuple[int, ...]:
    """Return the order of drops in which each drop leaves the remaining blocks as evenly spaced as possible.

    The first and the last block are dropped last.
    """
    dropped: list[int] = []
    while len(dropped) < len(droppable):
        left = [block for block in droppable if block not in dropped]
        inner = left[1:-1] or left[::-1]
        gaps = {block: left[left.index(block) + 1] - left[left.index(block) - 1] for block in inner if len(left) > 2}
        dropped.append(min(inner, key=lambda block: (gaps.get(block, 0), block)) if gaps else inner[0])
    return tuple(dropped)


def _log_probabilities(copied: nn.Module, x: Tensor) -> Tensor:
    """Return log-probabilities; batch norm uses the statistics of ``x``, since stored ones do not fit a cut network."""
    copied.eval()
    for norm in batch_norms([copied]):
        norm.train()
    with torch.no_grad():
        result: Tensor = copied(x).double().log_softmax(1)
        return result
