"""What a distillation needs to know of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["map", "tokens", "vector"]


@dataclass(frozen=True)
class Layer:
    """A place in a network whose content can be compared with another network's.

    Attributes:
        name: as ``Tap`` takes it.
        shape: of one sample: (C, H, W) of a map, (N, D) of tokens, (D,) of a vector.
        kind: which of the three.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind

    def __str__(self) -> str:
        return f"{self.name} ({self.kind} {' x '.join(map(str, self.shape))})"


def kind_of(shape: tuple[int, ...]) -> Kind | None:
    """Return the kind of a layer whose samples have ``shape``; None for one that is of no use here."""
    kinds: dict[int, Kind] = {1: "vector", 2: "tokens", 3: "map"}
    return kinds.get(len(shape))
