"""Reading a traced graph: from jit nodes to operations on buffers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

from nas_distill.common.errors import CostError
from nas_distill.cost.handlers import flop_handlers, is_uncounted
from nas_distill.cost.ops import Op, Trace

_POINTWISE = frozenset(
    f"aten::{name}"
    for name in (
        *("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish"),
        *("sigmoid", "tanh", "hardswish", "hardsigmoid", "softplus", "softsign", "log_sigmoid", "hardshrink"),
        *("softshrink", "tanhshrink", "threshold", "batch_norm", "dropout", "feature_dropout", "alpha_dropout"),
        *("feature_alpha_dropout", "add", "sub", "rsub", "mul", "div", "pow", "neg", "abs", "exp", "log", "sqrt"),
        *("rsqrt", "reciprocal", "square", "sin", "cos", "erf", "clamp", "clamp_min", "clamp_max", "minimum"),
        *("maximum", "where", "masked_fill", "lerp", "addcmul", "addcdiv", "floor", "ceil", "round", "sign"),
    )
)
_MAY_COPY = frozenset(
    f"aten::{name}" for name in ("contiguous", "to", "reshape", "reshape_as", "flatten", "ravel", "type_as")
)
_SHARES_UNSAFELY = frozenset(f"aten::unsafe_{name}" for name in ("chunk", "split", "split_with_sizes"))
_CONVOLUTIONS = {"aten::_convolution": 8, "aten::convolution": 8, "aten::_convolution_mode": 6}
_CONSTANT = frozenset(("prim::Constant", "prim::GetAttr", "prim::device", "prim::dtype"))
_LISTS = frozenset(("prim::ListConstruct", "prim::TupleConstruct"))


class GraphReader:
    """Reads one traced graph into a ``Trace``.

    A jit value stands for the buffers it lives in; none for parameters, what is computed from them alone, and numbers.
    """

    def __init__(self) -> None:
        self._trace = Trace()
        self._buffers: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, list[Any]] = {}
        self._weights: set[str] = set()
        self._roots: dict[str, Any] = {}
        self._pending: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._handlers = flop_handlers()

    def read(self, graph: Any) -> Trace:
        """Read a graph whose first input is the data, and whose others are parameters and buffers."""
        inputs = list(graph.inputs())
        self._trace.inputs = self._new(inputs[:1])
        self._buffers[inputs[0].debugName()] = self._trace.inputs
        self._weights.update(value.debugName() for value in inputs[1:])
        self._walk(graph)
        self._trace.outputs = self._reads(list(graph.outputs()))
        return self._trace

    def _walk(self, graph: Any) -> None:
        for node in graph.nodes():
            kind = node.kind()
            if kind in _CONSTANT:
                continue
            inputs, outputs = list(node.inputs()), list(node.outputs())
            if kind in _LISTS:
                self._parts[outputs[0].debugName()] = inputs
                self._buffers[outputs[0].debugName()] = self._reads(inputs)
            elif kind in ("prim::ListUnpack", "prim::TupleUnpack"):
                self._unpack(inputs[0], outputs)
            elif kind == "prim::PythonOp" and "Subgraph" in node.attributeNames():
                self._inline(node, inputs, outputs)
            else:
                self._operation(node, kind, inputs, outputs)

    def _operation(self, node: Any, kind: str, inputs: list[Any], outputs: list[Any]) -> None:
        base = kind[:-1] if kind.endswith("_") and not kind.endswith("__") else kind
        flops = self._flops(kind, inputs, outputs)
        reads = self._reads(inputs)
        source = _aliased(kind, node.schema(), len(inputs))
        shares = source is not None and not _copies(base, inputs[source], outputs)
        if not reads:
            self._constant(inputs, outputs, inputs[source] if shares and source is not None else None, flops)
            return
        if shares and source is not None:
            held = self._find(inputs[source])
            makes = () if held else self._claim(inputs[source])
            for value in outputs:
                self._buffers[value.debugName()] = held or makes
            if kind != base:  # in place: it runs; else it is a view
                self._add(base, reads, makes, flops, inputs, outputs)
            return
        if any(value.type().kind() == "ListType" for value in outputs):
            self._pending[outputs[0].debugName()] = (kind, reads)
            return
        makes = self._new(outputs)
        if makes:
            self._add(base, reads, makes, flops, inputs, outputs)

    def _constant(self, inputs: list[Any], outputs: list[Any], source: Any, flops: int) -> None:
        """Note what is computed from parameters and numbers alone, and what it is a view of."""
        self._trace.constant_flops += flops
        weight = self._is_weight(inputs)
        for value in outputs:
            if weight:
                self._weights.add(value.debugName())
            if source is not None:
                self._roots[value.debugName()] = self._roots.get(source.debugName(), source)

    def _claim(self, value: Any) -> tuple[int, ...]:
        """Make a constant an activation: one is being written into it, as into a tensor of zeros."""
        return self._new([self._roots.get(value.debugName(), value)])

    def _find(self, value: Any) -> tuple[int, ...]:
        """Return the buffers that a value lives in; none for constants."""
        found = self._buffers.get(value.debugName())
        if found is None and value.debugName() in self._roots:
            found = self._buffers.get(self._roots[value.debugName()].debugName())
        return found or ()

    def _add(
        self, kind: str, reads: tuple[int, ...], makes: tuple[int, ...], flops: int, inputs: list[Any], outputs: Any
    ) -> None:
        weights = [value for value in self._flat(inputs) if value.debugName() in self._weights]
        shapes = [_sizes(value) for value in weights if value.isCompleteTensor()]
        weight = max(shapes, key=prod, default=())
        place = _CONVOLUTIONS.get(kind)
        self._trace.ops.append(
            Op(
                kind=kind,
                reads=reads,
                makes=makes,
                pointwise=kind in _POINTWISE,
                flops=flops,
                shape=_sizes(outputs[0]),
                weight=weight,
                weight_elements=sum(prod(shape) for shape in shapes),
                groups=int(inputs[place].toIValue() or 1) if place is not None else 1,
            )
        )

    def _unpack(self, packed: Any, outputs: list[Any]) -> None:
        name = packed.debugName()
        if name in self._parts:
            for value, part in zip(outputs, self._parts[name]):
                self._buffers[value.debugName()] = self._find(part)
                if part.debugName() in self._weights:
                    self._weights.add(value.debugName())
        elif name in self._pending:
            kind, reads = self._pending[name]
            self._add(kind, reads, self._new(outputs), 0, [], outputs)
        else:
            for value in outputs:
                self._buffers[value.debugName()] = self._find(packed)
                if name in self._weights:
                    self._weights.add(value.debugName())

    def _inline(self, node: Any, inputs: list[Any], outputs: list[Any]) -> None:
        """Go into an autograd function, whose forward torch has traced apart."""
        graph = node.g("Subgraph")
        inner = GraphReader()
        inner._trace, inner._handlers = self._trace, self._handlers
        tensors = [value for value in inputs if value.type().kind() == "TensorType"]
        for value, outer in zip(graph.inputs(), tensors):
            inner._buffers[value.debugName()] = self._find(outer)
            if outer.debugName() in self._weights:
                inner._weights.add(value.debugName())
        inner._walk(graph)
        for value, result in zip(outputs, graph.outputs()):
            self._buffers[value.debugName()] = inner._find(result)

    def _flops(self, kind: str, inputs: list[Any], outputs: list[Any]) -> int:
        handler = self._handlers.get(kind)
        if handler is None:
            if is_uncounted(kind):
                self._trace.uncounted.append(kind)
            return 0
        try:
            counted = handler(inputs, outputs)
        except Exception:  # a shape or argument that the trace does not hold: refused when flops are asked for
            self._trace.uncounted.append(kind)
            return 0
        return int(sum(counted.values()) if hasattr(counted, "values") else counted)

    def _flat(self, values: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for value in values:
            parts = self._parts.get(value.debugName())
            found += [value] if parts is None else self._flat(parts)
        return found

    def _is_weight(self, inputs: list[Any]) -> bool:
        return any(value.debugName() in self._weights for value in self._flat(inputs))

    def _reads(self, values: Sequence[Any]) -> tuple[int, ...]:
        found = (buffer for value in values for buffer in self._find(value))
        return tuple(dict.fromkeys(found))

    def _new(self, values: Sequence[Any]) -> tuple[int, ...]:
        made = []
        for value in values:
            if value.type().kind() == "TensorType":
                made.append(len(self._trace.sizes))
                self._trace.sizes.append(_bytes(value))
                self._buffers[value.debugName()] = (made[-1],)
        return tuple(made)


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(value.type().sizes()) if value.isCompleteTensor() else ()


def _bytes(value: Any) -> int:
    """Return the bytes of a value, floating-point ones counted as float32; 0 for an integer that belongs to a shape."""
    import torch

    if not value.isCompleteTensor():
        raise CostError(
            "the model calls scripted code, whose tensors have no known size; use the plain module in its place."
        )
    kind = value.type()
    shape, dtype = kind.sizes(), kind.dtype()
    if dtype.is_floating_point:
        return prod(shape) * 4
    if dtype.is_complex:
        return prod(shape) * 8
    return prod(shape) * torch.empty((), dtype=dtype).element_size() if shape else 0


def _aliased(kind: str, schema: str, inputs: int) -> int | None:
    """Return the place of the input that the results are views of, None where they are new."""
    if kind in _SHARES_UNSAFELY:
        return 0
    place = _schema_alias(schema)
    return place if place is not None and place < inputs else None


@lru_cache(maxsize=4096)
def _schema_alias(schema: str) -> int | None:
    # "aten::view(Tensor(a) self, SymInt[] size) -> Tensor(a)": letters in brackets say what shares memory.
    head, arrow, results = schema.rpartition(" -> ")
    if not arrow or "Tensor(" not in results:
        return None
    letter = results[results.index("Tensor(") + len("Tensor(")]
    arguments = head[head.index("(") + 1 :].split(", ")
    return next((place for place, entry in enumerate(arguments) if f"Tensor({letter}" in entry), None)


def _copies(kind: str, source: Any, outputs: list[Any]) -> bool:
    """Say whether an operation that may return a view had to copy."""
    import torch

    if kind not in _MAY_COPY or not (source.isCompleteTensor() and outputs[0].isCompleteTensor()):
        return False
    old, new = source.type(), outputs[0].type()
    if old.dtype() != new.dtype():
        return True
    if kind in ("aten::contiguous", "aten::to", "aten::type_as"):
        return bool(old.strides() != new.strides())
    if torch.empty_strided(old.sizes(), old.strides(), device="meta").is_contiguous():
        return False
    try:
        torch.empty_strided(old.sizes(), old.strides(), device="meta").view(new.sizes())
    except RuntimeError:
        return True
    return False
