"""Attention heads as units: of torch's attention, and of others that say how many heads they have."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nas_distill.cut.plan import ChannelIndices, Group, Slot
from nas_distill.cut.resize import heads_of


def attention_groups(module: nn.Module) -> list[Group]:
    """Return a group of heads for each of torch's attentions whose projections are one matrix; blocks are not set."""
    found = []
    for name, part in module.named_modules():
        if not isinstance(part, nn.MultiheadAttention) or part.in_proj_weight is None or part.num_heads < 2:
            continue
        inner, width = part.num_heads * part.head_dim, part.head_dim
        columns = tuple(tuple(range(head * width, (head + 1) * width)) for head in range(part.num_heads))
        # Rows of the projection: all queries, all keys, all values.
        rows = tuple(tuple(third * inner + place for third in range(3) for place in own) for own in columns)
        slots = (Slot(name, "out", rows), Slot(f"{name}.out_proj", "in", columns))
        found.append(Group(name, "heads", part.num_heads, slots, None))
    return found


def as_heads(module: nn.Module, group: Group) -> Group | None:
    """Return ``group`` with whole heads as units, if a module around its layers says how many there are."""
    holder = _holder(module, group.name)
    heads = heads_of(module.get_submodule(holder)) if holder is not None else 0
    if holder is None or heads < 2 or group.size % heads or group.size == heads:
        return None
    run = group.size // heads
    slots = tuple(Slot(slot.module, slot.side, _merged(slot.indices, run)) for slot in group.slots)
    attributes = Slot(holder, "out", tuple((head,) for head in range(heads)))
    return Group(holder, "heads", heads, (*slots, attributes), None)


def _merged(indices: ChannelIndices, run: int) -> ChannelIndices:
    return tuple(
        tuple(place for one in indices[first : first + run] for place in one) for first in range(0, len(indices), run)
    )


def _holder(module: nn.Module, name: str) -> str | None:
    """Return the nearest module around ``name`` that says how many heads it has."""
    path: Sequence[str] = name.split(".")[:-1]
    while path:
        if heads_of(module.get_submodule(".".join(path))):
            return ".".join(path)
        path = path[:-1]
    return None
