"""Timing of networks on a deployment runtime, under recorded conditions.

Nothing is printed. Timings are meaningful only on a machine without other load, which the caller must ensure.
"""

from __future__ import annotations

import contextlib
import copy
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_distill.costs.runtimes import DEFAULT, Runtime, find_runtime
from nas_distill.costs.undisturbed import example, input_dtype, refuse_lazy, undisturbed
from nas_distill.utils.errors import BuildError, CostError, NasDistillError, StorageError, first_line
from nas_distill.utils.modules import device_of

if TYPE_CHECKING:
    import torch
    from torch import nn


WARM_UP = 5
"""Untimed runs of a network at the start of each round."""
ROUNDS = 5
"""Rounds over which the runs of each network are spread when several are timed, so that machine drift affects all."""

GROUP_BYTES = 2**29
"""Total size of the networks that are loaded at once when several are timed."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a latency: batch size, threads within an operation, processor, runtime and its version."""

    batch: int
    threads: int
    cpu: str
    runtime: str

    def text(self) -> str:
        """Write the conditions on one line."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{self.runtime}, batch {self.batch}, {threads}, {self.cpu}"


@dataclass(frozen=True)
class LatencySample:
    """Time of one forward pass of a batch in ms: median and 95th percentile of ``repeats`` runs."""

    p50_ms: float
    p95_ms: float
    repeats: int
    conditions: Conditions


def conditions(batch: int, threads: int, runtime: Runtime | None = None) -> Conditions:
    """Return the conditions of a timing on this machine, on ``runtime`` or the default runtime.

    Raises:
        CostError: batch or threads below 1, or the runtime is not installed.
    """
    if batch < 1 or threads < 1:
        raise CostError(f"latency needs a batch and threads of at least 1, not batch {batch} and {threads} threads.")
    chosen = runtime or find_runtime(DEFAULT)
    chosen.require()
    return Conditions(batch, threads, cpu_name(), f"{chosen.title} {chosen.version()}")


def cpu_name() -> str:
    """Return the processor's model name as the system reports it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown processor"


def time_module(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    batch: int = 1,
    threads: int = 1,
    repeats: int = 50,
    dtype: torch.dtype | None = None,
    runtime: Runtime | None = None,
) -> LatencySample:
    """Export a model in eval mode and time it on a runtime; the model's state is restored.

    ``input_shape`` excludes the batch.

    Raises:
        BuildError: the model's forward fails on this shape.
        CostError: the model cannot be exported, or the runtime cannot load or run it.
    """
    settings: dict[str, Any] = {"batch": batch, "threads": threads, "repeats": repeats, "dtype": dtype}
    found = time_modules([model], input_shape, runtime=runtime, **settings)[0]
    if isinstance(found, NasDistillError):
        raise found
    return found


