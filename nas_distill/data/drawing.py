"""Which samples stand for a split where all of them would be too many."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.common.seeds import torch_generator


def draw_places(total: int, count: int, seed: int = 0, *names: str | int) -> Tensor:
    """Return ``count`` places of a split of ``total`` samples at random; all of them, shuffled, where there are fewer.

    Never the first ones: a split may be sorted by class. Who draws fewer under the same seed and names gets a part of
    what others get, so that what is measured on them is of the same samples.

    Args:
        total: samples in the split.
        count: how many are wanted.
        seed: left at 0, what is measured depends on the data alone and not on the seed of a search.
        names: of the choice, where it must not be the usual one.

    Returns:
        (min(count, total),) int64, no place twice.
    """
    return torch.randperm(total, generator=torch_generator(seed, *(names or ("drawn",))))[:count]
