"""Verification of groups: the cut network must do what the uncut one does with the same units set to zero."""

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
from nas_distill.pruning.slots import by_unit, parts_of, weights_of
from nas_distill.pruning.surgery import prune, structure_of
from nas_distill.utils.errors import first_line
from nas_distill.utils.layers import logits_of, tensor_of
from nas_distill.utils.layers.calls import inspection
from nas_distill.utils.layers.hooks import Hooks
from nas_distill.utils.seeds import seeded_torch, torch_generator

SAMPLES = 2


Boundaries = dict[str, tuple[bool | None, bool | None]]


@dataclass(frozen=True)
class Precision:
    """What is told apart: an effect must be above ``least`` of the largest logit, an error below ``share`` of that."""

    least: float
    share: float


_DOUBLE = Precision(least=1e-9, share=1e-4)
_SINGLE = Precision(least=1e-3, share=1e-2)  # for networks that do not run in double precision


@dataclass
class Seen:
    """What passes the boundaries of a block, and how many values it returns where it returns a tuple."""

    given: Tensor
    made: Tensor
    returned: int | None


@dataclass
class Verification:
    """Whether a cut holds (``reason`` is None), and what it does to the boundaries of the blocks.

    Attributes:
        reason: why not.
        output: the units are the network's output itself, which nobody expects to be cut.
        narrowed: for each block, whether its input and its output have fewer channels: None if not, else whether they
            are those of the units that stay, in their order, each unit's side by side.
    """

    reason: str | None = None
    output: bool = False
    narrowed: Boundaries = field(default_factory=dict)


