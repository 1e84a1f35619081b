"""Seeded augmentation: a fixed set of views of every training sample, applied to whole batches.

View ``v`` of sample ``i`` is a function of (seed, v, i) and the number of samples alone, so a teacher's stored answer
to it stays true whoever asks, in whatever order and company.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.common.errors import DataError
from nas_distill.common.seeds import torch_generator


@dataclass(frozen=True)
class Views:
    """``count`` views: each shifts by up to ``pad`` pixels (zeros come in) and, if ``flip``, mirrors half of them.

    Without ``pad`` and ``flip`` there is one view, the sample itself (so ``count`` becomes 1), and any kind of data
    will do; with them samples are images (C, H, W).

    Raises:
        DataError: ``count`` is below 1, or ``pad`` below 0.
    """

    count: int = 1
    pad: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError(f"Views: 'count' is {self.count}; there must be at least one view.")
        if self.pad < 0:
            raise DataError(f"Views: 'pad' is {self.pad}; it must be 0 or more pixels.")
        if self.identity:
            # More of the same would only make a teacher answer the same question again.
            object.__setattr__(self, "count", 1)

    @property
    def identity(self) -> bool:
        """True if a view is the sample itself."""
        return self.pad == 0 and not self.flip

    def recipe(self) -> dict[str, int | bool]:
        """Return what defines the views, for a fingerprint and for a search file's ``views`` section."""
        return asdict(self)

    def apply(self, x: Tensor, index: Tensor, view: int, samples: int) -> Tensor:
        """Return view ``view`` of a batch.

        Args:
            x: (B, C, H, W), any dtype.
            index: (B,) int64, the samples' places in the training set.
            view: which view, from 0; ``count`` only says how many are in use.
            samples: size of the training set.
        """
        if self.identity:
            return x
        shifts, mirrored = _draw(self, view, samples)
        batch, channels, height, width = x.shape
        rows = torch.arange(height) + shifts[index, 0:1]
        columns = torch.arange(width).expand(batch, width)
        if self.flip:
            columns = torch.where(mirrored[index, None], width - 1 - columns, columns)
        columns = columns + shifts[index, 1:2]
        # One flat gather from the padded batch moves each pixel once.
        padded = functional.pad(x, (self.pad,) * 4)
        row_length = width + 2 * self.pad
        places = (rows[:, :, None] * row_length + columns[:, None, :]).view(batch, 1, height * width)
        flat = padded.view(batch, channels, -1)
        return flat.gather(2, places.expand(batch, channels, height * width)).view(batch, channels, height, width)


@lru_cache(maxsize=4)
def _draw(views: Views, view: int, samples: int) -> tuple[Tensor, Tensor]:
    generator = torch_generator(views.seed, "view", view)
    shifts = torch.randint(0, 2 * views.pad + 1, (samples, 2), generator=generator)
    mirrored = torch.rand(samples, generator=generator) < 0.5
    return shifts, mirrored
