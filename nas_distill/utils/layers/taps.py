"""Taps: recording of activations of named layers during forward passes, by hooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from torch import Tensor, nn

from nas_distill.utils.errors import TrainingError, did_you_mean
from nas_distill.utils.layers.attention import qkv_of_call, scores_of_call
from nas_distill.utils.layers.hooks import Hooks

Part = Literal["output", "input", "seq_first", "qkv", "attention"]

PARTS: tuple[Part, ...] = ("input", "seq_first", "qkv", "attention")
"""Suffixes of a name after a colon; a name without a suffix means the output."""


def split_name(module: nn.Module, name: str) -> tuple[nn.Module, Part]:
    """Return the layer of ``name``, and which of its tensors the name means.

    Raises:
        TrainingError: the layer does not exist, or has no such tensor.
    """
    known = dict(module.named_modules(remove_duplicate=False))
    if name in known:
        return known[name], "output"
    path, colon, part = name.rpartition(":")
    if not colon or path not in known:
        path = path if colon and part in PARTS else name
        raise TrainingError(
            f"The network ({type(module).__name__}) has no layer '{path}'{did_you_mean(path, filter(None, known))}"
        )
    layer = known[path]
    for option in PARTS:
        if part == option:
            if option in ("qkv", "attention") and not isinstance(layer, nn.MultiheadAttention):
                raise TrainingError(
                    f"'{name}' cannot be tapped: layer '{path}' is a {type(layer).__name__}, and ':{part}' is for "
                    "torch.nn.MultiheadAttention."
                )
            return layer, option
    raise TrainingError(f"'{name}' cannot be tapped: ':{part}' is not one of {', '.join(f':{p}' for p in PARTS)}.")


def sequence_first(layer: nn.Module) -> bool:
    """Return True for layers of torch that return (N, B, D) because their ``batch_first`` is false."""
    if isinstance(layer, nn.TransformerEncoder | nn.TransformerDecoder):
        return sequence_first(layer.layers[0])
    if isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return not layer.self_attn.batch_first
    if isinstance(layer, nn.MultiheadAttention | nn.RNNBase | nn.Transformer):
        return not layer.batch_first
    return False


class TapPoint:
    """A hook on one layer that writes its tensor to ``found`` under the name."""

    def __init__(self, module: nn.Module, name: str, found: dict[str, Tensor]) -> None:
        self.layer, self.part = split_name(module, name)
        self._hook = self._make_hook(name, found)

    def attach(self, hooks: Hooks) -> None:
        """Register the hook on the layer, until ``hooks`` are closed."""
        if self.part in ("output", "seq_first"):
            hooks.after(self.layer, self._hook)
        else:
            hooks.before(self.layer, self._hook)

    def _make_hook(self, name: str, found: dict[str, Tensor]) -> Callable[..., None]:
        # Outputs and inputs are copied, since later operations may modify them in place (a ReLU, a dropout, `x += y`).
        transposed = self.part == "seq_first" or sequence_first(self.layer)

        def output(layer: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            tensor = tensor_of(result, f"The output of layer '{name}'").clone()
            found[name] = tensor.transpose(0, 1) if transposed and tensor.dim() == 3 else tensor

        def input(layer: nn.Module, args: Any, kwargs: Any) -> None:
            found[name] = tensor_of((args, kwargs), f"The input '{name}'").clone()

        def attention(layer: Any, args: Any, kwargs: Any) -> None:
            read = qkv_of_call if self.part == "qkv" else scores_of_call
            found[name] = read(layer, args, kwargs)

        by_part: dict[str, Callable[..., None]] = {"output": output, "seq_first": output, "input": input}
        return by_part.get(self.part, attention)


def logits_of(output: Any) -> Tensor:
    """Return the logits in the output of a network.

    A tensor is returned unchanged; of a tuple, list, mapping, dataclass or Hugging Face output it is ``logits``, else
    the first tensor with two or more dimensions.

    Raises:
        TrainingError: no logits were found.
    """
    named = output.get("logits") if isinstance(output, Mapping) else None
    # Attributes of a tensor are never its logits.
    named = getattr(output, "logits", None) if named is None and not isinstance(output, Tensor) else named
    if isinstance(named, Tensor):
        return named
    for tensor in _tensors(output):
        if tensor.dim() >= 2:
            return tensor
    raise TrainingError(
        f"No logits were found in the network's output ({_shown(output)}); return a tensor (B, classes), or one "
        "under the name 'logits'."
    )


def tensor_of(output: Any, what: str = "The layer's output") -> Tensor:
    """Return the first tensor in the output of a layer, in the order of the fields, depth first.

    ``what`` names the output in the error.

    Raises:
        TrainingError: the output contains no tensor.
    """
    if isinstance(output, Tensor):
        return output
    for tensor in _tensors(output):
        return tensor
    raise TrainingError(f"{what} contains no tensor ({_shown(output)}); name another layer.")


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
        return
    parts: list[Any] = []
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, tuple | list):
        parts = list(output)
    elif dataclasses.is_dataclass(output):
        parts = [getattr(output, field.name) for field in dataclasses.fields(output)]
    for part in parts:
        yield from _tensors(part)


def _shown(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) and output else ""
    return f"{type(output).__name__}{keys}"


class Tap:
    """A context manager that records the activations of named layers of one network.

    Create it once and enter it for each step::

        tap = Tap(model, ["blocks.1", "head.linear:input"])
        with tap:
            logits = model(x)
        feature = tap.features["blocks.1"]

    A name is a layer's dotted path and means its output (the first tensor in it). Suffixes: ``:input`` is its first
    input; ``:qkv`` of a torch.nn.MultiheadAttention its queries, keys and values as one tensor (3, B, heads, N, d);
    ``:attention`` its scores (B, heads, N, N) before the softmax, with -inf for hidden keys. Outputs of torch's layers
    with ``batch_first=False`` are delivered as (B, N, D); for other layers that return (N, B, D), add ``:seq_first``.

    Gradients pass, and autocast's types are those of the network. Of a layer called several times in a forward pass,
    the last call is recorded, also if the layer has several names. While a tap is open, torch's fused transformer
    layers, which bypass hooks in eval mode, are disabled in this process. A closed tap leaves no hooks on the network.

    Args:
        module: the network; only this instance is tapped, not its copies.
        names: layers; repeated names count once.

    Raises:
        TrainingError: a layer does not exist, or has no such tensor.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._module = module
        self._found: dict[str, Tensor] = {}
        self._points = [TapPoint(module, name, self._found) for name in self.names]
        self._hooks = Hooks(module)

    @property
    def features(self) -> dict[str, Tensor]:
        """Recorded tensors by name, of the network's last forward pass; kept until the tap is opened again.

        Raises:
            TrainingError: a layer was not called in that pass.
        """
        missing = [name for name in self.names if name not in self._found]
        if missing:
            raise TrainingError(
                f"Layer '{missing[0]}' was not called in the network's last forward pass under its tap; name a layer "
                "that every forward pass calls."
            )
        return {name: self._found[name] for name in self.names}

    def __enter__(self) -> Tap:
        if self._hooks.open:
            raise TrainingError("This tap is already open; create one tap per use.")
        self._found.clear()
        self._hooks.__enter__()
        # Registered first, so that tensors of an earlier forward pass are never returned for this one.
        self._hooks.before(self._module, self._forget)
        for point in self._points:
            point.attach(self._hooks)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _forget(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._found.clear()
