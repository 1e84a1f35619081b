"""Seeing what passes inside a network that is not changed for it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from nas_distill.common.errors import TrainingError
from nas_distill.common.layers.hooks import Hooks
from nas_distill.common.layers.points import Point


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
