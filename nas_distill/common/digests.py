"""Digests: SHA-256, in hexadecimal, of text, JSON values, files, and networks.

Digests name folders and tell whether two things are the same, so a change of what they are computed from makes stored
teacher answers, pruning plans and unfinished trainings of before unknown.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

WHOLE = 64
"""Hexadecimal digits of an uncut digest."""


def text_digest(text: str, digits: int = WHOLE) -> str:
    """Return the first ``digits`` of the digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def json_digest(value: Any, digits: int = WHOLE) -> str:
    """Return the first ``digits`` of the digest of a value's canonical JSON: sorted keys, no spaces.

    Raises:
        TypeError: the value holds something that JSON does not know.
    """
    return text_digest(json.dumps(value, sort_keys=True, separators=(",", ":")), digits)


def file_digest(path: Path) -> str:
    """Return the digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def module_digest(module: nn.Module) -> str:
    """Return the digest of a module's structure as it prints, and of its weights and buffers with names and types."""
    import torch

    digest = hashlib.sha256()
    # Equal weights in another structure (another activation, say) are another network. Addresses are no structure.
    digest.update(re.sub(r"0x[0-9a-f]+", "", repr(module)).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            content = value.detach().cpu().contiguous()
            digest.update(f"{content.dtype}{tuple(content.shape)}".encode())
            digest.update(content.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
