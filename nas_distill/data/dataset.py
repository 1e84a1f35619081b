"""Dataset: three splits of one classification task, and batches of seeded views from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nas_distill.common.errors import DataError
from nas_distill.common.seeds import numpy_rng
from nas_distill.data.arrays import as_tensor_readonly
from nas_distill.data.views import Views

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Split:
    """Samples ``x`` (N, ...), uint8 or float32, and their labels ``y`` (N,) int64."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    """A classification task.

    ``train`` is learnt from, ``val`` scores and chooses, ``test`` (may be None) is looked at once, at the end. uint8
    samples are scaled to [0, 1]; then ``mean`` and ``std`` (one number a channel, axis 0 of a sample), where given,
    standardise them. Float samples are taken as they are unless ``mean`` and ``std`` are given.

    Raises:
        DataError: an empty split, labels out of range, NaN, shapes that differ, views that the samples do not allow.
    """

    name: str
    train: Split
    val: Split
    test: Split | None
    num_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    views: Views = field(default_factory=Views)
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in self.splits:
            self._check(name, self.split(name))
        if (self.mean is None) != (self.std is None):
            raise DataError(f"Data '{self.name}': give both 'mean' and 'std', or neither.")
        for values in (self.mean, self.std):
            if values is not None and len(values) != self.input_shape[0]:
                raise DataError(
                    f"Data '{self.name}': 'mean' and 'std' have {len(values)} entries for {self.input_shape[0]} "
                    "channels."
                )
        if self.std is not None and min(self.std) <= 0:
            raise DataError(f"Data '{self.name}': 'std' must be above 0.")
        if not self.views.identity and len(self.input_shape) != 3:
            raise DataError(
                f"Data '{self.name}': views with pad or flip need images (C, H, W), but a sample has shape "
                f"{self.input_shape}; set pad: 0 and flip: false."
            )

    @classmethod
    def from_tensors(
        cls,
        x: Any,
        y: Any,
        *,
        val: float | tuple[Any, Any] = 0.2,
        test: float | tuple[Any, Any] | None = None,
        num_classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        views: Views | None = None,
        classes: Sequence[str] | None = None,
        name: str = "tensors",
        seed: int = 0,
    ) -> Dataset:
        """Make a Dataset of tensors or arrays.

        Args:
            x: (N, ...) samples; uint8 stays uint8, all else becomes float32.
            y: (N,) integer labels from 0.
            val: a share of ``x`` to split off (stratified by class, seeded), or (x, y) of their own.
            test: likewise; None leaves the test split out.
            num_classes: where the labels do not show it (the largest label + 1).
            mean: one a channel; standardises after uint8 has been scaled to [0, 1].
            std: one a channel.
            views: augmentation; none unless given.
            classes: their names.
            name: for messages and records.
            seed: of the split.

        Raises:
            DataError: see the class.
        """
        train = _split(x, y, f"Data '{name}'")
        test_split = None
        if isinstance(test, tuple):
            test_split = _split(*test, f"Data '{name}', test split")
        elif test is not None:
            train, test_split = _carve(train, test, seed, "test", name)
        if isinstance(val, tuple):
            val_split = _split(*val, f"Data '{name}', validation split")
        else:
            train, val_split = _carve(train, val, seed, "val", name)
        if num_classes is None:
            parts = [part.y for part in (train, val_split, test_split) if part is not None and len(part)]
            num_classes = int(max(part.max() for part in parts)) + 1 if parts else 0
        return cls(
            name=name,
            train=train,
            val=val_split,
            test=test_split,
            num_classes=num_classes,
            mean=None if mean is None else tuple(float(value) for value in mean),
            std=None if std is None else tuple(float(value) for value in std),
            views=views or Views(),
            classes=None if classes is None else tuple(classes),
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) for images."""
        return tuple(int(size) for size in self.train.x.shape[1:])

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Names of the splits there are."""
        return ("train", "val") if self.test is None else ("train", "val", "test")

    def split(self, name: SplitName) -> Split:
        """Return a split by name."""
        found = {"train": self.train, "val": self.val, "test": self.test}[name]
        if found is None:
            raise DataError(f"Data '{self.name}' has no {name} split.")
        return found

    def batch(self, split: SplitName, index: Tensor, view: int | None = None) -> tuple[Tensor, Tensor]:
        """Return a batch.

        Args:
            split: which split.
            index: (B,) int64 places in it.
            view: a view's number (training samples only), or None for the samples as they are.

        Returns:
            x (B, ...) float32, standardised; y (B,) int64.
        """
        x, y = self._tensors(split)
        chosen = x[index]
        if view is not None:
            chosen = self.views.apply(chosen, index, view, len(self.split(split)))
        return self._standardise(chosen), y[index]

    def batches(self, split: SplitName, batch_size: int = 500) -> list[Tensor]:
        """Return the places of a split in order, in pieces of ``batch_size``."""
        return list(torch.arange(len(self.split(split))).split(batch_size))

    def labels(self, split: SplitName) -> Tensor:
        """Return a split's labels (N,) int64."""
        return self._tensors(split)[1]

    def with_views(self, views: Views) -> Dataset:
        """Return the same data under other views."""
        return replace(self, views=views)

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of samples, labels and standardisation; views are not in it."""
        digest = hashlib.sha256()
        for name in self.splits:
            part = self.split(name)
            for array in (part.x, part.y):
                digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        digest.update(repr((self.num_classes, self.mean, self.std)).encode())
        return digest.hexdigest()

    def normalisation(self) -> dict[str, Any]:
        """Return how a raw sample becomes a network's input, for whoever deploys a student."""
        return {
            "scale": 1 / 255 if self.train.x.dtype == np.uint8 else 1.0,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "rule": "input = (raw * scale - mean) / std, mean and std by channel",
        }

    def __getstate__(self) -> dict[str, Any]:
        # Caches hold tensors over this process's memory; a worker makes its own over shared memory.
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def _tensors(self, split: SplitName) -> tuple[Tensor, Tensor]:
        cache: dict[str, tuple[Tensor, Tensor]] = self.__dict__.setdefault("_cache", {})
        if split not in cache:
            part = self.split(split)
            cache[split] = (as_tensor_readonly(part.x), as_tensor_readonly(part.y))
        return cache[split]

    def _standardise(self, x: Tensor) -> Tensor:
        scale = 1 / 255 if x.dtype == torch.uint8 else 1.0
        result = x.to(torch.float32)
        if self.mean is None or self.std is None:
            return result if scale == 1.0 else result.mul_(scale)
        shape = (-1, *([1] * (x.dim() - 2)))
        std = torch.tensor(self.std).view(shape)
        # x[index] is already a copy, but float data without views passes through .to() uncopied.
        return result * (scale / std) - (torch.tensor(self.mean).view(shape) / std)

    def _check(self, name: SplitName, part: Split) -> None:
        where = f"Data '{self.name}', {name} split"
        if len(part) == 0:
            raise DataError(f"{where} is empty.")
        if part.x.shape[1:] != self.train.x.shape[1:]:
            raise DataError(
                f"{where}: samples have shape {part.x.shape[1:]}, but training samples {self.train.x.shape[1:]}."
            )
        if part.x.dtype != self.train.x.dtype:
            raise DataError(f"{where}: samples are {part.x.dtype}, but training samples {self.train.x.dtype}.")
        if part.x.dtype != np.uint8 and not np.isfinite(part.x).all():
            bad = int(np.flatnonzero(~np.isfinite(part.x.reshape(len(part), -1)).all(axis=1))[0])
            raise DataError(f"{where}: sample {bad} holds NaN or infinity; remove or mend it.")
        low, high = int(part.y.min()), int(part.y.max())
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"{where}: labels run from {low} to {high}, but with {self.num_classes} classes they must be in "
                f"0..{self.num_classes - 1}."
            )


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _split(x: Any, y: Any, where: str) -> Split:
    samples, labels = _array(x), _array(y)
    if samples.ndim < 2:
        raise DataError(f"{where}: x has shape {samples.shape}; it needs samples along its first axis, (N, ...).")
    if labels.ndim != 1 or len(labels) != len(samples):
        raise DataError(
            f"{where}: y has shape {labels.shape}; for {len(samples)} samples it must be ({len(samples)},)."
        )
    if labels.dtype.kind not in "iub" and not (labels.dtype.kind == "f" and np.equal(np.mod(labels, 1), 0).all()):
        raise DataError(f"{where}: labels are {labels.dtype}; they must be whole numbers from 0.")
    if samples.dtype.kind not in "iufb":
        raise DataError(f"{where}: x is {samples.dtype}; it must be numbers.")
    if samples.dtype != np.uint8:
        samples = samples.astype(np.float32, copy=False)
    return Split(np.ascontiguousarray(samples), np.ascontiguousarray(labels.astype(np.int64, copy=False)))


def _carve(whole: Split, share: float, seed: int, purpose: str, name: str) -> tuple[Split, Split]:
    """Split a share off, the same from every class as nearly as it goes."""
    if not 0 < share < 1:
        raise DataError(f"Data '{name}': the share for {purpose} is {share}; it must be between 0 and 1.")
    rng = numpy_rng(seed, "split", purpose)
    order = rng.permutation(len(whole))
    # Sorting by (rank within the class / class size) interleaves the classes, so any prefix is balanced.
    labels = whole.y[order]
    position = np.empty(len(order))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = order[np.argsort(position, kind="stable")]
    count = round(len(order) * share)
    part, rest = np.sort(order[:count]), np.sort(order[count:])
    return Split(whole.x[rest], whole.y[rest]), Split(whole.x[part], whole.y[part])
