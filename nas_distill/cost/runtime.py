"""Time on ONNX Runtime: what a forward pass takes on this machine's CPU, under conditions that are written down.

Nothing is printed: exporters and runtime are kept from warning and logging. Timings mean something only while nothing
else runs; seeing to that is the caller's.
"""

from __future__ import annotations

import contextlib
import io
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_distill.common.errors import BuildError, CostError, NasDistillError, first_line
from nas_distill.cost.undisturbed import device_of, example, input_dtype, refuse_lazy, tensors_only, undisturbed

if TYPE_CHECKING:
    import torch
    from torch import nn

WARM_UP = 5
"""Runs before the first that counts, at each session and at each return to it."""
ROUNDS = 5
"""Among how many visits the runs of a network are spread when several are timed, so that all meet the same drift."""

GROUP_BYTES = 2**29
"""Networks up to this size together are loaded at once when several are timed."""


@dataclass(frozen=True)
class Conditions:
    """What a latency is a latency of: batch size, threads within an operation, processor, runtime."""

    batch: int
    threads: int
    cpu: str
    onnxruntime: str

    def text(self) -> str:
        """Write the conditions on one line."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"ONNX Runtime {self.onnxruntime}, batch {self.batch}, {threads}, {self.cpu}"


@dataclass(frozen=True)
class LatencySample:
    """Times of one forward pass of a batch, in ms: median, and the 95th percentile, of ``repeats`` runs."""

    p50_ms: float
    p95_ms: float
    repeats: int
    conditions: Conditions


def conditions(batch: int, threads: int) -> Conditions:
    """Return the conditions of a timing on this machine.

    Raises:
        CostError: batch or threads below 1, or ONNX Runtime is not installed.
    """
    if batch < 1 or threads < 1:
        raise CostError(f"latency needs at least one image and one thread, not batch {batch} and {threads} threads.")
    return Conditions(batch, threads, cpu_name(), str(_onnxruntime().__version__))


def cpu_name() -> str:
    """Return the processor's model name as the system gives it."""
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
) -> LatencySample:
    """Export a model as it stands, in eval mode, and time it on ONNX Runtime; the model is left as it was.

    ``input_shape`` is without the batch.

    Raises:
        BuildError: the model's forward fails on this shape.
        CostError: the model cannot be exported, or the runtime cannot load or run it.
    """
    found = time_modules([model], input_shape, batch=batch, threads=threads, repeats=repeats, dtype=dtype)[0]
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
    progress: Callable[[int], None] | None = None,
) -> list[LatencySample | NasDistillError]:
    """Time several models under equal conditions: visited in turn, so that a drift of the machine meets all alike.

    A model may have been exported by ``export_for_timing`` already, or have failed at that. One that cannot be timed
    has its error in its place in the list. ``progress`` is told how many are exported.

    Raises:
        CostError: batch, threads or repeats below 1, or ONNX Runtime is not installed.
    """
    stated = conditions(batch, threads)
    shape = (batch, *(int(size) for size in input_shape))
    results: list[LatencySample | NasDistillError] = []
    group: dict[int, Callable[[], object]] = {}
    held = 0
    for place, model in enumerate(models):
        try:
            if isinstance(model, NasDistillError):
                raise model
            exported = model if isinstance(model, bytes) else export_for_timing(model, shape, dtype)
            if group and held + len(exported) > GROUP_BYTES:
                _fill(results, group, repeats, stated)
                held = 0
            group[place] = _runner(exported, "the model", shape, threads)
            held += len(exported)
            results.append(CostError("not timed"))
        except NasDistillError as error:
            results.append(error)
        if progress is not None:
            progress(place + 1)
    _fill(results, group, repeats, stated)
    return results


def _fill(
    results: list[LatencySample | NasDistillError],
    group: dict[int, Callable[[], object]],
    repeats: int,
    stated: Conditions,
) -> None:
    """Time a group of loaded networks, put their samples in place, and let the networks go."""
    for place, sample in zip(group, _time(list(group.values()), repeats, stated)):
        results[place] = sample
    group.clear()


