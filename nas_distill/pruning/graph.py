"""Dependency graphs of channels that must be removed together, read from torch-pruning.

Fang et al., "DepGraph: Towards Any Structural Pruning", 2023 (arXiv:2301.12900). The graph treats unknown operations
as element-wise, so its groups are proposals, which ``pruning/verification.py`` compares with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nas_distill.costs.undisturbed import noise
from nas_distill.pruning.plan import Side, Unpruned
from nas_distill.pruning.projections import Projections, mixing_nothing
from nas_distill.pruning.slots import SlotTensor, length, tensors_of
from nas_distill.pruning.stand_ins import replace_recurrent, replace_transposed
from nas_distill.utils.errors import first_line
from nas_distill.utils.layers import logits_of, tensor_of
from nas_distill.utils.layers.hooks import Hooks
from nas_distill.utils.modules import device_of, quiet


class Channel(NamedTuple):
    """One channel: a position along one dimension of one module; see ``Slot``."""

    module: str
    side: Side
    position: int


@dataclass
class ChannelUnions:
    """A union-find over channels. Closed channels (the logits), and all channels joined with them, are never cut."""

    _parent: dict[Channel, Channel] = field(default_factory=dict)
    _closed: set[Channel] = field(default_factory=set)

    def join(self, *channels: Channel) -> None:
        """Join ``channels``: they are kept or removed together."""
        first = self._root(channels[0])
        for channel in channels[1:]:
            self._parent[self._root(channel)] = first

    def close(self, channel: Channel) -> None:
        """Mark ``channel`` as one that must be kept."""
        self._root(channel)
        self._closed.add(channel)

    def units(self) -> Iterator[list[Channel]]:
        """Yield the channels of each unit that may be cut, sorted."""
        closed = {self._root(channel) for channel in self._closed}
        members: dict[Channel, list[Channel]] = {}
        for channel in list(self._parent):
            members.setdefault(self._root(channel), []).append(channel)
        for root, unit in members.items():
            if root not in closed:
                yield sorted(unit)

    def _root(self, channel: Channel) -> Channel:
        self._parent.setdefault(channel, channel)
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel


Read = TypeVar("Read")


class Prefix(nn.Module):
    """The part of a network's forward pass before the only call of a module; it returns that module's input."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor that reaches the module."""

        def stop(part: nn.Module, args: Any, kwargs: Any) -> None:
            raise _ReachedError(tensor_of((args, kwargs)))

        with Hooks() as hooks:
            hooks.before(self.module.get_submodule(self.name), stop)
            try:
                self.module(x)
            except _ReachedError as reached:
                return reached.tensor
        raise ValueError(f"the network does not call '{self.name}'")


class _ReachedError(Exception):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__("reached")
        self.tensor = tensor


def longest_prefix(names: list[str], read: Callable[[str], Read]) -> tuple[str, Read] | None:
    """Return the last of ``names`` before which the network can be read, and the result; None if there is none.

    Args:
        names: modules that are called once, in the order of their calls.
        read: reads the network before the call of one of them, and raises if it cannot.
    """
    best: tuple[str, Read] | None = None
    low, high = 0, len(names) - 1
    while low <= high:
        middle = (low + high) // 2
        with suppress(Exception):
            best = names[middle], read(names[middle])
        if best is not None and best[0] == names[middle]:
            low = middle + 1
        else:
            high = middle - 1
    return best


def read_graph(
    module: nn.Module,
    input_shape: Sequence[int],
    until: str | None = None,
    attentions: Sequence[Projections] = (),
) -> tuple[ChannelUnions, list[Unpruned]]:
    """Return the channels of all layers of ``module``, dependent ones joined, and modules that cannot be followed.

    ``module`` must be a copy made for this purpose: it is set to eval mode, its weights require gradients, and its
    recurrent layers and Hugging Face's transposed linear layers are replaced. Inputs of recurrent layers may be cut,
    their outputs not. With ``until``, the name of a module, only the layers before its call are read. The heads of
    ``attentions`` are not read. Errors of torch-pruning about the whole graph are not caught.
    """
    import torch_pruning

    stand_ins = replace_recurrent(module)
    replace_transposed(module)
    module.eval().requires_grad_(True)
    names: dict[Any, str] = {part: name for name, part in module.named_modules()}
    names |= {weight: name for name, weight in module.named_parameters()}
    names |= stand_ins
    recurrent = {name: layer for layer, name in stand_ins.items()}

    def size_of(name: str, side: Side) -> int:
        return length(recurrent[name], "", side) if name in recurrent else length(module, name, side)

    read = module if until is None else Prefix(module, until)
    device = device_of(module)
    x = noise(module, (1, *input_shape), torch.Generator().manual_seed(0)).to(device)
    counts: list[int] = []

    def answer(output: Any) -> Tensor:
        logits = logits_of(output)
        counts.append(logits.shape[-1])
        return logits

    with quiet(), torch.enable_grad(), mixing_nothing(module, attentions, x):
        graph = torch_pruning.DependencyGraph().build_dependency(
            read, example_inputs=(x,), output_transform=answer, verbose=False
        )
    reader = _Reader(graph, names, counts[-1] if until is None else None)
    unpruned: list[Unpruned] = []
    for node in graph.module2node.values():
        if not isinstance(node.module, _ConvNd | nn.Linear | nn.Embedding) or node.module not in names:
            continue
        name = names[node.module]
        size = size_of(name, "out")
        try:
            reader.follow(node, size)
        except Exception as error:
            reader.close(name, size)
            if node.module not in stand_ins:
                reason = f"torch-pruning cannot follow its channels ({first_line(error, 120)})"
                unpruned.append(Unpruned(name, reason))
        if node.module in stand_ins:
            reader.close(name, size)
    unions = ChannelUnions()
    dimensions = {(channel.module, channel.side) for _, channel in reader.pairs}
    sizes = {(name, side): size_of(name, side) for name, side in dimensions}
    # A dimension that is too short for a reported position is not the channel dimension (but that of tokens, say).
    mistaken = {
        (channel.module, channel.side)
        for _, channel in reader.pairs
        if channel.position >= sizes[channel.module, channel.side]
    }
    for one, other in reader.pairs:
        if one[:2] == other[:2] or not mistaken & {one[:2], other[:2]}:
            unions.join(one, other)
    for channel in reader.closed:
        unions.close(channel)
    for channels in _tied(module):
        unions.join(*channels)
    for each in attentions:
        for source in each.sources:
            for position in range(size_of(source, "out")):
                unions.close(Channel(source, "out", position))
    for name, part in module.named_modules():
        _join_groups(name, part, unions)
    return unions, unpruned


