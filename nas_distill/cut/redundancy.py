"""In which order blocks go where the depth of a student is a number."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from nas_distill.common.device import device_of
from nas_distill.cut.plan import Plan
from nas_distill.cut.statistics import reestimate
from nas_distill.cut.surgery import Cut, cut
from nas_distill.data import Dataset
from nas_distill.data.drawing import draw_places
from nas_distill.evaluate.predict import predict_logits

BATCH = 256


def depth_order(
    module: nn.Module, plan: Plan, data: Dataset, *, by: Literal["redundancy", "position"], samples: int = 2048
) -> tuple[int, ...]:
    """Return the indices of the droppable blocks, the one that goes first at the front.

    Args:
        module: the teacher; left as it is.
        plan: its blocks.
        data: of its training samples, ``samples`` drawn ones are looked at.
        by: ``redundancy`` takes away one block after the other, each time the one without which the logits' divergence
            from the teacher's is smallest; ``position`` keeps what is left evenly spaced over the depth (as DistilBERT
            takes every other layer; Sanh et al., 2019, arXiv:1910.01108).
        samples: how many.
    """
    droppable = [index for index, block in enumerate(plan.blocks) if block.droppable]
    if by == "position":
        return spaced_out(droppable)
    index = draw_places(len(data.train), samples)
    wanted = _log_probabilities(module, data, index)
    gone: list[int] = []
    while len(gone) < len(droppable):
        left = [block for block in droppable if block not in gone]
        divergences = [_divergence(module, plan, data, index, wanted, [*gone, block], samples) for block in left]
        gone.append(left[divergences.index(min(divergences))])
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


def _divergence(
    module: nn.Module, plan: Plan, data: Dataset, index: Tensor, wanted: Tensor, gone: list[int], samples: int
) -> float:
    shorter = cut(copy.deepcopy(module), plan, Cut(keep={}, kinds=dict.fromkeys(gone, "drop")))
    reestimate(shorter, data, samples)
    found = _log_probabilities(shorter, data, index)
    return float(functional.kl_div(found, wanted, reduction="batchmean", log_target=True))


def _log_probabilities(module: nn.Module, data: Dataset, index: Tensor) -> Tensor:
    batches = (data.batch("train", part)[0] for part in index.split(BATCH))
    return predict_logits(module, batches, device_of(module)).double().log_softmax(1)
