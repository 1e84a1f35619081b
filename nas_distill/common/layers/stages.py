"""The feature maps of a convolutional network: one for each resolution."""

from __future__ import annotations

from torch import Tensor, nn

from nas_distill.common.layers.calls import Call, Recording
from nas_distill.common.layers.head import before_head, is_passing
from nas_distill.common.layers.layer import Layer

Size = tuple[int, int]


def find_maps(recording: Recording) -> list[tuple[int, Layer]]:
    """Return for each spatial resolution the last and outermost layer that ends with it, and when it was there.

    What is inside a block that maps one resolution to another (its first convolution at the old resolution, the 1x1
    maps of its squeeze-excitation) is passed over, unless no layer outside a block has that resolution.
    """
    pooled = {id(call.made) for call in recording.calls if _pools(call)}
    maps = [
        call
        for call in before_head(recording)
        if _is_map(call.made, recording.batch) and id(call.made) not in pooled and not is_passing(call.module)
    ]
    blocks = {call for call in recording.calls if _is_block(recording, call)}
    inner = {call for call in maps if not blocks.isdisjoint(call.ancestors())}
    stages = {_size(call): call for call in maps if call not in inner}
    if not stages:
        stages = {_size(call): call for call in maps[-1:]}
    if stages:
        smallest = _size(max(stages.values(), key=lambda call: call.ended))
        within = {_size(call): call for call in maps if call in inner and _covers(_size(call), smallest)}
        stages = within | stages
    return [
        (call.ended, Layer(call.name, tuple(call.made.shape[1:]), "map"))
        for call in stages.values()
        if call.made is not None
    ]


def _is_block(recording: Recording, call: Call) -> bool:
    """Say whether a call is of a block, so that what is inside is its own affair; not of a chain of stages.

    A plain Sequential is a chain. Any other module that maps a map to a map is a block if there are no resolutions in
    it but the one it takes and the one it gives.
    """
    if call.parent is None or type(call.module) is nn.Sequential:
        return False
    if not (_is_map(call.made, recording.batch) and _is_map(call.given, recording.batch)):
        return False
    own = {_size(inside) for inside in recording.calls if call in inside.ancestors() and _is_map(inside.made)}
    return len((own | {_size(call)}) - {(1, 1)}) <= 2


def _pools(call: Call) -> bool:
    """Say whether a call only averages maps to one pixel, which is a vector in the shape of a map."""
    if not _is_map(call.made) or not _is_map(call.given) or next(call.module.parameters(), None) is not None:
        return False
    return _size(call) == (1, 1) and call.given is not None and tuple(call.given.shape[2:]) != (1, 1)


def _is_map(tensor: Tensor | None, batch: int | None = None) -> bool:
    return tensor is not None and tensor.dim() == 4 and (batch is None or len(tensor) == batch)


def _size(call: Call) -> Size:
    assert call.made is not None
    return call.made.shape[2], call.made.shape[3]


def _covers(size: Size, other: Size) -> bool:
    return size[0] >= other[0] and size[1] >= other[1]
