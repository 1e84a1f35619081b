"""Teachers by name or by builder and weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from nas_distill.common.errors import TeacherError, did_you_mean, first_line
from nas_distill.common.references import load_reference
from nas_distill.config import TeacherConfig
from nas_distill.data import Dataset
from nas_distill.teacher.teacher import Teacher, freeze
from nas_distill.teacher.weights import fill, read_weights

DESCRIPTION = "teacher.json"
WEIGHTS = "model.safetensors"
_SHIPPED = resources.files("nas_distill.teacher") / "shipped"


def shipped_teachers() -> list[str]:
    """Return the names of the teachers that come with nas_distill."""
    return sorted(entry.name for entry in _SHIPPED.iterdir() if (entry / DESCRIPTION).is_file())


def load_teacher(config: TeacherConfig, data: Dataset, paths: Sequence[Path] = ()) -> Teacher:
    """Load and freeze the teacher that a search file names.

    Args:
        config: shipped name or folder of ``nas-distill teach``, or builder, arguments and weights.
        data: what it teaches on; it is run on two of its samples.
        paths: folders where relative files and modules are looked for.

    Raises:
        TeacherError: it cannot be built, filled or run, or tells other classes apart.
    """
    if config.name is not None:
        folder = _find_folder(config.name, paths)
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        module = build_module(description["builder"], description["arguments"], data, paths)
        fill(module, read_weights(folder / WEIGHTS), str(folder / WEIGHTS))
        return freeze(module, data, config.name)
    assert config.builder is not None
    module = build_module(config.builder, config.arguments, data, paths)
    if config.weights is not None:
        found = next((folder / config.weights for folder in paths if (folder / config.weights).exists()), None)
        path = found or Path(config.weights).expanduser()
        fill(module, read_weights(path), str(path))
    return freeze(
        module, data, config.builder.rpartition(":")[2] if config.weights is None else Path(config.weights).stem
    )


def build_module(builder: str, arguments: Mapping[str, Any], data: Dataset, paths: Sequence[Path] = ()) -> nn.Module:
    """Call a builder reference; it is given ``input_shape`` and ``num_classes`` if it takes them.

    Raises:
        TeacherError: the builder raises, or returns no module.
    """
    function = load_reference(builder, what="teacher builder", paths=paths)
    keywords = dict(arguments)
    parameters = inspect.signature(function).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in {"input_shape": data.input_shape, "num_classes": data.num_classes}.items():
        if key in parameters or anything:
            keywords.setdefault(key, value)
    try:
        module = function(**keywords)
    except Exception as error:
        raise TeacherError(f"Teacher builder {builder} failed ({first_line(error)}).") from error
    if not isinstance(module, nn.Module):
        raise TeacherError(f"Teacher builder {builder} returned a {type(module).__name__}, not a torch.nn.Module.")
    return module


def _find_folder(name: str, paths: Sequence[Path]) -> Path:
    if name in shipped_teachers():
        return Path(str(_SHIPPED / name))
    for folder in [Path(name).expanduser(), *(path / name for path in paths)]:
        if (folder / DESCRIPTION).is_file():
            return folder
    raise TeacherError(
        f"Teacher '{name}' is neither shipped nor a folder that 'nas-distill teach' wrote"
        f"{did_you_mean(name, shipped_teachers())}"
    )
