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
    """Return a tensor over the array's memory; nobody may write to it.

    Workers read one copy of the data from shared memory, which is read-only. Torch warns that it cannot enforce this;
    that one warning is silenced here, and nowhere is such a tensor written in place.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(array)


@dataclass(frozen=True, eq=False)
class Split:
    """Samples ``x`` (N, ...), uint8 or float32, and their labels ``y``; both are read-only from here on.

    ``y``: (N,) int64 classes, or (N, K) float32 labels or targets.
    The memory is shared with the arrays given; whoever changes those changes the data behind its fingerprint's back.
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
    """Make a Split of tensors, arrays or nested lists; ``where`` begins the message of an error.

    uint8 samples stay so, all other numbers become float32.

    Raises:
        DataError: they are no numbers, labels are not such as the task has, or their counts differ.
    """
    samples, labels = to_array(x, f"{where}: x"), to_array(y, f"{where}: y")
    if samples.ndim < 2:
        raise DataError(f"{where}: x has shape {samples.shape}; it needs samples along its first axis, (N, ...).")
    targets = find_task(task).targets(labels, len(samples), where)
    if samples.dtype.kind not in "iufb":
        raise DataError(f"{where}: x is {samples.dtype}; it must be numbers.")
    if samples.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the Dataset refuses that
            samples = samples.astype(np.float32, copy=False)
    return Split(np.ascontiguousarray(samples), np.ascontiguousarray(targets))


def check_samples(part: Split, train: Split, task: str, where: str) -> None:
    """Refuse samples that are of another kind than the training split's, or hold NaN.

    Raises:
        DataError: see above; or the split is empty or not of the types that a Split for ``task`` has.
    """
    x, y = part.x, part.y
    kind = find_task(task)
    if x.dtype not in (np.uint8, np.float32) or not kind.fits(y):
        raise DataError(
            f"{where}: samples are {x.dtype} and labels {y.dtype} of shape {y.shape}; a Split for {task} holds uint8 "
            f"or float32 and {kind.stored_as}, which Dataset.from_tensors sees to."
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


def to_array(values: Any, what: str) -> np.ndarray:
    """Return tensors (of any device and type) or array-likes as a NumPy array; ``what`` names them in an error.

    Raises:
        DataError: rows differ in length, or the values are not numbers that NumPy knows.
    """
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} cannot be read as an array ({first_line(error)}).") from error


def split_off(whole: Split, share: float, seed: int, purpose: str, name: str) -> tuple[Split, Split]:
    """Split a share off, seeded; return (rest, part), both in the order of ``whole``.

    ``part`` has round(N * share) samples, and of a class with n samples n * share rounded up or down: each class gets
    the whole part of its due, and what is missing then goes to the largest remainders (of equals, by lot). Samples with
    several labels or with targets count as one class.

    Raises:
        DataError: the share is not between 0 and 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise DataError(f"Data '{name}': '{purpose}' is {share!r}; it must be a share between 0 and 1, or (x, y).")
    rng = numpy_rng(seed, "split", purpose)
    strata = whole.y if whole.y.ndim == 1 else np.zeros(len(whole), dtype=np.int64)
    classes, sizes = np.unique(strata, return_counts=True)
    due = sizes * share
    counts = np.floor(due).astype(int)
    missing = round(len(whole) * share) - int(counts.sum())
    lot = rng.permutation(len(classes))
    by_remainder = lot[np.argsort((counts - due)[lot], kind="stable")]
    counts[by_remainder[:missing]] += 1
    chosen = np.zeros(len(whole), dtype=bool)
    for label, count in zip(classes, counts):
        chosen[rng.permutation(np.flatnonzero(strata == label))[:count]] = True
    return Split(whole.x[~chosen], whole.y[~chosen]), Split(whole.x[chosen], whole.y[chosen])


def random_indices(total: int, count: int, seed: int = 0, *names: str | int) -> Tensor:
    """Return ``count`` places of a split of ``total`` samples at random; all of them, shuffled, where there are fewer.

    Never the first ones: a split may be sorted by class. Who draws fewer under the same seed and names gets a part of
    what others get, so that what is measured on them is of the same samples.

    Args:
        total: samples in the split.
        count: how many are wanted.
        seed: left at 0, what is measured depends on the data alone and not on the seed of a search.
        names: of the choice, where it must not be the usual one.

    Returns:
        (min(count, total),) int64, no place twice.
    """
    return torch.randperm(total, generator=torch_generator(seed, *(names or ("drawn",))))[:count]
