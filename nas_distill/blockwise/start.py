"""The weights that students assembled of trained blocks begin with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nas_distill.blockwise.library import Library
from nas_distill.cut.inheritance import WeightInheritance
from nas_distill.space import Architecture


@dataclass(frozen=True)
class LocalWeights:
    """Blocks that the library has trained begin with that, the rest of a student with the teacher's weights.

    Picklable; a worker reads the library's weights from its folder.
    """

    inheritance: WeightInheritance
    library: Library

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give a student its initial weights, in place, as far as its architecture has any."""
        cut = self.inheritance.space.decode(architecture)
        if self.inheritance.inherit(student, cut):
            self.library.start(student, cut)
            self.inheritance.recalibrate_batch_norm(student)
