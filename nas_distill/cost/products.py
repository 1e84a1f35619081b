"""Operations made of matrix products, counted by replaying them on tensors without data.

How ``einsum`` orders its contractions, or a recurrent layer its steps, is torch's business: it is run once more on the
meta device, where only shapes are computed, and the products that arrive are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

REPLAYED = (
    *("einsum", "tensordot", "inner", "chain_matmul", "linalg_multi_dot", "linalg_vecdot", "addbmm"),
    *("mv", "dot", "vdot", "addmv"),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
)
"""Names in ``torch.ops.aten``."""


def replay(name: str) -> Callable[[list[Any], list[Any]], int]:
    """Return an fvcore handler for ``aten::<name>``, which counts the products that it is made of."""

    def handler(inputs: list[Any], outputs: list[Any]) -> int:
        import torch

        operation = getattr(torch.ops.aten, name)
        declared = torch._C.parse_schema(outputs[0].node().schema()).arguments
        pairs = [(entry, _argument(value)) for entry, value in zip(declared, inputs, strict=True)]
        counter = _counter()
        with torch.no_grad(), counter:
            operation(
                *(value for entry, value in pairs if not entry.kwarg_only),
                **{entry.name: value for entry, value in pairs if entry.kwarg_only},
            )
        return int(counter.total)

    return handler


def _argument(value: Any) -> Any:
    """Return what a jit value stands for; tensors become empty ones on the meta device."""
    import torch

    node = value.node()
    if node.kind() in ("prim::ListConstruct", "prim::TupleConstruct"):
        return [_argument(entry) for entry in node.inputs()]
    if value.isCompleteTensor():
        # As float32: autocast and quantised kernels change neither shapes nor the number of products.
        return torch.empty_strided(value.type().sizes(), value.type().strides(), dtype=torch.float32, device="meta")
    if node.kind() == "prim::Constant":
        return value.toIValue()
    raise ValueError("an argument is computed while the model runs")


def _counter() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    second = {aten.addmm: 1, aten.baddbmm: 1, aten.addmv: 1, aten.addbmm: 1}
    plain = {aten.mm: 0, aten.bmm: 0, aten.mv: 0, aten.dot: 0, aten.vdot: 0}
    first_operand = {**second, **plain}

    class Products(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            place = first_operand.get(func.overloadpacket)
            if place is not None:
                # Every element of the left operand meets every column of the right one (a vector has one).
                left, right = args[place], args[place + 1]
                columns = right.shape[-1] if right.dim() > 1 else 1
                self.total += prod(left.shape) * columns
            return result

    return Products()
