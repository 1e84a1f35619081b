"""From units to groups: units that are part of the same dimensions in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nas_distill.cut.atoms import Atom, Atoms
from nas_distill.cut.plan import Group, Kind, Side, Slot
from nas_distill.cut.weights import named, parts_of


def form_groups(module: nn.Module, atoms: Atoms, place: Mapping[str, int]) -> list[Group]:
    """Return the groups of two or more units, in the order in which the forward pass makes them; ``block`` is not set.

    ``place`` has for the names of modules, and of parameters that stand alone, their place in the forward pass.
    """
    found: dict[tuple[tuple[str, Side, int], ...], list[list[Atom]]] = {}
    for unit in atoms.units():
        counts: dict[tuple[str, Side], int] = {}
        for atom in unit:
            if not _implied(module, atom):
                counts[atom.module, atom.side] = counts.get((atom.module, atom.side), 0) + 1
        key = tuple(sorted((*dimension, count) for dimension, count in counts.items()))
        found.setdefault(key, []).append(unit)
    groups = []
    for key, units in found.items():
        makers = [name for name, side, _ in key if side == "out" and _makes(module, name)]
        if len(units) < 2 or not makers:
            continue
        maker = min(makers, key=lambda name: place.get(name, len(place)))
        units.sort(key=lambda unit: _first(unit, maker))
        slots = tuple(
            Slot(name, side, tuple(_places(unit, name, side) for unit in units))
            for name, side, _ in sorted(key, key=lambda slot: (place.get(slot[0], len(place)), slot[1] == "in"))
        )
        groups.append(Group(maker, _kind(module, maker), len(units), slots, None))
    groups.sort(key=lambda group: (place.get(group.name, len(place)), group.slots[0].indices))
    return _unique(groups)


def _implied(module: nn.Module, atom: Atom) -> bool:
    """A grouped convolution's input channels follow from its output channels."""
    return atom.side == "in" and isinstance(part := named(module, atom.module), _ConvNd) and part.groups > 1


def _makes(module: nn.Module, name: str) -> bool:
    """Say whether a module makes channels of other ones, and does not only pass them on."""
    if not parts_of(module, name, "in") and not isinstance(named(module, name), nn.Embedding):
        return False
    return bool(parts_of(module, name, "out"))


def _first(unit: Sequence[Atom], maker: str) -> int:
    return min(atom.place for atom in unit if atom.module == maker and atom.side == "out")


def _places(unit: Sequence[Atom], name: str, side: Side) -> tuple[int, ...]:
    return tuple(atom.place for atom in unit if atom.module == name and atom.side == side)


def _kind(module: nn.Module, maker: str) -> Kind:
    return "neurons" if isinstance(module.get_submodule(maker), nn.Linear) else "channels"


def _unique(groups: Sequence[Group]) -> list[Group]:
    """One module may make the units of several groups; all but the first are numbered."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        name = group.name if seen[group.name] == 1 else f"{group.name}:{seen[group.name]}"
        named.append(Group(name, group.kind, group.size, group.slots, group.block))
    return named
