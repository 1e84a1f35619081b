"""Taps: reading activations of named layers while a network runs, without changing it."""

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
"""What may follow the colon; without one it is the output."""


def split_name(module: nn.Module, name: str) -> tuple[nn.Module, Part]:
    """Return the layer that ``name`` means, and what of it.

    Raises:
        TrainingError: there is no such layer, or it has no such part.
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
    raise TrainingError(f"'{name}' cannot be tapped: ':{part}' is none of {', '.join(f':{p}' for p in PARTS)}.")


def sequence_first(layer: nn.Module) -> bool:
    """Say whether a layer is one of torch's that returns (N, B, D) because its ``batch_first`` is false."""
    if isinstance(layer, nn.TransformerEncoder | nn.TransformerDecoder):
        return sequence_first(layer.layers[0])
    if isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return not layer.self_attn.batch_first
    if isinstance(layer, nn.MultiheadAttention | nn.RNNBase | nn.Transformer):
        return not layer.batch_first
    return False


class Point:
    """One place of a network, and how what passes it gets into ``found``."""

    def __init__(self, module: nn.Module, name: str, found: dict[str, Tensor]) -> None:
        self.layer, self.part = split_name(module, name)
        self._hook = self._make_hook(name, found)

    def attach(self, hooks: Hooks) -> None:
        """Hook the layer of this very network for as long as ``hooks`` are open."""
        if self.part in ("output", "seq_first"):
            hooks.after(self.layer, self._hook)
        else:
            hooks.before(self.layer, self._hook)

    def _make_hook(self, name: str, found: dict[str, Tensor]) -> Callable[..., None]:
        # Outputs and inputs are copied, since what follows may overwrite them in place (a ReLU, a dropout, `x += y`).
        turned = self.part == "seq_first" or sequence_first(self.layer)

        def output(layer: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            tensor = tensor_of(result, f"The output of layer '{name}'").clone()
            found[name] = tensor.transpose(0, 1) if turned and tensor.dim() == 3 else tensor

        def given(layer: nn.Module, args: Any, kwargs: Any) -> None:
            found[name] = tensor_of((args, kwargs), f"The input '{name}'").clone()

        def attention(layer: Any, args: Any, kwargs: Any) -> None:
            read = qkv_of_call if self.part == "qkv" else scores_of_call
            found[name] = read(layer, args, kwargs)

        made: dict[str, Callable[..., None]] = {"output": output, "seq_first": output, "input": given}
        return made.get(self.part, attention)


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a network returned.

    A tensor is taken as it is; a tuple, list, mapping, dataclass or Hugging Face output gives its ``logits``, else its
    first tensor with two or more dimensions.

    Raises:
        TrainingError: there is none.
    """
    named = output.get("logits") if isinstance(output, Mapping) else None
    # A tensor's attributes are never what is meant.
    named = getattr(output, "logits", None) if named is None and not isinstance(output, Tensor) else named
    if isinstance(named, Tensor):
        return named
    for tensor in _tensors(output):
        if tensor.dim() >= 2:
            return tensor
    raise TrainingError(
        f"No logits were found in what the network returns ({_shown(output)}); return a tensor (B, classes) or one "
        "under the name 'logits'."
    )


def tensor_of(output: Any, what: str = "The layer's output") -> Tensor:
    """Return the tensor in what a layer returned: the first one, in the order of the fields, depth first.

    ``what`` is how the error calls it.

    Raises:
        TrainingError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    for tensor in _tensors(output):
        return tensor
    raise TrainingError(f"{what} holds no tensor ({_shown(output)}); name another layer.")


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
    """Keeps what some layers of one network put out, for as long as it is open.

    Make it once and open it for each step::

        tap = Tap(model, ["blocks.1", "head.linear:input"])
        with tap:
            logits = model(x)
        feature = tap.features["blocks.1"]

    A name is a layer's dotted path and means its output (the first tensor of what it returns). After a colon:
    ``:input`` is its first input; ``:qkv`` of a torch.nn.MultiheadAttention its queries, keys and values as one tensor
    (3, B, heads, N, d), ``:attention`` its scores (B, heads, N, N) before the softmax, where hidden keys hold -inf.
    What torch's layers with ``batch_first=False`` put out is delivered as (B, N, D); for other layers that return
    (N, B, D), add ``:seq_first``.

    Gradients pass, and autocast's types are those of the network. A layer called several times in a forward pass counts
    with its last call, also when it has several names. While it is open, torch's fused transformer layers are off in
    this process, since they pass layers by in eval mode. Closed, it has left nothing on the network.

    Args:
        module: the network; this instance alone is tapped, not its copies.
        names: layers. Repeated ones count once.

    Raises:
        TrainingError: there is no such layer, or it has no such part.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._module = module
        self._found: dict[str, Tensor] = {}
        self._points = [Point(module, name, self._found) for name in self.names]
        self._hooks = Hooks(module)

    @property
    def features(self) -> dict[str, Tensor]:
        """What each layer put out in the network's last forward pass; kept until the tap is opened again.

        Raises:
            TrainingError: a layer was not called in it.
        """
        missing = [name for name in self.names if name not in self._found]
        if missing:
            raise TrainingError(
                f"Layer '{missing[0]}' was not called in the network's last forward pass under its tap, so it has no "
                "output; name a layer that each forward pass calls."
            )
        return {name: self._found[name] for name in self.names}

    def __enter__(self) -> Tap:
        if self._hooks.open:
            raise TrainingError("This tap is open already; make one tap for each use.")
        self._found.clear()
        self._hooks.__enter__()
        # First, so that what an earlier forward pass left is never taken for this one's.
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
