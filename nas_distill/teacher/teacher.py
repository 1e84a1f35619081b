"""Frozen teachers: loading by name, or by builder and weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.config import TeacherSource
from nas_distill.data import Dataset
from nas_distill.tasks import find_task
from nas_distill.teacher.weights import load_weights, read_weights
from nas_distill.utils.checkpoints import module_digest
from nas_distill.utils.errors import TeacherError, TrustError, did_you_mean, first_line
from nas_distill.utils.files import is_own
from nas_distill.utils.modules import device_of
from nas_distill.utils.references import accepts_keyword, load_reference, only_known, remember_builder
from nas_distill.utils.seeds import seeded_torch


@dataclass(frozen=True)
class Teacher:
    """A frozen module that maps (B, ...) samples to (B, num_classes) logits or values. Make one with ``freeze``."""

    module: nn.Module
    num_classes: int
    name: str = "teacher"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the module's printed structure, and of its weights and buffers with names and types."""
        return module_digest(self.module)

    def assert_frozen(self) -> None:
        """Raise TeacherError if the teacher is in train mode or a weight requires a gradient."""
        if any(part.training for part in self.module.modules()):
            raise TeacherError(
                f"Teacher '{self.name}' is in train mode; call eval() on it, so that its answers stay the same."
            )
        if any(weight.requires_grad for weight in self.module.parameters()):
            raise TeacherError(f"Teacher '{self.name}' has weights that require gradients; a teacher must stay frozen.")

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "num_classes": self.num_classes, "name": self.name}