class _Reader:
    """Follows output channels through torch-pruning's graph, each channel separately.

    The graph's own groups cannot be used: where two channels of a layer lead to one, as in gates, they keep only one.
    """

    def __init__(self, graph: Any, names: dict[Any, str], logits: int | None) -> None:
        self._graph, self._names, self._logits = graph, names, logits
        self._reached: set[Channel] = set()
        self.pairs: list[tuple[Channel, Channel]] = []
        self.closed: list[Channel] = []

    def close(self, name: str, size: int) -> None:
        """Keep the ``size`` output channels of a module unpruned, and all channels that depend on them."""
        self.closed += [Channel(name, "out", position) for position in range(size)]

    def follow(self, root: Any, size: int) -> None:
        """Pair each of the ``size`` output channels of ``root`` with all channels that must be removed with it."""
        from torch_pruning._helpers import _HybridIndex

        own = {Channel(self._names[root.module], "out", position) for position in range(size)}
        if own <= self._reached:
            return  # their dependents were paired when these channels were reached
        start = self._graph.get_pruner_of_module(root.module).prune_out_channels
        seen: dict[tuple[Any, str], set[tuple[int, int]]] = {}
        stack = [(root, start, [_HybridIndex(idx=index, root_idx=index) for index in range(size)])]
        while stack:
            node, function, indices = stack.pop()
            done = seen.setdefault((node, function.__name__), set())
            fresh = [index for index in indices if (index.idx, index.root_idx) not in done]
            done.update((index.idx, index.root_idx) for index in fresh)
            if not fresh:
                continue
            self._note(node, function.__name__, fresh, self._names[root.module])
            # A number of channels other than that of the logits reaches the output where an operation sums over them
            # (products with class vectors, say): those may be cut. For a prefix of the network, the layers behind it
            # are unknown, so every output channel is closed.
            if node.type.name == "OUTPUT" and self._logits in (None, size):
                self.closed += [Channel(self._names[root.module], "out", index.root_idx) for index in fresh]
            for dependency in node.dependencies:
                if dependency.is_triggered_by(function):
                    found = fresh
                    for mapping in dependency.index_mapping:
                        found = found if mapping is None else mapping(found)
                    if found:
                        stack.append((dependency.target, dependency.handler, found))

    def _note(self, node: Any, function: str, indices: Sequence[Any], root: str) -> None:
        name = self._names.get(node.module)
        if name is None:
            return
        for target, side in _sides(name, node.module, function):
            for index in indices:
                channel = Channel(target, side, index.idx)
                self._reached.add(channel)
                self.pairs.append((Channel(root, "out", index.root_idx), channel))


def _sides(name: str, module: Any, function: str) -> list[tuple[str, Side]]:
    """Return the dimensions that one of torch-pruning's pruning functions changes."""
    if isinstance(module, nn.MultiheadAttention):
        return [(name, "in"), (f"{name}.out_proj", "out")]
    depthwise = isinstance(module, _ConvNd) and module.groups == module.out_channels > 1
    if isinstance(module, _ConvNd | nn.Linear) and not depthwise and function == "prune_in_channels":
        return [(name, "in")]
    return [(name, "out")]


def _tied(module: nn.Module) -> Iterator[list[Channel]]:
    """Yield the channels of weights that several modules share: each index of a dimension, in all of them."""
    holders: dict[tuple[int, int], list[tuple[str, Side]]] = {}
    for name, _ in module.named_modules():
        made = tensors_of(module, name, "out")
        read = [part for part in tensors_of(module, name, "in") if part not in made]  # a norm's two sides are one
        sides: list[tuple[Side, list[SlotTensor]]] = [("out", made), ("in", read)]
        for side, parts in sides:
            for part in parts:
                holders.setdefault((id(part.tensor), part.axis), []).append((name, side))
    for sharing in holders.values():
        if len({name for name, _ in sharing}) > 1:
            for position in range(length(module, *sharing[0])):
                yield [Channel(name, side, position) for name, side in sharing]


def _join_groups(name: str, part: nn.Module, unions: ChannelUnions) -> None:
    """Join the channels of each group of a grouped convolution or a group norm: only whole groups are cut."""
    if isinstance(part, _ConvNd) and part.groups > 1:
        ins, outs = part.in_channels // part.groups, part.out_channels // part.groups
        depthwise = part.groups == part.out_channels
        for group in range(part.groups):
            members = [Channel(name, "out", group * outs + offset) for offset in range(outs)]
            if not depthwise:
                members += [Channel(name, "in", group * ins + offset) for offset in range(ins)]
            unions.join(*members)
    elif isinstance(part, nn.GroupNorm) and part.num_groups > 1:
        size = part.num_channels // part.num_groups
        for group in range(part.num_groups):
            unions.join(*(Channel(name, "out", group * size + offset) for offset in range(size)))
