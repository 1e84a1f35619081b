"""The interface of a deployment runtime, and runtimes by name: built-in ones, and ``package.module:Class``."""

from __future__ import annotations

import importlib
import pkgutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nas_distill.utils.errors import ConfigError, CostError, did_you_mean
from nas_distill.utils.references import is_reference, load_reference

if TYPE_CHECKING:
    from torch import nn


DEFAULT = "onnxruntime"
"""The name of the runtime of a search that names none."""


class Runtime(ABC):
    """A deployment runtime. Subclasses take no arguments and are picklable.

    ``name`` is what search files call it, ``title`` what people do, ``suffix`` ends the names of its files, ``install``
    says how to get it ("install the package onnxruntime").
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    install: ClassVar[str]

    @property
    def file_name(self) -> str:
        """The name of its file in a student's folder."""
        return f"model{self.suffix}"

    @abstractmethod
    def is_available(self) -> bool:
        """Say whether it is installed here."""

    @abstractmethod
    def version(self) -> str:
        """Return its version."""

    @abstractmethod
    def export(
        self, module: nn.Module, input_shape: Sequence[int], path: Path, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Write ``module`` in eval mode to ``path``, whole or not at all, for batches (B, *input_shape) of any B.

        The module is left as it is, on whatever device. ``notes`` are JSON values to keep in the file.

        Raises:
            ExportError: it cannot be exported, or the file cannot be written.
        """

    @abstractmethod
    def load(self, path: Path, *, threads: int = 1) -> Any:
        """Return the network of a file, for ``run`` and ``time``, on so many threads.

        Raises:
            CostError: the file is damaged, or takes more than one input.
        """

    @abstractmethod
    def run(self, network: Any, inputs: np.ndarray) -> np.ndarray:
        """Return the first output of a loaded network for a batch, (B, outputs)."""

    def time(self, network: Any, inputs: np.ndarray) -> float:
        """Return the milliseconds of one forward pass; by the clock of this process unless a subclass knows better."""
        began = time.perf_counter_ns()
        self.run(network, inputs)
        return (time.perf_counter_ns() - began) / 1e6

    def export_for_timing(self, module: nn.Module, inputs: Any, path: Path) -> None:
        """Write a module on the CPU and in eval mode for inputs of the shape and dtype of the tensor ``inputs``.

        The file is only timed, so that a quicker export than ``export`` may stand here.
        """
        self.export(module, tuple(inputs.shape[1:]), path)

    def input_dtype(self, network: Any) -> Any:
        """Return the numpy dtype of a loaded network's input."""
        return np.float32

    def usage(self, path: str, input_shape: Sequence[int]) -> str:
        """Return Python code that loads a file and runs it, for a student's card; empty for none."""
        return ""

    def require(self) -> None:
        """Raise CostError, which says what to install, where it is not available."""
        if not self.is_available():
            raise CostError(f"the runtime '{self.name}' ({self.title}) is not available here; {self.install}.")


def find_runtime(name: str, *, where: str = "latency.runtime", paths: Sequence[str | Path] = ()) -> Runtime:
    """Return the runtime called ``name``, or the user's own of the form ``package.module:Class``.

    Raises:
        ConfigError: there is none, or what was found is no runtime; names ``where``.
    """
    known = _built_in()
    if name in known:
        return known[name]()
    if not is_reference(name):
        raise ConfigError(f"{where}: there is no runtime '{name}'{did_you_mean(name, known)}")
    found = load_reference(name, what=f"{where}: the runtime", paths=paths)
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise ConfigError(f"{where}: '{name}' is not a subclass of nas_distill.costs.Runtime.")
    missing = [
        word for word in ("name", "title", "suffix", "install") if not isinstance(getattr(found, word, None), str)
    ]
    missing += sorted(found.__abstractmethods__)
    if missing:
        raise ConfigError(f"{where}: the runtime '{name}' lacks {', '.join(missing)}.")
    return found()


def runtime_names() -> tuple[str, ...]:
    """Return the names of all built-in runtimes, sorted."""
    return tuple(sorted(_built_in()))


@cache
def _built_in() -> dict[str, type[Runtime]]:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    ours = [kind for kind in Runtime.__subclasses__() if kind.__module__.startswith(f"{package.__name__}.")]
    return {kind.name: kind for kind in ours}