def freeze(module: nn.Module, data: Dataset, name: str = "teacher") -> Teacher:
    """Freeze a module as the teacher for ``data``.

    The module is set to eval mode in place, and its weights no longer require gradients.

    Raises:
        TeacherError: the module fails on the data's samples, does not return one row of finite logits per sample, or
            has another number of outputs than the data have classes.
    """
    if not isinstance(module, nn.Module):
        raise TeacherError(f"The teacher is a {type(module).__name__}; it must be a torch.nn.Module.")
    module.eval()
    samples = min(2, len(data.val))
    x, _ = data.batch("val", torch.arange(samples))
    device = device_of(module)
    try:
        with torch.no_grad():
            logits = module(x.to(device))
        # After the forward pass, because torch's lazy modules have no weights before it.
        module.requires_grad_(False)
    except Exception as error:
        raise TeacherError(
            f"Teacher '{name}' fails on a batch of shape {tuple(x.shape)} of data '{data.name}' ({first_line(error)})."
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != samples:
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TeacherError(f"Teacher '{name}' returns {shown} for a batch of {samples}; it must return (B, classes).")
    if logits.shape[1] != data.num_classes:
        what = find_task(data.task).outputs
        raise TeacherError(
            f"Teacher '{name}' has {logits.shape[1]} {what}, but data '{data.name}' has {data.num_classes}; they must "
            f"be the same {what} in the same order."
        )
    if not torch.isfinite(logits).all():
        raise TeacherError(f"Teacher '{name}' returns NaN or infinity on data '{data.name}'; check its weights.")
    teacher = Teacher(module, data.num_classes, name)
    teacher.assert_frozen()
    return teacher


DESCRIPTION = "teacher.json"
WEIGHTS = "model.safetensors"
_SHIPPED = resources.files("nas_distill.teacher") / "shipped"


def shipped_teachers() -> list[str]:
    """Return the names of the teachers shipped with nas_distill."""
    if not _SHIPPED.is_dir():
        return []
    return sorted(entry.name for entry in _SHIPPED.iterdir() if (entry / DESCRIPTION).is_file())


def load_teacher(config: TeacherSource, data: Dataset, paths: Sequence[Path] = ()) -> Teacher:
    """Load and freeze the teacher that a search file names.

    Args:
        config: shipped name or folder of ``nas-distill teach``, or builder, arguments and weights.
        data: the data of the search; the teacher is run on two of its samples.
        paths: folders to find relative files and modules in.

    Raises:
        TeacherError: the teacher cannot be built or run, its weights do not fit, or it has other classes than the data.
    """
    if config.name is not None:
        folder = _find_folder(config.name, paths)
        builder, arguments, shape = _read_description(folder / DESCRIPTION)
        if shape not in (None, data.input_shape):
            raise TeacherError(
                f"Teacher '{config.name}' was trained on samples of shape {shape}, but those of data '{data.name}' "
                f"have shape {data.input_shape}."
            )
        with _guarded(folder):
            module = _build_seeded(builder, arguments, data, paths)
        load_weights(module, read_weights(folder / WEIGHTS), str(folder / WEIGHTS))
        return freeze(module, data, config.name)
    assert config.builder is not None
    module = _build_seeded(config.builder, config.arguments, data, paths)
    if config.weights is None:
        return freeze(module, data, config.builder.rpartition(":")[2])
    found = next((folder / config.weights for folder in paths if (folder / config.weights).exists()), None)
    path = found or Path(config.weights).expanduser()
    load_weights(module, read_weights(path), str(path))
    return freeze(module, data, path.stem)


def teacher_builder(
    config: TeacherSource, data: Dataset, paths: Sequence[Path] = ()
) -> tuple[str, dict[str, Any]] | None:
    """Return the builder of the teacher that a search file names, and all keywords of its call.

    None if the teacher was passed from Python, since then only its module is known.

    Raises:
        TeacherError: the teacher's description cannot be read.
    """
    if config.name is not None:
        if config.name.startswith("<"):
            return None
        folder = _find_folder(config.name, paths)
        builder, arguments, _ = _read_description(folder / DESCRIPTION)
        with _guarded(folder):
            function = load_reference(builder, what="teacher builder", paths=paths)
    else:
        assert config.builder is not None
        builder, arguments = config.builder, config.arguments
        function = load_reference(builder, what="teacher builder", paths=paths)
    return builder, builder_keywords(function, arguments, data)


def build_module(builder: str, arguments: Mapping[str, Any], data: Dataset, paths: Sequence[Path] = ()) -> nn.Module:
    """Call a builder reference, with ``input_shape`` and ``num_classes`` if it accepts them.

    Raises:
        TeacherError: the builder raises, or does not return a module.
    """
    function = load_reference(builder, what="teacher builder", paths=paths)
    remember_builder(builder, function)
    try:
        module = function(**builder_keywords(function, arguments, data))
    except Exception as error:
        raise TeacherError(f"Teacher builder {builder} failed ({first_line(error)}).") from error
    if not isinstance(module, nn.Module):
        raise TeacherError(f"Teacher builder {builder} returned a {type(module).__name__}, not a torch.nn.Module.")
    return module


def builder_keywords(function: Callable[..., Any], arguments: Mapping[str, Any], data: Dataset) -> dict[str, Any]:
    """Return all keywords for a teacher's builder: ``arguments``, and the sizes of the data that it accepts."""
    keywords = dict(arguments)
    if isinstance(keywords.get("input_shape"), list):  # JSON and YAML have no tuples
        keywords["input_shape"] = tuple(keywords["input_shape"])
    for key, value in {"input_shape": data.input_shape, "num_classes": data.num_classes}.items():
        if accepts_keyword(function, key):
            keywords.setdefault(key, value)
    return keywords


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Prevent that code named by a teacher's description runs, unless this user wrote the folder on this machine.

    Raises:
        TeacherError: the description names a builder that is not part of nas_distill.
    """
    if folder.parent == Path(str(_SHIPPED)) or is_own(folder, (folder / DESCRIPTION).read_bytes()):
        yield
        return
    try:
        with only_known(folder):
            yield
    except TrustError as error:
        raise TeacherError(
            f"{folder / DESCRIPTION} names a builder whose code would run, and was not written by you on this "
            f"machine; if you trust it, name the builder in the search file, with 'weights: {folder / WEIGHTS}'."
        ) from error


def _build_seeded(builder: str, arguments: Mapping[str, Any], data: Dataset, paths: Sequence[Path]) -> nn.Module:
    """Build a teacher under a fixed seed: state outside the weights file must be the same in all processes."""
    with seeded_torch(0, "teacher"):
        return build_module(builder, arguments, data, paths)


def _read_description(path: Path) -> tuple[str, dict[str, Any], tuple[int, ...] | None]:
    """Return a teacher's builder, its arguments, and the shape of its training samples (None if unknown).

    The shape is checked because many networks run on samples of any size, but answer correctly only at their own.
    """
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        builder, arguments = description["builder"], description["arguments"]
        if not isinstance(builder, str) or not isinstance(arguments, dict):
            raise TypeError("'builder' must be text and 'arguments' a mapping")
        shape = description.get("input_shape", arguments.get("input_shape"))
        return builder, arguments, None if shape is None else tuple(shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TeacherError(f"{path} does not describe a teacher ({first_line(error)}).") from error


def _find_folder(name: str, paths: Sequence[Path]) -> Path:
    if name in shipped_teachers():
        return Path(str(_SHIPPED / name))
    for folder in [*(path / name for path in paths), Path(name).expanduser()]:
        if (folder / DESCRIPTION).is_file():
            return folder
    raise TeacherError(
        f"Teacher '{name}' is neither shipped nor a folder that 'nas-distill teach' wrote"
        f"{did_you_mean(name, shipped_teachers())}"
    )
