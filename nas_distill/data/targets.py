"""What a data set's labels are: one class a sample, several labels, or numbers; recognised, checked and made plain."""

from __future__ import annotations

import numpy as np

from nas_distill.common.errors import DataError
from nas_distill.common.task import Task


def infer_task(y: np.ndarray, where: str) -> Task:
    """Return the task that labels (N,) or (N, K) are of; ``where`` begins the message of an error.

    (N,): classes. (N, K) of zeros and ones: several labels a sample. Other numbers (N, K) with a fraction: regression.

    Raises:
        DataError: it cannot be told: whole numbers (N, K), or zeros and ones with a single one in each row.
    """
    if y.ndim != 2 or y.dtype.kind not in "iufb" or not y.size:
        return "classification"
    binary = bool(np.isin(y, (0, 1)).all())
    if binary and y.shape[1] > 1 and bool((y.sum(axis=1) == 1).all()):
        raise DataError(
            f"{where}: each row of y has a single 1 of {y.shape[1]}, which looks like classes; give their numbers, "
            "y.argmax(axis=1), or task='multilabel'."
        )
    if binary and (y.shape[1] > 1 or y.dtype.kind in "fb"):
        return "multilabel"
    if y.dtype.kind == "f":
        return "regression"
    raise DataError(
        f"{where}: y holds whole numbers of shape {y.shape}; give class labels as ({len(y)},), or name the task: "
        "task='multilabel' or task='regression'."
    )


def as_targets(y: np.ndarray, samples: int, task: Task, where: str) -> np.ndarray:
    """Return labels as a Split holds them: (N,) int64 classes, or (N, K) float32 labels or targets.

    Raises:
        DataError: they are no numbers, of another shape, or not such as the task has.
    """
    return _classes(y, samples, where) if task == "classification" else _columns(y, samples, task, where)


def _classes(y: np.ndarray, samples: int, where: str) -> np.ndarray:
    if y.ndim != 1 or len(y) != samples:
        raise DataError(f"{where}: y has shape {y.shape}; for {samples} samples it must be ({samples},).")
    if y.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = bool(np.equal(np.mod(y, 1), 0).all())
    else:
        whole = y.dtype.kind in "iub"
    if not whole:
        hint = "; for regression give task='regression'" if y.dtype.kind == "f" else ""
        raise DataError(f"{where}: labels are {y.dtype}; they must be whole numbers from 0{hint}.")
    return y.astype(np.int64, copy=False)


def _columns(y: np.ndarray, samples: int, task: Task, where: str) -> np.ndarray:
    if y.ndim == 1 and len(y) == samples:
        y = y[:, None]
    if y.ndim != 2 or len(y) != samples or not y.shape[1]:
        raise DataError(f"{where}: y has shape {y.shape}; for {samples} samples of {task} it must be ({samples}, K).")
    if y.dtype.kind not in "iufb":
        raise DataError(f"{where}: y is {y.dtype}; it must be numbers.")
    if task == "multilabel" and not np.isin(y, (0, 1)).all():
        raise DataError(f"{where}: labels of a multi-label task are 0 or 1 each, and others are among them.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the Dataset refuses that
        return y.astype(np.float32, copy=False)
