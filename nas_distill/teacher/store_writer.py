"""Writing a teacher store: the files it consists of, and how they come to be whole or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nas_distill.common.errors import TeacherError
from nas_distill.common.files import write_json
from nas_distill.data import Dataset, SplitName
from nas_distill.teacher.signal import LiveSignal
from nas_distill.teacher.teacher import Teacher

META = "store.json"
DTYPE = np.float16
FORMAT = 1
SPLITS: tuple[SplitName, ...] = ("train", "val")
META_KEYS = ("key", "num_classes", "seconds", "views", "shapes", "sha256", "data", "data_fingerprint", "view_recipe")


@dataclass(frozen=True)
class StoreProgress:
    """How far the writing is, in samples."""

    done: int
    total: int


def file_name(split: SplitName) -> str:
    """Return the name of a split's file: an array (views, N, classes) for ``train``, (N, classes) for ``val``."""
    return f"{split}.logits.npy"


@contextmanager
def lock_builds(root: Path, key: str) -> Iterator[None]:
    """Wait until no other process writes the store ``key`` under ``root``, and hold others off meanwhile."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    # The file stays: removing it would let two processes lock two files of one name.
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
) -> None:
    """Write a store beside ``folder`` and rename it when whole; what a killed process left there is thrown away.

    Raises:
        TeacherError: a logit is not finite, or beyond fp16.
        OSError: the disk is full, or the folder cannot be written.
    """
    started = time.perf_counter()
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    live = LiveSignal(teacher, device)
    views = data.views.count
    shapes = {"train": (views, len(data.train), teacher.num_classes), "val": (len(data.val), teacher.num_classes)}
    total = views * len(data.train) + len(data.val)
    checksums: dict[str, str] = {}
    done = 0
    try:
        for split in SPLITS:
            # Written in order, not through a memory map: on a full disk a map's writes end the process by a signal.
            with _Records(partial / file_name(split), shapes[split]) as records:
                for view in range(views) if split == "train" else (None,):
                    for index in data.batches(split, batch_size):
                        x, _ = data.batch(split, index, view)
                        logits = live.answer(split, index, view, x.to(device)).logits.cpu().numpy()
                        _check_range(logits, teacher.name)
                        records.append(logits)
                        done += len(index)
                        on_progress(StoreProgress(done, total))
            checksums[split] = records.checksum
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
            "shapes": {split: list(shape) for split, shape in shapes.items()},
            "dtype": np.dtype(DTYPE).name,
            "sha256": checksums,
            "seconds": time.perf_counter() - started,
        }
        write_json(partial / META, meta)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Records:
    """A ``.npy`` file of DTYPE and ``shape``, written row by row."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._stream = path.open("wb")
        self._digest = hashlib.sha256()
        self._path = path
        header = {"descr": np.dtype(DTYPE).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, rows: np.ndarray) -> None:
        self._stream.write(rows.astype(DTYPE).tobytes())

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stream:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    @property
    def checksum(self) -> str:
        with self._path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_range(logits: np.ndarray, name: str) -> None:
    largest = float(np.abs(logits).max())
    if np.isnan(largest) or np.isinf(largest):
        raise TeacherError(f"Teacher '{name}' returns NaN or infinity on some of the data; are its weights whole?")
    if largest > float(np.finfo(DTYPE).max):
        raise TeacherError(f"Teacher '{name}' has logits up to {largest:.3g}, beyond fp16; set teacher.signal to live.")
