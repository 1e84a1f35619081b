"""Teacher store: answers computed once, memory-mapped, and identified by a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nas_distill.data import Dataset, SplitName
from nas_distill.data.splits import as_tensor_readonly
from nas_distill.tasks import find_task
from nas_distill.teacher.signal import Answer, Feature, LiveSignal, check_classes
from nas_distill.teacher.store_writer import (
    CLASSES,
    DTYPE,
    FORMAT,
    LOGITS,
    META,
    META_KEYS,
    SPLITS,
    Contents,
    StoreProgress,
    compress,
    feature_name,
    file_name,
    lock_builds,
    write_store,
)
from nas_distill.teacher.teacher import Teacher
from nas_distill.utils.checkpoints import file_digest, json_digest
from nas_distill.utils.errors import TeacherError, first_line
from nas_distill.utils.layers import Layer
from nas_distill.utils.seeds import torch_generator

_SPOT_CHECK = 32
Missing = Literal["uniform", "zero"]


@dataclass(frozen=True)
class StoreCheck:
    """Comparison of stored and computed logits: largest difference, share of equal answers (higher is better), samples.

    Answers are equal if they agree in the top-1 class, or in all labels of a multi-label task; regression answers are
    always equal, within fp16.
    """

    max_difference: float
    same_class: float
    samples: int


class TeacherStore:
    """Stored answers of one teacher for one data set and its views; a TeacherSignal, made by ``build`` or ``open``.

    It pickles as its path: each worker maps the files itself, and the pages are shared. In a store of the top K logits,
    the other classes share the remaining probability evenly (``missing`` uniform), or get none (zero).
    """

    def __init__(self, folder: Path, missing: Missing = "uniform") -> None:
        self.folder = folder
        self.missing = missing
        meta = _read_meta(folder)
        self.key: str = meta["key"]
        self.num_classes: int = meta["num_classes"]
        self.seconds: float = meta["seconds"]
        self._meta = meta
        self._views: int = meta["views"]
        self._arrays: dict[str, Tensor] = {}
        try:
            contents = _contents(meta)
            names = [file_name(split, name) for split in SPLITS for name in contents.records(self.num_classes)]
            shapes = {name: list(meta["files"][name]["shape"]) for name in names}
        except (KeyError, TypeError) as error:
            raise TeacherError(f"Teacher store {folder} is damaged ({first_line(error)}); delete it.") from error
        self.contents = contents
        self.features = contents.features
        for name, shape in shapes.items():
            path = folder / name
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                sound = list(array.shape) == shape and array.dtype == _dtype(name)
            except Exception as error:  # a damaged header raises many kinds of errors
                raise TeacherError(
                    f"Teacher store {path} is damaged ({first_line(error)}); delete {folder}."
                ) from error
            if not sound:
                raise TeacherError(f"Teacher store {path} does not match {META}; delete {folder}.")
            self._arrays[name] = as_tensor_readonly(array)

    def __reduce__(self) -> tuple[type[TeacherStore], tuple[Path, Missing]]:
        return TeacherStore, (self.folder.absolute(), self.missing)

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the stored answer on ``x``'s device; see TeacherSignal."""
        if split == "train":
            if view is None or not 0 <= view < self._views:
                raise TeacherError(
                    f"The teacher store holds views 0 to {self._views - 1} of training samples, not {view}."
                )
        elif split != "val" or view is not None:
            raise TeacherError(f"The teacher store has no answers for split '{split}', view {view}.")

        def read(name: str) -> Tensor:
            rows = self._arrays[file_name(split, name)]
            kept = (rows if view is None else rows[view])[index].to(x.device)
            return kept.float() if kept.is_floating_point() else kept.long()

        logits = read(LOGITS)
        if self.contents.top_k is not None:
            logits = expand(logits, read(CLASSES), self.num_classes, self.missing)
        if not self.features:
            return Answer(logits)
        return Answer(logits, {feature.key: read(feature_name(n)) for n, feature in enumerate(self.features)})

    def identity(self) -> str:
        """Return one string for all that the answers depend on."""
        return f"store:{self.key}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless the store was written for this data and these views."""
        check_classes(self.num_classes, data)
        if data.fingerprint != self._meta["data_fingerprint"] or data.views.recipe() != self._meta["view_recipe"]:
            raise TeacherError(
                f"Teacher store {self.folder} is for data '{self._meta['data']}' with views "
                f"{self._meta['view_recipe']}, not for data '{data.name}' with {data.views.recipe()}; its answers "
                "belong to other samples."
            )

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
        contents: Contents | None = None,
        missing: Missing = "uniform",
    ) -> TeacherStore:
        """Open the store of this teacher, data, views and contents under ``root``; write it first if it is missing.

        It is written to a temporary folder and renamed when complete, so an existing store is always complete. If
        several processes need the store, one writes it and the others wait.

        Raises:
            TeacherError: logits are not finite or overflow fp16, the disk is full, or ``open`` refuses the store.
        """
        teacher.assert_frozen()
        contents = contents or Contents()
        check_contents(contents, teacher.num_classes, data.task)
        key = store_key(teacher, data, contents)
        folder = root / key[:16]
        if not folder.exists():
            try:
                with lock_builds(root, key):
                    if not folder.exists():  # another process may have written it meanwhile
                        write_store(folder, key, teacher, data, device, batch_size, on_progress, contents)
            except OSError as error:
                raise TeacherError(f"Teacher store {folder} cannot be written ({first_line(error)}).") from error
        return cls.open(root, teacher, data, contents=contents, missing=missing)

    @classmethod
    def open(
        cls,
        root: Path,
        teacher: Teacher,
        data: Dataset,
        *,
        contents: Contents | None = None,
        missing: Missing = "uniform",
    ) -> TeacherStore:
        """Open the store of this teacher, data and views under ``root``, and compare it with a few live answers.

        Raises:
            TeacherError: the store is missing, damaged, or of another teacher or data, or its answers differ from the
                teacher's.
        """
        key = store_key(teacher, data, contents)
        store = cls(root / key[:16], missing)
        if store.key != key:
            raise TeacherError(f"Teacher store {store.folder} belongs to another teacher or other data; delete it.")
        store._compare(teacher, data, _SPOT_CHECK, seed=0)
        return store

    def verify(self, teacher: Teacher, data: Dataset, *, samples: int = 256, seed: int = 0) -> StoreCheck:
        """Verify the checksum of each file, and compare ``samples`` stored answers with those of the live teacher.

        The answers are drawn from the validation samples and from all views of the training samples.

        Raises:
            TeacherError: the store belongs to another teacher, data or views; a byte has changed; or an answer differs
                by more than the rounding to fp16 explains.
        """
        if store_key(teacher, data, self.contents) != self.key:
            raise TeacherError(f"Teacher store {self.folder} belongs to another teacher, other data or other views.")
        for name, written in self._meta["files"].items():
            path = self.folder / name
            if file_digest(path) != written["sha256"]:
                raise TeacherError(f"Teacher store {path} has changed since it was written; delete {self.folder}.")
        return self._compare(teacher, data, max(2, samples), seed)

    def _compare(self, teacher: Teacher, data: Dataset, samples: int, seed: int) -> StoreCheck:
        live = LiveSignal(teacher, features=self.features)
        generator = torch_generator(seed, "verify")
        count = samples // 2
        views = torch.randint(0, self._views, (count,), generator=generator)
        questions: list[tuple[SplitName, int | None, Tensor]] = [
            ("train", view, torch.randint(0, len(data.train), (int((views == view).sum()),), generator=generator))
            for view in views.unique().tolist()
        ]
        questions.append(("val", None, torch.randint(0, len(data.val), (samples - count,), generator=generator)))
        worst, same = 0.0, 0
        for split, view, index in questions:
            x, _ = data.batch(split, index, view)
            expected, stored = live.answer(split, index, view, x), self.answer(split, index, view, x)
            logits = expected.logits
            if self.contents.top_k is not None:
                logits = expand(*compress(logits, self.contents.top_k), self.num_classes, self.missing)
            pairs = [(logits, stored.logits)]
            pairs += [(expected.features[feature.key], stored.features[feature.key]) for feature in self.features]
            for computed, kept in pairs:
                tolerance = 2e-3 * max(1.0, float(computed.abs().max()))
                difference = float((computed - kept).abs().max())
                if not difference <= tolerance:  # true of NaN too
                    raise TeacherError(
                        f"Teacher store {self.folder} differs from the teacher by {difference:.3g} on {split} samples "
                        f"(fp16 explains {tolerance:.3g}); delete it, and it is written again."
                    )
                worst = max(worst, difference)
            same += int(find_task(data.task).equal_predictions(logits, stored.logits).sum())
        return StoreCheck(worst, same / samples, samples)


