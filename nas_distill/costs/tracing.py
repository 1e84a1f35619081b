"""Recording of the operations of one forward pass by a dispatch mode.

One recording serves all costs. Operations are recorded as the model calls them (``linear``, ``matmul``,
``scaled_dot_product_attention``), not as torch decomposes them, because a runtime has kernels for the former.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas_distill.costs.flops import multiply_adds
from nas_distill.costs.undisturbed import example, input_dtype, refuse_lazy, undisturbed
from nas_distill.utils.errors import BuildError, CostError, NasDistillError, first_line
from nas_distill.utils.modules import device_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on activations.

    ``reads`` and ``makes`` are indices of buffers (``Trace.sizes``); a view has the index of its base. A ``pointwise``
    operation may overwrite a buffer that it reads. ``shape`` is that of the first output, ``weight`` that of the
    largest parameter read (empty for none), ``weight_elements`` counts all parameters read, ``groups`` are a
    convolution's.
    """

    kind: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    pointwise: bool
    flops: int
    shape: tuple[int, ...]
    weight: tuple[int, ...] = ()
    weight_elements: int = 0
    groups: int = 1


@dataclass
class Trace:
    """A model's operations at batch 1, in the order of execution.

    ``sizes`` are the bytes of each buffer, floating-point values as float32. ``inputs`` are alive before the first
    operation, ``outputs`` stay alive to the end. Tensors computed only from parameters are not activations, and their
    operations are left out; ``constant_flops`` are the multiply-adds of those. ``uncounted`` names operations whose
    work is unknown.
    """

    ops: list[Op] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    constant_flops: int = 0
    uncounted: list[str] = field(default_factory=list)

    def flops(self) -> int:
        """Return the fused multiply-adds of the whole pass.

        Raises:
            CostError: the work of an operation is unknown; names the operation.
        """
        if self.uncounted:
            names = ", ".join(sorted(set(self.uncounted)))
            raise CostError(
                f"flops cannot be counted: the work of {names} in this model is unknown; leave flops out of budget and "
                "objectives, or write that part with plain torch operations."
            )
        return self.constant_flops + sum(op.flops for op in self.ops)

    def peak_bytes(self) -> int:
        """Return the most bytes of buffers alive at once, as ``counting.peak_activation_bytes`` defines them."""
        steps = len(self.ops)
        last = dict.fromkeys(self.inputs, -1)
        for step, op in enumerate(self.ops):
            last.update(dict.fromkeys((*op.reads, *op.makes), step))
        last.update(dict.fromkeys(self.outputs, steps))
        kept = set(self.inputs)  # the caller's buffer is read-only
        alive = sum(self.sizes[buffer] for buffer in kept)
        peak = alive
        for step, op in enumerate(self.ops):
            alive += sum(self.sizes[buffer] for buffer in op.makes)
            dying = {buffer for buffer in op.reads if last[buffer] == step}
            if op.pointwise and len(op.makes) == 1:
                size = self.sizes[op.makes[0]]
                over = next((buffer for buffer in dying - kept if self.sizes[buffer] == size), None)
                if over is not None:
                    dying.discard(over)
                    alive -= size
            peak = max(peak, alive)
            dying.update(buffer for buffer in op.makes if last[buffer] == step)
            alive -= sum(self.sizes[buffer] for buffer in dying)
        return peak


