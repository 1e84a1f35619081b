"""Formulas for the fused multiply-adds of operations, and fvcore's count, which defines them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from nas_distill.costs.undisturbed import example, input_dtype, undisturbed
from nas_distill.utils.modules import device_of, quiet

if TYPE_CHECKING:
    import torch
    from torch import nn


Formula = Callable[[Mapping[str, Any], Any], int]
"""Multiply-adds of an operation: its arguments by name, and its result."""

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
_REPLAYED = (
    *("einsum", "tensordot", "inner", "chain_matmul", "linalg_multi_dot", "linalg_vecdot"),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
)
_ATTENTION = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
_OPERANDS = {
    **{"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "mv": ("self", "vec"), "addmv": ("mat", "vec")},
    **{"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addbmm": ("batch1", "batch2")},
    **{"dot": ("self", "tensor"), "vdot": ("self", "other")},
}
"""The two factors of plain matrix products, by the names in their schemas."""


def is_uncounted(kind: str) -> bool:
    """Return whether an operation without a formula has work that must not count as 0.

    True for known heavy operations, and for operations of other libraries, whose work is unknown.
    """
    namespace, _, _ = kind.partition("::")
    return namespace not in ("aten", "prim") or _UNCOUNTED.fullmatch(kind) is not None


def multiply_adds(kind: str, operation: Any, arguments: Mapping[str, Any], result: Any) -> int | None:
    """Return the multiply-adds of one call of an operation, or None if they are unknown.

    ``kind`` is the operation's name without the underscore of in-place variants, such as ``aten::addmm``; ``operation``
    is the ``torch.ops`` overload; ``arguments`` maps names to values, defaults included.
    """
    formula = _FORMULAS.get(kind)
    if formula is not None:
        return formula(arguments, result)
    if kind in _REPLAYED_KINDS:
        return _replay(operation, arguments)
    return None if is_uncounted(kind) else 0


def _linear(arguments: Mapping[str, Any], result: Any) -> int:
    return int(result.numel() * arguments["weight"].shape[-1])


def _matmul(arguments: Mapping[str, Any], result: Any) -> int:
    return int(result.numel() * arguments["self"].shape[-1])


def _product(left: str, right: str) -> Formula:
    def formula(arguments: Mapping[str, Any], result: Any) -> int:
        return _pairs(arguments[left], arguments[right])

    return formula


def _pairs(left: torch.Tensor, right: torch.Tensor) -> int:
    # Every element of the left operand is multiplied with every column of the right one (a vector has one).
    return left.numel() * (right.shape[-1] if right.dim() > 1 else 1)


def _bilinear(arguments: Mapping[str, Any], result: Any) -> int:
    # x1 W x2: x1 W takes I1 * I2 per output, the product with x2 another I2.
    _, first, second = arguments["weight"].shape
    return int(result.numel() * second * (first + 1))


def _cdist(arguments: Mapping[str, Any], result: Any) -> int:
    return int(result.numel() * arguments["x1"].shape[-1])


def _plain_convolution(arguments: Mapping[str, Any], result: Any) -> int:
    return int(result.numel() * prod(arguments["weight"].shape[1:]))


def _transposed(arguments: Mapping[str, Any], result: Any) -> int:
    # Each input element is multiplied with its row of the weight, which is (in, out / groups, *kernel).
    return int(arguments["input"].numel() * prod(arguments["weight"].shape[1:]))


def _convolution(arguments: Mapping[str, Any], result: Any) -> int:
    return (_transposed if arguments["transposed"] else _plain_convolution)(arguments, result)


def _attention(arguments: Mapping[str, Any], result: Any) -> int:
    # As in torch's own count, a causal mask does not reduce the work. With grouped queries, the query's heads count.
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    first = result if not isinstance(result, tuple | list) else result[0]
    return int(prod(first.shape[:-2]) * query.shape[-2] * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


_FORMULAS: dict[str, Formula] = {
    "aten::linear": _linear,
    "aten::matmul": _matmul,
    "aten::bilinear": _bilinear,
    "aten::cdist": _cdist,
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,
    "aten::_convolution_mode": _plain_convolution,
    **{f"aten::conv{n}d": _plain_convolution for n in (1, 2, 3)},
    **{f"aten::conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    **{f"aten::{name}": _attention for name in _ATTENTION},
    **{f"aten::{name}": _product(*operands) for name, operands in _OPERANDS.items()},
}
_REPLAYED_KINDS = frozenset(f"aten::{name}" for name in _REPLAYED)


def _replay(operation: Any, arguments: Mapping[str, Any]) -> int:
    """Return the multiply-adds of the matrix products that an operation decomposes into.

    Torch decides how ``einsum`` orders its contractions, or a recurrent layer its steps. The operation therefore runs
    again on the meta device, which computes only shapes, and the products that it dispatches are counted.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    products = {
        getattr(torch.ops.aten, name): operands for name, operands in _OPERANDS.items() if hasattr(torch.ops.aten, name)
    }

    class Products(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operands = products.get(func.overloadpacket)
            if operands is not None:
                named = dict(zip((argument.name for argument in func._schema.arguments), args))
                self.total += _pairs(*(named[operand] for operand in operands))
                return func(*args, **(kwargs or {}))
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {})) if result is NotImplemented else result

    def without_data(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        # float32 for all: autocast and quantised kernels change neither shapes nor the number of products.
        return torch.empty_strided(value.shape, value.stride(), dtype=torch.float32, device="meta")

    keyword = {argument.name for argument in operation._schema.arguments if argument.kwarg_only}
    replayed = {name: tree_map(without_data, value) for name, value in arguments.items()}
    with torch.no_grad(), Products() as counter:
        operation(
            *(value for name, value in replayed.items() if name not in keyword),
            **{name: value for name, value in replayed.items() if name in keyword},
        )
    found: int = counter.total
    return found


_ELEMENTWISE = (
    *("batch_norm", "group_norm", "layer_norm", "instance_norm", "upsample_nearest2d", "upsample_bilinear2d"),
    *("adaptive_avg_pool2d", "grid_sampler"),
)


def fvcore_flops(
    model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None
) -> tuple[int, frozenset[str]]:
    """Return fvcore's fused multiply-adds of one input of ``input_shape`` (without the batch), and what it left out.

    The second value names operations for which fvcore has no formula. Attention and recurrent layers are among them,
    so ``count`` is higher for models that have any. Normalisation, interpolation and pooling count 0 here, as in
    ``count``; fvcore itself counts a few operations per element. The model's state is restored.
    """

    with undisturbed(model), quiet(prints=False):
        from fvcore.nn import FlopCountAnalysis

        data = example(model, (1, *input_shape), input_dtype(model, dtype)).to(device_of(model))
        analysis = FlopCountAnalysis(model, data)
        analysis.set_op_handle(**{f"aten::{name}": _nothing for name in _ELEMENTWISE})
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.total()), frozenset(analysis.unsupported_ops())


def _nothing(inputs: object, outputs: object) -> int:
    return 0
