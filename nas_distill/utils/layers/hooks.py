"""Forward hooks as a context manager, and a switch for torch's fused transformer layers, which bypass hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn


class Hooks:
    """Hooks on calls of modules, as a context manager that removes them at its end. It can be entered again.

    Args:
        network: torch's fused layers, which bypass hooks, are disabled if it has any; None leaves them enabled.
    """

    def __init__(self, network: nn.Module | None = None) -> None:
        self.open = False
        self._network = network
        self._stack = ExitStack()

    def before(self, module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> None:
        """Call ``hook(module, args, kwargs)`` before each call of ``module``; it may return replacements of both."""
        self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def after(self, module: nn.Module, hook: Callable[[nn.Module, Any, Any, Any], Any]) -> None:
        """Call ``hook(module, args, kwargs, result)`` after each call of ``module``; it may return a replacement."""
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


_lock = threading.Lock()
_holders = 0
_before = True


def has_fast_path(module: nn.Module) -> bool:
    """Return True if ``module`` has layers that torch may fuse."""
    return any(isinstance(part, nn.MultiheadAttention | nn.TransformerEncoder) for part in module.modules())


@contextmanager
def unfused(module: nn.Module) -> Iterator[None]:
    """Run a block with torch's fused layers disabled in this process, if ``module`` has any; blocks may overlap."""
    fusible = has_fast_path(module)
    if fusible:
        _hold()
    try:
        yield
    finally:
        if fusible:
            _release()


def _hold() -> None:
    global _holders, _before
    with _lock:
        if _holders == 0:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _holders += 1


def _release() -> None:
    global _holders
    with _lock:
        _holders -= 1
        if _holders == 0:
            torch.backends.mha.set_fastpath_enabled(_before)
