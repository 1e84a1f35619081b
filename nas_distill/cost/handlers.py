"""Fused multiply-adds of traced operations: fvcore's handlers, those that it lacks, and what must never be skipped.

Counted are the classes that torch's ``FlopCounterMode`` counts (convolutions, matrix products, attention), one
multiply-add as one, so that the two agree at half of torch's figure. Where torch leaves work out that is of these
classes, it is counted here: matrix-vector and dot products, recurrent layers run by oneDNN, attention run by the CPU's
flash kernel, bilinear layers and ``cdist``. Element-wise operations, normalisation, pooling, interpolation, softmax,
look-ups and reductions count 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

Handler = Callable[[list[Any], list[Any]], Any]

_UNCOUNTED = re.compile(
    r"aten::(?:(?:_?linalg_(?!vector_norm|matrix_norm|norm|cross|diagonal|vecdot|multi_dot).*)"
    r"|_?fft_(?!.*(?:shift|freq)).*|i?stft|conv_tbc|_?pdist.*|_cdist_forward|_euclidean_dist|_trilinear|cov|corrcoef"
    r"|_native_multi_head_attention|_transformer_encoder_layer_fwd|.*flash_attention_forward|_efficient_attention_.*"
    r"|_nested_.*|_?sparse_.*mm|_sparse_.*|s?spmm|mkldnn_(?:linear|convolution|rnn_layer.*)|mkldnn_.*conv.*|cudnn_.*"
    r"|miopen_.*|_thnn_fused_.*|_cudnn_rnn|(?:quantized|fbgemm|_weight|_convert_weight).*(?:mm|linear|lstm|gru|conv).*"
    r"|_grouped_mm|_scaled_grouped_mm|matrix_exp|matrix_power|inverse|cholesky.*|svd|qr|lu|det|logdet|slogdet|lstsq"
    r"|triangular_solve|solve|pinverse|ormqr|geqrf|orgqr|lu_solve|thnn_conv.*|slow_conv.*|_slow_conv.*"
    r"|deform_conv.*|native_channel_shuffle_conv.*)"
)


def is_uncounted(kind: str) -> bool:
    """Say whether an operation without a handler has work that must not be counted as 0.

    True for known heavy ones, calls into scripted code, and operations of other libraries, of which nothing is known.
    """
    namespace, _, name = kind.partition("::")
    if namespace == "prim":
        return name in ("CallFunction", "CallMethod", "If", "Loop", "PythonOp")
    if namespace in ("aten", "onnx"):
        return _UNCOUNTED.fullmatch(kind) is not None
    return True


@lru_cache(maxsize=1)
def flop_handlers() -> dict[str, Handler]:
    """Return a handler for each counted operation, in fvcore's form, for ``FlopCountAnalysis.set_op_handle(**...)``.

    A handler takes the inputs and outputs of a traced operation (jit values) and returns its multiply-adds, as a number
    or a Counter; 0 for operations to which fvcore gives a price of its own.
    """
    from nas_distill.cost.undisturbed import quiet

    with quiet():  # importing fvcore compiles a script, which torch deprecates
        from fvcore.nn import jit_handles as fvcore

    counted: dict[str, Handler] = {
        "aten::_convolution": fvcore.conv_flop_jit,
        "aten::linear": fvcore.linear_flop_jit,
        "aten::addmm": fvcore.addmm_flop_jit,
        "aten::bmm": fvcore.bmm_flop_jit,
        "aten::mm": fvcore.matmul_flop_jit,
        "aten::matmul": _matmul,
        "aten::baddbmm": _baddbmm,
        "aten::bilinear": _bilinear,
        "aten::cdist": _cdist,
        "aten::convolution": _convolution,
        **{f"aten::conv{n}d": _plain_convolution for n in (1, 2, 3)},
        **{f"aten::conv_transpose{n}d": _transposed for n in ("1", "2", "3")},
        "aten::_convolution_mode": _plain_convolution,
        **{f"aten::{name}": _attention for name in _ATTENTION},
        **{f"aten::{name}": _nothing for name in _PRICED_BY_FVCORE},
    }
    from nas_distill.cost.products import REPLAYED, replay

    counted.update({f"aten::{name}": replay(name) for name in REPLAYED})
    return counted


_ATTENTION = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
_PRICED_BY_FVCORE = (
    *("batch_norm", "group_norm", "layer_norm", "instance_norm", "upsample_nearest2d", "upsample_bilinear2d"),
    *("adaptive_avg_pool2d", "grid_sampler"),
)


def _shape(value: Any) -> list[int]:
    if not value.isCompleteTensor():
        raise ValueError("a shape is not known")
    return list(value.type().sizes())


def _shapes(values: Sequence[Any]) -> list[list[int]]:
    return [_shape(value) for value in values]


def _nothing(inputs: list[Any], outputs: list[Any]) -> int:
    return 0


def _matmul(inputs: list[Any], outputs: list[Any]) -> int:
    # fvcore's own takes neither vectors nor a second operand with batch dimensions that the first one lacks.
    left, _ = _shapes(inputs[:2])
    return prod(_shape(outputs[0])) * left[-1]


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    return prod(_shape(outputs[0])) * _shape(inputs[1])[-1]


def _bilinear(inputs: list[Any], outputs: list[Any]) -> int:
    # x1 W x2: first x1 W, of I1 * I2 for each output, then I2 more for the product with x2.
    _, first, second = _shape(inputs[2])
    return prod(_shape(outputs[0])) * second * (first + 1)


def _cdist(inputs: list[Any], outputs: list[Any]) -> int:
    return prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _plain_convolution(inputs: list[Any], outputs: list[Any]) -> int:
    weight = _shape(inputs[1])
    return prod(_shape(outputs[0])) * prod(weight[1:])


def _transposed(inputs: list[Any], outputs: list[Any]) -> int:
    # Each input point meets its row of the weight, which is (in, out / groups, *kernel).
    return prod(_shape(inputs[0])) * prod(_shape(inputs[1])[1:])


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    return (_transposed if inputs[6].toIValue() else _plain_convolution)(inputs, outputs)


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    # A causal mask is not taken off, as torch does not; with grouped queries, the query has the heads that count.
    query, key, value = _shapes(inputs[:3])
    batch = prod(_shape(outputs[0])[:-2])
    return batch * query[-2] * key[-2] * (query[-1] + value[-1])