class Verifier:
    """Runs cuts of a copy of a network, and compares.

    Weights are random, so that nothing hides behind weights that are zero, and of double precision where the network
    runs so. What is kept is random too, and in random order. FixedNorms over the units of a group have fixed statistics
    here, since zeros and absence differ for them; with their own, a cut network is only run.

    Args:
        module: the network; it is left as it is.
        input_shape: of one sample.
        blocks: for the names of blocks, the dimension in which the channels of what passes their boundaries are.
    """

    def __init__(self, module: nn.Module, input_shape: Sequence[int], blocks: Mapping[str, int]) -> None:
        self._generator = torch_generator(0, "cut", "proof")
        self._blocks = blocks
        self._norms = FixedNorms()
        self._module = randomise_weights(copy.deepcopy(module).cpu().eval().requires_grad_(False), self._generator)
        self._x = noise(self._module, (SAMPLES, *input_shape), self._generator)
        self._precision = _SINGLE
        self.seen: dict[str, Seen] = {}
        with fitting_statistics(self._module, self._generator):
            self._compared(self._module, self._x)
        try:
            double = copy.deepcopy(self._module).double()
            self._whole = self._compared(double, self._x.double(), self.seen)
        except Exception:
            self._whole = self._compared(self._module, self._x, self.seen)
        else:
            self._module, self._x, self._precision = double, self._x.double(), _DOUBLE

    def check_groups(self, *groups: Group, share: float = 0.5) -> Verification:
        """Say whether all ``groups`` can be cut together, to ``share`` of their units."""
        keep = {group.name: self._kept(group, share) for group in groups}
        seen: dict[str, Seen] = {}
        zeros: dict[str, Seen] = {}
        try:
            narrowed = prune(structure_of(self._module), Plan(groups, (), ()), KeptUnits(keep))
            found = self._compared(narrowed, self._x, seen)
            if self._norms.any:
                self._run(narrowed, self._x)
        except Exception as error:
            return Verification(f"the network does not run without some of its units ({first_line(error, 120)})")
        if found.shape != self._whole.shape:
            return Verification("its units are the network's output", output=True)
        with _zeroed(self._module, groups, keep):
            wanted = self._compared(self._module, self._x, zeros)
        if not torch.isfinite(found).all() or not torch.isfinite(wanted).all():
            return Verification("it cannot be verified, since the network overflows with random weights")
        effect, difference = _distance(self._whole, wanted), _distance(found, wanted)
        least = self._precision.least * float(self._whole.abs().max())
        if difference > self._precision.share * max(effect, least):
            return Verification(
                "without some of its units the network does something else than with these units at zero"
            )
        if effect <= least:
            return Verification("it cannot be verified, since its units have no part in the output")
        if len(groups) > 1:
            return Verification()
        return Verification(narrowed=self._boundaries(groups[0], keep[groups[0].name], seen, zeros))

    def with_part(self, groups: Sequence[Group]) -> set[str]:
        """Return the names of those groups whose units have a part in the output that can be told.

        To first order: by the derivative of a random sum of the logits along the weights that make each unit.
        """
        module = structure_of(self._module)
        weights = list(module.parameters())
        for weight in weights:
            weight.requires_grad_(weight.is_floating_point())
        try:
            with self._norms.fixed(), seeded_torch(0, "proof"):
                logits = logits_of(module(self._x.clone()))
            signs = torch.randn(logits.shape, generator=self._generator, dtype=logits.dtype)
            (logits * signs).sum().backward()
            least = self._precision.least * float(self._whole.abs().max())
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
        except Exception:  # what changes values in place may run, and have no derivative
            return set()
        finally:
            for weight in weights:  # they are those of the network that is verified
                weight.grad = None
                weight.requires_grad_(False)

    def untouched(self) -> Boundaries:
        """Return what a group that is wholly inside of a block does to the blocks' boundaries: nothing."""
        return dict.fromkeys(self._blocks, (None, None))

    def check_drops(self, blocks: Sequence[Block], groups: Sequence[Group]) -> bool:
        """Say whether the network runs without ``blocks``, whole and with half of the units of ``groups``."""
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
        return all(output.shape == self._whole.shape for output in outputs)

    def _boundaries(
        self, group: Group, keep: Sequence[int], seen: Mapping[str, Seen], zeros: Mapping[str, Seen]
    ) -> Boundaries:
        def narrowed(few: Tensor, many: Tensor, axis: int) -> bool | None:
            channels = many.shape[axis]
            if few.shape == many.shape:
                return None
            if few.shape[axis] == channels or channels % group.size:
                return False
            run = channels // group.size
            places = torch.tensor([unit * run + place for unit in keep for place in range(run)])
            wanted = many.index_select(axis, places)
            nearly = self._precision.least * float(wanted.abs().max())
            return few.shape == wanted.shape and _distance(few, wanted) <= nearly

        return {
            name: (
                narrowed(seen[name].given, zeros[name].given, axis),
                narrowed(seen[name].made, zeros[name].made, axis),
            )
            for name, axis in self._blocks.items()
        }

    def _kept(self, group: Group, share: float) -> tuple[int, ...]:
        """Return random units, in random order: so no order in which a network mixes them up passes."""
        count = min(group.size - 1, max(1, math.ceil(group.size * share)))
        return tuple(torch.randperm(group.size, generator=self._generator)[:count].tolist())

    def _compared(self, module: nn.Module, x: Tensor, seen: dict[str, Seen] | None = None) -> Tensor:
        with self._norms.fixed():
            return self._run(module, x, seen)

    def _run(self, module: nn.Module, x: Tensor, seen: dict[str, Seen] | None = None) -> Tensor:
        watched = {} if seen is None else seen
        with inspection(module), _watching(module, () if seen is None else tuple(self._blocks), watched):
            return logits_of(module(x.clone()))  # a network may change what it is given


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@contextmanager
def _watching(module: nn.Module, names: Sequence[str], into: dict[str, Seen]) -> Iterator[None]:
    """Write down what passes the boundaries of the modules called ``names``."""

    def hook(name: str) -> Any:
        def note(part: nn.Module, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
            returned = len(result) if isinstance(result, tuple | list) else None
            into[name] = Seen(tensor_of((args, kwargs)), tensor_of(result), returned)

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
        staying = set(keep[group.name])
        for slot in group.slots:
            gone = [place for unit, places in enumerate(slot.indices) if unit not in staying for place in places]
            for part in parts_of(module, slot.module, slot.side):
                before.setdefault(id(part.tensor), (part.tensor, part.tensor.clone()))
                part.tensor.index_fill_(part.axis, torch.tensor(gone, dtype=torch.long), 0.0)
    try:
        yield
    finally:
        for tensor, values in before.values():
            tensor.copy_(values)


_SHARES = (0.5, 0.01)  # half of the units, and a single one
_FEW = 4  # so many are verified each by itself


def verify_groups(
    module: nn.Module, proposed: Sequence[Group], verifier: Verifier, inside: Mapping[str, int] | None = None
) -> tuple[list[Group], dict[str, Boundaries], list[Unpruned]]:
    """Return the groups that hold, what each does to the blocks' boundaries, and modules that stay unpruned.

    Neurons that do not hold are tried as whole attention heads, and channels that a linear or recurrent layer reads
    flattened in either order of flattening: the graph does not see what a permutation before it does. Groups that are
    wholly inside of a block, whose index ``inside`` has by their name, are verified many at a time where they all hold.
    """
    together = _verified_together([group for group in proposed if group.name in (inside or {})], inside or {}, verifier)
    good: list[Group] = []
    boundaries: dict[str, Boundaries] = {}
    unpruned: list[Unpruned] = []
    for group in proposed:
        if group.name in together:
            good.append(group)
            boundaries[group.name] = verifier.untouched()
            continue
        verdict = verifier.check_groups(group)
        heads = as_heads(module, group) if verdict.reason is not None and not verdict.output else None
        if heads is not None and heads.name not in boundaries:
            group, verdict = heads, verifier.check_groups(heads)
        for other in as_flattened(module, group) if verdict.reason is not None and not verdict.output else ():
            tried = verifier.check_groups(other)
            if tried.reason is None:
                group, verdict = other, tried
                break
        if verdict.reason is None:
            good.append(group)
            boundaries[group.name] = verdict.narrowed
        elif not verdict.output:
            unpruned.append(Unpruned(group.name, verdict.reason))
    if _together(good, verifier).reason is not None:
        held: list[Group] = []
        for group in good:
            verdict = _together([*held, group], verifier)
            if verdict.reason is None:
                held.append(group)
            else:
                unpruned.append(
                    Unpruned(group.name, f"it can be cut by itself, but not beside other groups: {verdict.reason}")
                )
        good = held
    return good, boundaries, unpruned


def _verified_together(groups: Sequence[Group], inside: Mapping[str, int], verifier: Verifier) -> set[str]:
    """Return the names of those groups that hold when many are cut at a time.

    Groups of one block, and of blocks next to each other, are never cut in one go: two of them that must be cut
    together could hold so. Where some do not hold, each half of the blocks is tried by itself.
    """
    if len(groups) <= _FEW:
        return set()
    rounds: dict[tuple[int, int], list[Group]] = {}
    seen: dict[int, int] = {}
    for group in groups:
        block = inside[group.name]
        rounds.setdefault((block % 2, seen.get(block, 0)), []).append(group)
        seen[block] = seen.get(block, 0) + 1
    if len(seen) > 2 and all(verifier.check_groups(*one).reason is None for one in rounds.values()):
        return {group.name for group in groups} & verifier.with_part(groups)
    blocks = sorted(seen)
    if len(blocks) < 3:
        return set()
    lower = set(blocks[: len(blocks) // 2])
    halves = [[group for group in groups if (inside[group.name] in lower) is low] for low in (True, False)]
    return set().union(*(_verified_together(half, inside, verifier) for half in halves))


def _together(groups: Sequence[Group], verifier: Verifier) -> Verification:
    verdict = Verification()
    for share in _SHARES if groups else ():
        verdict = verifier.check_groups(*groups, share=share)
        if verdict.reason is not None:
            break
    return verdict
