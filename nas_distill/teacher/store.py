"""TeacherStore: the teacher runs once, and its logits are read by every student from a memory-mapped file.

What is stored are logits, not probabilities, so that temperature and loss stay free; for a fixed set of seeded views;
in fp16; as fixed records, so that a sample's answer is found by its place. The folder's name is the key: a sha256 of
the teacher's weights, the views, the data and the type. A store with another key is another store.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_distill.common.errors import TeacherError, first_line
from nas_distill.common.files import write_json
from nas_distill.common.seeds import torch_generator
from nas_distill.data import Dataset, SplitName
from nas_distill.data.arrays import as_tensor_readonly
from nas_distill.teacher.signal import LiveSignal
from nas_distill.teacher.teacher import Teacher

_META = "store.json"
_DTYPE = np.float16
_FORMAT = 1


@dataclass(frozen=True)
class StoreProgress:
    """How far the writing is, in samples."""

    done: int
    total: int


@dataclass(frozen=True)
class Verification:
    """Stored against computed logits: largest difference, share of equal top-1 classes (higher is better), samples."""

    max_difference: float
    same_class: float
    samples: int


class TeacherStore:
    """Stored logits of one teacher for one data set and its views; a TeacherSignal. Get one by ``build`` or ``open``.

    Pickles as its path: each worker maps the file itself, and the pages are shared.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = _read_meta(folder)
        self.key: str = meta["key"]
        self.num_classes: int = meta["num_classes"]
        self.seconds: float = meta["seconds"]
        self._views: int = meta["views"]
        self._arrays: dict[str, Tensor] = {}
        for split in ("train", "val"):
            path = folder / f"{split}.logits.npy"
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise TeacherError(
                    f"Teacher store {path} is damaged ({first_line(error)}); delete {folder}."
                ) from error
            if list(array.shape) != meta["shapes"][split] or array.dtype != _DTYPE:
                raise TeacherError(f"Teacher store {path} is not what {_META} says; delete {folder}.")
            self._arrays[split] = as_tensor_readonly(array)

    def __reduce__(self) -> tuple[type[TeacherStore], tuple[Path]]:
        return TeacherStore, (self.folder,)

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def logits(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Tensor:
        """Return the stored logits (B, classes) float32 on ``x``'s device; see TeacherSignal."""
        if split == "train":
            if view is None or not 0 <= view < self._views:
                raise TeacherError(
                    f"The teacher store holds views 0 to {self._views - 1} of training samples, not {view}."
                )
            rows = self._arrays["train"][view]
        elif split == "val" and view is None:
            rows = self._arrays["val"]
        else:
            raise TeacherError(f"The teacher store holds nothing for split '{split}', view {view}.")
        return rows[index].to(device=x.device, dtype=torch.float32)

    def split_logits(self, split: SplitName) -> Tensor:
        """Return all logits (N, classes) float32 of an unaugmented split (``val``)."""
        places = torch.arange(len(self._arrays[split]))
        return self.logits(split, places, None, places)

    def identity(self) -> str:
        """Return what the logits depend on."""
        return f"store:{self.key}"

    @classmethod
    def build(
        cls,
        root: Path,
        teacher: Teacher,
        data: Dataset,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        on_progress: Callable[[StoreProgress], None] = lambda progress: None,
    ) -> TeacherStore:
        """Open the store of this teacher, data and views under ``root``; write it first if it is not there.

        It is written beside its place and renamed into it when whole, so a store that is there is whole.

        Raises:
            TeacherError: logits overflow fp16, or a store in this place is damaged or of something else.
        """
        key = store_key(teacher, data)
        folder = root / key[:16]
        if folder.exists():
            store = cls(folder)
            if store.key != key:
                raise TeacherError(f"Teacher store {folder} is of another teacher or other data; delete it.")
            return store
        teacher.assert_frozen()
        partial = root / f".{key[:16]}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _write(partial, key, teacher, data, device, batch_size, on_progress)
            partial.rename(folder)
        except OSError as error:
            raise TeacherError(f"Teacher store {folder} cannot be written ({first_line(error)}).") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(folder)

    def verify(self, teacher: Teacher, data: Dataset, *, samples: int = 256, seed: int = 0) -> Verification:
        """Compare ``samples`` stored answers, drawn over all views, with the live teacher's.

        Raises:
            TeacherError: the store is of another teacher, data or views; or an answer differs by more than fp16 allows.
        """
        if store_key(teacher, data) != self.key:
            raise TeacherError(f"Teacher store {self.folder} is of another teacher, other data or other views.")
        live = LiveSignal(teacher)
        generator = torch_generator(seed, "verify")
        count = min(samples, len(data.train) * self._views)
        places = torch.randint(0, len(data.train), (count,), generator=generator)
        views = torch.randint(0, self._views, (count,), generator=generator)
        worst, same = 0.0, 0
        for view in views.unique().tolist():
            index = places[views == view]
            x, _ = data.batch("train", index, view)
            expected, stored = live.logits("train", index, view, x), self.logits("train", index, view, x)
            tolerance = 2e-3 * max(1.0, float(expected.abs().max()))
            difference = float((expected - stored).abs().max())
            if not difference <= tolerance:
                raise TeacherError(
                    f"Teacher store {self.folder} differs from the teacher by {difference:.3g} in view {view} (fp16 "
                    f"explains {tolerance:.3g}); delete it and let it be written again."
                )
            worst = max(worst, difference)
            same += int((expected.argmax(1) == stored.argmax(1)).sum())
        return Verification(worst, same / count, count)


def store_key(teacher: Teacher, data: Dataset) -> str:
    """Return the sha256 (hex) of all that stored logits depend on."""
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "teacher": teacher.fingerprint,
        "data": data.fingerprint,
        "views": data.views.recipe(),
        "dtype": np.dtype(_DTYPE).str,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(
    folder: Path,
    key: str,
    teacher: Teacher,
    data: Dataset,
    device: torch.device | str,
    batch_size: int,
    on_progress: Callable[[StoreProgress], None],
) -> None:
    started = time.perf_counter()
    live = LiveSignal(teacher, device)
    views = data.views.count
    shapes = {"train": (views, len(data.train), teacher.num_classes), "val": (len(data.val), teacher.num_classes)}
    total, done = views * len(data.train) + len(data.val), 0
    for split, views_of in (("train", list(range(views))), ("val", [None])):
        array = np.lib.format.open_memmap(folder / f"{split}.logits.npy", mode="w+", dtype=_DTYPE, shape=shapes[split])
        name: SplitName = "train" if split == "train" else "val"
        for view in views_of:
            rows = array if view is None else array[view]
            for index in data.batches(name, batch_size):
                x, _ = data.batch(name, index, view)
                logits = live.logits(name, index, view, x.to(device)).cpu()
                if not float(logits.abs().max()) < float(np.finfo(_DTYPE).max):
                    raise TeacherError(
                        f"Teacher '{teacher.name}' has logits beyond fp16's range; set teacher.signal to live."
                    )
                rows[index.numpy()] = logits.numpy().astype(_DTYPE)
                done += len(index)
                on_progress(StoreProgress(done, total))
        array.flush()
    write_json(
        folder / _META,
        {
            "key": key,
            "format": _FORMAT,
            "teacher": teacher.name,
            "teacher_fingerprint": teacher.fingerprint,
            "data": data.name,
            "data_fingerprint": data.fingerprint,
            "view_recipe": data.views.recipe(),
            "views": views,
            "num_classes": teacher.num_classes,
            "shapes": {split: list(shape) for split, shape in shapes.items()},
            "dtype": "float16",
            "seconds": time.perf_counter() - started,
        },
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            raise TeacherError(f"Teacher store {folder} has format {meta['format']}, not {_FORMAT}; delete it.")
        return meta
    except FileNotFoundError as error:
        raise TeacherError(f"{folder} is no teacher store ({_META} is missing).") from error
    except (json.JSONDecodeError, KeyError, OSError) as error:
        raise TeacherError(f"Teacher store {folder} is damaged ({first_line(error)}); delete it.") from error
