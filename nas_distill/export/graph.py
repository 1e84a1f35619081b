"""Graphs of students (``torch.export``), for builders that cannot be imported."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nas_distill.costs.undisturbed import frozen_copy
from nas_distill.export.archive import data_only
from nas_distill.utils.errors import ExportError
from nas_distill.utils.files import atomic_path
from nas_distill.utils.modules import quiet, root_cause


class StudentGraph(nn.Module):
    """A student loaded as a graph: it predicts for any batch size and cannot be trained further."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        result: Tensor = self.graph(x)
        return result

    @property
    def traced(self) -> nn.Module:
        """The module for exporters to trace instead of this one: tracing a graph inside another loses its weights."""
        return self.graph

    def train(self, mode: bool = True) -> StudentGraph:
        """Refuse train mode, since a graph has eval behaviour only.

        Raises:
            ExportError: ``mode`` is True.
        """
        if mode:
            raise ExportError(
                "This student was loaded as a graph, which can only predict; to train it further, pass its builder to "
                "load_student."
            )
        return self


def save_program(module: nn.Module, input_shape: Sequence[int], path: Path) -> None:
    """Write ``module`` in eval mode as a graph for batches (B, *input_shape) of any B; the module is not changed.

    Raises:
        ExportError: torch cannot trace the module, or the graph would be refused by ``load_program``.
    """
    try:
        content = data_only(_traced(module, tuple(input_shape)))
        with quiet():
            _load(content)
    except Exception as error:
        raise ExportError(
            f"{path} cannot be written: torch cannot export the student as a graph ({root_cause(error)})."
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_program(path: Path) -> StudentGraph:
    """Read a graph written by ``save_program``, without unpickling or evaluating anything.

    Raises:
        ExportError: the file is missing, damaged, or contains more than the graph of a student.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {root_cause(error)}.") from error
    try:
        fresh = data_only(content)
        with quiet():
            return StudentGraph(_load(fresh))
    except Exception as error:
        raise ExportError(f"{path} is not the graph of a student: {root_cause(error)}.") from error


def _traced(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    batch = torch.export.Dim("batch")
    with quiet(), torch.no_grad():
        module = _without_weight_norm(frozen_copy(module))
        program = torch.export.export(module, (torch.zeros(2, *shape),), dynamic_shapes=({0: batch},))
        for node in program.graph.nodes:
            # Stack traces contain names of the user's folders, and do not affect the result.
            node.meta = {key: value for key, value in node.meta.items() if key in ("val", "tensor_meta")}
        program._example_inputs = None
        program._guards_code = []
        stream = io.BytesIO()
        torch.export.save(program, stream)
    return stream.getvalue()


def _without_weight_norm(module: nn.Module) -> nn.Module:
    """Replace ``weight_norm`` by the weights that it computes, since a graph may not call its operators."""
    for part in list(module.modules()):
        steps = getattr(part, "parametrizations", None)
        for name, chain in list(steps.items()) if isinstance(steps, nn.ModuleDict) else ():
            if isinstance(chain, parametrize.ParametrizationList) and type(chain[0]).__name__ == "_WeightNorm":
                parametrize.remove_parametrizations(part, name)
    return module


def _load(fresh: bytes) -> nn.Module:
    return torch.export.load(io.BytesIO(fresh)).module()
