"""Of the groups that are proposed, those that can be cut: each by itself, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from nas_distill.cut.heads import as_heads
from nas_distill.cut.plan import ChannelIndices, Group, Slot, Unpruned
from nas_distill.cut.proof import Boundaries, Proof, Verdict
from nas_distill.cut.weights import length, named

_SHARES = (0.5, 0.01)  # half of the units, and a single one
_FEW = 4  # so many are proven each by itself


def prove(
    module: nn.Module, proposed: Sequence[Group], proof: Proof, inside: Mapping[str, int] | None = None
) -> tuple[list[Group], dict[str, Boundaries], list[Unpruned]]:
    """Return the groups that hold, what each does to the blocks' boundaries, and what is left whole.

    Neurons that do not hold are tried as whole attention heads, and channels that a linear or recurrent layer reads
    flattened in either order of flattening: the graph does not see what a permutation before it does. Groups that are
    wholly inside of a block, whose index ``inside`` has by their name, are proven many at a time where they all hold.
    """
    settled = _settled([group for group in proposed if group.name in (inside or {})], inside or {}, proof)
    good: list[Group] = []
    boundaries: dict[str, Boundaries] = {}
    unpruned: list[Unpruned] = []
    for group in proposed:
        if group.name in settled:
            good.append(group)
            boundaries[group.name] = proof.untouched()
            continue
        verdict = proof.of_groups(group)
        heads = as_heads(module, group) if verdict.reason is not None and not verdict.output else None
        if heads is not None and heads.name not in boundaries:
            group, verdict = heads, proof.of_groups(heads)
        for other in _flattened(module, group) if verdict.reason is not None and not verdict.output else ():
            tried = proof.of_groups(other)
            if tried.reason is None:
                group, verdict = other, tried
                break
        if verdict.reason is None:
            good.append(group)
            boundaries[group.name] = verdict.narrowed
        elif not verdict.output:
            unpruned.append(Unpruned(group.name, verdict.reason))
    if _together(good, proof).reason is not None:
        held: list[Group] = []
        for group in good:
            verdict = _together([*held, group], proof)
            if verdict.reason is None:
                held.append(group)
            else:
                unpruned.append(
                    Unpruned(group.name, f"it can be cut alone, but not beside other groups: {verdict.reason}")
                )
        good = held
    return good, boundaries, unpruned


def _settled(groups: Sequence[Group], inside: Mapping[str, int], proof: Proof) -> set[str]:
    """Return the names of those groups that hold when many are cut at a time.

    Groups of one block, and of blocks next to each other, are never cut in one go: two of them that must be cut
    together could hold so. Where some do not hold, each half of the blocks is tried by itself.
    """
    if len(groups) <= _FEW:
        return set()
    rounds: dict[tuple[int, int], list[Group]] = {}
    seen: dict[int, int] = {}
    for group in groups:
        block = inside[group.name]
        rounds.setdefault((block % 2, seen.get(block, 0)), []).append(group)
        seen[block] = seen.get(block, 0) + 1
    if len(seen) > 2 and all(proof.of_groups(*one).reason is None for one in rounds.values()):
        return {group.name for group in groups} & proof.with_part(groups)
    blocks = sorted(seen)
    if len(blocks) < 3:
        return set()
    lower = set(blocks[: len(blocks) // 2])
    halves = [[group for group in groups if (inside[group.name] in lower) is low] for low in (True, False)]
    return set().union(*(_settled(half, inside, proof) for half in halves))


def _flattened(module: nn.Module, group: Group) -> Iterator[Group]:
    """Yield the group with its units read in runs, then in strides, where they are flattened into one layer."""
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


def _together(groups: Sequence[Group], proof: Proof) -> Verdict:
    verdict = Verdict()
    for share in _SHARES if groups else ():
        verdict = proof.of_groups(*groups, share=share)
        if verdict.reason is not None:
            break
    return verdict
