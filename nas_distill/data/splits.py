"""Splits of samples and labels: validation of arrays, stratified division, and representative subsets."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_distill.tasks import find_task
from nas_distill.utils.errors import DataError, first_line
from nas_distill.utils.inputs import Inputs, parts_of
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
    """Samples ``x`` (N, ...), and their labels ``y``, as read-only views.

    ``x``: one array of uint8, float32, float16, whole numbers or bool; or several, with one row per sample each.
    ``y``: (N,) int64 classes, or (N, K) float32 labels or targets.
    The memory is shared with the given arrays; changing those invalidates the fingerprint of the data.
    """

    x: np.ndarray | Inputs[np.ndarray]
    y: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", self.x.map(_readonly) if isinstance(self.x, Inputs) else _readonly(self.x))
        object.__setattr__(self, "y", _readonly(self.y))

    def __len__(self) -> int:
        return len(self.y)


def _readonly(array: Any) -> np.ndarray:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def make_split(x: Any, y: Any, where: str, task: str = "classification") -> Split:
    """Create a Split from tensors, arrays or nested lists; ``where`` begins error messages.

    Whole numbers, bool and half precision keep their type, other numbers become float32. A mapping or tuple of tensors
    becomes ``Inputs``.

    Raises:
        DataError: values are not numbers, labels do not fit the task, or the numbers of samples and labels differ.
    """
    samples, labels = to_samples(x, where), to_array(y, f"{where}: y")
    targets = find_task(task).targets(labels, len(samples), where)
    if isinstance(samples, Inputs):
        samples = Inputs(
            {name: _typed(part, f"{where}: {name}") for name, part in samples.parts.items()}, samples.named
        )
    else:
        samples = _typed(samples, f"{where}: x")
    return Split(samples, np.ascontiguousarray(targets))


def to_samples(x: Any, where: str) -> np.ndarray | Inputs[np.ndarray]:
    """Return samples as an array, or those in a mapping or a tuple of tensors as Inputs.

    Raises:
        DataError: they cannot be read, have no axis of samples, or differ in their number.
    """
    several = isinstance(x, tuple) and bool(x) and all(isinstance(part, Tensor | np.ndarray) for part in x)
    if not (several or isinstance(x, Mapping | Inputs)):
        array = to_array(x, f"{where}: x")
        if array.ndim < 2:
            raise DataError(f"{where}: x has shape {array.shape}; it needs samples along its first axis, (N, ...).")
        return array
    given = x if isinstance(x, Inputs) else Inputs.of(x)
    parts = {name: to_array(part, f"{where}: {name}") for name, part in given.parts.items()}
    counts = {name: len(part) if part.ndim else 0 for name, part in parts.items()}
    if not parts or len(set(counts.values())) != 1 or not next(iter(counts.values())):
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items()) or "there are no tensors"
        raise DataError(f"{where}: all tensors of x need the same number of rows, one per sample, but {shown}.")
    return Inputs(parts, given.named)


def _typed(samples: np.ndarray, where: str) -> np.ndarray:
    """Return samples in a type that a Split holds."""
    if samples.dtype.kind not in "iufb":
        raise DataError(f"{where} is {samples.dtype}; it must be numbers.")
    if samples.dtype.kind == "f" and samples.dtype != np.float16:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and the Dataset refuses those
            samples = samples.astype(np.float32, copy=False)
    if samples.dtype.kind == "u" and samples.dtype != np.uint8:  # torch lacks most operations on these
        samples = samples.astype(np.int64)
    return np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder("="), copy=False))


def check_samples(part: Split, train: Split, task: str, where: str) -> None:
    """Check that samples have the training split's shape and type, and are finite.

    Raises:
        DataError: they do not; or the split is empty or does not have the types of a Split for ``task``.
    """
    ours, theirs = parts_of(part.x, "samples"), parts_of(train.x, "samples")
    if list(ours) != list(theirs):
        raise DataError(f"{where}: the tensors are {', '.join(ours)}, but those of training {', '.join(theirs)}.")
    for name, x in ours.items():
        _check_array(x, part, theirs[name], task, where, "" if name == "samples" else f" of '{name}'")


def _check_array(x: np.ndarray, part: Split, train: np.ndarray, task: str, where: str, of: str) -> None:
    y, kind = part.y, find_task(task)
    if (x.dtype.kind == "f" and x.dtype.itemsize > 4) or x.dtype.kind not in "iufb" or not kind.fits(y):
        raise DataError(
            f"{where}: samples{of} are {x.dtype} and labels {y.dtype} of shape {y.shape}; a Split for {task} must have "
            f"uint8 or float32 samples, whole numbers or bool, and labels {kind.stored_as}. Create it with "
            "Dataset.from_tensors."
        )
    if x.ndim < 1 + (not of) or len(x) != len(y):
        raise DataError(f"{where}: samples{of} of shape {x.shape} do not match {len(y)} labels.")
    if len(part) == 0:
        raise DataError(f"{where} is empty.")
    if x.shape[1:] != train.shape[1:]:
        raise DataError(f"{where}: samples{of} have shape {x.shape[1:]}, but training samples {train.shape[1:]}.")
    if x.dtype != train.dtype:
        raise DataError(f"{where}: samples{of} are {x.dtype}, but training samples {train.dtype}.")
    if x.size == 0:
        raise DataError(f"{where}: samples{of} of shape {x.shape[1:]} have no values.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
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
