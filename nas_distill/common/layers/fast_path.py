"""Torch's fused transformer layers, off while somebody looks inside.

In eval mode without gradients, torch runs a TransformerEncoderLayer as one operation, and a TransformerEncoder with a
padding mask on nested tensors. A hook on a layer alone keeps torch from the first, not from the second.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_lock = threading.Lock()
_holders = 0
_before = True


def has_fast_path(module: nn.Module) -> bool:
    """Say whether torch may fuse something in ``module``."""
    return any(isinstance(part, nn.MultiheadAttention | nn.TransformerEncoder) for part in module.modules())


@contextmanager
def unfused(module: nn.Module) -> Iterator[None]:
    """Run a block with torch's fused layers off in this process, if ``module`` has any; blocks may overlap."""
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
