"""Checkpoints of trainings, and SHA-256 digests of text, JSON values, files and networks.

Digests name folders and identify content. A change of what they are computed from invalidates the stored teacher
answers, pruning plans and unfinished trainings of earlier versions.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nas_distill.utils.errors import StorageError, TrainingError, first_line
from nas_distill.utils.files import atomic_path

if TYPE_CHECKING:
    from torch import nn


_SEAL = hashlib.sha256().digest_size


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors and plain values, atomically: after a failure the previous file remains.

    Raises:
        StorageError: the file cannot be written (for example, the disk is full).
    """
    content = io.BytesIO()
    torch.save(dict(state), content)  # in memory: when torch writes a file itself, its error hides the cause
    seal = hashlib.sha256(content.getbuffer()).digest()
    content.seek(0, io.SEEK_END)
    content.write(seal)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    except OSError as error:
        raise StorageError(
            f"Checkpoint {path} cannot be written ({error.strerror or error}); fix the cause, then resume."
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """Return the state that ``write_state`` wrote, its tensors on the CPU.

    The digest detects damage, not the error of torch: torch reads a file with changed bits without an error, and an
    error for lack of memory is not damage.

    Raises:
        StorageError: the file cannot be read.
        TrainingError: the file is damaged, or was not written by ``write_state``.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise StorageError(
            f"Checkpoint {path} cannot be read ({error.strerror or error}); fix the cause, then resume."
        ) from error
    body, seal = content[:-_SEAL], content[-_SEAL:]
    damaged = f"Checkpoint {path} is damaged ({{cause}}); delete it to train again from the start."
    if hashlib.sha256(body).digest() != seal:
        raise TrainingError(damaged.format(cause="its content does not match its digest"))
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # written by other code: it contains more than tensors and plain values
        raise TrainingError(damaged.format(cause=first_line(error))) from error
    return state


FULL_LENGTH = 64
"""Hexadecimal digits of a complete digest."""


def text_digest(text: str, digits: int = FULL_LENGTH) -> str:
    """Return the first ``digits`` of the digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def json_digest(value: Any, digits: int = FULL_LENGTH) -> str:
    """Return the first ``digits`` of the digest of a value's canonical JSON: sorted keys, no spaces.

    Raises:
        TypeError: the value contains a type that JSON does not have.
    """
    return text_digest(json.dumps(value, sort_keys=True, separators=(",", ":")), digits)


def file_digest(path: Path) -> str:
    """Return the digest of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def module_digest(module: nn.Module) -> str:
    """Return the digest of a module's structure (its ``repr``) and of its named weights and buffers with types."""
    import torch

    digest = hashlib.sha256()
    # Equal weights in another structure (such as another activation) are another network. Memory addresses in the repr
    # are not structure.
    digest.update(re.sub(r"0x[0-9a-f]+", "", repr(module)).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            content = value.detach().cpu().contiguous()
            digest.update(f"{content.dtype}{tuple(content.shape)}".encode())
            digest.update(content.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