def time_file(
    path: str | Path, input_shape: Sequence[int], *, batch: int = 1, threads: int = 1, repeats: int = 50
) -> LatencySample:
    """Time a finished ONNX file of one input; ``input_shape`` is without the batch.

    Raises:
        CostError: the file is missing or no model, takes another shape or several inputs, or cannot run.
    """
    stated = conditions(batch, threads)
    if not Path(path).is_file():
        raise CostError(f"{path} does not exist, so its latency cannot be measured.")
    shape = (batch, *(int(size) for size in input_shape))
    return _time([_runner(str(path), str(path), shape, threads)], repeats, stated)[0]


def export_for_timing(model: nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None) -> bytes:
    """Return a model as ONNX of the fixed input ``shape`` (batch included), by whichever exporter is quickest here.

    The older exporter takes a thirtieth of the newer one's time, and the runtime optimises both to the same network.
    Errors as ``time_module``.
    """
    import torch

    refuse_lazy(model)
    with undisturbed(model), _captured():
        subject = model
        if device_of(model).type != "cpu":
            import copy

            subject = copy.deepcopy(model).cpu()
        data = example(model, shape, input_dtype(model, dtype))
        try:
            subject(data)
        except Exception as error:
            raise BuildError(
                f"the model's forward fails on an input of shape {tuple(shape)}: {first_line(error)}"
            ) from error
        causes = []
        for export in (_export_by_trace, _export_by_graph):
            try:
                return export(torch, subject, data)
            except Exception as error:
                causes.append(first_line(error))
    raise CostError(f"the model cannot be exported to ONNX for timing: {causes[-1]}")


def _export_by_trace(torch: Any, model: nn.Module, data: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    # Wrapped, because this exporter turns the defaults of forward's other arguments into inputs.
    torch.onnx.export(tensors_only(model), (data,), stream, dynamo=False, input_names=["input"])
    return stream.getvalue()


def _export_by_graph(torch: Any, model: nn.Module, data: torch.Tensor) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (data,), path, dynamo=True, external_data=False, verbose=False, input_names=["input"])
        return path.read_bytes()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CostError("latency_ms is measured on ONNX Runtime; install the package onnxruntime.") from error
    return onnxruntime


def _runner(model: bytes | str, name: str, shape: tuple[int, ...], threads: int) -> Callable[[], object]:
    """Load a network and return a function that runs it once on noise."""
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise CostError(f"{name} takes {len(inputs)} inputs, and only networks of one input are timed.")
        kind = _NUMPY.get(inputs[0].type)
        if kind is None:
            raise CostError(f"{name} takes an input of {inputs[0].type}, which is not timed.")
        noise = np.random.default_rng(0).standard_normal(shape)
        feed = {inputs[0].name: noise.astype(kind) if np.issubdtype(kind, np.floating) else np.zeros(shape, kind)}

        def run() -> object:
            return session.run(None, feed)

        try:
            run()
        except Exception:  # it reads tokens, perhaps, of which 0 is one
            feed = {inputs[0].name: np.zeros(shape, kind)}
            run()
    except CostError:
        raise
    except Exception as error:
        raise CostError(
            f"{name} does not run on ONNX Runtime with shape {tuple(shape)}: {first_line(error)}"
        ) from error
    return run


_NUMPY: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


def _time(runs: Sequence[Callable[[], object]], repeats: int, stated: Conditions) -> list[LatencySample]:
    if repeats < 1:
        raise CostError(f"latency needs at least one timed run, not {repeats}.")
    rounds = min(ROUNDS, repeats) if len(runs) > 1 else 1
    times: list[list[int]] = [[] for _ in runs]
    for visit in range(rounds):
        share = repeats * (visit + 1) // rounds - repeats * visit // rounds
        for run, found in zip(runs, times):
            for _ in range(WARM_UP):
                run()
            for _ in range(share):
                start = time.perf_counter_ns()
                run()
                found.append(time.perf_counter_ns() - start)
    return [
        LatencySample(float(np.median(found)) / 1e6, float(np.quantile(found, 0.95)) / 1e6, len(found), stated)
        for found in times
    ]


@contextlib.contextmanager
def _captured() -> Iterator[None]:
    """Keep an exporter's prints from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
