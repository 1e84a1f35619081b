"""Of the groups that are proposed, those that can be cut: each alone, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from nas_distill.cut.heads import as_heads
from nas_distill.cut.plan import Group, Places, Slot, Whole
from nas_distill.cut.proof import Boundaries, Proof, Verdict
from nas_distill.cut.weights import length, named

_SHARES = (0.5, 0.01)  # half of the units, and a single one


def prove(
    module: nn.Module, proposed: Sequence[Group], proof: Proof
) -> tuple[list[Group], dict[str, Boundaries], list[Whole]]:
    """Return the groups that hold, what each does to the blocks' boundaries, and what is left whole.

    Neurons that do not hold are tried as whole attention heads, and channels that a linear or recurrent layer reads
    flattened in either order of flattening: the graph does not see what a permutation before it does.
    """
    good: list[Group] = []
    boundaries: dict[str, Boundaries] = {}
    whole: list[Whole] = []
    for group in proposed:
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
            whole.append(Whole(group.name, verdict.reason))
    if _together(good, proof).reason is not None:
        held: list[Group] = []
        for group in good:
            verdict = _together([*held, group], proof)
            if verdict.reason is None:
                held.append(group)
            else:
                whole.append(Whole(group.name, f"it can be cut alone, but not beside other groups: {verdict.reason}"))
        good = held
    return good, boundaries, whole


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

    def places(many: int, strided: bool) -> Places:
        units = range(group.size)
        if strided:
            return tuple(tuple(range(unit, many * group.size, group.size)) for unit in units)
        return tuple(tuple(range(unit * many, (unit + 1) * many)) for unit in units)

    for strided in (False, True):
        slots = (replace(slot, places=places(runs[slot], strided)) if slot in runs else slot for slot in group.slots)
        yield replace(group, slots=tuple(slots))


def _together(groups: Sequence[Group], proof: Proof) -> Verdict:
    verdict = Verdict()
    for share in _SHARES if groups else ():
        verdict = proof.of_groups(*groups, share=share)
        if verdict.reason is not None:
            break
    return verdict
