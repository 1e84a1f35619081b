"""Modules that add features, or pad channels, in their own forward pass: residual blocks do, stages of them do not."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nas_distill.common.layers.hooks import Hooks

_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


class Sums(TorchFunctionMode):
    """Writes down the sums of features in forward passes of ``module`` while it is open.

    Attributes:
        added: the sums of two maps, of whatever dimensions, or two token sequences: the innermost module in whose
            forward pass it was taken, and both addends.
        direct: modules whose first argument is a tensor.
        padded: modules that pad the channels of (B, C, H, W) maps, in the order of the forward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.added: list[tuple[str, Tensor, Tensor]] = []
        self.direct: set[str] = set()
        self.padded: list[str] = []
        self._module = module
        self._open: list[str] = []
        self._hooks = Hooks()

    def residual(self, name: str) -> bool:
        """Say whether the module called ``name`` adds features itself."""
        return any(holder == name for holder, _, _ in self.added)

    def around(self, name: str, made: Tensor) -> bool:
        """Say whether a module around the one called ``name`` adds ``made``, which that returns, to something else."""
        return any(
            (made is one or made is other) and (not holder or name.startswith(f"{holder}."))
            for holder, one, other in self.added
        )

    def __enter__(self) -> Sums:
        self._hooks.__enter__()
        for name, part in self._module.named_modules():

            def opens(part: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                self._open.append(name)
                if args and isinstance(args[0], Tensor):
                    self.direct.add(name)

            def closes(part: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
                self._open.pop()

            self._hooks.before(part, opens)
            self._hooks.after(part, closes)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._hooks.__exit__(kind, error, trace)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ADDITIONS and len(args) > 1 and self._open:
            one, other = args[:2]
            both = isinstance(one, Tensor) and isinstance(other, Tensor)
            if both and one.dim() in (3, 4, 5) and one.shape == other.shape:
                self.added.append((self._open[-1], one, other))
        elif func is functional.pad and self._open:
            given = dict(zip(("input", "pad"), args)) | dict(kwargs or {})
            if given["input"].dim() == 4 and any(tuple(given["pad"])[4:6]) and self._open[-1] not in self.padded:
                self.padded.append(self._open[-1])
        return func(*args, **(kwargs or {}))
