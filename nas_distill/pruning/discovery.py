"""Search for the pruning plan of a network: its groups, its backbone, and modules that stay unpruned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from nas_distill.costs.undisturbed import noise
from nas_distill.pruning.backbone import BlockSignature, SumRecorder, find_backbone, find_blocks
from nas_distill.pruning.graph import ChannelUnions, longest_prefix, read_graph
from nas_distill.pruning.groups import attention_groups, form_groups
from nas_distill.pruning.plan import Group, Plan, Unpruned
from nas_distill.pruning.projections import find_projections
from nas_distill.pruning.shortcuts import find_rewrites, rewrite
from nas_distill.pruning.slots import heads_of
from nas_distill.pruning.verification import SAMPLES, Verifier, verify_groups
from nas_distill.utils.errors import SpaceError, TrainingError, first_line
from nas_distill.utils.layers.calls import Recording, record
from nas_distill.utils.seeds import torch_generator


def find_plan(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    blocks: Sequence[str] | None = None,
    samples: Tensor | None = None,
) -> Plan:
    """Return the plan of ``module``: verified groups, the backbone's blocks, and modules that stay unpruned.

    ``module`` is not changed.

    Args:
        module: the teacher.
        input_shape: of one sample, (C, H, W) for images.
        blocks: dotted names of the backbone's blocks in the order of the forward pass; None finds them.
        samples: (B, ...) samples on which rewritten layers must equal the teacher's; noise if None.

    Raises:
        SpaceError: the network cannot be copied or fails on such a sample, or a name in ``blocks`` is not a block.
    """
    copied = _copied(module)
    x = noise(copied, (SAMPLES, *input_shape), torch_generator(0, "cut", "find"))
    recording, sums = _record(copied, x if samples is None else samples)
    rewrites = find_rewrites(copied, recording)
    if rewrites or samples is not None:
        recording, sums = _record(rewrite(copied, rewrites), x)
    backbone = find_backbone(copied, recording, sums, blocks)
    order = _order(copied, recording)
    once = _once(copied, recording)
    padded = [Unpruned(name, _PADDED) for name in sums.padded]
    del recording, sums  # they keep every activation of the network
    try:
        verifier = Verifier(copied, input_shape, {block.module: block.axis for block in backbone})
    except Exception as error:
        raise SpaceError(
            f"the teacher cannot be pruned: it fails with random weights, which verification of the pruning plan "
            f"needs ({first_line(error, 120)})."
        ) from error
    proposed, unread = _propose(copied, input_shape, order, once)
    inside = {group.name: block for group in proposed if (block := _inside(group, backbone)) is not None}
    verified, boundaries, unpruned = verify_groups(copied, proposed, verifier, inside)
    groups = [replace(group, block=_inside(group, backbone)) for group in verified]
    found = find_blocks(backbone, groups, boundaries, verifier)
    return Plan(tuple(groups), tuple(found), (*unread, *padded, *unpruned), tuple(rewrites))


_PADDED = (
    "it pads channels in its forward method, so the widths on both sides of it cannot change; move the padding to a "
    "module of its own, called once, to have it replaced by an equivalent convolution that can be cut"
)


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).cpu()
    except Exception as error:
        raise SpaceError(f"the teacher cannot be pruned: copy.deepcopy of it fails ({first_line(error)}).") from error


def _record(module: nn.Module, x: Tensor) -> tuple[Recording, SumRecorder]:
    try:
        with SumRecorder(module) as sums:
            return record(module, x), sums
    except TrainingError as error:
        raise SpaceError(f"no pruning plan of the teacher can be found: {error}") from error


def _order(module: nn.Module, recording: Recording) -> dict[str, int]:
    """Return the position of each module name by its first call, followed by the names of parameters."""
    called = sorted(recording.calls, key=lambda call: call.started)
    names = [*(call.name for call in called), *(name for name, _ in module.named_parameters())]
    return {name: position for position, name in enumerate(dict.fromkeys(names))}


def _once(module: nn.Module, recording: Recording) -> list[str]:
    """Return the names of the leaf modules that are called exactly once, in the order of the forward pass."""
    counts: dict[str, int] = {}
    for call in sorted(recording.calls, key=lambda call: call.started):
        if not any(True for _ in call.module.children()):
            counts[call.name] = counts.get(call.name, 0) + 1
    return [name for name, count in counts.items() if count == 1]


def _propose(
    module: nn.Module, input_shape: Sequence[int], order: dict[str, int], once: list[str]
) -> tuple[list[Group], list[Unpruned]]:
    attentions = find_projections(module, order)
    stated = [heads_of(module.get_submodule(each.name)) == each.keys for each in attentions]
    heads = [*attention_groups(module), *(each.group(own) for each, own in zip(attentions, stated))]

    def read(until: str | None = None) -> tuple[ChannelUnions, list[Unpruned]]:
        return read_graph(copy.deepcopy(module), input_shape, until, attentions)

    try:
        unions, unpruned = read()
    except Exception as error:
        # torch-pruning tries two ways; the error of the first one is the cause.
        first = error.__context__
        cause = first_line(first if isinstance(first, Exception) else error, 120)
        part = longest_prefix(once, read)
        if part is None:
            return heads, [Unpruned("", f"torch-pruning cannot read its graph, so only heads are cut ({cause})")]
        name, (unions, unpruned) = part
        reason = f"torch-pruning cannot read the network from here on, so only layers before it are cut ({cause})"
        unpruned = [*unpruned, Unpruned(name, reason)]
    groups = [*form_groups(module, unions, order), *heads]
    return sorted(groups, key=lambda group: order.get(group.name.partition(":")[0], len(order))), unpruned


def _inside(group: Group, backbone: Sequence[BlockSignature]) -> int | None:
    for index, block in enumerate(backbone):
        if all(f"{slot.module}.".startswith(f"{block.module}.") for slot in group.slots):
            return index
    return None
