"""Pool of a suggestion: random architectures, and mutations and crossings of good ones, as rows of numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nas_distill.spaces import Architecture, Domain, SearchSpace
from nas_distill.spaces.architecture import Scalar
from nas_distill.spaces.domains import is_ordered

Places = dict[str, tuple[Domain, int]]
"""The active parameters by flat name: domain, and index of the value in it."""

_DISTANCE = 2  # most parameters that a mutation changes, beside those that the change activates
_ATTEMPTS = 2  # draws per wanted member of a pool, since some repeat others


@dataclass(frozen=True)
class Member:
    """An architecture with the places of its values."""

    architecture: Architecture
    places: Places


@lru_cache(maxsize=20_000)
def member(space: SearchSpace, architecture: Architecture) -> Member:
    """Return an architecture of the space as a member."""
    values = space.flatten(architecture)
    places: Places = {}

    def follow(name: str, domain: Domain) -> Scalar:
        places[name] = (domain, domain.values.index(values[name]))
        return values[name]

    space.draw(follow)
    return Member(architecture, places)


class PoolMaker:
    """Makes distinct architectures of a space that are not in ``seen`` (hashes)."""

    def __init__(self, space: SearchSpace, seen: Collection[str], rng: np.random.Generator) -> None:
        self._space = space
        self._rng = rng
        self._seen = set(seen)

    def random(self, count: int) -> list[Member]:
        """Return up to ``count`` independent uniform draws."""
        return self._collect(count, lambda: self._child({}, {}))

    def children(self, parents: Sequence[Member], count: int) -> list[Member]:
        """Return up to ``count`` mutations (two thirds) and crossings (one third) of ``parents``."""
        return self._collect(count, lambda: self._breed(parents)) if parents else []

    def every(self) -> list[Member]:
        """Return all architectures that are left, in random order."""
        left = [each for each in self._space.every() if each.hash not in self._seen]
        return [member(self._space, left[index]) for index in self._rng.permutation(len(left))]

    def _collect(self, count: int, make: Callable[[], Member]) -> list[Member]:
        found: list[Member] = []
        for _ in range(_ATTEMPTS * count):
            if len(found) == count:
                break
            made = make()
            if made.architecture.hash not in self._seen:
                self._seen.add(made.architecture.hash)
                found.append(made)
        return found

    def _breed(self, parents: Sequence[Member]) -> Member:
        rng = self._rng
        one = parents[int(rng.integers(len(parents)))].places
        if len(parents) > 1 and rng.random() < 1 / 3:
            other = parents[int(rng.integers(len(parents)))].places
            taken = {name: place for name, (_, place) in other.items() if rng.random() < 0.5}
            return self._child({name: place for name, (_, place) in one.items()}, taken)
        names = list(one)
        changed: dict[str, int] = {}
        for index in rng.permutation(len(names))[: int(rng.integers(1, _DISTANCE + 1))]:
            domain, place = one[names[index]]
            changed[names[index]] = self._other(domain, place)
        return self._child({name: place for name, (_, place) in one.items()}, changed)

    def _other(self, domain: Domain, place: int) -> int:
        """Return another place of a domain: half of the time a neighbour, where there is an order."""
        if len(domain) == 1:
            return place
        if is_ordered(domain) and self._rng.random() < 0.5:
            step = 1 if self._rng.random() < 0.5 else -1
            return place + step if 0 <= place + step < len(domain) else place - step
        drawn = int(self._rng.integers(len(domain) - 1))
        return drawn + (drawn >= place)

    def _child(self, inherited: dict[str, int], changed: dict[str, int]) -> Member:
        places: Places = {}

        def choose(name: str, domain: Domain) -> Scalar:
            place = changed.get(name, inherited.get(name, -1))
            if place < 0:
                place = int(self._rng.integers(len(domain)))
            places[name] = (domain, place)
            return domain.at(place)

        return Member(self._space.draw(choose), places)


class Encoding:
    """Members as rows of numbers in which a difference in one parameter has a squared distance of at most 1.

    Numbers are places between the ends of their domain in thermometer code, so the squared distance is their share of
    the range; other values are one-hot. A parameter that does not apply has zeros, and 1 in the column for that.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._columns: dict[str, tuple[int, int]] = {}  # first column and number of columns
        self.width = 0
        for each in members:
            for name, (domain, _) in each.places.items():
                if name not in self._columns:
                    count = len(domain) if is_ordered(domain) else len(domain) + 1
                    self._columns[name] = (self.width, count)
                    self.width += count

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return len(self._columns)

    def rows(self, members: Sequence[Member]) -> NDArray[np.float64]:
        """Return [N, columns]; parameters that no member at the construction had are left out."""
        found = np.zeros((len(members), self.width))
        for row, each in zip(found, members):
            for name, (first, _) in self._columns.items():
                active = each.places.get(name)
                if active is None:
                    row[first] = np.sqrt(0.5)
                    continue
                domain, place = active
                if is_ordered(domain):
                    row[first + 1 : first + 1 + place] = 1 / np.sqrt(max(1, len(domain) - 1))
                else:
                    row[first + 1 + place] = np.sqrt(0.5)
        return found
