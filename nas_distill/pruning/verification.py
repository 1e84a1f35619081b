"""Verification of pruning groups: a cut network must compute what the uncut one does with the same units at zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.costs.undisturbed import noise
from nas_distill.pruning.groups import as_flattened, as_heads
from nas_distill.pruning.plan import DROPPED, Block, Group, KeptUnits, Plan, Unpruned
from nas_distill.pruning.randomise import FixedNorms, fitting_statistics, randomise_weights
from nas_distill.pruning.slots import by_unit, tensors_of, weights_of
from nas_distill.pruning.surgery import prune, structure_of
from nas_distill.utils.errors import first_line
from nas_distill.utils.layers import logits_of, tensor_of
from nas_distill.utils.layers.calls import inspection
from nas_distill.utils.layers.hooks import Hooks
from nas_distill.utils.seeds import seeded_torch, torch_generator

SAMPLES = 2

Boundaries = dict[str, tuple[bool | None, bool | None]]
"""By the name of a block, the effect of a cut on its input and on its output; see ``Verification.narrowed``."""


@dataclass(frozen=True)
class Precision:
    """Tolerances: an effect must exceed ``least`` of the largest logit, an error must not exceed ``share`` of it."""

    least: float
    share: float


_DOUBLE = Precision(least=1e-9, share=1e-4)
_SINGLE = Precision(least=1e-3, share=1e-2)  # for networks that do not run in double precision


@dataclass
class BlockValues:
    """The input and the output of a block, and the number of values that it returns if it returns a tuple."""

    input: Tensor
    output: Tensor
    returned: int | None


@dataclass
class Verification:
    """The result of verifying a cut, and the effect of the cut on the boundaries of blocks.

    Attributes:
        reason: of a failure; None if the cut is verified.
        output: the units are the network's output, which users do not expect to be cut.
        narrowed: for the input and the output of each block: None if it has as many channels as before, else whether
            its channels are exactly those of the kept units, in order, with the channels of a unit side by side.
    """

    reason: str | None = None
    output: bool = False
    narrowed: Boundaries = field(default_factory=dict)


class Verifier:
    """Verifier of cuts, which runs them on a copy of a network and compares outputs.

    Weights are random, so that zero weights hide no error, and of double precision if the network runs with it. Kept
    units are random too, in random order. Norms over the units of a group have fixed statistics (``FixedNorms``), since
    zero units and removed units differ for them; with its own statistics, a cut network only has to run.

    Args:
        module: the network; not changed.
        input_shape: of one sample.
        blocks: the channel dimension of each block's input and output, by the name of the block.

    Attributes:
        block_values: inputs and outputs of the blocks of the uncut network, by name.
    """

    def __init__(self, module: nn.Module, input_shape: Sequence[int], blocks: Mapping[str, int]) -> None:
        self._generator = torch_generator(0, "pruning", "verification")
        self._blocks = blocks
        self._norms = FixedNorms()
        self._module = randomise_weights(copy.deepcopy(module).cpu().eval().requires_grad_(False), self._generator)
        self._x = noise(self._module, (SAMPLES, *input_shape), self._generator)
        self._precision = _SINGLE
        self.block_values: dict[str, BlockValues] = {}
        with fitting_statistics(self._module, self._generator):
            self._run_fixed(self._module, self._x)
        try:
            double = copy.deepcopy(self._module).double()
            self._uncut = self._run_fixed(double, self._x.double(), self.block_values)
        except Exception:
            self._uncut = self._run_fixed(self._module, self._x, self.block_values)
        else:
            self._module, self._x, self._precision = double, self._x.double(), _DOUBLE

    def check_groups(self, *groups: Group, share: float = 0.5) -> Verification:
        """Verify that all ``groups`` can be cut together, to ``share`` of their units."""
        keep = {group.name: self._kept(group, share) for group in groups}
        cut_values: dict[str, BlockValues] = {}
        zeroed_values: dict[str, BlockValues] = {}
        try:
            narrowed = prune(structure_of(self._module), Plan(groups, (), ()), KeptUnits(keep))
            found = self._run_fixed(narrowed, self._x, cut_values)
            if self._norms.any:
                self._run(narrowed, self._x)
        except Exception as error:
            return Verification(f"the network does not run without some of its units ({first_line(error, 120)})")
        if found.shape != self._uncut.shape:
            return Verification("its units are the network's output", output=True)
        with _zeroed(self._module, groups, keep):
            wanted = self._run_fixed(self._module, self._x, zeroed_values)
        if not torch.isfinite(found).all() or not torch.isfinite(wanted).all():
            return Verification("it cannot be verified, since the network overflows with random weights")
        effect, difference = _distance(self._uncut, wanted), _distance(found, wanted)
        least = self._precision.least * float(self._uncut.abs().max())
        if difference > self._precision.share * max(effect, least):
            return Verification("without some of its units the network computes something else than with them at zero")
        if effect <= least:
            return Verification("it cannot be verified, since its units have no effect on the output")
        if len(groups) > 1:
            return Verification()
        return Verification(narrowed=self._boundaries(groups[0], keep[groups[0].name], cut_values, zeroed_values))

    def affecting_output(self, groups: Sequence[Group]) -> set[str]:
        """Return the names of the groups whose units have a measurable effect on the output.

        To first order: by the derivative of a random sum of the logits along the weights that make each unit.
        """
        module = structure_of(self._module)
        weights = list(module.parameters())
        for weight in weights:
            weight.requires_grad_(weight.is_floating_point())
        try:
            with self._norms.fixed(module), seeded_torch(0, "verification"):
                logits = logits_of(module(self._x.clone()))
            signs = torch.randn(logits.shape, generator=self._generator, dtype=logits.dtype)
            (logits * signs).sum().backward()
            least = self._precision.least * float(self._uncut.abs().max())
            found = set()
            for group in groups:
                making = [
                    (slot, *one) for slot in group.slots if slot.side == "out" for one in weights_of(module, slot)
                ]
                effects = [
                    by_unit((weight.detach() * weight.grad), axis, slot).abs().max()
                    for slot, weight, axis in making
                    if weight.grad is not None
                ]
                if effects and float(max(effects)) > least:
                    found.add(group.name)
            return found
        except Exception:  # a network with in-place operations may run and have no derivative
            return set()
        finally:
            for weight in weights:  # shared with the network under verification
                weight.grad = None
                weight.requires_grad_(False)

    def unchanged_boundaries(self) -> Boundaries:
        """Return the effect of a group inside of a block on the blocks' boundaries: none."""
        return dict.fromkeys(self._blocks, (None, None))

    def check_drops(self, blocks: Sequence[Block], groups: Sequence[Group]) -> bool:
        """Say whether the network runs without ``blocks``, both uncut and with half of the units of ``groups``."""
        plan = Plan(tuple(groups), tuple(blocks), ())
        dropped = dict.fromkeys(range(len(blocks)), DROPPED)
        keep = {group.name: self._kept(group, 0.5) for group in groups}
        try:
            outputs = [
                self._run(prune(structure_of(self._module), plan, KeptUnits(kept, dropped)), self._x)
                for kept in ({}, keep)
            ]
        except Exception:
            return False
        return all(output.shape == self._uncut.shape for output in outputs)

    def _boundaries(
        self,
        group: Group,
        keep: Sequence[int],
        cut: Mapping[str, BlockValues],
        zeroed: Mapping[str, BlockValues],
    ) -> Boundaries:
        def narrowed(few: Tensor, many: Tensor, axis: int) -> bool | None:
            channels = many.shape[axis]
            if few.shape == many.shape:
                return None
            if few.shape[axis] == channels or channels % group.size:
                return False
            run = channels // group.size
            indices = torch.tensor([unit * run + offset for unit in keep for offset in range(run)])
            wanted = many.index_select(axis, indices)
            nearly = self._precision.least * float(wanted.abs().max())
            return few.shape == wanted.shape and _distance(few, wanted) <= nearly

        return {
            name: (
                narrowed(cut[name].input, zeroed[name].input, axis),
                narrowed(cut[name].output, zeroed[name].output, axis),
            )
            for name, axis in self._blocks.items()
        }

    def _kept(self, group: Group, share: float) -> tuple[int, ...]:
        """Return random units in random order, so that a network that permutes units is not verified by chance."""
        count = min(group.size - 1, max(1, math.ceil(group.size * share)))
        return tuple(torch.randperm(group.size, generator=self._generator)[:count].tolist())

    def _run_fixed(self, module: nn.Module, x: Tensor, values: dict[str, BlockValues] | None = None) -> Tensor:
        with self._norms.fixed(module):
            return self._run(module, x, values)

    def _run(self, module: nn.Module, x: Tensor, values: dict[str, BlockValues] | None = None) -> Tensor:
        names = () if values is None else tuple(self._blocks)
        with inspection(module), _recording(module, names, {} if values is None else values):
            return logits_of(module(x.clone()))  # a network may change its input in place


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@contextmanager
def _recording(module: nn.Module, names: Sequence[str], into: dict[str, BlockValues]) -> Iterator[None]:
    """Record inputs and outputs of the modules called ``names`` while the block runs."""

    def hook(name: str) -> Any:
        def note(part: nn.Module, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
            returned = len(result) if isinstance(result, tuple | list) else None
            into[name] = BlockValues(tensor_of((args, kwargs)), tensor_of(result), returned)

        return note

    with Hooks() as hooks:
        for name in names:
            hooks.after(module.get_submodule(name), hook(name))
        yield


@contextmanager
def _zeroed(module: nn.Module, groups: Sequence[Group], keep: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Run a block with the units of ``groups`` that are not kept at zero."""
    before: dict[int, tuple[Tensor, Tensor]] = {}
    for group in groups:
        kept = set(keep[group.name])
        for slot in group.slots:
            removed = [index for unit, indices in enumerate(slot.indices) if unit not in kept for index in indices]
            for part in tensors_of(module, slot.module, slot.side):
                before.setdefault(id(part.tensor), (part.tensor, part.tensor.clone()))
                part.tensor.index_fill_(part.axis, torch.tensor(removed, dtype=torch.long), 0.0)
    try:
        yield
    finally:
        for tensor, values in before.values():
            tensor.copy_(values)


_SHARES = (0.5, 0.01)  # half of the units, and a single one
_FEW = 4  # up to this number, groups are verified separately


def verify_groups(
    module: nn.Module, proposed: Sequence[Group], verifier: Verifier, inside: Mapping[str, int] | None = None
) -> tuple[list[Group], dict[str, Boundaries], list[Unpruned]]:
    """Return the verified groups, the effect of each on the blocks' boundaries, and modules that stay unpruned.

    Neurons that fail are tried again as attention heads; channels that a linear or recurrent layer reads flattened are
    tried in both orders of flattening, since the graph does not see a permutation before the flatten. Groups inside of
    a block are verified many at a time where all of them pass; ``inside`` has the index of the block by their name.
    """
    jointly = _verify_inner([group for group in proposed if group.name in (inside or {})], inside or {}, verifier)
    verified: list[Group] = []
    boundaries: dict[str, Boundaries] = {}
    unpruned: list[Unpruned] = []
    for group in proposed:
        if group.name in jointly:
            verified.append(group)
            boundaries[group.name] = verifier.unchanged_boundaries()
            continue
        result = verifier.check_groups(group)
        heads = as_heads(module, group) if result.reason is not None and not result.output else None
        if heads is not None and heads.name not in boundaries:
            group, result = heads, verifier.check_groups(heads)
        for other in as_flattened(module, group) if result.reason is not None and not result.output else ():
            tried = verifier.check_groups(other)
            if tried.reason is None:
                group, result = other, tried
                break
        if result.reason is None:
            verified.append(group)
            boundaries[group.name] = result.narrowed
        elif not result.output:
            unpruned.append(Unpruned(group.name, result.reason))
    if _check_jointly(verified, verifier).reason is not None:
        compatible: list[Group] = []
        for group in verified:
            result = _check_jointly([*compatible, group], verifier)
            if result.reason is None:
                compatible.append(group)
            else:
                unpruned.append(
                    Unpruned(group.name, f"it can be cut by itself, but not beside other groups: {result.reason}")
                )
        verified = compatible
    return verified, boundaries, unpruned


def _verify_inner(groups: Sequence[Group], inside: Mapping[str, int], verifier: Verifier) -> set[str]:
    """Return the names of the groups that are verified when many are cut at a time.

    Groups of one block, and of neighbouring blocks, are never cut in the same check: two groups that must be cut
    together could pass it. If a check fails, each half of the blocks is tried separately.
    """
    if len(groups) <= _FEW:
        return set()
    rounds: dict[tuple[int, int], list[Group]] = {}
    counts: dict[int, int] = {}
    for group in groups:
        block = inside[group.name]
        rounds.setdefault((block % 2, counts.get(block, 0)), []).append(group)
        counts[block] = counts.get(block, 0) + 1
    if len(counts) > 2 and all(verifier.check_groups(*one).reason is None for one in rounds.values()):
        return {group.name for group in groups} & verifier.affecting_output(groups)
    blocks = sorted(counts)
    if len(blocks) < 3:
        return set()
    lower = set(blocks[: len(blocks) // 2])
    halves = [[group for group in groups if (inside[group.name] in lower) is low] for low in (True, False)]
    return set().union(*(_verify_inner(half, inside, verifier) for half in halves))


def _check_jointly(groups: Sequence[Group], verifier: Verifier) -> Verification:
    result = Verification()
    for share in _SHARES if groups else ():
        result = verifier.check_groups(*groups, share=share)
        if result.reason is not None:
            break
    return result
