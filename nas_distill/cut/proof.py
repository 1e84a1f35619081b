"""Proof that a group can be cut: the cut network must do what the whole one does with the same units set to zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from nas_distill.common.errors import first_line
from nas_distill.common.layers import logits_of
from nas_distill.common.layers.calls import looking
from nas_distill.common.seeds import torch_generator
from nas_distill.cut.plan import Group, Plan
from nas_distill.cut.surgery import Cut, cut
from nas_distill.cut.weights import parts_of

SAMPLES = 2
_TOLERANCE = 1e-7  # of double precision, relative to the largest logit
_LOOSE = 1e-3  # of single precision, for networks that do not run in double

Widths = dict[str, tuple[int, int]]


class Proof:
    """Runs cuts of a copy of a network, and compares.

    Weights are random, so that nothing hides behind weights that are zero, and of double precision where the network
    runs so. Layer norms over the units are taken without their statistics, for which zeros and absence differ; with
    them, a cut network is only run.
    """

    def __init__(self, module: nn.Module, input_shape: Sequence[int], blocks: Sequence[str]) -> None:
        generator = torch_generator(0, "cut", "proof")
        self._blocks = blocks
        self._module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        _scramble(self._module, generator)
        self._x = torch.randn(SAMPLES, *input_shape, generator=generator)
        self._tolerance = _LOOSE
        double = copy.deepcopy(self._module).double()
        try:
            self._run(double, self._x.double())
        except Exception:
            self._run(self._module, self._x)
        else:
            self._module, self._x, self._tolerance = double, self._x.double(), _TOLERANCE
        self._generator = generator

    def widths(
        self, groups: Sequence[Group] = (), kinds: dict[int, str] | None = None, plan: Plan | None = None
    ) -> Widths:
        """Return the channels that each block is given and returns, with half of the units of ``groups`` cut."""
        found: Widths = {}
        what = Cut({group.name: self._half(group) for group in groups}, kinds or {})
        narrowed = cut(copy.deepcopy(self._module), plan or Plan(tuple(groups), (), ()), what)
        self._run(narrowed, self._x, found)
        return found

    def failure(self, *groups: Group, share: float = 0.5) -> str | None:
        """Cut ``share`` of the units of all ``groups``; return what is wrong, None if nothing is."""
        keep = {group.name: self._half(group, share) for group in groups}
        plan = Plan(groups, (), ())
        try:
            narrowed = cut(copy.deepcopy(self._module), plan, Cut(keep))
            with _without_statistics():
                found = self._run(narrowed, self._x)
        except Exception as error:
            return f"the network does not run without some of its units ({first_line(error, 120)})"
        with _without_statistics():
            whole = self._run(self._module, self._x)
            zeroed = copy.deepcopy(self._module)
            for group in groups:
                _zero(zeroed, group, keep[group.name])
            wanted = self._run(zeroed, self._x)
        if found.shape != whole.shape:
            return "its units are the network's output"
        scale = float(wanted.abs().max().clamp_min(1e-30))
        if not torch.isfinite(wanted).all() or not torch.isfinite(found).all():
            return "what it does cannot be compared, since the network overflows with random weights"
        if float((found - wanted).abs().max()) > self._tolerance * scale:
            return "without some of its units the network does something else than with these units at zero"
        if len(groups) == 1 and float((whole - wanted).abs().max()) <= self._tolerance * scale:
            return "its units have no part in the output"
        try:
            self._run(narrowed, self._x)
        except Exception as error:
            return f"the network does not run without some of its units ({first_line(error, 120)})"
        return None

    def _half(self, group: Group, share: float = 0.5) -> tuple[int, ...]:
        """Return random units, in random order: so no order in which a network mixes them up passes."""
        count = min(group.size - 1, max(1, math.ceil(group.size * share)))
        return tuple(torch.randperm(group.size, generator=self._generator)[:count].tolist())

    def _run(self, module: nn.Module, x: Tensor, widths: Widths | None = None) -> Tensor:
        handles = []
        given: dict[str, int] = {}

        def watch(name: str) -> Any:
            def hook(part: nn.Module, args: Any, result: Any) -> None:
                if widths is not None:
                    axis = 1 if args[0].dim() == 4 else -1
                    made = result[0] if isinstance(result, tuple) else result
                    widths[name] = (args[0].shape[axis], made.shape[axis])

            return hook

        if widths is not None:
            handles = [module.get_submodule(name).register_forward_hook(watch(name)) for name in self._blocks]
        given.clear()
        try:
            with looking(module):
                return logits_of(module(x))
        finally:
            for handle in handles:
                handle.remove()


class _Statistics(TorchFunctionMode):
    """Leaves the mean and the variance out of every norm over channels: what is left acts on each channel alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (functional.layer_norm, functional.rms_norm):
            return _affine(*args, **kwargs)
        if func is functional.group_norm:
            return _group_affine(func, *args, **kwargs)
        return func(*args, **kwargs)


def _affine(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: Any = None
) -> Tensor:
    scaled = input if weight is None else input * weight
    return scaled if bias is None else scaled + bias


def _group_affine(
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if num_groups > 1:  # whole groups are cut, each with its own statistics
        return func(input, num_groups, weight, bias, eps)
    shape = (-1, *[1] * (input.dim() - 2))
    return _affine(
        input, None, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape)
    )


@contextmanager
def _without_statistics() -> Iterator[None]:
    with _Statistics():
        yield


def _zero(module: nn.Module, group: Group, keep: Sequence[int]) -> None:
    for slot in group.slots:
        gone = [place for unit, places in enumerate(slot.places) if unit not in keep for place in places]
        for part in parts_of(module, slot.module, slot.side):
            part.tensor.index_fill_(part.axis, torch.tensor(gone), 0.0)


def _scramble(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew, large enough that all of them matter and small enough that nothing overflows."""
    for part in module.modules():
        for weight in part._parameters.values():
            if weight is None or not weight.is_floating_point():
                continue
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(drawn * math.sqrt(2 / max(1, weight[0].numel())))
            else:
                weight.copy_(1 + 0.3 * drawn if _scales(part, weight) else 0.3 * drawn)
        if isinstance(part, _NormBase) and part.running_var is not None and part.running_mean is not None:
            part.running_mean.copy_(0.3 * torch.randn(part.running_mean.shape, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=generator))


def _scales(part: nn.Module, weight: Tensor) -> bool:
    return part._parameters.get("weight") is weight
