"""The costs of a candidate, from one look at it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nas_distill.common.errors import CostError
from nas_distill.cost.count import TRACED, count_one
from nas_distill.cost.features import features
from nas_distill.cost.latency import LatencyModel
from nas_distill.cost.recorder import trace
from nas_distill.cost.registry import cost_info

if TYPE_CHECKING:
    import torch
    from torch import nn


class CostModel:
    """Gives the costs ``names`` of any model on inputs of ``input_shape`` (without the batch); lower is better.

    ``latency`` predicts ``latency_ms`` where that is among them. Each model runs at most once and is left as it was.
    Picklable.
    """

    def __init__(
        self,
        names: Iterable[str],
        input_shape: Sequence[int],
        latency: LatencyModel | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Set up the costs.

        Raises:
            BudgetError: unknown cost name.
            CostError: ``latency_ms`` is asked for and ``latency`` is not given.
        """
        self.names = tuple(dict.fromkeys(names))
        for name in self.names:
            cost_info(name)
        if "latency_ms" in self.names and latency is None:
            raise CostError("'latency_ms' is predicted from a calibration, and none was made; set latency.calibrate.")
        self.input_shape = tuple(int(size) for size in input_shape)
        self.latency = latency
        self.dtype = dtype

    def costs(self, module: nn.Module) -> dict[str, float]:
        """Return the costs of a model, in the order of ``names``.

        Raises:
            BuildError: the model's forward fails on this shape.
            CostError: the model cannot be recorded, or has operations whose work is not known.
        """
        needed = any(name in TRACED or name == "latency_ms" for name in self.names)
        traced = trace(module, self.input_shape, self.dtype) if needed else None
        found: dict[str, float] = {}
        for name in self.names:
            if name == "latency_ms" and self.latency is not None and traced is not None:
                inside = features(traced, self.latency.conditions.batch)
                found[name] = self.latency.predict_features(inside)
            else:
                found[name] = count_one(name, module, traced)
        return found
