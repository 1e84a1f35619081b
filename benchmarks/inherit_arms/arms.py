"""The ways to a student that benchmarks/inherit.py compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas_distill.config import OptimizerConfig, TrainingConfig

INHERITED, RECONSTRUCTED, RANDOM = "inherited", "reconstructed", "random"
"""Weights that stay as they were; reconstructed ones (``pruning/reconstruction.py``); new ones."""
STARTS = (INHERITED, RECONSTRUCTED, RANDOM)
TEACHER = "fashion-resnet"
LIMITS = (0.10, 0.20, 0.40)
"""Shares of the teacher's FLOPs."""
RATES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
"""Learning rates; each kind of start takes the one that is best for it on validation data."""


@dataclass(frozen=True)
class Arm:
    """One way to a student.

    ``start``: what its last training begins with. ``search``: the sections of a search file that are its own, for an
    arm that nas_distill searches. ``widths``: where the others' widths come from.
    """

    letter: str
    about: str
    start: str
    search: dict[str, Any] = field(default_factory=dict)
    widths: str = ""

    @property
    def assembles(self) -> bool:
        """True if its candidates are assembled from separately distilled blocks."""
        return bool(self.search) and self.search["search"]["strategy"] != "sample"


FASTNAS, UNIFORM = "fastnas", "uniform"
FROM_TEACHER: dict[str, Any] = {"from_teacher": {"widths": [eighths / 8 for eighths in range(1, 9)]}}
# Without training, random weights tell nothing, so there are few candidates and each is trained.
FROM_NOTHING: dict[str, Any] = {
    "space": "resnet",
    "search": {"strategy": "sample", "trials": 8, "seeds": 4, "pruning": {"margin": 0.04}},
    "score": {"epochs": 0.08, "rungs": [0.5, 1.0]},
}


def _cut(strategy: str) -> dict[str, Any]:
    return {"space": FROM_TEACHER, "search": {"strategy": strategy}}


ARMS = {
    arm.letter: arm
    for arm in (
        Arm("a", "FastNAS (Model Optimizer), then KD", INHERITED, widths=FASTNAS),
        Arm("b", "uniformly narrower, random weights", RANDOM, widths=UNIFORM),
        Arm("c", "`from_teacher`, searched", RECONSTRUCTED, _cut("sample")),
        Arm("d", "`from_teacher`, blockwise", RECONSTRUCTED, _cut("blockwise")),
        Arm("e", "`from_teacher`, hybrid", RECONSTRUCTED, _cut("hybrid")),
        Arm("f", "`resnet`, searched, random weights", RANDOM, FROM_NOTHING),
        Arm("g", "FastNAS's widths, random weights", RANDOM, widths=FASTNAS),
        Arm("h", "uniformly pruned, reconstructed", RECONSTRUCTED, widths=UNIFORM),
        Arm("i", "uniformly pruned, not reconstructed", INHERITED, widths=UNIFORM),
    )
}

GAPS = (
    ("a", "g", "what FastNAS's students owe to inheritance"),
    ("i", "b", "what uniform ones owe to it"),
    ("h", "i", "what the reconstruction adds"),
    ("a", "i", "what FastNAS's architecture adds to uniform pruning"),
    ("c", "h", "what the searched architecture adds to uniform pruning"),
    ("d", "h", "what the blockwise architecture, and its blocks' training, add to it"),
    ("f", "b", "what the searched architecture adds where nothing is inherited"),
    ("c", "a", "searched against the peer"),
    ("d", "a", "blockwise against the peer"),
    ("e", "a", "hybrid against the peer"),
    ("c", "f", "cut from the teacher against random weights, both searched"),
)
"""Pairs of arms (minuend, subtrahend), and what their difference says."""


def training(epochs: float, rate: float) -> TrainingConfig:
    """Return the training that all arms have: nas_distill's own KD but for length and learning rate."""
    return TrainingConfig(epochs=epochs, optimizer=OptimizerConfig(lr=rate))
