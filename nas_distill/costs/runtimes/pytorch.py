"""PyTorch as a runtime: a graph of ``torch.export``, run eagerly on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas_distill.costs.runtimes.runtime import Runtime
from nas_distill.costs.undisturbed import frozen_copy, tensors_only
from nas_distill.utils.errors import CostError, ExportError
from nas_distill.utils.files import atomic_path
from nas_distill.utils.modules import quiet, root_cause

NOTES = "notes.json"


class PyTorch(Runtime):
    """PyTorch on this machine's CPU, which runs the graph's operators one by one."""

    name = "pytorch"
    title = "PyTorch"
    suffix = ".pt2"
    install = "install the package torch"

    @property
    def file_name(self) -> str:
        """``model-pytorch.pt2``, because ``model.pt2`` is the graph in a student's folder that is safe to load."""
        return f"model-{self.name}{self.suffix}"

    def is_available(self) -> bool:
        """Return True: PyTorch is always installed."""
        return True

    def version(self) -> str:
        """Return the version of torch."""
        return str(torch.__version__)

    def export(
        self, module: nn.Module, input_shape: Sequence[int], path: Path, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Write a graph for batches of any size, with the notes beside it."""
        if path.suffix != self.suffix:
            raise ExportError(f"{path} is not a valid name for a torch.export graph; it must end in {self.suffix}.")
        known = {key: value for key, value in (notes or {}).items() if value is not None}
        try:
            with quiet(), torch.no_grad():
                batch = torch.export.Dim("batch")
                sample = torch.zeros(2, *input_shape)
                program = torch.export.export(frozen_copy(module), (sample,), dynamic_shapes=({0: batch},))
                _without_traces(program)
                with atomic_path(path) as temporary:
                    _save(program, temporary, {NOTES: json.dumps(known, ensure_ascii=False)})
        except OSError as error:
            raise ExportError(f"{path} cannot be written: {root_cause(error)}.") from error
        except Exception as error:
            raise ExportError(
                f"{path} cannot be written: torch cannot make a graph of the network ({root_cause(error)})."
            ) from error

    def export_for_timing(self, module: nn.Module, inputs: Any, path: Path) -> None:
        """Write a graph of a fixed input shape, for networks that return any structure of tensors."""
        with quiet(), torch.no_grad():
            _save(torch.export.export(tensors_only(frozen_copy(module)), (inputs,)), path, {})

    def load(self, path: Path, *, threads: int = 1) -> Any:
        """Return the graph in a file. Load only files that you exported yourself: torch unpickles a part of them."""
        try:
            with quiet(), path.open("rb") as stream:
                program = torch.export.load(stream)
            names = program.graph_signature.user_inputs
            dtypes = [node.meta["val"].dtype for node in program.graph.nodes if node.name in names]
            module = program.module()
        except Exception as error:
            raise CostError(f"{path} is not a torch.export graph ({root_cause(error)}).") from error
        if len(dtypes) != 1:
            raise CostError(f"{path} takes {len(dtypes)} inputs, but only networks with one input can run.")
        return _Graph(module, torch.zeros((), dtype=dtypes[0]).numpy().dtype, threads)

    def run(self, network: Any, inputs: np.ndarray) -> np.ndarray:
        """Return the first output for a batch."""
        with _threads(network.threads):
            return _first(_forward(network, torch.from_numpy(inputs)))

    def time(self, network: Any, inputs: np.ndarray) -> float:
        """Return the milliseconds of one forward pass, excluding the time to set the threads."""
        with _threads(network.threads):
            return super().time(_Graph(network.module, network.dtype, torch.get_num_threads()), inputs)

    def input_dtype(self, network: Any) -> Any:
        """Return the dtype of the graph's input."""
        return network.dtype

    def usage(self, path: str, input_shape: Sequence[int]) -> str:
        """Return four lines of code that run a file on zeros."""
        shape = ", ".join(str(size) for size in input_shape)
        return (
            "import torch\n\n"
            f'model = torch.export.load("{path}").module()  # predicts; cannot be trained further\n'
            f"logits = model(torch.zeros(1, {shape}))"
        )


@dataclass(frozen=True)
class _Graph:
    """A loaded graph and the number of threads that it runs on."""

    module: nn.Module
    dtype: Any
    threads: int


def _forward(network: _Graph, inputs: torch.Tensor) -> Any:
    with torch.inference_mode():
        return network.module(inputs)


def _first(found: Any) -> np.ndarray:
    from torch.utils._pytree import tree_leaves

    tensor: torch.Tensor = next(leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor))
    return tensor.numpy()


def _save(program: Any, path: Path, files: dict[str, str]) -> None:
    with path.open("wb") as stream:
        torch.export.save(program, stream, extra_files=files)


def _without_traces(program: Any) -> None:
    """Remove stack traces: they name the user's folders and do not affect the computation."""
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key in ("val", "tensor_meta")}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run a block with ``count`` threads for torch, a setting of the whole process, which is restored."""

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