_POINTWISE = frozenset(
    f"aten::{name}"
    for name in (
        *("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish"),
        *("sigmoid", "tanh", "hardswish", "hardsigmoid", "softplus", "softsign", "log_sigmoid", "hardshrink"),
        *("softshrink", "tanhshrink", "threshold", "batch_norm", "dropout", "feature_dropout", "alpha_dropout"),
        *("feature_alpha_dropout", "add", "sub", "rsub", "mul", "div", "pow", "neg", "abs", "exp", "log", "sqrt"),
        *("rsqrt", "reciprocal", "square", "sin", "cos", "erf", "clamp", "clamp_min", "clamp_max", "minimum"),
        *("maximum", "where", "masked_fill", "lerp", "addcmul", "addcdiv", "floor", "ceil", "round", "sign"),
        *("subtract", "multiply", "divide", "true_divide", "negative", "absolute", "clip"),
    )
)
_ATTENDING = frozenset(
    f"aten::{name}"
    for name in ("scaled_dot_product_attention", "_native_multi_head_attention", "_transformer_encoder_layer_fwd")
)
_GROUPED = frozenset(
    (
        *("aten::_convolution", "aten::convolution", "aten::_convolution_mode"),
        *(f"aten::conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
    )
)


def attends(model: nn.Module, input_shape: Sequence[int]) -> bool:
    """Return whether a model has attention, as one operation or written out, or an embedding.

    In a model whose operations cannot be recorded, only embeddings are detected.
    """
    from torch import nn

    if any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules()):
        return True
    try:
        ops = trace(model, input_shape).ops
    except NasDistillError:
        return False
    # Written out, attention is a product of activations that follows a softmax (and perhaps dropout).
    products = [op for op in ops if op.kind in ("aten::matmul", "aten::bmm") and not op.weight]
    weighed = {made for op in ops if "softmax" in op.kind for made in op.makes}
    return any(op.kind in _ATTENDING for op in ops) or any(weighed & set(op.reads) for op in products)


def trace(model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None) -> Trace:
    """Run ``model`` once in eval mode on one input of ``input_shape`` (without the batch) and return its operations.

    The model's state is restored (``undisturbed``). ``dtype`` is that of the input, by default the parameters'.

    Raises:
        BuildError: the model's forward fails on this shape, or the model has parameters without a shape.
        CostError: the forward runs, but its operations cannot be recorded.
    """
    shape = (1, *(int(size) for size in input_shape))
    refuse_lazy(model)
    with undisturbed(model):
        data = example(model, shape, input_dtype(model, dtype)).to(device_of(model))
        recorder = _Recorder(data, itertools.chain(model.parameters(), model.buffers()))
        try:
            with _whole_operations(), recorder:
                output = model(data)
        except Exception as error:
            _explain(model, data, error)
        return recorder.finish(output)


