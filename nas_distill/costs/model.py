"""Costs of a network, computed from one recorded forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_distill.costs.latency import features
from nas_distill.costs.registry import CostInfo, Reads, find_cost
from nas_distill.costs.tracing import Trace, trace
from nas_distill.costs.undisturbed import example, input_dtype, refuse_lazy, undisturbed
from nas_distill.utils.errors import CostError, NasDistillError, first_line
from nas_distill.utils.modules import device_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nas_distill.costs.latency import LatencyModel


@dataclass(frozen=True)
class Cost:
    """A cost function with its options. Picklable, so that a user's own cost runs in worker processes."""

    info: CostInfo
    function: Callable[..., Any]
    reads: Reads = "example"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(
        cls, name: str, options: Mapping[str, Any] | None = None, *, where: str = "cost", paths: Sequence[Path] = ()
    ) -> Cost:
        """Return a built-in cost, or the user's own of the form ``package.module:name``, with ``options``.

        Raises:
            BudgetError: unknown built-in cost.
            ConfigError: the user's own cannot be loaded, or an option is invalid; names ``where``.
        """
        spec = find_cost(name, where=where, paths=paths)
        return cls(spec.info, spec.function, spec.reads, spec.check(options or {}, where))

    def compute(self, subject: CostSubject) -> float:
        """Return the cost of a model: finite and at least 0; lower is better.

        Raises:
            BuildError: the model's forward fails on the shape of the example.
            CostError: the function failed, or returned something other than a finite number of at least 0.
        """
        try:
            if self.reads == "module":
                refuse_lazy(subject.module)
                found = self.function(subject.module, **self.options)
            elif self.reads == "trace":
                found = self.function(subject.trace, **self.options)
            else:
                data = subject.example
                with undisturbed(subject.module):
                    found = self.function(subject.module, data, **self.options)
        except NasDistillError:
            raise
        except Exception as error:
            raise CostError(f"the cost '{self.info.name}' failed: {first_line(error)}") from error
        return _checked(self.info.name, found)


class CostSubject:
    """A model whose costs are computed, with its example input; a forward pass is recorded on first use."""

    def __init__(self, module: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None) -> None:
        self.module = module
        self._shape = tuple(input_shape)
        self._dtype = dtype

    @cached_property
    def example(self) -> torch.Tensor:
        """An input of shape (1, *input_shape) on the model's device."""
        refuse_lazy(self.module)
        return example(self.module, (1, *self._shape), input_dtype(self.module, self._dtype)).to(device_of(self.module))

    @cached_property
    def trace(self) -> Trace:
        """The recorded operations of one forward pass."""
        return trace(self.module, self._shape, self._dtype)


class CostModel:
    """Cost functions for models on inputs of ``input_shape`` (without the batch); lower is better.

    A name in ``costs`` refers to a built-in cost. ``latency`` predicts the measured cost, if it is among them. Each
    model is recorded at most once, and its state is restored. Picklable.
    """

    def __init__(
        self,
        costs: Iterable[str | Cost],
        input_shape: Sequence[int],
        latency: LatencyModel | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Find the costs by name.

        Raises:
            BudgetError: unknown cost name.
            CostError: a cost is measured and ``latency`` is not given.
        """
        found = [Cost.find(cost) if isinstance(cost, str) else cost for cost in costs]
        self._costs = {cost.info.name: cost for cost in found}
        self.names = tuple(self._costs)
        for cost in found:
            if cost.info.measured and latency is None:
                raise CostError(
                    f"'{cost.info.name}' is predicted from a calibration, but none was made; set latency.calibrate."
                )
        self.input_shape = tuple(int(size) for size in input_shape)
        self.latency = latency
        self.dtype = dtype

    def costs(self, module: nn.Module) -> dict[str, float]:
        """Return the costs of a model, in the order of ``names``.

        Raises:
            BuildError: the model's forward fails on this shape.
            CostError: the model cannot be recorded, the work of an operation is unknown, or a cost failed.
        """
        subject = CostSubject(module, self.input_shape, self.dtype)
        found: dict[str, float] = {}
        # Costs that run the model come last, so that side effects of a user's own cost cannot change the others.
        for name, cost in sorted(self._costs.items(), key=lambda item: item[1].reads == "example"):
            if cost.info.measured and self.latency is not None:
                found[name] = self.latency.predict_features(features(subject.trace, self.latency.conditions.batch))
            else:
                found[name] = cost.compute(subject)
        return {name: found[name] for name in self.names}


def _checked(name: str, found: Any) -> float:
    """Return the result of a cost function as a float, or raise CostError."""

    if type(found).__module__ == "torch" and getattr(found, "numel", lambda: 0)() == 1:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, Real):
        raise CostError(
            f"the cost '{name}' returned a value of type {type(found).__name__}; it must return a number of at least 0."
        )
    try:
        value = float(found)
    except OverflowError:
        value = math.inf
    if not (math.isfinite(value) and value >= 0):
        raise CostError(f"the cost '{name}' returned {value:g}; it must return a finite number of at least 0.")
    return value
