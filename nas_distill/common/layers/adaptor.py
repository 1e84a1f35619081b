"""From what a network or a layer returns to the one tensor that is meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from nas_distill.common.errors import TrainingError


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a network returned.

    A tensor is taken as it is; a tuple, list, mapping, dataclass or Hugging Face output gives its ``logits``, else its
    first tensor with two or more dimensions.

    Raises:
        TrainingError: there is none.
    """
    named = output.get("logits") if isinstance(output, Mapping) else None
    # A tensor's attributes are never what is meant.
    named = getattr(output, "logits", None) if named is None and not isinstance(output, Tensor) else named
    if isinstance(named, Tensor):
        return named
    for tensor in _tensors(output):
        if tensor.dim() >= 2:
            return tensor
    raise TrainingError(
        f"No logits were found in what the network returns ({_shown(output)}); return a tensor (B, classes) or one "
        "under the name 'logits'."
    )


def tensor_of(output: Any, what: str = "The layer's output") -> Tensor:
    """Return the tensor in what a layer returned: the first one, in the order of the fields, depth first.

    ``what`` is how the error calls it.

    Raises:
        TrainingError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    for tensor in _tensors(output):
        return tensor
    raise TrainingError(f"{what} holds no tensor ({_shown(output)}); name another layer.")


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
        return
    parts: list[Any] = []
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, tuple | list):
        parts = list(output)
    elif dataclasses.is_dataclass(output):
        parts = [getattr(output, field.name) for field in dataclasses.fields(output)]
    for part in parts:
        yield from _tensors(part)


def _shown(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) and output else ""
    return f"{type(output).__name__}{keys}"