class _Recorder(TorchDispatchMode):
    """Dispatch mode that records the operations on one input in a ``Trace``.

    Tensors that share memory are one buffer. Parameters, and tensors computed only from them, are constants, which have
    no buffer; a constant becomes a buffer when an activation is written into it.
    """

    def __init__(self, data: torch.Tensor, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._trace = Trace()
        self._alive: list[Any] = []  # storages: a freed one's address could be used again
        self._buffers: dict[int, int] = {}
        self._sizes = {self._memory(weight): _bytes(weight) for weight in weights}  # of constants
        self._weights = set(self._sizes)
        self._trace.inputs = self._new([data])

    def finish(self, output: Any) -> Trace:
        """Return the trace of a forward pass with the result ``output``."""
        self._trace.outputs = self._reads(_tensors(output))
        return self._trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        signature = _signature(func)
        arguments = signature.bind(args, kwargs or {})
        self._note(func, signature, arguments, result)
        return result

    def _note(self, func: Any, signature: _Signature, arguments: dict[str, Any], result: Any) -> None:
        inputs, results = _tensors(arguments), _tensors(result)
        flops = multiply_adds(signature.kind, func, arguments, result)
        if flops is None:
            self._trace.uncounted.append(signature.kind)
        reads = self._reads(inputs)
        known = {self._memory(tensor) for tensor in inputs}
        if not reads:
            self._trace.constant_flops += flops or 0
            self._keep_constants(inputs, [tensor for tensor in results if self._memory(tensor) not in known])
            return
        written = [tensor for name in signature.written for tensor in _tensors(arguments[name])]
        fresh = [tensor for tensor in results if self._memory(tensor) not in known]
        claimed = [tensor for tensor in written if self._memory(tensor) not in self._buffers]
        makes = self._new([*claimed, *fresh])
        if makes or written:
            self._add(signature, arguments, inputs, reads, makes, flops or 0, results)

    def _add(
        self,
        signature: _Signature,
        arguments: dict[str, Any],
        inputs: list[torch.Tensor],
        reads: tuple[int, ...],
        makes: tuple[int, ...],
        flops: int,
        results: list[torch.Tensor],
    ) -> None:
        shapes = [tuple(tensor.shape) for tensor in inputs if self._memory(tensor) in self._weights]
        self._trace.ops.append(
            Op(
                kind=signature.kind,
                reads=reads,
                makes=makes,
                pointwise=signature.kind in _POINTWISE,
                flops=flops,
                shape=tuple(results[0].shape) if results else (),
                weight=max(shapes, key=prod, default=()),
                weight_elements=sum(prod(shape) for shape in shapes),
                groups=int(arguments["groups"]) if signature.kind in _GROUPED else 1,
            )
        )

    def _keep_constants(self, inputs: list[torch.Tensor], results: list[torch.Tensor]) -> None:
        of_weights = any(self._memory(tensor) in self._weights for tensor in inputs)
        for tensor in results:
            self._sizes.setdefault(self._memory(tensor), _bytes(tensor))
            if of_weights:
                self._weights.add(self._memory(tensor))

    def _reads(self, tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
        found = (self._buffers.get(self._memory(tensor)) for tensor in tensors)
        return tuple(dict.fromkeys(buffer for buffer in found if buffer is not None))

    def _new(self, tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
        made = []
        for tensor in tensors:
            memory = self._memory(tensor)
            if memory not in self._buffers:
                self._buffers[memory] = len(self._trace.sizes)
                made.append(self._buffers[memory])
                self._trace.sizes.append(self._sizes.get(memory, _bytes(tensor)))
        return tuple(made)

    def _memory(self, tensor: torch.Tensor) -> int:
        """Return the identity of a tensor's memory, and keep the memory alive."""
        try:
            storage: Any = tensor.untyped_storage()
            memory = int(storage._cdata)
        except (NotImplementedError, RuntimeError):  # a sparse tensor has no storage
            storage, memory = tensor, id(tensor)
        self._alive.append(storage)
        return memory


@dataclass(frozen=True)
class _Signature:
    """An operation's name without the underscore of in-place variants, its arguments, and those that it writes."""

    kind: str
    defaults: dict[str, Any]
    positional: tuple[str, ...]
    written: tuple[str, ...]

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**self.defaults, **dict(zip(self.positional, args)), **kwargs}


_SIGNATURES: dict[Any, _Signature] = {}


def _signature(func: Any) -> _Signature:
    if func not in _SIGNATURES:
        schema = func._schema
        name = schema.name
        _SIGNATURES[func] = _Signature(
            kind=name[:-1] if name.endswith("_") and not name.endswith("__") else name,
            defaults={argument.name: argument.default_value for argument in schema.arguments},
            positional=tuple(argument.name for argument in schema.arguments if not argument.kwarg_only),
            written=tuple(
                argument.name
                for argument in schema.arguments
                if argument.alias_info is not None and argument.alias_info.is_write
            ),
        )
    return _SIGNATURES[func]


@contextmanager
def _whole_operations() -> Iterator[None]:
    """Let operations reach a dispatch mode before torch decomposes them, and compiled modules run eagerly.

    Inference mode would do the same, but a tensor that a model stores in such a pass (a table of positions, say) could
    not be used in training afterwards.
    """
    below = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.inference_mode)
    with ExitStack() as stack:
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(below())
        yield


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor, floating-point values as float32; 0 for an integer scalar."""
    if tensor.dtype.is_floating_point:
        return tensor.numel() * 4
    if tensor.dtype.is_complex:
        return tensor.numel() * 8
    return tensor.numel() * tensor.element_size() if tensor.dim() else 0


def _explain(model: nn.Module, data: torch.Tensor, error: Exception) -> NoReturn:
    """Raise BuildError if the forward itself fails, CostError if only its recording does."""
    shape = tuple(data.shape)
    try:
        model(data)
    except Exception as cause:
        raise BuildError(f"the model's forward fails on an input of shape {shape}: {first_line(cause)}") from cause
    raise CostError(
        f"the model runs on an input of shape {shape}, but its operations cannot be recorded: {first_line(error)}"
    ) from error
