"""Attention as a module with linear projections: fused ones as in GPT-2, and grouped queries as in Llama."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nas_distill.pruning.plan import Group, Slot
from nas_distill.pruning.slots import heads_of
from nas_distill.utils.layers import tensor_of
from nas_distill.utils.layers.hooks import Hooks
from nas_distill.utils.layers.transposed import inputs_of, is_linear, outputs_of


@dataclass(frozen=True)
class Projections:
    """The projections of an attention whose heads are whole runs of ``width`` channels.

    Attributes:
        name: dotted name of the attention.
        sources: names of the layers that make queries, keys and values, in this order; one name if they are fused.
        output: name of the layer that reads the heads.
        queries: number of query heads.
        keys: number of heads of keys and of values; each belongs to the same number of neighbouring query heads.
        width: channels of a head.
    """

    name: str
    sources: tuple[str, ...]
    output: str
    queries: int
    keys: int
    width: int

    def group(self, states_heads: bool) -> Group:
        """Return the group whose units are the key heads, each with its values and all of its query heads.

        ``states_heads``: attributes of the attention state the number of heads and are to be changed too.
        """
        share = self.queries // self.keys
        mixed = _runs(self.keys, share * self.width)
        single = _runs(self.keys, self.width)
        if len(self.sources) == 1:
            starts = (self.queries * self.width, (self.queries + self.keys) * self.width)
            rows = tuple(
                (*own, *(start + index for start in starts for index in key)) for own, key in zip(mixed, single)
            )
            slots = [Slot(self.sources[0], "out", rows)]
        else:
            slots = [Slot(name, "out", rows) for name, rows in zip(self.sources, (mixed, single, single))]
        slots.append(Slot(self.output, "in", mixed))
        if states_heads:
            slots.append(Slot(self.name, "out", _runs(self.keys, 1)))
        return Group(self.name, "heads", self.keys, tuple(slots), None)


def find_projections(module: nn.Module, order: Mapping[str, int]) -> list[Projections]:
    """Return the attentions of ``module`` with fused projections, grouped queries, or no stated number of heads.

    ``order`` maps the names of modules to positions in the forward pass: the projection that is called last reads the
    heads. Other attentions are found from the graph of channels.
    """
    found = []
    for name, part in module.named_modules():
        width = getattr(part, "head_dim", None)
        if type(width) is not int or width < 1 or isinstance(part, nn.MultiheadAttention):
            continue
        children = {f"{name}.{leaf}": child for leaf, child in part.named_children() if is_linear(child)}
        called = sorted((child for child in children if child in order), key=lambda child: order[child])
        sizes = [outputs_of(children[child]) for child in called[:-1]]
        inner = inputs_of(children[called[-1]]) if called else 0
        if not sizes or inner % width or sizes[0] < inner:
            continue
        sizes = _split(sizes, inner) if len(sizes) == 1 else sizes
        if len(sizes) != 3 or sizes[0] != inner or sizes[1] != sizes[2] or not sizes[1] or sizes[1] % width:
            continue
        queries, keys = inner // width, sizes[1] // width
        usual = len(called) == 4 and queries == keys and heads_of(part) == keys
        if keys > 1 and not queries % keys and not usual:
            found.append(Projections(name, tuple(called[:-1]), called[-1], queries, keys, width))
    return found


def _split(sizes: Sequence[int], inner: int) -> list[int]:
    """Return the sizes of fused queries, keys and values."""
    rest = sizes[0] - inner
    return [inner, rest // 2, rest - rest // 2]


def _runs(count: int, length: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(unit * length, (unit + 1) * length)) for unit in range(count))


@contextmanager
def mixing_nothing(module: nn.Module, attentions: Sequence[Projections], x: Tensor) -> Iterator[None]:
    """Run a block with each attention's forward pass replaced by one with the same dependencies of token channels.

    Rotary positions and repeated keys take a reader of channels too long, or mislead it. The results have the structure
    of those on ``x``.
    """
    tuples: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(part: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            if isinstance(result, tuple):
                tuples[name] = len(result)

        return hook

    with Hooks() as hooks:
        for each in attentions:
            hooks.after(module.get_submodule(each.name), note(each.name))
        if attentions:
            module(x)
    with ExitStack() as stack:
        for each in attentions:
            part = module.get_submodule(each.name)
            part.__dict__["forward"] = _stand_in(module, each, tuples.get(each.name))
            stack.callback(part.__dict__.pop, "forward")
        yield


def _stand_in(module: nn.Module, attention: Projections, values: int | None) -> Any:
    sources = [module.get_submodule(name) for name in attention.sources]
    output = module.get_submodule(attention.output)
    inner = attention.queries * attention.width

    def forward(*args: Any, **kwargs: Any) -> Any:
        tokens = tensor_of((args, kwargs))
        query, *others = (source(tokens) for source in sources)
        mixed = query[..., :inner]
        for other in others:
            mixed = mixed * other.mean(-1, keepdim=True)
        made = output(mixed)
        return made if values is None else (made, *[None] * (values - 1))

    return forward
