"""Registry of tasks by name: built-in ones, and the user's own as ``package.module:Class``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_distill.tasks.task import Evaluation, Task
from nas_distill.utils.errors import ConfigError, DataError, did_you_mean
from nas_distill.utils.references import is_reference, load_reference

if TYPE_CHECKING:
    import numpy as np


def find_task(name: str, *, where: str = "data.task", paths: Sequence[str | Path] = ()) -> Task:
    """Return the task called ``name``, or the user's own of the form ``package.module:Class``.

    Raises:
        ConfigError: the task is unknown, or the name is not that of a task; the message begins with ``where``.
    """
    known = _built_in()
    if name in known:
        return known[name]
    if not is_reference(name):
        raise ConfigError(f"{where}: unknown task '{name}'{did_you_mean(name, known)}")
    found = load_reference(name, what=f"{where}: the task", paths=paths)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"{where}: '{name}' is not a subclass of nas_distill.tasks.Task.")
    return _instance(found)


def task_names() -> tuple[str, ...]:
    """Return the names of all built-in tasks, the most common first."""
    return tuple(_built_in())


def infer_task(y: np.ndarray, where: str) -> str:
    """Return the task of labels (N,) or (N, K); ``where`` begins messages of errors.

    Labels (N,) are classes; zeros and ones (N, K) are multi-label; other floating numbers (N, K) are a regression.

    Raises:
        DataError: the task is ambiguous: integers (N, K), or zeros and ones with a single one in each row.
    """
    import numpy as np

    if y.ndim != 2 or y.dtype.kind not in "iufb" or not y.size:
        return "classification"
    binary = bool(np.isin(y, (0, 1)).all())
    if binary and y.shape[1] > 1 and bool((y.sum(axis=1) == 1).all()):
        raise DataError(
            f"{where}: each row of y has a single 1 of {y.shape[1]}, like one-hot classes; give class numbers, "
            "y.argmax(axis=1), or task='multilabel'."
        )
    if binary and (y.shape[1] > 1 or y.dtype.kind in "fb"):
        return "multilabel"
    if y.dtype.kind == "f":
        return "regression"
    raise DataError(
        f"{where}: y has integers of shape {y.shape}; give class labels as ({len(y)},), or name the task: "
        "task='multilabel' or task='regression'."
    )


def read_evaluation(values: Mapping[str, Any], task: str) -> Evaluation:
    """Return the evaluation record of a task from its fields, as written by ``dataclasses.asdict``."""
    found: Evaluation = find_task(task).record(**values)
    return found


@cache
def _instance(kind: type[Task]) -> Task:
    return kind()


@cache
def _built_in() -> dict[str, Task]:
    package = importlib.import_module("nas_distill.tasks")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return {kind.name: kind() for kind in _kinds(Task) if kind.__module__.startswith(f"{package.__name__}.")}


def _kinds(base: type[Any]) -> Iterator[type[Task]]:
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from _kinds(kind)
