"""The state of a training in a file: whole or the one before, and read without running code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nas_distill.common.errors import StorageError
from nas_distill.common.files import atomic_path


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors and plain values; the file is whole or the one before stays.

    Raises:
        StorageError: it cannot be written (the disk is full, say).
    """
    content = io.BytesIO()
    torch.save(dict(state), content)  # not straight to the file: torch does not say why it cannot write
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    except OSError as error:
        raise StorageError(
            f"Checkpoint {path} cannot be written ({error.strerror or error}); mend that, then resume."
        ) from error
