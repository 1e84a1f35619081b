"""A search space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_distill.space.architecture import Architecture, Value
from nas_distill.space.parameters import Domain
from nas_distill.space.size import SpaceSize

if TYPE_CHECKING:
    from torch import nn


class SearchSpace:
    """Parameters with their domains, and the builder that makes a network of them."""

    name: str
    builder: str | Callable[..., Any]
    arguments: dict[str, Any]
    about: str

    @classmethod
    def from_dict(
        cls,
        mapping: Mapping[str, Any],
        *,
        builder: str | Callable[..., Any] | None = None,
        name: str | None = None,
        paths: Sequence[str | Path] = (),
    ) -> SearchSpace:
        """Read a space."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Return a random architecture: every active parameter uniform over its domain."""
        raise NotImplementedError

    def draw(self, choose: Callable[[str, Domain], Any]) -> Architecture:
        """Ask ``choose(flat_name, domain)`` for each active parameter, in a fixed order."""
        raise NotImplementedError

    def smallest(self) -> Architecture:
        """Return the architecture of every low end."""
        raise NotImplementedError

    def largest(self) -> Architecture:
        """Return the architecture of every high end."""
        raise NotImplementedError

    def spread(self, count: int, rng: np.random.Generator) -> list[Architecture]:
        """Return up to ``count`` distinct architectures, from small to large."""
        raise NotImplementedError

    def validate(self, values: Mapping[str, Any] | Architecture) -> Architecture:
        """Check values and return their architecture."""
        raise NotImplementedError

    def flatten(self, architecture: Architecture) -> dict[str, Value]:
        """Return flat names and values, e.g. ``{"stages.0.depth": 2}``."""
        raise NotImplementedError

    def unflatten(self, flat: Mapping[str, Any]) -> Architecture:
        """The inverse of ``flatten``."""
        raise NotImplementedError

    def size(self) -> SpaceSize:
        """Count the architectures."""
        raise NotImplementedError

    def build(self, architecture: Architecture, *, input_shape: Sequence[int], num_classes: int) -> nn.Module:
        """Build the network of an architecture."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return what ``from_dict`` reads."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the space."""
        raise NotImplementedError
