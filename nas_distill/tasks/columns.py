"""Labels as columns of numbers, (N, K) float32, which multi-label tasks and regression share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_distill.common.errors import DataError

if TYPE_CHECKING:
    import numpy as np


def as_columns(y: np.ndarray, samples: int, task: str, where: str) -> np.ndarray:
    """Return numbers (N,) or (N, K) as (N, K) float32.

    Raises:
        DataError: they are of another shape, or no numbers.
    """
    import numpy as np

    if y.ndim == 1 and len(y) == samples:
        y = y[:, None]
    if y.ndim != 2 or len(y) != samples or not y.shape[1]:
        raise DataError(f"{where}: y has shape {y.shape}; for {samples} samples of {task} it must be ({samples}, K).")
    if y.dtype.kind not in "iufb":
        raise DataError(f"{where}: y is {y.dtype}; it must be numbers.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the check refuses that
        return y.astype(np.float32, copy=False)


def check_columns(y: np.ndarray, outputs: int, plural: str, where: str) -> None:
    """Raise DataError unless there are ``outputs`` columns of finite numbers."""
    import numpy as np

    if y.shape[1] != outputs:
        raise DataError(f"{where}: y has {y.shape[1]} columns for {outputs} {plural}.")
    if not np.isfinite(y).all():
        bad = int(np.flatnonzero(~np.isfinite(y).all(axis=1))[0])
        raise DataError(f"{where}: the {plural} of sample {bad} hold NaN or infinity; remove or mend it.")


def are_columns(y: np.ndarray) -> bool:
    """Say whether labels are (N, K) float32."""
    return y.dtype.name == "float32" and y.ndim == 2
