"""Single channels of single layers, joined to the units that must stay or go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from nas_distill.cut.plan import Side


class Atom(NamedTuple):
    """One place of one dimension of one module; see ``Slot``."""

    module: str
    side: Side
    place: int


@dataclass
class Atoms:
    """A union-find over atoms. Closed ones, and all that they are joined with, are never cut (the logits)."""

    _parent: dict[Atom, Atom] = field(default_factory=dict)
    _closed: set[Atom] = field(default_factory=set)

    def join(self, *atoms: Atom) -> None:
        """Say that ``atoms`` stay or go together."""
        first = self._root(atoms[0])
        for atom in atoms[1:]:
            self._parent[self._root(atom)] = first

    def close(self, atom: Atom) -> None:
        """Say that ``atom`` must stay."""
        self._root(atom)
        self._closed.add(atom)

    def units(self) -> Iterator[list[Atom]]:
        """Yield the atoms of each unit that may be cut, sorted."""
        closed = {self._root(atom) for atom in self._closed}
        members: dict[Atom, list[Atom]] = {}
        for atom in list(self._parent):
            members.setdefault(self._root(atom), []).append(atom)
        for root, unit in members.items():
            if root not in closed:
                yield sorted(unit)

    def _root(self, atom: Atom) -> Atom:
        self._parent.setdefault(atom, atom)
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = self._parent[atom]
        return atom
