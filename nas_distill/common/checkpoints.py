"""The state of a training in a file: whole or the one before, sealed with a digest, and read without running code."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nas_distill.common.errors import StorageError, TrainingError, first_line
from nas_distill.common.files import atomic_path

_SEAL = hashlib.sha256().digest_size


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors and plain values; the file is whole or the one before stays.

    Raises:
        StorageError: it cannot be written (the disk is full, say).
    """
    content = io.BytesIO()
    torch.save(dict(state), content)  # not straight to the file: torch does not say why it cannot write
    seal = hashlib.sha256(content.getbuffer()).digest()
    content.seek(0, io.SEEK_END)
    content.write(seal)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    except OSError as error:
        raise StorageError(
            f"Checkpoint {path} cannot be written ({error.strerror or error}); mend that, then resume."
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """Return the state that ``write_state`` wrote, its tensors on the CPU.

    Damage is told by the digest, never by what went wrong: torch reads a file with changed bits without a word, and
    what it raises for lack of memory is not damage.

    Raises:
        StorageError: the file cannot be read.
        TrainingError: it is damaged, or was not written by ``write_state``.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise StorageError(
            f"Checkpoint {path} cannot be read ({error.strerror or error}); mend that, then resume."
        ) from error
    body, seal = content[:-_SEAL], content[-_SEAL:]
    damaged = f"Checkpoint {path} is damaged ({{cause}}); delete it to train again from the start."
    if hashlib.sha256(body).digest() != seal:
        raise TrainingError(damaged.format(cause="its content does not match its digest"))
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # sealed by somebody else: it holds more than tensors and plain values
        raise TrainingError(damaged.format(cause=first_line(error))) from error
    return state
