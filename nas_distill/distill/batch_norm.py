"""Batch norm for projectors, that stands a batch of a single value a channel."""

from __future__ import annotations

from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``; one sample of one place, which has no variance, goes by the running statistics.

    That is what a batch of one leaves of a map of 1x1, also where a curriculum left one sample of more.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W)."""
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        self.training = False
        try:
            return super().forward(x)
        finally:
            self.training = True
