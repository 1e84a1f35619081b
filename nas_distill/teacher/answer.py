"""What a teacher answers: logits, and of its inner layers what a loss asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from nas_distill.common.layers import Layer

# What of a layer is kept. All but the full one are small enough to be stored.
Reduction = Literal["full", "pooled", "attention"]


@dataclass(frozen=True)
class Feature:
    """A teacher's layer and what of it is asked for.

    ``full``: as it is. ``pooled``: (D,) a sample, a map's mean over its places, or tokens' over tokens. ``attention``:
    (H, W) a sample, a map's mean square over channels (Zagoruyko and Komodakis, 2017, arXiv:1612.03928).
    ``named``: only terms that name it read it; it was not found as a layer of the kind that a loss reads.
    """

    layer: Layer
    reduction: Reduction = "full"
    named: bool = False

    @property
    def key(self) -> str:
        """Its name among the features of an answer."""
        return f"{self.layer.name}|{self.reduction}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's, after the reduction."""
        shape = self.layer.shape
        if self.reduction == "attention":
            return shape[1:]
        if self.reduction == "pooled":
            return {"map": shape[:1], "tokens": shape[1:], "vector": shape}[self.layer.kind]
        return shape


@dataclass(frozen=True)
class Answer:
    """What a teacher says of a batch: ``logits`` (B, classes) float32, ``features`` by ``Feature.key`` (B, ...)."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


def reduce_feature(value: Tensor, reduction: Reduction) -> Tensor:
    """Return what ``reduction`` keeps of a layer's output: (B, C, H, W), (B, N, D) or (B, D)."""
    if reduction == "attention":
        return attention_map(value)
    if reduction == "pooled":
        return pooled(value)
    return value


def pooled(value: Tensor) -> Tensor:
    """Return (B, D) of a layer's output: the mean over a map's places or over tokens."""
    if value.dim() == 4:
        return value.mean(dim=(2, 3))
    return value.mean(dim=1) if value.dim() == 3 else value


def attention_map(value: Tensor) -> Tensor:
    """Return (B, H, W) of a map (B, C, H, W): the mean square over channels."""
    return value.square().mean(dim=1)
