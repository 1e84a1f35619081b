"""Exact costs of alternatives and of the layers outside of the blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.blockwise.alternatives import Alternative, Alternatives
from nas_distill.blockwise.block_calls import BlockCall, BlockRecorder
from nas_distill.blockwise.channels import axis_of, restrict
from nas_distill.blockwise.modules import kept_channels
from nas_distill.costs.counting import count
from nas_distill.costs.registry import additive_names, cost_info
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.plan import DROPPED
from nas_distill.utils.errors import BudgetError
from nas_distill.utils.seeds import seeded_torch

ADDITIVE = additive_names()
"""Names of the costs that are sums over parts of a network."""

Costs = dict[str, float]


@dataclass(frozen=True)
class WidthCosts:
    """The costs outside of the blocks that the widths of one or two shared groups add to the base.

    ``costs``: by the widths of ``groups``, in their order. They are differences, so they may be negative.
    """

    groups: tuple[str, ...]
    costs: Mapping[tuple[int, ...], Costs]


@dataclass(frozen=True)
class CostTable:
    """Costs of the parts of an assembly; lower is better.

    Attributes:
        entries: costs of each alternative, by its key.
        base: costs of the layers outside of the blocks with all shared groups at their largest width.
        parts: differences from ``base`` at other widths.
    """

    entries: Mapping[str, Costs]
    base: Costs
    parts: tuple[WidthCosts, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        parts = [
            {"groups": list(part.groups), "costs": [[list(widths), costs] for widths, costs in part.costs.items()]}
            for part in self.parts
        ]
        return {"entries": dict(self.entries), "base": self.base, "parts": parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CostTable:
        """Return the table of a ``to_dict`` result."""
        parts = [
            WidthCosts(tuple(part["groups"]), {tuple(widths): costs for widths, costs in part["costs"]})
            for part in values["parts"]
        ]
        return cls(values["entries"], values["base"], tuple(parts))


def count_costs(
    alternatives: Alternatives,
    inheritance: WeightInheritance,
    modules: Mapping[str, nn.Module],
    names: Sequence[str] = ADDITIVE,
) -> CostTable:
    """Count the costs of alternatives, each separately on its block's input, and of the layers outside of the blocks.

    Args:
        alternatives: of all blocks.
        inheritance: of the teacher whose cuts are counted.
        modules: of the alternatives, by key, on the CPU.
        names: of costs, among ``ADDITIVE``.

    Raises:
        BudgetError: a cost is not additive, or unknown.
        CostError: the forward pass of a network cannot be traced.
    """
    check_additive(names)
    return _Counter(alternatives, inheritance, modules, tuple(names)).table()


def check_additive(names: Sequence[str]) -> None:
    """Check that costs are sums over parts of a network.

    Raises:
        BudgetError: one is not, or is unknown.
    """
    for name in names:
        cost_info(name)
        if name not in ADDITIVE:
            raise BudgetError(
                f"'{name}' of a network is not a sum over its blocks, so assemblies cannot be limited by it; limit "
                f"{', '.join(ADDITIVE[:-1])} or {ADDITIVE[-1]}, and check '{name}' on the assembled networks."
            )


class _Counter:
    def __init__(
        self,
        alternatives: Alternatives,
        inheritance: WeightInheritance,
        modules: Mapping[str, nn.Module],
        names: tuple[str, ...],
    ) -> None:
        self._alternatives = alternatives
        self._inheritance = inheritance
        self._modules = modules
        self._names = names
        self._ends = kept_channels(alternatives, inheritance)
        self._calls = self._record()
        self._outsides: dict[tuple[tuple[str, int], ...], Costs] = {}

    def table(self) -> CostTable:
        entries = {entry.key: self._entry(entry) for entry in self._alternatives.entries}
        largest = {group: max(widths) for group, widths in self._alternatives.shared.items()}
        base = self._outside({})
        parts: list[WidthCosts] = []
        varied = [group for group, widths in self._alternatives.shared.items() if len(widths) > 1]
        for group in varied:
            own: dict[tuple[int, ...], Costs] = {
                (width,): self._less(self._outside({group: width}), base) for width in self._widths(group)
            }
            parts.append(WidthCosts((group,), own))
        for first, second in self._neighbours(varied):
            costs: dict[tuple[int, ...], Costs] = {}
            for a, b in itertools.product(self._widths(first), self._widths(second)):
                if a == largest[first] or b == largest[second]:
                    costs[a, b] = dict.fromkeys(self._names, 0.0)
                    continue
                one, other = (self._less(self._outside(cut), base) for cut in ({first: a}, {second: b}))
                both = self._less(self._outside({first: a, second: b}), base)
                costs[a, b] = {name: both[name] - one[name] - other[name] for name in self._names}
            if any(value for pair in costs.values() for value in pair.values()):
                parts.append(WidthCosts((first, second), costs))
        return CostTable(entries, base, tuple(parts))

    def _entry(self, entry: Alternative) -> Costs:
        if entry.replacement == DROPPED:
            return dict.fromkeys(self._names, 0.0)
        block, call = self._alternatives.plan.blocks[entry.block], self._calls[entry.block]
        input = restrict(call.input, self._ends[entry.key].input, axis_of(block.tokens))
        return self._count(_IsolatedBlock(self._modules[entry.key], call), input.shape)

    def _outside(self, narrowed: Mapping[str, int]) -> Costs:
        """Return the costs outside of the blocks: those of a network minus those of its blocks."""
        key = tuple(sorted(narrowed.items()))
        if key not in self._outsides:
            with seeded_torch(0, "costs"):
                network = self._inheritance.pruned_teacher(
                    self._alternatives.partial_cut({}, self._largest() | dict(narrowed))
                )
            total = self._count(network, self._inheritance.data.input_shape)
            with BlockRecorder(network.eval(), [block.module for block in self._alternatives.plan.blocks]) as recorder:
                _, calls = recorder.run(self._sample())
            for block, call in zip(self._alternatives.plan.blocks, calls):
                isolated = _IsolatedBlock(network.get_submodule(block.module), call)
                total = self._less(total, self._count(isolated, call.input.shape))
            self._outsides[key] = total
        return self._outsides[key]

    def _neighbours(self, varied: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the pairs of groups that meet in a module outside of the blocks, whose costs are not additive."""
        inside = tuple(f"{block.module}." for block in self._alternatives.plan.blocks)
        meeting = {
            group: {
                slot.module
                for slot in self._alternatives.plan.group(group).slots
                if not f"{slot.module}.".startswith(inside)
            }
            for group in varied
        }
        for first, second in itertools.combinations(varied, 2):
            if meeting[first] & meeting[second]:
                yield first, second

    def _count(self, module: nn.Module, shape: Sequence[int]) -> Costs:
        return count(module, shape, self._names)

    def _record(self) -> list[BlockCall]:
        """Return the calls of the teacher's blocks on one sample."""
        names = [block.module for block in self._alternatives.plan.blocks]
        with BlockRecorder(self._inheritance.module, names) as recorder:
            return recorder.run(self._sample())[1]

    def _sample(self) -> Tensor:
        return self._inheritance.data.batch("train", torch.arange(1))[0]

    def _widths(self, group: str) -> tuple[int, ...]:
        return self._alternatives.shared[group]

    def _largest(self) -> dict[str, int]:
        return {group: max(widths) for group, widths in self._alternatives.shared.items()}

    @staticmethod
    def _less(whole: Costs, part: Costs) -> Costs:
        return {name: value - part[name] for name, value in whole.items()}


class _IsolatedBlock(nn.Module):
    """A block with the other arguments of its call. Its input is the block's whole input batch as one sample."""

    def __init__(self, block: nn.Module, call: BlockCall) -> None:
        super().__init__()
        self.block = block
        self._further = call.args, dict(call.kwargs)

    def forward(self, x: Tensor) -> Any:
        """Return the output of the block."""
        args, kwargs = self._further
        return self.block(x[0], *args, **kwargs)
