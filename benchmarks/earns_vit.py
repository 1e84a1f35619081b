"""The vision transformer of benchmarks/earns.py (Dosovitskiy et al., 2021, arXiv:2010.11929), of torch's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VisionTransformer(nn.Module):
    """Patches as tokens with learned positions, encoder layers with norms first, mean over tokens, linear classifier.

    Dropout is left out: in so short a training it costs accuracy.
    """

    def __init__(
        self, channels: int, side: int, classes: int, *, patch: int, width: int, heads: int, hidden: int, depth: int
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(depth)
            )
        )
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images, (B, C, H, W)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        result: Tensor = self.classifier(self.norm(self.blocks(tokens)).mean(1))
        return result


def build(
    *,
    input_shape: Sequence[int],
    num_classes: int,
    patch: int = 4,
    width: int = 96,
    heads: int = 4,
    hidden: int = 192,
    depth: int = 6,
) -> nn.Module:
    """Build it for square images; ``hidden``: neurons of each layer's feed-forward part."""
    channels, side, _ = input_shape
    return VisionTransformer(
        channels, side, num_classes, patch=patch, width=width, heads=heads, hidden=hidden, depth=depth
    )
