"""Dataset: training, validation and test splits of one task, and batches of seeded views."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nas_distill.data.splits import Split, as_tensor_readonly, check_samples, make_split, split_off, to_array
from nas_distill.data.views import Views
from nas_distill.tasks import find_task, infer_task
from nas_distill.utils.errors import DataError

SplitName = Literal["train", "val", "test"]
_SPLIT_TITLES: dict[SplitName, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and labels of a task: one class per sample, several labels, or numbers (``task``).

    ``train`` is for training, ``val`` for scores and choices; ``test`` (may be None) is evaluated once, at the end.
    uint8 samples are scaled to [0, 1], then standardised by ``mean`` and ``std`` (one number per channel, axis 0 of a
    sample) if given. Float samples are not changed unless ``mean`` and ``std`` are given.

    ``num_classes`` is the number of outputs of a network: classes, labels or targets; ``classes`` are their names.
    Neither targets nor outputs of a regression are scaled; targets of a magnitude near 1 train best.

    Raises:
        DataError: an empty split, labels out of range, NaN, different shapes, or views that do not fit the samples.
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
    task: str = "classification"

    def __post_init__(self) -> None:
        where, task = f"Data '{self.name}'", find_task(self.task)
        for name in self.splits:
            here, part = f"{where}, {_SPLIT_TITLES[name]} split", self.split(name)
            check_samples(part, self.train, self.task, here)
            task.check(part.y, self.num_classes, where, here)
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise DataError(f"{where}: {len(self.classes)} {task.output} names for {self.num_classes} {task.outputs}.")
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
        self.views.check(as_tensor_readonly(self.train.x[:1])[0], where)

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
        task: str | None = None,
        name: str = "tensors",
        seed: int = 0,
    ) -> Dataset:
        """Create a Dataset from tensors or arrays.

        Args:
            x: (N, ...) samples; uint8 stays uint8, all other types become float32.
            y: (N,) integer labels from 0; (N, K) zeros and ones, for samples with any number of K labels; or (N, K)
                numbers, the targets of a regression.
            val: share of ``x`` to split off (stratified by class, seeded), or separate (x, y).
            test: likewise; None for no test split.
            num_classes: number of outputs; by default the largest class label + 1, or the number of columns.
            mean: one number per channel; standardises after uint8 has been scaled to [0, 1].
            std: one number per channel.
            views: augmentation; none by default.
            classes: names of the outputs.
            task: ``classification``, ``multilabel`` or ``regression``, if ``y`` is ambiguous; ``regression`` for (N,)
                numbers, a regression of one target.
            name: name in messages and records.
            seed: seed of the split.

        Raises:
            DataError: see the class.
        """
        x, y = to_array(x, f"Data '{name}': x"), to_array(y, f"Data '{name}': y")
        if task is None:
            task = infer_task(y, f"Data '{name}'")
        rules = find_task(task, where=f"Data '{name}'")
        train = make_split(x, y, f"Data '{name}'", task)
        test_split = None
        if isinstance(test, tuple | list):
            test_split = make_split(*_pair(test, "test", name), f"Data '{name}', test split", task)
        elif test is not None:
            train, test_split = split_off(train, test, seed, "test", name)
        if isinstance(val, tuple | list):
            val_split = make_split(*_pair(val, "val", name), f"Data '{name}', validation split", task)
        else:
            train, val_split = split_off(train, val, seed, "val", name)
        if num_classes is None:
            num_classes = rules.count_outputs([part.y for part in (train, val_split, test_split) if part is not None])
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
            task=task,
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) for images."""
        return tuple(int(size) for size in self.train.x.shape[1:])

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Names of the existing splits."""
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
            split: name of the split.
            index: (B,) int64 indices of samples in it.
            view: number of a view (training samples only), or None for the unchanged samples.

        Returns:
            x (B, ...) float32, standardised; y (B,) int64 classes, or (B, K) float32 labels or targets.
        """
        x, y = self._tensors(split)
        chosen = x[index]
        if view is not None:
            chosen = self.views.apply(chosen, index, view, len(self.split(split)))
        return self._standardise(chosen), y[index]

    def batches(self, split: SplitName, batch_size: int = 500) -> list[Tensor]:
        """Return the indices of a split in order, in batches of ``batch_size``."""
        return list(torch.arange(len(self.split(split))).split(batch_size))

    def inputs(self, split: SplitName) -> Iterator[Tensor]:
        """Yield a split's inputs without augmentation, in the batches of ``batches``."""
        return (self.batch(split, index)[0] for index in self.batches(split))

    def labels(self, split: SplitName) -> Tensor:
        """Return a split's labels: (N,) int64 classes, or (N, K) float32 labels or targets."""
        return self._tensors(split)[1]

    def with_views(self, views: Views) -> Dataset:
        """Return the same data with other views."""
        return replace(self, views=views)

    def standardised_by(self, mean: float | Sequence[float], std: float | Sequence[float]) -> Dataset:
        """Return the same data with another ``mean`` and ``std``: one number per channel, or one for all."""
        channels = self.input_shape[0]
        values = [
            (float(given),) * channels if isinstance(given, int | float) else tuple(map(float, given))
            for given in (mean, std)
        ]
        return replace(self, mean=values[0], std=values[1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of samples, labels and standardisation, without views."""
        digest = hashlib.sha256()
        for name in self.splits:
            part = self.split(name)
            for array in (part.x, part.y):
                digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        digest.update(repr((self.num_classes, self.mean, self.std)).encode())
        digest.update(find_task(self.task).fingerprint_tag.encode())
        return digest.hexdigest()

    def as_task(self, task: str | None) -> Dataset:
        """Return the same data as a Dataset of another task with the same type of labels; None changes nothing.

        Raises:
            DataError: the labels do not fit that task.
        """
        if task in (None, self.task):
            return self
        if not find_task(task, where=f"Data '{self.name}'").fits(self.train.y):
            raise DataError(f"Data '{self.name}' has labels of the task {self.task}, not {task}.")
        return replace(self, task=task)

    def normalisation(self) -> dict[str, Any]:
        """Return the conversion of raw samples to network inputs, as values for a deployed student."""
        return {
            "scale": 1 / 255 if self.train.x.dtype == np.uint8 else 1.0,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "rule": "input = (raw * scale - mean) / std, mean and std by channel",
        }

    def __getstate__(self) -> dict[str, Any]:
        # Cached tensors use this process's memory; a worker creates its own over shared memory.
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


def _pair(given: Sequence[Any], key: str, name: str) -> tuple[Any, Any]:
    if len(given) != 2:
        raise DataError(f"Data '{name}': '{key}' has {len(given)} parts; give a share, or (x, y).")
    return given[0], given[1]
