"""What a network may be assembled of.

A network is a list of places (its blocks, and parts around them), each filled by one of its options. An option has a
score, which is added up over places as in DNA (Li et al., 2020, arXiv:1911.13053) and LANA (Molchanov et al., 2022,
arXiv:2107.10624), costs, which are added up too, and widths that it takes for granted: all options chosen agree on the
width of each shared group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Option:
    """One way to fill a place.

    Attributes:
        name: for the reader.
        score: how much is lost by it; lower is better. An option whose score is not finite is never chosen.
        costs: by name, in their plain units; a cost that is missing is 0.
        widths: the width that it needs each of these shared groups to have.
    """

    name: str
    score: float
    costs: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A part of the network. ``counts``: whether it is one of those by which two assemblies are told apart."""

    name: str
    options: tuple[Option, ...]
    counts: bool = True


@dataclass(frozen=True)
class Selection:
    """One option for each place.

    Attributes:
        options: for each place the index of its option.
        widths: of each shared group.
        costs: the sum over places.
        score: likewise; lower is better.
    """

    options: tuple[int, ...]
    widths: Mapping[str, int]
    costs: Mapping[str, float]
    score: float
