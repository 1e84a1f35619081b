"""The weights that students assembled of trained blocks begin with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nas_distill.blockwise.library import Library
from nas_distill.cut.ancestor import Ancestor
from nas_distill.space import Architecture


@dataclass(frozen=True)
class LocalWeights:
    """Blocks that the library has trained begin with that, the rest of a student with the teacher's weights.

    Picklable; a worker reads the library's weights from its folder.
    """

    ancestor: Ancestor
    library: Library

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give a student its initial weights, in place, as far as its architecture has any."""
        if self.ancestor.pass_on(student, architecture):
            self.library.start(student, architecture.to_dict())
            self.ancestor.settle(student)
