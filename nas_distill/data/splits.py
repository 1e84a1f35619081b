"""Splits of samples and labels: validation of arrays, stratified division, and representative subsets."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_distill.tasks import find_task
from nas_distill.utils.errors import DataError, first_line
from nas_distill.utils.seeds import numpy_rng, torch_generator


def as_tensor_readonly(array: np.ndarray) -> Tensor:
    """Return a tensor over the array's memory, which must not be written to.

    Workers read one copy of the data from shared memory, which is read-only. Torch warns that it cannot enforce this;
    only that warning is suppressed here. No code writes to such a tensor.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(array)


@dataclass(frozen=True, eq=False)
class Split:
    """Samples ``x`` (N, ...), uint8 or float32, and their labels ``y``, as read-only views.

    ``y``: (N,) int64 classes, or (N, K) float32 labels or targets.
    The memory is shared with the given arrays; changing those invalidates the fingerprint of the data.
    """

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            array = np.asarray(getattr(self, name)).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.y)


def make_split(x: Any, y: Any, where: str, task: str = "classification") -> Split:
    """Create a Split from tensors, arrays or nested lists; ``where`` begins error messages.

    uint8 samples stay uint8, all other numbers become float32.

    Raises:
        DataError: values are not numbers, labels do not fit the task, or the numbers of samples and labels differ.
    """
    samples, labels = to_array(x, f"{where}: x"), to_array(y, f"{where}: y")
    if samples.ndim < 2:
        raise DataError(f"{where}: x has shape {samples.shape}; it needs samples along its first axis, (N, ...).")
    targets = find_task(task).targets(labels, len(samples), where)
    if samples.dtype.kind not in "iufb":
        raise DataError(f"{where}: x is {samples.dtype}; it must be numbers.")
    if samples.dtype != np.uint8:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and the Dataset refuses those
            samples = samples.astype(np.float32, copy=False)
    return Split(np.ascontiguousarray(samples), np.ascontiguousarray(targets))


def check_samples(part: Split, train: Split, task: str, where: str) -> None:
    """Check that samples have the training split's shape and type, and are finite.

    Raises:
        DataError: they do not; or the split is empty or does not have the types of a Split for ``task``.
    """
    x, y = part.x, part.y
    kind = find_task(task)
    if x.dtype not in (np.uint8, np.float32) or not kind.fits(y):
        raise DataError(
            f"{where}: samples are {x.dtype} and labels {y.dtype} of shape {y.shape}; a Split for {task} must have "
            f"uint8 or float32 samples and labels {kind.stored_as}. Create it with Dataset.from_tensors."
        )
    if x.ndim < 2 or len(x) != len(y):
        raise DataError(f"{where}: samples of shape {x.shape} do not match {len(y)} labels.")
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
        raise DataError(f"{where}: sample {bad} holds NaN or infinity; remove or correct it.")


def to_array(values: Any, what: str) -> np.ndarray:
    """Return tensors (of any device and type) or array-likes as a NumPy array; ``what`` names them in an error.

    Raises:
        DataError: rows differ in length, or NumPy cannot convert the values.
    """
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} cannot be read as an array ({first_line(error)}).") from error


def split_off(split: Split, share: float, seed: int, purpose: str, name: str) -> tuple[Split, Split]:
    """Split off a stratified share, seeded; return (rest, part), both in the order of ``split``.

    ``part`` has round(N * share) samples, and n * share of a class with n samples, rounded up or down: each class gets
    the integer part of its quota, and the missing samples go to the classes with the largest remainders (ties in random
    order). Samples with several labels or with targets count as one class.

    Raises:
        DataError: the share is not between 0 and 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise DataError(f"Data '{name}': '{purpose}' is {share!r}; it must be a share between 0 and 1, or (x, y).")
    rng = numpy_rng(seed, "split", purpose)
    strata = split.y if split.y.ndim == 1 else np.zeros(len(split), dtype=np.int64)
    classes, sizes = np.unique(strata, return_counts=True)
    quotas = sizes * share
    counts = np.floor(quotas).astype(int)
    missing = round(len(split) * share) - int(counts.sum())
    order = rng.permutation(len(classes))
    by_remainder = order[np.argsort((counts - quotas)[order], kind="stable")]
    counts[by_remainder[:missing]] += 1
    chosen = np.zeros(len(split), dtype=bool)
    for label, count in zip(classes, counts):
        chosen[rng.permutation(np.flatnonzero(strata == label))[:count]] = True
    return Split(split.x[~chosen], split.y[~chosen]), Split(split.x[chosen], split.y[chosen])


def random_indices(total: int, count: int, seed: int = 0, *names: str | int) -> Tensor:
    """Return ``count`` random indices of a split of ``total`` samples; all of them, shuffled, if it has fewer.

    The first samples are not representative, since a split may be sorted by class. A smaller draw with the same seed
    and names is a prefix of a larger one, so measurements use common samples.

    Args:
        total: number of samples in the split.
        count: number of samples to draw.
        seed: with the default 0, measurements depend only on the data, not on the seed of a search.
        names: name of the random stream, for a draw other than the common one.

    Returns:
        (min(count, total),) int64, without repetition.
    """
    return torch.randperm(total, generator=torch_generator(seed, *(names or ("drawn",))))[:count]
