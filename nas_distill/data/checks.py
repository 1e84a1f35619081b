"""What a Dataset refuses of a split; every message begins with where it is."""

from __future__ import annotations

import numpy as np

from nas_distill.common.errors import DataError
from nas_distill.common.task import OUTPUTS, Task
from nas_distill.data.splits import Split


def check_samples(part: Split, train: Split, task: Task, where: str) -> None:
    """Refuse samples that are of another kind than the training split's, or hold NaN.

    Raises:
        DataError: see above; or the split is empty or not of the types that a Split for ``task`` has.
    """
    x, y = part.x, part.y
    kind, dimensions = (np.int64, 1) if task == "classification" else (np.float32, 2)
    if x.dtype not in (np.uint8, np.float32) or y.dtype != kind or y.ndim != dimensions:
        holds = "(N,) int64" if dimensions == 1 else "(N, K) float32"
        raise DataError(
            f"{where}: samples are {x.dtype} and labels {y.dtype} of shape {y.shape}; a Split for {task} holds uint8 "
            f"or float32 and {holds}, which Dataset.from_tensors sees to."
        )
    if x.ndim < 2 or len(x) != len(y):
        raise DataError(f"{where}: samples of shape {x.shape} do not go with {len(y)} labels.")
    if len(part) == 0:
        raise DataError(f"{where} is empty.")
    if x.shape[1:] != train.x.shape[1:]:
        raise DataError(f"{where}: samples have shape {x.shape[1:]}, but training samples {train.x.shape[1:]}.")
    if x.dtype != train.x.dtype:
        raise DataError(f"{where}: samples are {x.dtype}, but training samples {train.x.dtype}.")
    if x.size == 0:
        raise DataError(f"{where}: samples of shape {x.shape[1:]} have no values.")
    if x.dtype != np.uint8 and not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x.reshape(len(part), -1)).all(axis=1))[0])
        raise DataError(f"{where}: sample {bad} holds NaN or infinity; remove or mend it.")


def check_targets(part: Split, task: Task, outputs: int, data: str, where: str) -> None:
    """Refuse labels that cannot be learnt or judged.

    Args:
        part: checked by ``check_samples``.
        task: whose labels they are.
        outputs: how many classes, labels or targets there are.
        data: begins a message about the data as a whole.
        where: begins one about the split.

    Raises:
        DataError: classes out of range, labels that are neither 0 nor 1, targets that are not finite, or a split in
            which no sample has a label, or all have the same targets.
    """
    y = part.y
    if task == "classification":
        if outputs < 2:
            raise DataError(f"{data} has {outputs} class; there must be two to tell apart.")
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= outputs:
            raise DataError(
                f"{where}: labels run from {low} to {high}, but with {outputs} classes they must be in "
                f"0..{outputs - 1}."
            )
        return
    if y.shape[1] != outputs:
        raise DataError(f"{where}: y has {y.shape[1]} columns for {outputs} {OUTPUTS[task]}.")
    if not np.isfinite(y).all():
        bad = int(np.flatnonzero(~np.isfinite(y).all(axis=1))[0])
        raise DataError(f"{where}: the {OUTPUTS[task]} of sample {bad} hold NaN or infinity; remove or mend it.")
    if task == "multilabel" and not np.isin(y, (0, 1)).all():
        raise DataError(f"{where}: labels of a multi-label task are 0 or 1 each, and others are among them.")
    if task == "multilabel" and not y.any():
        raise DataError(f"{where}: no sample has any label, so quality cannot be told.")
    if task == "regression" and not np.ptp(y, axis=0).any():
        raise DataError(f"{where}: all samples have the same targets, so quality cannot be told.")
