"""Norms over channels with fixed statistics: what is left of them acts on each channel by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Norms:
    """Replaces the mean and the variance in the layer norms of forward passes by one number for each call.

    All passes must be of one network, whole or cut: the numbers are those of the first, in the order of the calls. A
    group norm of several groups keeps its statistics, also where only one of its groups is left.

    Attributes:
        any: there are such norms in the network.
    """

    def __init__(self) -> None:
        self._factors: list[float | None] = []
        self._learnt = False
        self.any = False

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Run a block, with one forward pass of the network, with fixed statistics."""
        if not self._learnt:
            self._factors.clear()
        with _Fixed(self):
            yield
        self._learnt = True

    def factor(self, call: int, input: Tensor, over_all: bool) -> float | None:
        """Return what call number ``call`` of a norm multiplies its input by; None if it keeps its statistics."""
        if not self._learnt:
            spread = float(input.double().std())
            self._factors.append(1 / max(spread, 1e-6) if over_all else None)
            self.any = self.any or over_all
        return self._factors[call]


class _Fixed(TorchFunctionMode):
    def __init__(self, norms: Norms) -> None:
        super().__init__()
        self._norms, self._calls = norms, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _ARGUMENTS:
            return func(*args, **(kwargs or {}))
        given = dict(zip(_ARGUMENTS[func], args)) | (kwargs or {})
        input: Tensor = given["input"]
        maps = func is functional.group_norm
        factor = self._norms.factor(self._calls, input, not maps or given["num_groups"] == 1)
        self._calls += 1
        if factor is None:
            return func(**given)
        made = factor * input
        shape = (-1, *[1] * (input.dim() - 2)) if maps else None
        if (weight := given.get("weight")) is not None:
            made = made * (weight if shape is None else weight.view(shape))
        if (bias := given.get("bias")) is not None:
            made = made + (bias if shape is None else bias.view(shape))
        return made


_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    functional.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    functional.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
}
