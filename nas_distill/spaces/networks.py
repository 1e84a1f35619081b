"""The builder of a search: makes the networks of a space for the samples of one data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from nas_distill.spaces.architecture import Architecture
from nas_distill.spaces.space import SearchSpace
from nas_distill.utils.seeds import seeded_torch

if TYPE_CHECKING:
    from torch import nn


class InitialWeights(Protocol):
    """Gives students weights to begin with, in place of the random ones that their builder gave them. Picklable."""

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give a student its initial weights, in place, as far as its architecture has any."""
        ...


class DataShape(Protocol):
    """Data, as far as a network depends on them."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of outputs."""
        ...


@dataclass(frozen=True)
class NetworkBuilder:
    """Builds the network of any architecture of ``space``; sent to worker processes.

    Attributes:
        space: of the architectures.
        input_shape: of one sample, without the batch.
        num_classes: number of outputs.
        weights: gives students the weights that they begin with; None leaves the builder's random ones.
    """

    space: SearchSpace
    input_shape: tuple[int, ...]
    num_classes: int
    weights: InitialWeights | None = None

    @classmethod
    def of(cls, space: SearchSpace, data: DataShape, weights: InitialWeights | None = None) -> Self:
        """Return the builder of a space's networks for samples of ``data``."""
        return cls(space, tuple(data.input_shape), data.num_classes, weights)

    def build(self, architecture: Architecture, seed: int | None = None, *, stream: str = "init") -> nn.Module:
        """Build a network with random weights.

        Args:
            architecture: of the space.
            seed: of the weights, as ``derive(seed, stream)``; without one they come from torch's global generator.
            stream: name of the random stream.

        Raises:
            ConfigError: the builder cannot be imported.
            BuildError: it raised, or returned no module.
        """
        if seed is not None:
            with seeded_torch(seed, stream):
                return self.build(architecture)
        return self.space.build(architecture, input_shape=self.input_shape, num_classes=self.num_classes)

    def build_student(self, architecture: Architecture, seed: int) -> nn.Module:
        """Build a student with the weights that its training begins with.

        Raises:
            ConfigError: the builder cannot be imported.
            BuildError: it raised, or returned no module.
        """
        student = self.build(architecture, seed)
        if self.weights is not None:
            self.weights.fill(student, architecture)
        return student
