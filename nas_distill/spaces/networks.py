"""The network builder of a search: builds architectures of a space for samples of one data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from nas_distill.spaces.architecture import Architecture
from nas_distill.spaces.space import SearchSpace
from nas_distill.utils.seeds import seeded_torch

if TYPE_CHECKING:
    from torch import nn


class InitialWeights(Protocol):
    """Initial weights of students, which replace the random ones of their builder. Picklable."""

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Write the initial weights of an architecture to a student, in place, as far as they exist."""
        ...


class DataShape(Protocol):
    """Properties of data on which a network depends."""

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
    """A builder of networks of the architectures of ``space``; sent to worker processes.

    Attributes:
        space: the search space.
        input_shape: shape of one sample, without the batch.
        num_classes: number of outputs.
        weights: initial weights of students; None keeps the builder's random ones.
    """

    space: SearchSpace
    input_shape: tuple[int, ...]
    num_classes: int
    weights: InitialWeights | None = None

    @classmethod
    def of(cls, space: SearchSpace, data: DataShape, weights: InitialWeights | None = None) -> Self:
        """Return the builder of networks of a space for samples of ``data``."""
        return cls(space, tuple(data.input_shape), data.num_classes, weights)

    def build(self, architecture: Architecture, seed: int | None = None, *, stream: str = "init") -> nn.Module:
        """Build a network with random weights.

        Args:
            architecture: an architecture of the space.
            seed: seed of the weights, used as ``derive(seed, stream)``; None uses torch's global generator.
            stream: name of the random stream.

        Raises:
            ConfigError: the builder cannot be imported.
            BuildError: the builder raised, or did not return a module.
        """
        if seed is not None:
            with seeded_torch(seed, stream):
                return self.build(architecture)
        return self.space.build(architecture, input_shape=self.input_shape, num_classes=self.num_classes)

    def build_student(self, architecture: Architecture, seed: int) -> nn.Module:
        """Build a student with its initial weights.

        Raises:
            ConfigError: the builder cannot be imported.
            BuildError: the builder raised, or did not return a module.
        """
        student = self.build(architecture, seed)
        if self.weights is not None:
            self.weights.fill(student, architecture)
        return student
