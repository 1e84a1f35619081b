"""Data sets by name: built-in ones, ``.npz`` files, and results of user functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas_distill.data.builtin import load_digits, load_fashion
from nas_distill.data.dataset import Dataset
from nas_distill.data.splits import to_array
from nas_distill.data.views import Views
from nas_distill.tasks import find_task
from nas_distill.utils.errors import DataError, did_you_mean, first_line
from nas_distill.utils.references import is_reference, load_reference

BUILT_IN = ("fashion-mnist", "digits")


def load_dataset(
    name: str,
    *,
    root: str | None = None,
    val: float = 0.2,
    views: Views | None = None,
    arguments: Mapping[str, Any] | None = None,
    paths: Sequence[Path] = (),
    task: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set.

    Args:
        name: ``fashion-mnist``, ``digits``, a ``.npz`` file with arrays x and y (or x_train, y_train and optionally
            x_val, y_val, x_test, y_test), or ``package.module:function``.
        root: folder of IDX files, for the complete ``fashion-mnist``.
        val: share to split off if the source has no validation split.
        views: augmentation that replaces the source's own.
        arguments: keyword arguments of the function.
        paths: folders in which relative files and modules are searched.
        task: ``classification``, ``multilabel`` or ``regression``, if the labels are ambiguous.
        seed: seed of splits.

    Raises:
        DataError: the name is unknown, or its data are invalid.
    """
    if root is not None and name != "fashion-mnist":
        raise DataError(f"'root' belongs to fashion-mnist; data '{name}' does not take it.")
    if arguments and not is_reference(name):
        raise DataError(f"'arguments' are for a function package.module:function; data '{name}' does not take them.")
    if task is not None:
        find_task(task, paths=paths)
    if name == "fashion-mnist":
        return load_fashion(None if root is None else _find(root, paths), views).as_task(task)
    if name == "digits":
        return load_digits(views, seed).as_task(task)
    if name.endswith(".npz"):
        return _load_npz(_find(name, paths), val, views, task, seed)
    if is_reference(name):
        function = load_reference(name, what="data", paths=paths)
        try:
            result = function(**(arguments or {}))
        except Exception as error:
            raise DataError(f"Data function {name} failed ({first_line(error)}).") from error
        return as_dataset(result, name=name, val=val, views=views, task=task, seed=seed)
    raise DataError(
        f"Data '{name}' is not a .npz file, package.module:function, or built-in set{did_you_mean(name, BUILT_IN)}"
    )


def as_dataset(
    source: Any,
    *,
    name: str = "data",
    val: float = 0.2,
    views: Views | None = None,
    task: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Create a Dataset from any supported source.

    Args:
        source: a Dataset, a mapping of arrays (as in a ``.npz``), (x, y), a torch map-style dataset of (sample, label),
            or a mapping ``{"train": ..., "val": ..., "test": ...}`` of such datasets.
        name: name in messages.
        val: share to split off if the source has no validation split.
        views: augmentation that replaces the source's own.
        task: ``classification``, ``multilabel`` or ``regression``, if the labels are ambiguous.
        seed: seed of splits.

    Raises:
        DataError: the source is of another type, or its content is invalid.
    """
    if isinstance(source, Dataset):
        return (source if views is None else source.with_views(views)).as_task(task)
    options: dict[str, Any] = {"views": views, "task": task, "name": name, "seed": seed}
    if isinstance(source, Mapping):
        if "train" in source:
            unknown = sorted(str(key) for key in set(source) - {"train", "val", "test"})
            if unknown:
                near = did_you_mean(unknown[0], ["train", "val", "test"])
                raise DataError(f"Data '{name}': unknown split '{unknown[0]}'{near}")
            parts = {key: _collect(part, f"Data '{name}', {key} split") for key, part in source.items()}
            return Dataset.from_tensors(*parts["train"], val=parts.get("val", val), test=parts.get("test"), **options)
        return _from_arrays(source, name, val, options)
    if isinstance(source, tuple) and len(source) == 2:
        return Dataset.from_tensors(*source, val=val, **options)
    return Dataset.from_tensors(*_collect(source, f"Data '{name}'"), val=val, **options)


def _collect(source: Any, where: str) -> tuple[Any, Any]:
    """Read a map-style dataset, or (x, y), into arrays."""
    if isinstance(source, tuple) and len(source) == 2:
        return source
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")) or isinstance(source, Mapping | str):
        raise DataError(
            f"{where} is a {type(source).__name__}; it must be a Dataset, (x, y), a mapping of arrays, or a torch "
            "map-style dataset of (sample, label)."
        )
    if len(source) == 0:
        raise DataError(f"{where} is empty.")
    samples: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for index in range(len(source)):
        try:
            item = source[index]
            if isinstance(item, Mapping):
                raise TypeError(f"it is a {type(item).__name__} with keys {', '.join(map(str, item))}")
            x, y = item
            sample, label = _sample(x), to_array(y, "the label")
            if samples and (sample.shape != samples[0].shape or sample.dtype != samples[0].dtype):
                raise ValueError(
                    f"it is {sample.dtype} of shape {sample.shape}, and the first is {samples[0].dtype} of shape "
                    f"{samples[0].shape}"
                )
            if label.ndim > 1 or not label.size:
                raise ValueError(f"its label has shape {label.shape}; it must be one number, or a row of them")
            if labels and label.size != labels[0].size:
                raise ValueError(f"it has {label.size} labels, and the first has {labels[0].size}")
        except Exception as error:  # the user's own code
            raise DataError(f"{where}: item {index} is not (sample, label) ({first_line(error)}).") from error
        samples.append(sample)
        labels.append(label if label.size > 1 else label.reshape(()))
    return np.stack(samples), np.stack(labels)


def _sample(x: Any) -> np.ndarray:
    """Return a sample as an array; a Pillow image, whose channels are last, as (C, H, W)."""
    array = to_array(x, "the sample")
    if type(x).__module__.partition(".")[0] == "PIL":
        return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return array


def _from_arrays(arrays: Mapping[str, Any], name: str, val: float, options: Mapping[str, Any]) -> Dataset:
    x_key, y_key = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    for key in (x_key, y_key):
        if key not in arrays:
            raise DataError(f"Data '{name}' has no array '{key}'; it has {', '.join(sorted(arrays)) or 'none'}.")

    def pair(split: str) -> tuple[Any, Any] | None:
        if f"x_{split}" not in arrays and f"y_{split}" not in arrays:
            return None
        for key in (f"x_{split}", f"y_{split}"):
            if key not in arrays:
                raise DataError(f"Data '{name}' has no array '{key}'; give both x and y of the {split} split.")
        return arrays[f"x_{split}"], arrays[f"y_{split}"]

    return Dataset.from_tensors(arrays[x_key], arrays[y_key], val=pair("val") or val, test=pair("test"), **options)


def _load_npz(path: Path, val: float, views: Views | None, task: str | None, seed: int) -> Dataset:
    try:
        # NumPy does not close a file that it opened itself if that is not an archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged archive raises errors of zipfile, zlib or NumPy
        raise DataError(f"{path} is not a valid .npz file of plain arrays ({first_line(error)}).") from error
    return _from_arrays(arrays, path.name, val, {"views": views, "task": task, "name": path.name, "seed": seed})


def _find(name: str, paths: Sequence[Path]) -> Path:
    tried = list(dict.fromkeys([*(folder / name for folder in paths), Path(name).expanduser()]))
    for path in tried:
        if path.exists():
            return path
    raise DataError(f"Data: {name} does not exist (searched: {', '.join(str(path) for path in tried)}).")
