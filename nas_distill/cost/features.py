"""What a network's latency is predicted from: how often kernels of each kind run, how much they compute and move.

The kinds are those that a runtime has kernels for. What it fuses into them (normalisation, activation functions and
residual additions behind a convolution) is no kernel of its own. Beside the plain multiply-adds of convolutions stand
two that say how well they fit a vector unit: outputs are computed in tiles of a few columns, so a map of width 7 costs
as much as one of 12 (``tiled``); and the input is swept once for every few dozen output channels, so 8 channels cost
nearly as much to read for as 32 (``sweeps``; 32 and 64 channels are what units of 256 and 512 bits hold).
"""

from __future__ import annotations

from math import prod

from nas_distill.cost.ops import Op, Trace

KINDS = ("dense", "pointwise", "depthwise", "product")
FEATURES = (
    "network",
    *(f"calls_{kind}" for kind in (*KINDS, "other")),
    *(f"flops_{kind}" for kind in KINDS),
    *(f"tiled_{kind}" for kind in KINDS[:3]),
    *(f"sweeps{channels}_{kind}" for channels in (32, 64) for kind in KINDS[:2]),
    *("bytes_heavy", "bytes_other", "weight_bytes_conv", "weight_bytes_product"),
)
TILE = 6
"""Columns that a convolution's kernel computes at once."""

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
    """Return the features of one forward pass of ``batch`` inputs, all of ``FEATURES``, each at least 0.

    ``network`` is 1; ``calls`` are numbers of kernels; ``flops``, ``tiled`` and ``sweeps`` multiply-adds (of one output
    channel, for sweeps); ``bytes`` what kernels read and write of activations and ``weight_bytes`` of weights, float32.
    """
    found = dict.fromkeys(FEATURES, 0.0)
    found["network"] = 1.0
    fusable: set[int] = set()
    for op in trace.ops:
        kind = kind_of(op)
        moved = sum(trace.sizes[buffer] for buffer in {*op.reads, *op.makes}) * batch
        if kind in KINDS:
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


def kind_of(op: Op) -> str:
    """Return the kind of kernel that an operation needs: one of ``KINDS``, or ``other``."""
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
