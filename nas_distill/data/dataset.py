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
from nas_distill.data.arrays import as_tensor_readonly
from nas_distill.data.splits import Split, carve, make_split
from nas_distill.data.views import Views

SplitName = Literal["train", "val", "test"]
_SPLIT_WORDS: dict[SplitName, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, eq=False)
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
        where = f"Data '{self.name}'"
        for name in self.splits:
            self._check(f"{where}, {_SPLIT_WORDS[name]} split", self.split(name))
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise DataError(f"{where}: {len(self.classes)} class names for {self.num_classes} classes.")
        if (self.mean is None) != (self.std is None):
            raise DataError(f"{where}: give both 'mean' and 'std', or neither.")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.input_shape[0]:
                raise DataError(
                    f"{where}: '{key}' has {len(values)} entries, but a sample has {self.input_shape[0]} channels."
                )
            if values is not None and not np.isfinite(values).all():
                raise DataError(f"{where}: '{key}' holds NaN or infinity.")
        if self.std is not None and min(self.std) <= 0:
            raise DataError(f"{where}: 'std' must be above 0.")
        if self.views.identity:
            return
        if len(self.input_shape) != 3:
            raise DataError(
                f"{where}: views with pad or flip need images (C, H, W), but a sample has shape {self.input_shape}; "
                "set pad: 0 and flip: false."
            )
        if self.views.pad >= min(self.input_shape[1:]):
            raise DataError(
                f"{where}: views shift by up to {self.views.pad} pixels, which moves images of shape "
                f"{self.input_shape} out of sight; lower 'pad'."
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
        train = make_split(x, y, f"Data '{name}'")
        test_split = None
        if isinstance(test, tuple | list):
            test_split = make_split(*_pair(test, "test", name), f"Data '{name}', test split")
        elif test is not None:
            train, test_split = carve(train, test, seed, "test", name)
        if isinstance(val, tuple | list):
            val_split = make_split(*_pair(val, "val", name), f"Data '{name}', validation split")
        else:
            train, val_split = carve(train, val, seed, "val", name)
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

    def _check(self, where: str, part: Split) -> None:
        if part.x.dtype not in (np.uint8, np.float32) or part.y.dtype != np.int64 or part.y.ndim != 1:
            raise DataError(
                f"{where}: samples are {part.x.dtype} and labels {part.y.dtype} of shape {part.y.shape}; a Split holds "
                "uint8 or float32 and (N,) int64, which Dataset.from_tensors sees to."
            )
        if part.x.ndim < 2 or len(part.x) != len(part.y):
            raise DataError(f"{where}: samples of shape {part.x.shape} do not go with {len(part.y)} labels.")
        if len(part) == 0:
            raise DataError(f"{where} is empty.")
        if part.x.shape[1:] != self.train.x.shape[1:]:
            raise DataError(
                f"{where}: samples have shape {part.x.shape[1:]}, but training samples {self.train.x.shape[1:]}."
            )
        if part.x.dtype != self.train.x.dtype:
            raise DataError(f"{where}: samples are {part.x.dtype}, but training samples {self.train.x.dtype}.")
        if part.x.size == 0:
            raise DataError(f"{where}: samples of shape {part.x.shape[1:]} have no values.")
        if part.x.dtype != np.uint8 and not np.isfinite(part.x).all():
            bad = int(np.flatnonzero(~np.isfinite(part.x.reshape(len(part), -1)).all(axis=1))[0])
            raise DataError(f"{where}: sample {bad} holds NaN or infinity; remove or mend it.")
        if self.num_classes < 2:
            raise DataError(f"Data '{self.name}' has {self.num_classes} class; there must be two to tell apart.")
        low, high = int(part.y.min()), int(part.y.max())
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"{where}: labels run from {low} to {high}, but with {self.num_classes} classes they must be in "
                f"0..{self.num_classes - 1}."
            )


def _pair(given: Sequence[Any], key: str, name: str) -> tuple[Any, Any]:
    if len(given) != 2:
        raise DataError(f"Data '{name}': '{key}' has {len(given)} parts; give a share, or (x, y).")
    return given[0], given[1]