def time_modules(
    models: Iterable[nn.Module | bytes | NasDistillError],
    input_shape: Sequence[int],
    *,
    batch: int = 1,
    threads: int = 1,
    repeats: int = 50,
    dtype: torch.dtype | None = None,
    runtime: Runtime | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[LatencySample | NasDistillError]:
    """Time several models under equal conditions, in interleaved rounds, so that machine drift affects all equally.

    An entry may also be the result of ``export_for_timing``, or the error with which the export failed. The result of a
    model that cannot be timed is its error. ``progress`` is called with the number of exported models.

    Raises:
        CostError: batch, threads or repeats below 1, or the runtime is not installed.
    """
    chosen = runtime or find_runtime(DEFAULT)
    stated = conditions(batch, threads, chosen)
    shape = (batch, *(int(size) for size in input_shape))
    results: list[LatencySample | NasDistillError] = []
    group: dict[int, Callable[[], float]] = {}
    held = 0
    for index, model in enumerate(models):
        try:
            if isinstance(model, NasDistillError):
                raise model
            exported = model if isinstance(model, bytes) else export_for_timing(model, shape, dtype, chosen)
            if group and held + len(exported) > GROUP_BYTES:
                _fill(results, group, repeats, stated)
                held = 0
            group[index] = _runner(exported, "the model", shape, threads, chosen)
            held += len(exported)
            results.append(CostError("not timed"))
        except NasDistillError as error:
            results.append(error)
        if progress is not None:
            progress(index + 1)
    _fill(results, group, repeats, stated)
    return results


def _fill(
    results: list[LatencySample | NasDistillError],
    group: dict[int, Callable[[], float]],
    repeats: int,
    stated: Conditions,
) -> None:
    """Time a group of loaded networks, write their samples to ``results``, and release the networks."""
    for index, sample in zip(group, _time(list(group.values()), repeats, stated)):
        results[index] = sample
    group.clear()


def time_file(
    path: str | Path,
    input_shape: Sequence[int],
    *,
    batch: int = 1,
    threads: int = 1,
    repeats: int = 50,
    runtime: Runtime | None = None,
) -> LatencySample:
    """Time an exported file with one input; ``input_shape`` excludes the batch.

    Raises:
        CostError: the file is missing or invalid, needs another shape or several inputs, or cannot run.
    """
    chosen = runtime or find_runtime(DEFAULT)
    stated = conditions(batch, threads, chosen)
    if not Path(path).is_file():
        raise CostError(f"{path} does not exist; its latency cannot be measured.")
    shape = (batch, *(int(size) for size in input_shape))
    return _time([_runner(Path(path), str(path), shape, threads, chosen)], repeats, stated)[0]


def export_for_timing(
    model: nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None, runtime: Runtime | None = None
) -> bytes:
    """Return the content of a file to time on a runtime: the model exported for the fixed input ``shape`` with batch.

    Raises:
        BuildError: the model's forward fails on this shape.
        CostError: the model cannot be exported.
    """
    chosen = runtime or find_runtime(DEFAULT)
    refuse_lazy(model)
    with undisturbed(model):
        subject = model if device_of(model).type == "cpu" else copy.deepcopy(model).cpu()
        data = example(model, shape, input_dtype(model, dtype))
        try:
            subject(data)
        except Exception as error:
            raise BuildError(
                f"the model's forward fails on an input of shape {tuple(shape)}: {first_line(error)}"
            ) from error
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder) / f"model{chosen.suffix}"
                chosen.export_for_timing(subject, data, path)
                return path.read_bytes()
        except StorageError:
            raise
        except Exception as error:
            raise CostError(
                f"the model cannot be exported to {chosen.title} for timing: {first_line(error)}"
            ) from error


def _runner(
    model: bytes | Path, name: str, shape: tuple[int, ...], threads: int, runtime: Runtime
) -> Callable[[], float]:
    """Load a network and return a function that runs it once on noise and returns the time in ms."""
    try:
        if isinstance(model, bytes):
            with TemporaryDirectory() as folder:
                path = Path(folder) / f"model{runtime.suffix}"
                path.write_bytes(model)
                network = runtime.load(path, threads=threads)
        else:
            network = runtime.load(model, threads=threads)
        kind = np.dtype(runtime.input_dtype(network))
        noise = np.random.default_rng(0).standard_normal(shape)
        inputs = noise.astype(kind) if np.issubdtype(kind, np.floating) else np.zeros(shape, kind)
        try:
            runtime.run(network, inputs)
        except Exception:  # perhaps the network reads tokens; 0 is a valid one
            inputs = np.zeros(shape, kind)
            runtime.run(network, inputs)
    except NasDistillError:
        raise
    except Exception as error:
        raise CostError(
            f"{name} does not run on {runtime.title} with shape {tuple(shape)}: {first_line(error)}"
        ) from error

    def once() -> float:
        try:
            taken = float(runtime.time(network, inputs))
        except NasDistillError:
            raise
        except Exception as error:
            raise CostError(f"{name} cannot be timed on {runtime.title}: {first_line(error)}") from error
        if not (np.isfinite(taken) and taken >= 0):
            raise CostError(f"{runtime.title} reports {taken:g} ms for {name}, which is not a valid time.")

        return taken

    return once


def _time(runs: Sequence[Callable[[], float]], repeats: int, stated: Conditions) -> list[LatencySample]:
    if repeats < 1:
        raise CostError(f"latency needs at least one timed run, not {repeats}.")
    rounds = min(ROUNDS, repeats) if len(runs) > 1 else 1
    times: list[list[float]] = [[] for _ in runs]
    for visit in range(rounds):
        share = repeats * (visit + 1) // rounds - repeats * visit // rounds
        for run, found in zip(runs, times):
            for _ in range(WARM_UP):
                run()
            found.extend(run() for _ in range(share))
    return [
        LatencySample(float(np.median(found)), float(np.quantile(found, 0.95)), len(found), stated) for found in times
    ]
