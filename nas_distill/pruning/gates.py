"""Per-sample derivatives of a network's outputs with respect to gates on its prunable units."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd

from nas_distill.pruning.plan import Slot
from nas_distill.pruning.slots import tensors_of
from nas_distill.pruning.statistics import input_names
from nas_distill.utils.layers.hooks import Hooks
from nas_distill.utils.layers.transposed import is_linear

Gates = dict[str, Tensor]


class GatedNetwork:
    """A network whose units are multiplied by gates of 1 where layers read them.

    The gate of a unit multiplies the inputs of the layers that read it. Where a layer is never called as a module (the
    output projection inside torch's attention), it multiplies the weights that read the unit instead; the derivative
    is the same, since both are linear. If no layer with weights reads a group, gates multiply the weights that make it.

    Args:
        module: a copy of the network, in eval mode; its weights are constants.
        slots: by the name of the group, the slots that have gates.
        example: (B, ...) inputs of a forward pass that shows which layers are called.
    """

    def __init__(self, module: nn.Module, slots: Mapping[str, Sequence[Slot]], example: Tensor) -> None:
        self._module = module
        self._ones = {name: torch.ones(len(own[0].indices) if own else 0).to(example) for name, own in slots.items()}
        reading = [slot for own in slots.values() for slot in own if _on_inputs(module, slot)]
        self.output_shape, called = self._trace(example, {slot.module for slot in reading})
        self._on_inputs: dict[str, list[tuple[str, Slot]]] = {}
        self._on_weights: dict[str, list[tuple[str, int, Slot]]] = {}
        for group, own in slots.items():
            for slot in own:
                if slot.module in called and slot.side == "in":
                    self._on_inputs.setdefault(slot.module, []).append((group, slot))
                    continue
                for part in tensors_of(module, slot.module, slot.side):
                    if isinstance(part.tensor, nn.Parameter):
                        name = next(key for key, one in module.named_parameters() if one is part.tensor)
                        self._on_weights.setdefault(name, []).append((group, part.axis, slot))
        self._vmapped = True

    def derivatives(self, x: Tensor, directions: Tensor) -> Gates:
        """Return, per sample, the derivative of the outputs along a direction with respect to every gate.

        Args:
            x: (B, ...) inputs.
            directions: (B, *output_shape), one direction per sample.

        Returns:
            By the name of the group, (B, units). One backward pass serves all samples; where torch cannot vectorise
            the network's operations over samples, there is one pass per sample.
        """
        # Attention's fused kernel cannot be vectorised. Other operations that cannot are only slower, so the warning
        # is of no use to the user.
        with self._hooked() as along, sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            if self._vmapped:
                try:
                    result: Gates = vmap(grad(along), in_dims=(None, 0, 0), randomness="different")(
                        self._ones, x, directions
                    )
                    return result
                except RuntimeError:
                    self._vmapped = False
            each = [self._one_sample(along, *pair) for pair in zip(x, directions, strict=True)]
        return {name: torch.stack([one[name] for one in each]) for name in self._ones}

    def _one_sample(self, along: Callable[..., Tensor], x: Tensor, direction: Tensor) -> Gates:
        gates = {name: one.clone().requires_grad_() for name, one in self._ones.items()}
        with torch.enable_grad():
            value = along(gates, x, direction)
        if not value.requires_grad:
            return self._ones
        found = torch.autograd.grad(value, list(gates.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(gates, found, strict=True))

    def _trace(self, example: Tensor, names: set[str]) -> tuple[torch.Size, set[str]]:
        """Return the shape of one sample's output, and the subset of ``names`` whose modules are called."""
        called: set[str] = set()
        with torch.no_grad(), Hooks(self._module) as hooks:
            for name in names:
                hooks.before(self._module.get_submodule(name), lambda *_, name=name: called.add(name))
            return self._module(example).shape[1:], called

    @contextmanager
    def _hooked(self) -> Iterator[Callable[[Gates, Tensor, Tensor], Tensor]]:
        """Yield the function to differentiate; its arguments are the gates, one sample and its direction."""
        current: Gates = {}

        def along(gates: Gates, x: Tensor, direction: Tensor) -> Tensor:
            current.update(gates)
            weights = {name: self._gated_weight(name, gates) for name in self._on_weights}
            result: Tensor = (functional_call(self._module, weights, (x[None],))[0] * direction).sum()
            return result

        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[Any, Any]:
            gated: dict[int, Tensor] = {}  # arguments that are one tensor stay one tensor

            def gate(values: Any) -> Any:
                if id(values) not in gated:
                    axis = -1 - len(layer.kernel_size) if isinstance(layer, _ConvNd) else -1
                    gated[id(values)] = self._multiplied(values, axis, self._on_inputs[name], current)
                return gated[id(values)]

            inputs = input_names(layer)
            changed = {key: gate(value) if key in inputs else value for key, value in kwargs.items()}
            return (*(gate(one) for one in args[: len(inputs)]), *args[len(inputs) :]), changed

        with Hooks(self._module) as hooks:
            for name in self._on_inputs:

                def before(layer: nn.Module, args: Any, kwargs: Any, name: str = name) -> tuple[Any, Any]:
                    return hook(layer, args, kwargs, name)

                hooks.before(self._module.get_submodule(name), before)
            yield along

    def _gated_weight(self, name: str, gates: Gates) -> Tensor:
        weight: Tensor = self._module.get_parameter(name).detach()
        for group, axis, slot in self._on_weights[name]:
            weight = self._multiplied(weight, axis, [(group, slot)], gates)
        return weight

    @staticmethod
    def _multiplied(values: Tensor, axis: int, slots: Sequence[tuple[str, Slot]], gates: Gates) -> Tensor:
        """Return ``values`` with the indices of each unit along ``axis`` multiplied by the unit's gate."""
        axis %= values.dim()
        factor = torch.ones(values.shape[axis], dtype=values.dtype, device=values.device)
        for group, slot in slots:
            indices = torch.tensor([index for unit in slot.indices for index in unit], device=values.device)
            units = torch.tensor([unit for unit, own in enumerate(slot.indices) for _ in own], device=values.device)
            factor = factor.index_put((indices,), gates[group][units])
        return values * factor.view(-1, *[1] * (values.dim() - axis - 1))


def _on_inputs(module: nn.Module, slot: Slot) -> bool:
    """Say whether gates may multiply the inputs of a slot's module: it must read them by weights."""
    if slot.side != "in":
        return False
    part = module.get_submodule(slot.module)
    return is_linear(part) or isinstance(part, _ConvNd | nn.MultiheadAttention | nn.RNNBase)
