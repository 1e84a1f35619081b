"""Forward hooks that are there for a block only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from torch import nn

from nas_distill.common.layers.fast_path import unfused


class Hooks:
    """Hooks on the calls of modules; open it as a context, at whose end all are removed. It may be opened again.

    Args:
        network: torch's fused layers in it are off meanwhile, since they pass hooks by; None leaves them on.
    """

    def __init__(self, network: nn.Module | None = None) -> None:
        self.open = False
        self._network = network
        self._stack = ExitStack()

    def before(self, module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> None:
        """Call ``hook(module, args, kwargs)`` before each call of ``module``; it may return others of the two."""
        self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def after(self, module: nn.Module, hook: Callable[[nn.Module, Any, Any, Any], Any]) -> None:
        """Call ``hook(module, args, kwargs, result)`` after each call of ``module``; it may return another result."""
        self._stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

    def __enter__(self) -> Hooks:
        self.open = True
        if self._network is not None:
            self._stack.enter_context(unfused(self._network))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open = False
        self._stack.close()
