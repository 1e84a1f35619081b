"""Writer of teacher stores: one pass over all views, into files that are complete or absent."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_distill.data import Dataset, SplitName
from nas_distill.teacher.signal import Answer, Feature, LiveSignal
from nas_distill.teacher.teacher import Teacher
from nas_distill.utils.checkpoints import file_digest
from nas_distill.utils.errors import TeacherError
from nas_distill.utils.files import write_json

META = "store.json"
DTYPE = np.float16
FORMAT = 2
SPLITS: tuple[SplitName, ...] = ("train", "val")
META_KEYS = (
    "key",
    "num_classes",
    "seconds",
    "views",
    "files",
    "features",
    "top_k",
    "data",
    "data_fingerprint",
    "view_recipe",
)
LOGITS, CLASSES = "logits", "classes"


@dataclass(frozen=True)
class StoreProgress:
    """Progress of writing a store, in samples."""

    done: int
    total: int


@dataclass(frozen=True)
class Contents:
    """Contents of a store per sample: all logits or the ``top_k`` largest, and ``features`` beside them.

    For the top K, a sample has K + 1 numbers and K classes. The last number is the logit that each other class would
    have if the others shared the remaining probability evenly.
    """

    features: tuple[Feature, ...] = ()
    top_k: int | None = None

    @property
    def too_large(self) -> tuple[str, ...]:
        """Names of the layers whose full output is read; it is too large to store, so the teacher has to run live."""
        return tuple(feature.layer.name for feature in self.features if feature.reduction == "full")

    def records(self, num_classes: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the arrays kept per sample: name -> (shape, type)."""
        kept: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        if self.top_k is None:
            kept[LOGITS] = ((num_classes,), np.dtype(DTYPE))
        else:
            kept[LOGITS] = ((self.top_k + 1,), np.dtype(DTYPE))
            kept[CLASSES] = ((self.top_k,), np.dtype(np.int32))
        for index, feature in enumerate(self.features):
            kept[feature_name(index)] = (feature.shape, np.dtype(DTYPE))
        return kept

    def bytes(self, num_classes: int, data: Dataset) -> int:
        """Return the size in bytes of the store of ``data``, without headers."""
        sample = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.records(num_classes).values())
        return sample * (data.views.count * len(data.train) + len(data.val))


def feature_name(index: int) -> str:
    """Return the name of feature number ``index`` of a store."""
    return f"feature{index}"


def file_name(split: SplitName, name: str = LOGITS) -> str:
    """Return the name of an array's file; the array is (views, N, ...) for ``train``, (N, ...) for ``val``."""
    return f"{split}.{name}.npy"


def compress(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the top K of logits (B, classes): values (B, K + 1), the last for all others, and classes (B, K)."""
    values, classes = logits.topk(top_k, dim=1)
    rest = logits.scatter(1, classes, -math.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([values, rest - math.log(logits.shape[1] - top_k)], dim=1), classes


@contextmanager
def lock_builds(root: Path, key: str) -> Iterator[None]:
    """Hold the lock on writing the store ``key`` under ``root``; wait while another process holds it."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    # The file is kept: removing it would let two processes lock two files of the same name.
    descriptor = os.open(root / f".{key[:16]}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_store(
    folder: Path,
    key: str,
    teacher: Teacher,
    data: Dataset,
    device: torch.device | str,
    batch_size: int,
    on_progress: Callable[[StoreProgress], None],
    contents: Contents,
) -> None:
    """Write a store to a temporary folder and rename it when complete; leftovers of a killed process are deleted.

    Raises:
        TeacherError: a logit is not finite, or outside the range of fp16.
        OSError: the disk is full, or the folder cannot be written.
    """
    started = time.perf_counter()
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    live = LiveSignal(teacher, device, features=contents.features)
    views = data.views.count
    sizes: dict[SplitName, tuple[int, ...]] = {"train": (views, len(data.train)), "val": (len(data.val),)}
    kept = contents.records(teacher.num_classes)
    files: dict[str, dict[str, Any]] = {}
    total = views * len(data.train) + len(data.val)
    done = 0
    try:
        for split in SPLITS:
            # Written in order, not through a memory map: on a full disk, a write to a map kills the process.
            with ExitStack() as stack:
                records = {
                    name: stack.enter_context(_Records(partial / file_name(split, name), sizes[split] + shape, dtype))
                    for name, (shape, dtype) in kept.items()
                }
                for view in range(views) if split == "train" else (None,):
                    for index in data.batches(split, batch_size):
                        x, _ = data.batch(split, index, view)
                        for name, rows in _rows(live.answer(split, index, view, x.to(device)), contents).items():
                            if name != CLASSES:
                                _check_range(rows, teacher.name, name)
                            records[name].append(rows)
                        done += len(index)
                        on_progress(StoreProgress(done, total))
            for name, written in records.items():
                files[file_name(split, name)] = {"shape": list(written.shape), "sha256": written.checksum}
        meta = {
            "key": key,
            "format": FORMAT,
            "teacher": teacher.name,
            "teacher_fingerprint": teacher.fingerprint,
            "data": data.name,
            "data_fingerprint": data.fingerprint,
            "view_recipe": data.views.recipe(),
            "views": views,
            "num_classes": teacher.num_classes,
            "files": files,
            "features": [asdict(feature) for feature in contents.features],
            "top_k": contents.top_k,
            "dtype": np.dtype(DTYPE).name,
            "seconds": time.perf_counter() - started,
        }
        write_json(partial / META, meta)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rows(answer: Answer, contents: Contents) -> dict[str, np.ndarray]:
    rows = {LOGITS: answer.logits}
    if contents.top_k is not None:
        rows[LOGITS], rows[CLASSES] = compress(answer.logits, contents.top_k)
    for index, feature in enumerate(contents.features):
        rows[feature_name(index)] = answer.features[feature.key]
    return {name: value.cpu().numpy() for name, value in rows.items()}


class _Records:
    """A ``.npy`` file of one type and ``shape``, written row by row."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self._dtype = dtype
        self._stream = path.open("wb")
        self._digest = hashlib.sha256()
        self._path = path
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, rows: np.ndarray) -> None:
        self._stream.write(rows.astype(self._dtype).tobytes())

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stream:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    @property
    def checksum(self) -> str:
        return file_digest(self._path)


def _check_range(rows: np.ndarray, name: str, what: str) -> None:
    largest = float(np.abs(rows).max())
    if np.isnan(largest) or np.isinf(largest):
        raise TeacherError(f"Teacher '{name}' returns NaN or infinity on some of the data; check its weights.")
    if largest > float(np.finfo(DTYPE).max):
        shown = what if what == LOGITS else "features"
        raise TeacherError(
            f"Teacher '{name}' has {shown} up to {largest:.3g}, beyond the range of fp16; set teacher.signal to live."
        )