def expand(values: Tensor, classes: Tensor, num_classes: int, missing: Missing) -> Tensor:
    """Return logits (B, num_classes) from the top K: values (B, K + 1) and classes (B, K); see ``Contents``."""
    # Not minus infinity: a loss that multiplies the log by the probability, 0, would become NaN.
    others = values[:, -1:] if missing == "uniform" else torch.full_like(values[:, -1:], -1e4)
    return others.expand(-1, num_classes).scatter(1, classes, values[:, :-1])


def check_contents(contents: Contents, num_classes: int, task: str = "classification") -> None:
    """Raise TeacherError unless a store can hold ``contents`` of a teacher of ``num_classes`` classes."""
    if contents.top_k is not None and not find_task(task).exclusive:
        raise TeacherError(
            f"teacher.top_k keeps the largest logits of a softmax over classes, and the task is {task}; remove it."
        )
    if contents.top_k is not None and not 1 <= contents.top_k < num_classes:
        raise TeacherError(
            f"teacher.top_k is {contents.top_k}; with {num_classes} classes it must be from 1 to {num_classes - 1}."
        )
    if contents.too_large:
        raise TeacherError(
            f"The full output of layer '{contents.too_large[0]}' is too large to store; set teacher.signal to live."
        )


def _contents(meta: dict[str, Any]) -> Contents:
    features = tuple(
        Feature(
            Layer(entry["layer"]["name"], tuple(entry["layer"]["shape"]), entry["layer"]["kind"]),
            entry["reduction"],
            entry["named"],
        )
        for entry in meta["features"]
    )
    return Contents(features, meta["top_k"])


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(np.int32 if name.endswith(f".{CLASSES}.npy") else DTYPE)


def store_key(teacher: Teacher, data: Dataset, contents: Contents | None = None) -> str:
    """Return the SHA-256 (hex) of all that the answers of a store depend on."""
    contents = contents or Contents()
    parts: dict[str, Any] = {
        "format": FORMAT,
        "teacher": teacher.fingerprint,
        "data": data.fingerprint,
        "views": data.views.recipe(),
        "dtype": np.dtype(DTYPE).str,
        "features": [(feature.key, feature.shape, feature.named) for feature in contents.features],
        "top_k": contents.top_k,
    }
    return json_digest(parts)


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise TeacherError(f"Teacher store {folder} has format {meta['format']}, not {FORMAT}; delete it.")
        missing = [key for key in META_KEYS if key not in meta]
        if missing:
            raise KeyError(missing[0])
        return meta
    except FileNotFoundError as error:
        raise TeacherError(f"{folder} is not a teacher store ({META} is missing).") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TeacherError(f"Teacher store {folder} is damaged ({first_line(error)}); delete it.") from error
