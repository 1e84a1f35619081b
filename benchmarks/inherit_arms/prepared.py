"""State of each arm before its last training: a network, and the cost to obtain it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LOOK = 1 / 3
"""What an image counts that a network is only shown; a training step takes about three times a forward pass."""


@dataclass(frozen=True)
class Prepared:
    """One arm at one limit.

    ``trained``: training images that steps were taken on before the last training, each as often as it was presented;
    ``looks``: those that networks were only shown (scores on training images, importance, batch-norm statistics).
    ``architecture``: values of the arm's space; ``shown``: what the page writes of it.
    """

    architecture: dict[str, Any]
    shown: str
    costs: dict[str, float]
    trained: int = 0
    looks: int = 0
    seconds: float = 0.0

    @property
    def spent(self) -> float:
        """Training images that are no longer there for the last training."""
        return self.trained + LOOK * self.looks

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def steps_left(images: int, spent: float, batch: int) -> int:
    """Return the optimiser steps of the last training of an arm that may see ``images`` in all."""
    steps = int((images - spent) // batch)
    if steps < 1:
        raise SystemExit(f"A search has used {spent:,.0f} of {images:,} images; give more --images.")
    return steps
