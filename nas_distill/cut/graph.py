"""Which channels of which layers belong together, read from torch-pruning's dependency graph.

Fang et al., "DepGraph: Towards Any Structural Pruning", 2023 (arXiv:2301.12900). The graph treats what it does not know
as acting on each element alone, so what is read from it is a proposal: ``cut/proof.py`` holds it against the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nas_distill.common.device import device_of
from nas_distill.common.errors import first_line
from nas_distill.common.layers import logits_of
from nas_distill.common.quiet import quiet
from nas_distill.cost.undisturbed import noise
from nas_distill.cut.atoms import Atom, Atoms
from nas_distill.cut.opaque import Until, stand_in
from nas_distill.cut.plan import Side, Unpruned
from nas_distill.cut.weights import length


def read_graph(module: nn.Module, input_shape: Sequence[int], until: str | None = None) -> tuple[Atoms, list[Unpruned]]:
    """Return the channels of all layers of ``module``, those that belong together joined, and what cannot be followed.

    ``module`` is a copy for this purpose only: it is set to eval mode, its weights to take gradients, and its recurrent
    layers are replaced. Their inputs may be cut, and nothing of what they make. With ``until``, the name of a module,
    only what comes before its call is read. Whatever torch-pruning raises of the whole graph is the caller's to catch.
    """
    import torch_pruning

    stand_ins = stand_in(module)
    module.eval().requires_grad_(True)
    names: dict[Any, str] = {part: name for name, part in module.named_modules()}
    names |= {weight: name for name, weight in module.named_parameters()}
    names |= stand_ins
    recurrent = {name: layer for layer, name in stand_ins.items()}

    def size_of(name: str, side: Side) -> int:
        return length(recurrent[name], "", side) if name in recurrent else length(module, name, side)

    read = module if until is None else Until(module, until)
    device = device_of(module)
    x = noise(module, (1, *input_shape), torch.Generator().manual_seed(0)).to(device)
    counts: list[int] = []

    def answer(output: Any) -> Tensor:
        logits = logits_of(output)
        counts.append(logits.shape[-1])
        return logits

    with quiet(), torch.enable_grad():
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
    atoms = Atoms()
    dimensions = {(atom.module, atom.side) for _, atom in reader.pairs}
    sizes = {(name, side): size_of(name, side) for name, side in dimensions}
    # A dimension that is too short for what is said of it is another one: of tokens, say, where channels are meant.
    mistaken = {(atom.module, atom.side) for _, atom in reader.pairs if atom.place >= sizes[atom.module, atom.side]}
    for one, other in reader.pairs:
        if one[:2] == other[:2] or not mistaken & {one[:2], other[:2]}:
            atoms.join(one, other)
    for atom in reader.closed:
        atoms.close(atom)
    for name, part in module.named_modules():
        _join_groups(name, part, atoms)
    return atoms, unpruned


class _Reader:
    """Follows output channels through torch-pruning's graph, each by itself.

    The graph's own groups cannot be taken: where two channels of a layer lead to one, as in gates, they keep one.
    """

    def __init__(self, graph: Any, names: dict[Any, str], logits: int | None) -> None:
        self._graph, self._names, self._logits = graph, names, logits
        self._reached: set[Atom] = set()
        self.pairs: list[tuple[Atom, Atom]] = []
        self.closed: list[Atom] = []

    def close(self, name: str, size: int) -> None:
        """Leave the ``size`` output channels of a module whole, with all that they lead to."""
        self.closed += [Atom(name, "out", place) for place in range(size)]

    def follow(self, root: Any, size: int) -> None:
        """Pair each of the ``size`` output channels of ``root`` with all that it leads to, and what leads to those."""
        from torch_pruning._helpers import _HybridIndex

        own = {Atom(self._names[root.module], "out", place) for place in range(size)}
        if own <= self._reached:
            return  # whatever they lead to was paired with what led to them
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
            # Channels of another number end here where an operation sums over them (products with class vectors, say):
            # those may be cut.
            # Of a part of the network, nothing is known of what comes behind.
            if node.type.name == "OUTPUT" and self._logits in (None, size):
                self.closed += [Atom(self._names[root.module], "out", index.root_idx) for index in fresh]
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
                atom = Atom(target, side, index.idx)
                self._reached.add(atom)
                self.pairs.append((Atom(root, "out", index.root_idx), atom))


def _sides(name: str, module: Any, function: str) -> list[tuple[str, Side]]:
    """Return the dimensions that one of torch-pruning's functions means."""
    if isinstance(module, nn.MultiheadAttention):
        return [(name, "in"), (f"{name}.out_proj", "out")]
    whole = isinstance(module, _ConvNd) and module.groups == module.out_channels > 1
    if isinstance(module, _ConvNd | nn.Linear) and not whole and function == "prune_in_channels":
        return [(name, "in")]
    return [(name, "out")]


def _join_groups(name: str, part: nn.Module, atoms: Atoms) -> None:
    """What is cut from a grouped convolution or a group norm are whole groups."""
    if isinstance(part, _ConvNd) and part.groups > 1:
        ins, outs = part.in_channels // part.groups, part.out_channels // part.groups
        depthwise = part.groups == part.out_channels
        for group in range(part.groups):
            members = [Atom(name, "out", group * outs + place) for place in range(outs)]
            if not depthwise:
                members += [Atom(name, "in", group * ins + place) for place in range(ins)]
            atoms.join(*members)
    elif isinstance(part, nn.GroupNorm) and part.num_groups > 1:
        size = part.num_channels // part.num_groups
        for group in range(part.num_groups):
            atoms.join(*(Atom(name, "out", group * size + place) for place in range(size)))
