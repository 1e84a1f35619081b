"""Torch's fused transformer layers, off while somebody looks inside.

In eval mode without gradients, torch runs a TransformerEncoderLayer as one operation, and a TransformerEncoder with a
padding mask on nested tensors. A hook on a layer alone keeps torch from the first, not from the second.
"""

from __future__ import annotations

import threading

import torch
from torch import nn

_lock = threading.Lock()
_holders = 0
_before = True


def has_fast_path(module: nn.Module) -> bool:
    """Say whether torch may fuse something in ``module``."""
    return any(isinstance(part, nn.MultiheadAttention | nn.TransformerEncoder) for part in module.modules())


def hold_fast_path() -> None:
    """Switch it off in this process until each holder has called ``release_fast_path``, in whatever order."""
    global _holders, _before
    with _lock:
        if _holders == 0:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _holders += 1


def release_fast_path() -> None:
    """Give back what ``hold_fast_path`` took."""
    global _holders
    with _lock:
        _holders -= 1
        if _holders == 0:
            torch.backends.mha.set_fastpath_enabled(_before)
