"""Layers for feature distillation: feature maps, token sequences, and the input vector of the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers.calls import Call, Recording, has_own_weights, inspection, record, run
from nas_distill.utils.layers.taps import Tap, sequence_first

LayerKind = Literal["map", "tokens", "vector"]


@dataclass(frozen=True)
class Layer:
    """A layer whose activations can be compared with another network's.

    Attributes:
        name: its name for ``Tap``.
        shape: of one sample: (C, H, W) of a map, (N, D) of tokens, (D,) of a vector.
        kind: map, tokens or vector.
    """

    name: str
    shape: tuple[int, ...]
    kind: LayerKind

    def __str__(self) -> str:
        return f"{self.name} ({self.kind} {' x '.join(map(str, self.shape))})"


def layer_kind(shape: tuple[int, ...]) -> LayerKind | None:
    """Return the kind of a layer whose samples have ``shape``; None for other shapes."""
    kinds: dict[int, LayerKind] = {1: "vector", 2: "tokens", 3: "map"}
    return kinds.get(len(shape))


def classifier(recording: Recording) -> Call | None:
    """Return the call of the classifier, the layer that computes the logits; None if no layer with weights does.

    It is the innermost layer with weights whose output is the logits. If another operation follows it (a scale, a
    softmax, a pooling), it is the last linear layer or convolution called, if that has one channel per class.
    """
    for call in recording.last:
        if call.output is recording.logits and call.parent is not None and has_own_weights(call.module):
            return call
    linears = [call for call in recording.last if isinstance(call.module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    if not linears or linears[-1].output is None:
        return None
    axis = -1 if isinstance(linears[-1].module, nn.Linear) else 1
    return linears[-1] if linears[-1].output.shape[axis] == recording.logits.shape[axis] else None


def calls_before_classifier(recording: Recording) -> list[Call]:
    """Return the last calls before the classifier that depend on weights, in the order of their ends."""
    head = classifier(recording)
    end = max(call.ended for call in recording.calls) if head is None else head.started
    return [
        call
        for call in recording.last
        if call.ended < end
        and call.output is not None
        and call.output is not recording.logits
        and recording.depends_on_weights(call)
    ]


def find_vector(recording: Recording) -> list[tuple[int, Layer]]:
    """Return the input vector of the classifier and its time; an empty list if that is not (B, D)."""
    head = classifier(recording)
    if head is None or head.input is None or not _is_vector(head.input, recording.batch):
        return []
    shape = tuple(head.input.shape[1:])
    producers = [
        call
        for call in calls_before_classifier(recording)
        if call.output is head.input and not is_passthrough(call.module)
    ]
    if producers:  # of those that return the same tensor, the outermost ends last
        return [(producers[-1].ended, Layer(producers[-1].name, shape, "vector"))]
    if not any(recording.depends_on_weights(call) for call in recording.calls if call.ended < head.started):
        return []
    # In eval mode a dropout returns its input tensor, so the first consumer of that tensor reads it before dropout.
    consumers = [call for call in recording.last if call.input is head.input and call.parent is not None]
    first = min(consumers, key=lambda call: call.started, default=head)
    return [(first.started, Layer(f"{first.name}:input", shape, "vector"))]


def is_passthrough(module: nn.Module) -> bool:
    """Return True if a module returns its input tensor unchanged in eval mode."""
    return isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)


def _is_vector(tensor: Tensor, batch: int) -> bool:
    return tensor.dim() == 2 and len(tensor) == batch


Size = tuple[int, int]


def find_maps(recording: Recording) -> list[tuple[int, Layer]]:
    """Return the last and outermost layer of each spatial resolution, with its time.

    Layers inside a block that changes the resolution (its first convolution at the old resolution, the 1x1 maps of its
    squeeze-excitation) are skipped, unless no layer outside a block has that resolution.
    """
    pooled = {id(call.output) for call in recording.calls if _pools(call)}
    maps = [
        call
        for call in calls_before_classifier(recording)
        if _is_map(call.output, recording.batch) and id(call.output) not in pooled and not is_passthrough(call.module)
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
        (call.ended, Layer(call.name, tuple(call.output.shape[1:]), "map"))
        for call in stages.values()
        if call.output is not None
    ]


def _is_block(recording: Recording, call: Call) -> bool:
    """Return True if a call is of a block, whose inner layers are not compared; False for a chain of stages.

    A plain Sequential is a chain. Any other module that maps a map to a map is a block if it contains no resolutions
    other than those of its input and output.
    """
    if call.parent is None or type(call.module) is nn.Sequential:
        return False
    if not (_is_map(call.output, recording.batch) and _is_map(call.input, recording.batch)):
        return False
    own = {_size(inside) for inside in recording.calls if call in inside.ancestors() and _is_map(inside.output)}
    return len((own | {_size(call)}) - {(1, 1)}) <= 2


def _pools(call: Call) -> bool:
    """Return True if a call only averages maps to one pixel, which is a vector in the shape of a map."""
    if not _is_map(call.output) or not _is_map(call.input) or next(call.module.parameters(), None) is not None:
        return False
    return _size(call) == (1, 1) and call.input is not None and tuple(call.input.shape[2:]) != (1, 1)


def _is_map(tensor: Tensor | None, batch: int | None = None) -> bool:
    return tensor is not None and tensor.dim() == 4 and (batch is None or len(tensor) == batch)


def _size(call: Call) -> Size:
    assert call.output is not None
    return call.output.shape[2], call.output.shape[3]


def _covers(size: Size, other: Size) -> bool:
    return size[0] >= other[0] and size[1] >= other[1]


def find_tokens(recording: Recording) -> list[tuple[int, Layer]]:
    """Return the output of each transformer block, with its time.

    Blocks are torch's encoder layers, two or more sibling modules of one class whose outputs are (B, N, D) tokens of
    one shape, and the only member of a list. Blocks inside of blocks are left out. If the number of tokens equals the
    batch size, the batch is assumed to come first.
    """
    calls = {call.name: call for call in calls_before_classifier(recording)}
    groups: dict[tuple[str, object], list[Call]] = {}
    for call in calls.values():
        parent, _, _ = call.name.rpartition(".")
        if call.parent is not None and _token_layer(call, recording.batch) is not None and _may_be_block(call.module):
            groups.setdefault((parent, type(call.module)), []).append(call)
    root = next(call.module for call in recording.calls if call.parent is None)
    found = [members for (parent, _), members in groups.items() if _are_blocks(root, parent, members)]
    several = {call for members in found if len(members) > 1 for call in members}
    # A list's only member is a block, unless it contains the blocks itself.
    containers = {parent for call in several for parent in call.ancestors()}
    blocks = several | {call for members in found if len(members) == 1 for call in members if call not in containers}
    return [
        (call.ended, layer)
        for call in blocks
        if blocks.isdisjoint(call.ancestors()) and (layer := _token_layer(call, recording.batch)) is not None
    ]


def _are_blocks(root: nn.Module, parent: str, members: list[Call]) -> bool:
    if isinstance(members[0].module, nn.TransformerEncoderLayer):
        return True
    container = root.get_submodule(parent)
    single = isinstance(container, nn.ModuleList | nn.Sequential) and len(container) == 1
    shapes = {call.output.shape for call in members if call.output is not None}
    return len(shapes) == 1 and (single or len(members) > 1)


def _may_be_block(module: nn.Module) -> bool:
    """Return True for modules with parts and weights, except 1-d convolutions, which return (B, channels, length)."""
    parts = list(module.modules())
    if len(parts) == 1 or next(module.parameters(), None) is None or isinstance(module, nn.TransformerEncoder):
        return False
    return not any(isinstance(part, nn.Conv1d) for part in parts) or any(isinstance(part, nn.Linear) for part in parts)


def _token_layer(call: Call, batch: int) -> Layer | None:
    tensor: Tensor | None = call.output
    if tensor is None or tensor.dim() != 3:
        return None
    first, second, width = tensor.shape
    if sequence_first(call.module):
        return Layer(call.name, (first, width), "tokens") if second == batch else None
    if first == batch:
        return Layer(call.name, (second, width), "tokens")
    return Layer(f"{call.name}:seq_first", (first, width), "tokens") if second == batch else None


def find_layers(module: nn.Module, x: Tensor) -> list[Layer]:
    """Return the layers of ``module`` that a distillation may use, shallow first; never the logits.

    - Feature maps: the last and outermost layer of each spatial resolution.
    - Tokens: the output of each block of a transformer.
    - The input vector of the classifier. If a function such as ``flatten`` or ``mean`` computes it, not a module, its
      name is the classifier's input, ``head:input``.

    The network runs once on ``x``, in eval mode and without gradients, and its state is restored. Layers that do not
    depend on weights, such as the flattened image, are left out. The list is empty if a network has no such layers.

    Args:
        module: the network.
        x: (B, ...) samples. B should differ from the number of a transformer's tokens, or the two may be confused.

    Raises:
        TrainingError: the network fails on ``x``, or does not return logits.
    """
    recording = record(module, x)
    maps, tokens = find_maps(recording), find_tokens(recording)
    if tokens and len(maps) == 1:
        maps = []  # the patch embedding: a linear map of pixels
    found = sorted([*maps, *tokens, *find_vector(recording)], key=lambda item: item[0])
    return [layer for _, layer in found]


def layers_named(module: nn.Module, x: Tensor, names: Sequence[str]) -> list[Layer]:
    """Return the layers of ``module`` with the given names, in that order, with their shapes for ``x``.

    Args:
        module: the network; its state is restored afterwards.
        x: (B, ...) samples.
        names: names as in ``Tap``.

    Raises:
        TrainingError: a layer does not exist, is not called, or is neither a map, tokens nor a vector.
    """
    tap = Tap(module, names)
    with inspection(module), tap:
        run(module, x)
    return [_layer(name, tap.features[name], len(x)) for name in names]


def _layer(name: str, feature: Tensor, batch: int) -> Layer:
    shape = tuple(feature.shape[1:])
    kind = layer_kind(shape)
    if kind is None or len(feature) != batch or name.endswith((":attention", ":qkv")):
        raise TrainingError(
            f"Layer '{name}' returns shape {tuple(feature.shape)} for a batch of {batch}; name a layer that returns a "
            "map (B, C, H, W), tokens (B, N, D) or a vector (B, D)."
        )
    return Layer(name, shape, kind)
