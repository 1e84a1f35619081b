"""Latency prediction: a linear model of kernel features, calibrated on timed networks.

Features are grouped by the kinds of kernels that a runtime has. Operations that a runtime fuses into a kernel
(normalisation, activation functions and residual additions after a convolution) are not counted as kernels. Two
features beside the multiply-adds of convolutions model the vector unit. ``tiled``: outputs are computed in tiles of a
few columns, so a map of width 7 costs as much as one of width 12. ``sweeps``: the input is read once per few dozen
output channels, so 8 channels cost nearly as much as 32 (units of 256 and 512 bits process 32 and 64 channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nas_distill.costs.registry import cost
from nas_distill.costs.runtimes import DEFAULT, Runtime, find_runtime
from nas_distill.costs.timing import Conditions, LatencySample, conditions, export_for_timing, time_module, time_modules
from nas_distill.costs.tracing import Op, Trace, trace
from nas_distill.utils.errors import CostError, NasDistillError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn


KERNELS = ("dense", "pointwise", "depthwise", "product")
FEATURES = (
    "network",
    *(f"calls_{kind}" for kind in (*KERNELS, "other")),
    *(f"flops_{kind}" for kind in KERNELS),
    *(f"tiled_{kind}" for kind in KERNELS[:3]),
    *(f"sweeps{channels}_{kind}" for channels in (32, 64) for kind in KERNELS[:2]),
    *("bytes_heavy", "bytes_other", "weight_bytes_conv", "weight_bytes_product"),
)
TILE = 6
"""Columns that a convolution kernel computes at once."""

_PRODUCTS = frozenset(
    f"aten::{name}"
    for name in (
        *("linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "einsum", "bilinear", "tensordot", "inner", "mv", "dot"),
        *("scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu"),
        *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "cdist"),
    )
)
_CONVOLUTIONS = frozenset(
    f"aten::{name}"
    for name in (
        *("_convolution", "convolution", "_convolution_mode"),
        *(f"conv{n}d" for n in (1, 2, 3)),
        *(f"conv_transpose{n}d" for n in (1, 2, 3)),
    )
)
_FUSED_BEHIND = frozenset(
    f"aten::{name}"
    for name in (
        *("batch_norm", "relu", "relu6", "hardtanh", "clamp", "leaky_relu", "sigmoid", "tanh", "hardsigmoid", "add"),
    )
)
_NO_KERNEL = frozenset(f"aten::{name}" for name in ("dropout", "feature_dropout", "alpha_dropout"))


def features(trace: Trace, batch: int = 1) -> dict[str, float]:
    """Return all ``FEATURES`` of one forward pass of ``batch`` inputs, each at least 0.

    ``network`` is 1; ``calls`` count kernels; ``flops``, ``tiled`` and ``sweeps`` are multiply-adds (``sweeps`` per
    output channel); ``bytes`` are activations that kernels read and write, ``weight_bytes`` weights, both as float32.
    """
    found = dict.fromkeys(FEATURES, 0.0)
    found["network"] = 1.0
    fusable: set[int] = set()
    for op in trace.ops:
        kind = kernel_of(op)
        moved = sum(trace.sizes[buffer] for buffer in {*op.reads, *op.makes}) * batch
        if kind in KERNELS:
            fusable.update(op.makes)
            found[f"calls_{kind}"] += 1
            found[f"flops_{kind}"] += op.flops * batch
            found["bytes_heavy"] += moved
            found["weight_bytes_product" if kind == "product" else "weight_bytes_conv"] += op.weight_elements * 4
            if kind != "product":
                _convolution(found, kind, op, batch)
        elif op.kind in _NO_KERNEL or (op.kind in _FUSED_BEHIND and fusable.intersection(op.reads)):
            fusable.update(op.makes if fusable.intersection(op.reads) else ())
        else:
            found["calls_other"] += 1
            found["bytes_other"] += moved
    return found


def kernel_of(op: Op) -> str:
    """Return the kind of kernel that computes an operation: one of ``KERNELS``, or ``other``."""
    if op.kind in _PRODUCTS:
        return "product"
    if op.kind not in _CONVOLUTIONS or len(op.weight) < 3:
        return "other"
    if op.groups > 1 and op.weight[1] == 1:
        return "depthwise"
    return "pointwise" if prod(op.weight[2:]) == 1 else "dense"


def _convolution(found: dict[str, float], kind: str, op: Op, batch: int) -> None:
    spatial = len(op.weight) - 2
    width, channels = max(op.shape[-1], 1), max(op.shape[-spatial - 1], 1)
    found[f"tiled_{kind}"] += op.flops * batch * (-(-width // TILE) * TILE) / width
    if kind != "depthwise":
        for block in (32, 64):
            found[f"sweeps{block}_{kind}"] += op.flops * batch / channels * -(-channels // block)


LATENCY = "latency_ms"
FEWEST = 8
"""Smallest number of timed networks that a model is fitted to."""
RIDGE = 1e-3
"""Weight of the penalty on coefficients relative to the errors, both in units of the mean prediction."""


@cost(LATENCY, unit="ms", label="latency", axis="predicted latency", measured=True)
def latency_ms(
    module: nn.Module, example: torch.Tensor, *, runtime: str = DEFAULT, threads: int = 1, repeats: int = 50
) -> float:
    """Median time of one forward pass on a deployment runtime, in ms."""
    settings: dict[str, Any] = {"threads": threads, "repeats": repeats, "dtype": example.dtype}
    chosen = find_runtime(runtime)
    return time_module(module, example.shape[1:], batch=len(example), runtime=chosen, **settings).p50_ms


@dataclass(frozen=True)
class LatencyError:
    """Leave-one-out error of a latency model over its ``count`` timed networks.

    ``median`` and ``p95`` summarise the relative error |predicted / measured - 1|: lower is better, 0.02 is 2 %.
    ``spearman`` is the rank correlation of predicted and measured latency: higher is better, 0 if all are equal.
    """

    count: int
    median: float
    p95: float
    spearman: float

    def text(self) -> str:
        """Write the error on one line."""
        return (
            f"median error {self.median:.1%}, 95th percentile {self.p95:.1%}, rank correlation {self.spearman:.3f} "
            f"(each of {self.count} networks predicted from the others)"
        )


@dataclass(frozen=True)
class Prepared:
    """Features and exported file of a network, enough to time it in a process that does not have the network.

    ``features`` is the result of ``features``, ``exported`` that of ``export_for_timing``, both at the timed batch.
    """

    features: dict[str, float]
    exported: bytes


def prepare(
    model: nn.Module,
    input_shape: Sequence[int],
    batch: int,
    dtype: torch.dtype | None = None,
    runtime: Runtime | None = None,
) -> Prepared:
    """Return a model prepared for a calibration on a runtime.

    Raises:
        BuildError: the model's forward fails on this shape.
        CostError: the model cannot be traced or exported.
    """
    found = features(trace(model, input_shape, dtype), batch)
    return Prepared(found, export_for_timing(model, (batch, *(int(size) for size in input_shape)), dtype, runtime))


@dataclass(frozen=True)
class LatencyModel:
    """Linear model that predicts ``latency_ms`` from kernel features with non-negative coefficients in ms.

    ``coefficients`` holds the features that occurred in the calibration; ``unseen`` lists those of a network that did
    not.
    """

    coefficients: Mapping[str, float]
    conditions: Conditions
    error: LatencyError

    @classmethod
    def fit(cls, samples: Sequence[tuple[Mapping[str, float], float]], conditions: Conditions) -> Self:
        """Fit a model to pairs of ``features`` and measured ms, by non-negative least squares of the relative error.

        Raises:
            CostError: fewer than 8 samples, a time that is not positive and finite, an unknown feature.
        """
        if len(samples) < FEWEST:
            raise CostError(f"a latency model needs at least {FEWEST} timed networks; it was given {len(samples)}.")
        for found, measured in samples:
            unknown = set(found) - set(FEATURES)
            if unknown:
                raise CostError(f"unknown latency feature '{sorted(unknown)[0]}'.")
            if not (math.isfinite(measured) and measured > 0):
                raise CostError(f"a measured latency is {measured} ms; a latency model needs positive, finite times.")
        table = np.array([[found.get(name, 0.0) for name in FEATURES] for found, _ in samples])
        times = np.array([measured for _, measured in samples])
        met = (table != 0).any(axis=0)
        weights = np.zeros(len(FEATURES))
        weights[met] = solve(table[:, met], times)
        coefficients = {name: float(weights[index]) for index, name in enumerate(FEATURES) if met[index]}
        return cls(coefficients, conditions, leave_one_out(table, times))

    @classmethod
    def calibrate(
        cls,
        models: Iterable[nn.Module | Prepared | NasDistillError],
        input_shape: Sequence[int],
        *,
        batch: int = 1,
        threads: int = 1,
        repeats: int = 50,
        dtype: torch.dtype | None = None,
        runtime: Runtime | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Time ``models`` on a runtime (about thirty, spread over the space) and fit a model to the times.

        An entry may also be prepared already, or the error with which its preparation failed. Models that cannot be
        run, traced or exported are left out. ``progress`` is called with the number of prepared models.
        No other program should run on the machine meanwhile.

        Raises:
            CostError: fewer than 8 models could be timed; names the first cause.
        """
        stated = conditions(batch, threads, runtime)
        described: list[dict[str, float] | NasDistillError] = []

        def prepared() -> Iterable[nn.Module | bytes | NasDistillError]:
            for model in models:
                if isinstance(model, Prepared):
                    described.append(model.features)
                    yield model.exported
                    continue
                try:
                    if isinstance(model, NasDistillError):
                        raise model
                    described.append(features(trace(model, input_shape, dtype), batch))
                except NasDistillError as error:
                    described.append(error)
                yield model

        settings: dict[str, Any] = {"batch": batch, "threads": threads, "repeats": repeats, "dtype": dtype}
        timed = time_modules(prepared(), input_shape, runtime=runtime, progress=progress, **settings)
        pairs = list(zip(described, timed))
        samples = [
            (found, sample.p50_ms)
            for found, sample in pairs
            if isinstance(found, dict) and isinstance(sample, LatencySample)
        ]
        if len(samples) < FEWEST:
            causes = [entry for pair in pairs for entry in pair if isinstance(entry, NasDistillError)]
            why = f": {first_line(causes[0])}" if causes else f"; set latency.calibrate to at least {FEWEST}."
            raise CostError(
                f"a latency model needs at least {FEWEST} timed networks, but only {len(samples)} of {len(pairs)} "
                f"could be timed{why}"
            )
        return cls.fit(samples, stated)

    def predict(self, model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None) -> float:
        """Return the predicted latency of a model in ms under the conditions of the calibration; lower is better.

        Raises:
            BuildError: the model's forward fails on this shape.
            CostError: the model cannot be traced.
        """
        return self.predict_features(features(trace(model, input_shape, dtype), self.conditions.batch))

    def predict_features(self, found: Mapping[str, float]) -> float:
        """Return the predicted latency in ms of a network with these features (at the batch of the calibration)."""
        return float(sum(weight * found.get(name, 0.0) for name, weight in self.coefficients.items()))

    def unseen(self, found: Mapping[str, float]) -> list[str]:
        """Return the features of a network that no calibrated network had; predictions leave their time out."""
        return [name for name, value in found.items() if value > 0 and name not in self.coefficients]

    def to_dict(self) -> dict[str, Any]:
        """Return the model as plain values, for JSON."""
        return {
            "coefficients": dict(self.coefficients),
            "conditions": asdict(self.conditions),
            "error": asdict(self.error),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the model that ``to_dict`` wrote.

        Raises:
            CostError: ``content`` has another form.
        """
        try:
            return cls(
                {str(name): float(value) for name, value in content["coefficients"].items()},
                Conditions(**content["conditions"]),
                LatencyError(**content["error"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CostError(f"a stored latency model cannot be read ({first_line(error)}).") from error


def solve(table: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the non-negative weights that minimise the squares of ``table @ weights / times - 1``, slightly shrunk."""
    from scipy.optimize import nnls

    relative = table / times[:, None]
    # Features differ by twelve orders of magnitude; scaled to their typical sizes, they can share one penalty.
    size = np.sqrt(np.mean(relative**2, axis=0))
    size[size == 0] = 1.0
    columns = table.shape[1]
    penalty = math.sqrt(RIDGE * len(times)) * np.eye(columns)
    weights, _ = nnls(np.vstack([relative / size, penalty]), np.concatenate([np.ones(len(times)), np.zeros(columns)]))
    result: np.ndarray = np.asarray(weights) / size
    return result


def leave_one_out(table: np.ndarray, times: np.ndarray) -> LatencyError:
    """Return the leave-one-out error of fits of ``table`` (networks by features, at least 0) to ``times`` in ms."""
    kept = np.arange(len(times))
    predicted = np.array([table[out] @ solve(table[kept != out], times[kept != out]) for out in kept])
    errors = np.abs(predicted / times - 1)
    return LatencyError(
        count=len(times),
        median=float(np.median(errors)),
        p95=float(np.quantile(errors, 0.95)),
        spearman=_spearman(predicted, times),
    )


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Return the rank correlation, ties at their mean rank; 0 if one side is constant."""
    ranks = [_ranks(values) for values in (first, second)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[index])
