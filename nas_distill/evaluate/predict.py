"""Prediction over batches, in eval mode."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nas_distill.utils.errors import BuildError, DataError
from nas_distill.utils.modules import eval_mode


def predict_logits(model: nn.Module, batches: Iterable[Tensor], device: torch.device | str = "cpu") -> Tensor:
    """Return the logits of every sample, ``[N, C]`` float32 on the CPU, in the order of the batches.

    Args:
        model: returns ``[B, C]`` logits for a batch ``[B, ...]``; already on ``device``. It runs in eval mode without
            gradients; afterwards the mode of each of its modules is restored.
        batches: input tensors, moved to ``device`` one at a time.
        device: device of the model.

    Raises:
        DataError: there are no batches.
        BuildError: the model does not return floating tensors ``[B, C]`` with a constant C.
    """
    parts: list[Tensor] = []
    with eval_mode(model), torch.no_grad():
        for batch in batches:
            logits = model(batch.to(device))
            _check(logits, len(batch), parts)
            parts.append(logits.float().cpu())
    if not parts:
        raise DataError("No batch was given for prediction; give at least one.")
    return torch.cat(parts)


def _check(logits: object, count: int, before: list[Tensor]) -> None:
    if not isinstance(logits, Tensor):
        raise BuildError(f"The model returned a {type(logits).__name__}, not a tensor of logits [batch, classes].")
    wanted = (count, before[0].shape[1]) if before else (count, None)
    fits = logits.dim() == 2 and logits.shape[0] == count and wanted[1] in (None, logits.shape[1])
    if not fits or not logits.is_floating_point():
        shape = ", ".join(str(size) for size in logits.shape)
        classes = "classes" if wanted[1] is None else str(wanted[1])
        raise BuildError(
            f"The model returned {logits.dtype} of shape [{shape}] for a batch of {count}, "
            f"not floating logits [{count}, {classes}]."
        )
