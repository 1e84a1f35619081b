"""Names of places in a network: a layer's dotted path, and after a colon what of it is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from nas_distill.common.errors import TrainingError, did_you_mean
from nas_distill.common.layers.adaptor import tensor_of
from nas_distill.common.layers.attention import qkv_of_call, scores_of_call
from nas_distill.common.layers.hooks import Hooks

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
