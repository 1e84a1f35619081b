"""Exact costs of alternatives and of the parts around the blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.blockwise.alternatives import Alternative, Alternatives
from nas_distill.blockwise.channels import axis_of, restrict
from nas_distill.blockwise.growing import kept_channels
from nas_distill.blockwise.watching import Passage, Watch
from nas_distill.costs.counting import count
from nas_distill.costs.registry import additive_names, cost_info
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.plan import DROPPED
from nas_distill.utils.errors import BudgetError
from nas_distill.utils.seeds import seeded_torch

ADDITIVE = additive_names()
"""The costs that are sums over parts of a network."""

Costs = dict[str, float]


@dataclass(frozen=True)
class Part:
    """What the width of one shared group, or of two together, adds outside of the blocks.

    ``costs``: by the widths of ``groups``, in their order. They are differences, so that they may be below 0.
    """

    groups: tuple[str, ...]
    costs: Mapping[tuple[int, ...], Costs]


@dataclass(frozen=True)
class CostTable:
    """Costs of all that an assembly is made of; lower is better.

    Attributes:
        entries: of each alternative, by its key.
        base: of what is outside of the blocks, where all shared groups are at their largest width.
        parts: what other widths add to that.
    """

    entries: Mapping[str, Costs]
    base: Costs
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        parts = [
            {"groups": list(part.groups), "costs": [[list(widths), costs] for widths, costs in part.costs.items()]}
            for part in self.parts
        ]
        return {"entries": dict(self.entries), "base": self.base, "parts": parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CostTable:
        """Read what ``to_dict`` wrote."""
        parts = [
            Part(tuple(part["groups"]), {tuple(widths): costs for widths, costs in part["costs"]})
            for part in values["parts"]
        ]
        return cls(values["entries"], values["base"], tuple(parts))


def count_costs(
    alternatives: Alternatives,
    inheritance: WeightInheritance,
    modules: Mapping[str, nn.Module],
    names: Sequence[str] = ADDITIVE,
) -> CostTable:
    """Count the costs of alternatives, each alone on what its block is given, and of what is around the blocks.

    Args:
        alternatives: what there is.
        inheritance: whose cuts are counted.
        modules: of the alternatives, by key, on the CPU.
        names: of ``ADDITIVE``.

    Raises:
        BudgetError: a cost is not additive, or unknown.
        CostError: a network cannot be recorded.
    """
    check_additive(names)
    return _Counter(alternatives, inheritance, modules, tuple(names)).table()


def check_additive(names: Sequence[str]) -> None:
    """Raise BudgetError for costs that are no sums over parts."""
    for name in names:
        cost_info(name)
        if name not in ADDITIVE:
            raise BudgetError(
                f"'{name}' of a network is no sum over its blocks, so assemblies cannot be limited by it; limit "
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
        self._passages = self._look()
        self._outsides: dict[tuple[tuple[str, int], ...], Costs] = {}

    def table(self) -> CostTable:
        entries = {entry.key: self._entry(entry) for entry in self._alternatives.entries}
        largest = {group: max(widths) for group, widths in self._alternatives.shared.items()}
        base = self._outside({})
        parts: list[Part] = []
        varied = [group for group, widths in self._alternatives.shared.items() if len(widths) > 1]
        for group in varied:
            own: dict[tuple[int, ...], Costs] = {
                (width,): self._less(self._outside({group: width}), base) for width in self._widths(group)
            }
            parts.append(Part((group,), own))
        for first, second in self._neighbours(varied):
            costs: dict[tuple[int, ...], Costs] = {}
            for a, b in itertools.product(self._widths(first), self._widths(second)):
                if a == largest[first] or b == largest[second]:
                    costs[a, b] = dict.fromkeys(self._names, 0.0)
                    continue
                alone = [self._less(self._outside({group: width}), base) for group, width in ((first, a), (second, b))]
                together = self._less(self._outside({first: a, second: b}), base)
                costs[a, b] = {name: together[name] - alone[0][name] - alone[1][name] for name in self._names}
            if any(value for one in costs.values() for value in one.values()):
                parts.append(Part((first, second), costs))
        return CostTable(entries, base, tuple(parts))

    def _entry(self, entry: Alternative) -> Costs:
        if entry.replacement == DROPPED:
            return dict.fromkeys(self._names, 0.0)
        block, passage = self._alternatives.plan.blocks[entry.block], self._passages[entry.block]
        given = restrict(passage.given, self._ends[entry.key].given, axis_of(block.tokens))
        return self._count(_Alone(self._modules[entry.key], passage), given.shape)

    def _outside(self, narrowed: Mapping[str, int]) -> Costs:
        """Return what is outside of the blocks: a whole network less its blocks, each counted alone."""
        key = tuple(sorted(narrowed.items()))
        if key not in self._outsides:
            with seeded_torch(0, "costs"):
                network = self._inheritance.pruned_teacher(
                    self._alternatives.partial_cut({}, self._largest() | dict(narrowed))
                )
            total = self._count(network, self._inheritance.data.input_shape)
            with Watch(network.eval(), [block.module for block in self._alternatives.plan.blocks]) as watch:
                _, passages = watch.run(self._sample())
            for block, passage in zip(self._alternatives.plan.blocks, passages):
                alone = _Alone(network.get_submodule(block.module), passage)
                total = self._less(total, self._count(alone, passage.given.shape))
            self._outsides[key] = total
        return self._outsides[key]

    def _neighbours(self, varied: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the pairs of groups that meet in a module outside of the blocks, where costs are of their product."""
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

    def _look(self) -> list[Passage]:
        """Return what each of the teacher's blocks is given, of one sample."""
        with Watch(self._inheritance.module, [block.module for block in self._alternatives.plan.blocks]) as watch:
            return watch.run(self._sample())[1]

    def _sample(self) -> Tensor:
        return self._inheritance.data.batch("train", torch.arange(1))[0]

    def _widths(self, group: str) -> tuple[int, ...]:
        return self._alternatives.shared[group]

    def _largest(self) -> dict[str, int]:
        return {group: max(widths) for group, widths in self._alternatives.shared.items()}

    @staticmethod
    def _less(whole: Costs, part: Costs) -> Costs:
        return {name: value - part[name] for name, value in whole.items()}


class _Alone(nn.Module):
    """A block with the further arguments that it was called with. It takes what the block was given as one sample."""

    def __init__(self, block: nn.Module, passage: Passage) -> None:
        super().__init__()
        self.block = block
        self._further = passage.rest, dict(passage.named)

    def forward(self, x: Tensor) -> Any:
        """Return what the block returns."""
        rest, named = self._further
        return self.block(x[0], *rest, **named)
