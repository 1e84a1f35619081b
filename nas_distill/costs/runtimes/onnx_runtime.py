"""ONNX Runtime on the CPU: export to one ONNX file that contains weights and notes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas_distill.costs.runtimes.runtime import Runtime
from nas_distill.costs.undisturbed import frozen_copy, tensors_only
from nas_distill.utils.errors import CostError, ExportError, first_line
from nas_distill.utils.files import atomic_path
from nas_distill.utils.modules import quiet, root_cause

INPUT, OUTPUT, BATCH = "input", "logits", "batch"
LARGEST = 2**31 - 2**24  # a protobuf message is limited to 2 GiB; the rest is room for the graph itself


_NUMPY: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


class OnnxRuntime(Runtime):
    """ONNX Runtime on this machine's CPU, with all graph optimisations."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    suffix = ".onnx"
    install = "install the packages onnx, onnxscript and onnxruntime"

    def is_available(self) -> bool:
        """Return whether ONNX Runtime and the packages of torch's exporter are installed."""
        return all(find_spec(package) is not None for package in ("onnx", "onnxscript", "onnxruntime"))

    def version(self) -> str:
        """Return the version of ONNX Runtime."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def export(
        self, module: nn.Module, input_shape: Sequence[int], path: Path, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Write one ONNX file; see ``export_onnx``."""
        export_onnx(module, input_shape, path, metadata=notes)

    def export_for_timing(self, module: nn.Module, inputs: Any, path: Path) -> None:
        """Write ONNX for a fixed input shape by torch's older exporter, or by the newer one if that fails.

        The older exporter takes a thirtieth of the newer one's time, and the runtime optimises both files to the same
        network.
        """
        with quiet():
            try:
                _export_by_trace(module, inputs, path)
            except Exception:
                _export_by_graph(module, inputs, path)

    def load(self, path: Path, *, threads: int = 1) -> Any:
        """Return a session of a file whose network takes one input."""
        import onnxruntime

        if not path.is_file():
            raise CostError(f"{path} does not exist; {self.title} cannot load it.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CostError(f"{path} is not a valid ONNX model ({first_line(error)}).") from error
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise CostError(f"{path} takes {len(inputs)} inputs, but only networks with one input can run.")
        if inputs[0].type not in _NUMPY:
            raise CostError(f"{path} takes an input of type {inputs[0].type}, which is not supported.")
        return _Session(session, inputs[0].name, _NUMPY[inputs[0].type])

    def run(self, network: Any, inputs: np.ndarray) -> np.ndarray:
        """Return the first output for a batch."""
        found: np.ndarray = network.session.run(None, {network.name: inputs})[0]
        return found

    def input_dtype(self, network: Any) -> Any:
        """Return the dtype of the session's input."""
        return network.dtype

    def usage(self, path: str, input_shape: Sequence[int]) -> str:
        """Return four lines of code that run a file on zeros."""
        shape = ", ".join(str(size) for size in input_shape)
        return (
            "import numpy as np, onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{path}")\n'
            f'logits = session.run(["{OUTPUT}"], {{"{INPUT}": np.zeros((1, {shape}), np.float32)}})[0]'
        )


@dataclass(frozen=True)
class _Session:
    """An inference session with the name and dtype of its input."""

    session: Any
    name: str
    dtype: Any


def _export_by_trace(module: nn.Module, inputs: torch.Tensor, path: Path) -> None:
    # Wrapped, because this exporter turns the defaults of forward's other arguments into inputs.
    torch.onnx.export(tensors_only(module), (inputs,), str(path), dynamo=False, input_names=[INPUT])


def _export_by_graph(module: nn.Module, inputs: torch.Tensor, path: Path) -> None:
    torch.onnx.export(module, (inputs,), path, dynamo=True, external_data=False, verbose=False, input_names=[INPUT])


def export_onnx(
    module: nn.Module,
    input_shape: Sequence[int],
    path: str | Path,
    *,
    teacher: str | None = None,
    architecture: str | None = None,
    normalisation: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    opset: int | None = None,
) -> Path:
    """Write ``module`` in eval mode to ``path`` atomically and return the path.

    The file contains the weights. Its input ``"input"`` is float32 ``[batch, *input_shape]``, its output ``"logits"``
    float32 ``[batch, classes]``, for any batch of at least 1. The module may be on any device and is not changed.

    Args:
        module: the network.
        input_shape: of one sample, (C, H, W) for images.
        path: ends in ``.onnx``; an existing file is replaced.
        teacher: name of the teacher; this and the following arguments are stored in the file (``read_metadata``).
        architecture: hash of the architecture.
        normalisation: ``{"scale": s, "mean": [...], "std": [...]}``: inputs are ``(raw * scale - mean) / std``.
        class_names: one per class, in the order of the logits.
        metadata: further JSON values.
        opset: version of the operators; None takes torch's default.

    Raises:
        ExportError: torch cannot export the network (names the first cause), or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError(f"{path} is not a valid name for an ONNX file; it must end in .onnx.")
    notes: dict[str, Any] = {
        "teacher": teacher,
        "architecture": architecture,
        "normalisation": dict(normalisation) if normalisation is not None else None,
        "class_names": list(class_names) if class_names is not None else None,
        "input_shape": [int(size) for size in input_shape],
        **(metadata or {}),
    }
    texts = {key: _text(key, value, path) for key, value in notes.items() if value is not None}
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])
    if size > LARGEST:
        raise ExportError(
            f"{path} cannot be written: {size / 2**30:.1f} GiB of weights exceed the limit of a file (2 GiB)."
        )
    try:
        with quiet():
            proto = _proto(module, tuple(input_shape), opset)
    except Exception as error:
        raise ExportError(
            f"{path} cannot be written: torch cannot export the network ({root_cause(error)})."
        ) from error
    for key, text in texts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, text
    import onnx

    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
            onnx.checker.check_model(str(temporary), full_check=True)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {root_cause(error)}.") from error
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path} would not be a valid ONNX model ({root_cause(error)}).") from error
    return path


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata that ``export_onnx`` stored, with JSON values parsed.

    Raises:
        ExportError: the file is missing or is not an ONNX file.
    """
    found = {entry.key: entry.value for entry in load_onnx(Path(path)).metadata_props}
    # A teacher's name or a hash may look like a number, but is text.
    return {key: value if key in ("teacher", "architecture") else _value(value) for key, value in found.items()}


def load_onnx(path: Path) -> Any:
    """Return the file's ``onnx.ModelProto``.

    Raises:
        ExportError: the file is missing or is not an ONNX file.
    """
    import onnx

    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist.") from error
    except Exception as error:
        raise ExportError(f"{path} is damaged or not an ONNX file ({root_cause(error)}).") from error


def _proto(module: nn.Module, shape: tuple[int, ...], opset: int | None) -> Any:
    module = frozen_copy(module)
    # Two samples, since the exporter treats a batch of 1 as a constant. The argument of forward may have any name.
    example = torch.zeros(2, *shape)
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim(BATCH)},),
        opset_version=opset,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    proto = program.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if not dimensions or not dimensions[0].dim_param:
            raise ValueError(f"'{value.name}' does not accept batches of any size")
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        # Source locations of parts are removed: they name the user's folders and do not affect the computation.
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return proto


def _text(key: str, value: Any, path: Path) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{path} cannot be written: its metadata '{key}' is not a JSON value.") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
