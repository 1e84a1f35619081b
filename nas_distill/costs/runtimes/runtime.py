"""Interface and registry of deployment runtimes: built-in ones, and the user's own as ``package.module:Class``."""

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
"""The runtime of a search that does not name one."""


class Runtime(ABC):
    """A deployment runtime. Subclasses take no arguments and are picklable.

    ``name`` is its name in search files, ``title`` its name in text, ``suffix`` that of its files, ``install`` an
    instruction such as "install the package onnxruntime".
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    install: ClassVar[str]

    @property
    def file_name(self) -> str:
        """The name of the exported file in a student's folder."""
        return f"model{self.suffix}"

    @abstractmethod
    def is_available(self) -> bool:
        """Return whether the runtime is installed."""

    @abstractmethod
    def version(self) -> str:
        """Return the runtime's version."""

    @abstractmethod
    def export(
        self, module: nn.Module, input_shape: Sequence[int], path: Path, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Write ``module`` in eval mode to ``path`` atomically, for batches (B, *input_shape) of any B.

        The module may be on any device and is not changed. ``notes`` are JSON values to store in the file.

        Raises:
            ExportError: the module cannot be exported, or the file cannot be written.
        """

    @abstractmethod
    def load(self, path: Path, *, threads: int = 1) -> Any:
        """Return the network in a file, for ``run`` and ``time`` on ``threads`` threads.

        Raises:
            CostError: the file is damaged, or its network takes more than one input.
        """

    @abstractmethod
    def run(self, network: Any, inputs: np.ndarray) -> np.ndarray:
        """Return the first output of a loaded network for a batch, (B, outputs)."""

    def time(self, network: Any, inputs: np.ndarray) -> float:
        """Return the milliseconds of one forward pass, by this process's clock unless a subclass overrides it."""
        began = time.perf_counter_ns()
        self.run(network, inputs)
        return (time.perf_counter_ns() - began) / 1e6

    def export_for_timing(self, module: nn.Module, inputs: Any, path: Path) -> None:
        """Write a module, on the CPU and in eval mode, for inputs of the shape and dtype of the tensor ``inputs``.

        The file is only timed, so a subclass may use a faster export than ``export``.
        """
        self.export(module, tuple(inputs.shape[1:]), path)

    def input_dtype(self, network: Any) -> Any:
        """Return the numpy dtype of a loaded network's input."""
        return np.float32

    def usage(self, path: str, input_shape: Sequence[int]) -> str:
        """Return Python code for a student's card that loads the file ``path`` and runs it, or an empty string."""
        return ""

    def require(self) -> None:
        """Raise CostError, with the install instruction, if the runtime is not available."""
        if not self.is_available():
            raise CostError(f"the runtime '{self.name}' ({self.title}) is not available here; {self.install}.")


def find_runtime(name: str, *, where: str = "latency.runtime", paths: Sequence[str | Path] = ()) -> Runtime:
    """Return the runtime called ``name``, or the user's own of the form ``package.module:Class``.

    Raises:
        ConfigError: unknown runtime, or the reference is not a complete subclass of Runtime; names ``where``.
    """
    known = _built_in()
    if name in known:
        return known[name]()
    if not is_reference(name):
        raise ConfigError(f"{where}: unknown runtime '{name}'{did_you_mean(name, known)}")
    found = load_reference(name, what=f"{where}: the runtime", paths=paths)
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise ConfigError(f"{where}: '{name}' is not a subclass of nas_distill.costs.Runtime.")
    missing = [
        name for name in ("name", "title", "suffix", "install") if not isinstance(getattr(found, name, None), str)
    ]
    missing += sorted(found.__abstractmethods__)
    if missing:
        raise ConfigError(f"{where}: the runtime '{name}' lacks {', '.join(missing)}; define these in the class.")

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
