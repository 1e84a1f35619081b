"""Groups of prunable units: channels that occur in the same dimensions of layers, and attention heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nas_distill.pruning.graph import Channel, ChannelUnions
from nas_distill.pruning.plan import ChannelIndices, Group, Kind, Side, Slot
from nas_distill.pruning.slots import heads_of, length, named, tensors_of
from nas_distill.utils.layers.transposed import is_linear


def form_groups(module: nn.Module, unions: ChannelUnions, order: Mapping[str, int]) -> list[Group]:
    """Return the groups of two or more units, in the order in which the forward pass makes them; ``block`` is not set.

    ``order`` maps names to positions in the forward pass: those of modules, and of parameters outside of torch's own
    layers.
    """
    found: dict[tuple[tuple[str, Side, int], ...], list[list[Channel]]] = {}
    for unit in unions.units():
        counts: dict[tuple[str, Side], int] = {}
        for channel in unit:
            if not _implied(module, channel):
                counts[channel.module, channel.side] = counts.get((channel.module, channel.side), 0) + 1
        key = tuple(sorted((*dimension, count) for dimension, count in counts.items()))
        found.setdefault(key, []).append(unit)
    groups = []
    for key, units in found.items():
        makers = [name for name, side, _ in key if side == "out" and _makes(module, name)]
        if len(units) < 2 or not makers:
            continue
        maker = min(makers, key=lambda name: order.get(name, len(order)))
        units.sort(key=lambda unit: _first(unit, maker))
        slots = tuple(
            Slot(name, side, tuple(_indices(unit, name, side) for unit in units))
            for name, side, _ in sorted(key, key=lambda slot: (order.get(slot[0], len(order)), slot[1] == "in"))
        )
        groups.append(Group(maker, _kind(module, maker), len(units), slots, None))
    groups.sort(key=lambda group: (order.get(group.name, len(order)), group.slots[0].indices))
    return _unique(groups)


def _implied(module: nn.Module, channel: Channel) -> bool:
    """Say whether a channel follows from others: a grouped convolution's inputs follow from its outputs."""
    return channel.side == "in" and isinstance(part := named(module, channel.module), _ConvNd) and part.groups > 1


def _makes(module: nn.Module, name: str) -> bool:
    """Say whether a module computes new channels from others, instead of only passing them on."""
    if not tensors_of(module, name, "in") and not isinstance(named(module, name), nn.Embedding):
        return False
    return bool(tensors_of(module, name, "out"))


def _first(unit: Sequence[Channel], maker: str) -> int:
    return min(channel.position for channel in unit if channel.module == maker and channel.side == "out")


def _indices(unit: Sequence[Channel], name: str, side: Side) -> tuple[int, ...]:
    return tuple(channel.position for channel in unit if channel.module == name and channel.side == side)


def _kind(module: nn.Module, maker: str) -> Kind:
    return "neurons" if is_linear(module.get_submodule(maker)) else "channels"


def _unique(groups: Sequence[Group]) -> list[Group]:
    """Number the names of all but the first group of a module, so that names are unique."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        name = group.name if seen[group.name] == 1 else f"{group.name}:{seen[group.name]}"
        named.append(Group(name, group.kind, group.size, group.slots, group.block))
    return named


def attention_groups(module: nn.Module) -> list[Group]:
    """Return one group of heads per torch attention whose projections are one matrix; ``block`` is not set."""
    found = []
    for name, part in module.named_modules():
        if not isinstance(part, nn.MultiheadAttention) or part.in_proj_weight is None or part.num_heads < 2:
            continue
        inner, width = part.num_heads * part.head_dim, part.head_dim
        columns = tuple(tuple(range(head * width, (head + 1) * width)) for head in range(part.num_heads))
        # Rows of the projection: all queries, all keys, all values.
        rows = tuple(tuple(third * inner + column for third in range(3) for column in own) for own in columns)
        slots = (Slot(name, "out", rows), Slot(f"{name}.out_proj", "in", columns))
        found.append(Group(name, "heads", part.num_heads, slots, None))
    return found


def as_heads(module: nn.Module, group: Group) -> Group | None:
    """Return ``group`` with attention heads as units; None unless a module around its layers states their number."""
    holder = _holder(module, group.name)
    heads = heads_of(module.get_submodule(holder)) if holder is not None else 0
    if holder is None or heads < 2 or group.size % heads or group.size == heads:
        return None
    run = group.size // heads
    slots = tuple(Slot(slot.module, slot.side, _merged(slot.indices, run)) for slot in group.slots)
    attributes = Slot(holder, "out", tuple((head,) for head in range(heads)))
    return Group(holder, "heads", heads, (*slots, attributes), None)


def as_flattened(module: nn.Module, group: Group) -> Iterator[Group]:
    """Yield the group with units as runs, then as strides, of the inputs of layers that read them flattened."""
    runs: dict[Slot, int] = {}
    for slot in group.slots:
        if slot.side == "in" and isinstance(named(module, slot.module), nn.Linear | nn.RNNBase):
            many, rest = divmod(length(module, slot.module, "in"), group.size)
            if not rest and many > 1:
                runs[slot] = many
    if not runs:
        return

    def indices(many: int, strided: bool) -> ChannelIndices:
        units = range(group.size)
        if strided:
            return tuple(tuple(range(unit, many * group.size, group.size)) for unit in units)
        return tuple(tuple(range(unit * many, (unit + 1) * many)) for unit in units)

    for strided in (False, True):
        slots = (replace(slot, indices=indices(runs[slot], strided)) if slot in runs else slot for slot in group.slots)
        yield replace(group, slots=tuple(slots))


def _merged(indices: ChannelIndices, run: int) -> ChannelIndices:
    return tuple(
        tuple(index for one in indices[first : first + run] for index in one) for first in range(0, len(indices), run)
    )


def _holder(module: nn.Module, name: str) -> str | None:
    """Return the nearest module around ``name`` that states a number of heads."""
    path: Sequence[str] = name.split(".")[:-1]
    while path:
        if heads_of(module.get_submodule(".".join(path))):
            return ".".join(path)
        path = path[:-1]
    return None
