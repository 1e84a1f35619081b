"""The token sequences between the blocks of a transformer."""

from __future__ import annotations

from torch import Tensor, nn

from nas_distill.common.layers.calls import Call, Recording
from nas_distill.common.layers.head import before_head
from nas_distill.common.layers.layer import Layer
from nas_distill.common.layers.points import sequence_first


def find_tokens(recording: Recording) -> list[tuple[int, Layer]]:
    """Return each block's output, and when it was there.

    Blocks are torch's encoder layers, sibling modules of one class (two or more) whose outputs are (B, N, D) tokens of
    one shape, and the only member of a list. Blocks inside of blocks are left out. Where the number of tokens is that
    of the batch too, the batch is taken to come first.
    """
    calls = {call.name: call for call in before_head(recording)}
    groups: dict[tuple[str, object], list[Call]] = {}
    for call in calls.values():
        parent, _, _ = call.name.rpartition(".")
        if call.parent is not None and _layer(call, recording.batch) is not None and _may_be_block(call.module):
            groups.setdefault((parent, type(call.module)), []).append(call)
    root = next(call.module for call in recording.calls if call.parent is None)
    found = [members for (parent, _), members in groups.items() if _are_blocks(root, parent, members)]
    several = {call for members in found if len(members) > 1 for call in members}
    # A list's only member is a block, unless it is itself what holds the blocks.
    holders = {parent for call in several for parent in call.ancestors()}
    blocks = several | {call for members in found if len(members) == 1 for call in members if call not in holders}
    return [
        (call.ended, layer)
        for call in blocks
        if blocks.isdisjoint(call.ancestors()) and (layer := _layer(call, recording.batch)) is not None
    ]


def _are_blocks(root: nn.Module, parent: str, members: list[Call]) -> bool:
    if isinstance(members[0].module, nn.TransformerEncoderLayer):
        return True
    holder = root.get_submodule(parent)
    alone = isinstance(holder, nn.ModuleList | nn.Sequential) and len(holder) == 1
    shapes = {call.made.shape for call in members if call.made is not None}
    return len(shapes) == 1 and (alone or len(members) > 1)


def _may_be_block(module: nn.Module) -> bool:
    """A block has parts, with weights; one of 1-d convolutions returns (B, channels, length), which are no tokens."""
    parts = list(module.modules())
    if len(parts) == 1 or next(module.parameters(), None) is None or isinstance(module, nn.TransformerEncoder):
        return False
    return not any(isinstance(part, nn.Conv1d) for part in parts) or any(isinstance(part, nn.Linear) for part in parts)


def _layer(call: Call, batch: int) -> Layer | None:
    tensor: Tensor | None = call.made
    if tensor is None or tensor.dim() != 3:
        return None
    first, second, width = tensor.shape
    if sequence_first(call.module):
        return Layer(call.name, (first, width), "tokens") if second == batch else None
    if first == batch:
        return Layer(call.name, (second, width), "tokens")
    return Layer(f"{call.name}:seq_first", (first, width), "tokens") if second == batch else None
