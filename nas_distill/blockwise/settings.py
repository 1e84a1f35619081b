"""What a user may say of blockwise distillation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from nas_distill.config import Fraction, OptimizerConfig, Section


class BlockwiseConfig(Section):
    """Alternatives of each block, distilled one by one, and assembled.

    ``trunk``: shares of the teacher's own that the widths between blocks are tried at; ``widths``: those inside of a
    block, all at one share. Both are rounded up to what the space allows. Alternatives are trained for ``epochs``
    passes over the training split (0: scored as they are inherited) without ``heldout`` of its samples, on which they
    are scored.

    ``solutions`` assemblies are made, any two alike in at most ``overlap`` of the blocks, the best by the sum of
    ``score``.
    """

    trunk: tuple[Fraction, ...] = (0.25, 0.5, 1.0)
    widths: tuple[Fraction, ...] = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    epochs: float = Field(1.0, ge=0)
    batch_size: int = Field(128, ge=2)
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=2e-3, weight_decay=0.0, clip=None)
    warmup: Fraction = Field(0.1, ge=0, lt=1)
    heldout: int = Field(1000, ge=1)
    solutions: int = Field(12, ge=1)
    overlap: Fraction = Field(0.8, ge=0, le=1)
    score: Literal["kl", "nsr", "relative_l1"] = "kl"

    @field_validator("trunk", "widths")
    @classmethod
    def _shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or len(set(shares)) != len(shares) or min(shares) <= 0 or max(shares) > 1:
            raise ValueError("must be different shares above 0 and up to 1")
        return tuple(sorted(shares))
