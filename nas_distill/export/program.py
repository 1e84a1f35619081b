"""A network as a graph (``torch.export``), for students whose builder cannot be imported by name.

Reading such a file with torch alone unpickles and evaluates what is in it. A student's program needs neither: it is
saved without sample inputs, stack traces and guards, and read only if every part of it is data: tensors as raw bytes,
operators of ATen, sizes as plain expressions. Anything else is refused before torch sees it.
"""

from __future__ import annotations

import ast
import copy
import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.common.errors import ExportError
from nas_distill.common.files import atomic_path
from nas_distill.export.quiet import first_cause, quiet

MEMBERS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.format_version|\.storage_alignment|\.data/(version|serialization_id)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(not|int|float|max|min|sum)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
)
FUNCTIONS = {"Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv"}
FUNCTIONS |= {"CleanDiv", "IntTrueDiv", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Not", "And", "Or"}


class Program(nn.Module):
    """A student that was loaded as a graph: it predicts, for any batch size, and cannot be trained further."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self.graph(x)

    def train(self, mode: bool = True) -> Program:
        """Refuse training mode: a graph holds the eval behaviour alone.

        Raises:
            ExportError: ``mode`` is True.
        """
        if mode:
            raise ExportError(
                "This student was loaded as a graph, which can only predict; "
                "give load_student its builder to train it further."
            )
        return self


def save_program(module: nn.Module, input_shape: Sequence[int], path: Path) -> None:
    """Write ``module`` in eval mode as a graph for batches ``[B, *input_shape]`` of any B; the module stays as it is.

    Raises:
        ExportError: torch cannot trace it, or what it traced would not be read back.
    """
    try:
        content = _traced(module, tuple(input_shape))
        _check(content)
        with quiet():
            _load(content)
    except Exception as error:
        raise ExportError(
            f"{path} cannot be written: torch cannot make a graph of the student ({first_cause(error)})."
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_program(path: Path) -> Program:
    """Read a graph that ``save_program`` wrote, without unpickling or evaluating anything.

    Raises:
        ExportError: the file is missing, damaged, or holds more than a student's graph.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {first_cause(error)}.") from error
    try:
        _check(content)
        with quiet():
            return Program(_load(content))
    except Exception as error:
        raise ExportError(f"{path} is not the graph of a student: {first_cause(error)}.") from error


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in eval mode without gradients, in a form that torch's exporters trace."""
    if isinstance(module, Program):
        # Tracing a graph inside another module loses its weights; a graph is in eval mode and refuses to be told so.
        return copy.deepcopy(module.graph).cpu().requires_grad_(False)
    return copy.deepcopy(module).cpu().eval().requires_grad_(False)


def _traced(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    batch = torch.export.Dim("batch")
    with quiet(), torch.no_grad():
        module = frozen_copy(module)
        program = torch.export.export(module, (torch.zeros(2, *shape),), dynamic_shapes=({0: batch},))
        for node in program.graph.nodes:
            # Stack traces name the user's folders, and are no part of what is computed.
            node.meta = {key: value for key, value in node.meta.items() if key in ("val", "tensor_meta")}
        program._example_inputs = None
        program._guards_code = []
        stream = io.BytesIO()
        torch.export.save(program, stream)
    return stream.getvalue()


def _load(content: bytes) -> nn.Module:
    return torch.export.load(io.BytesIO(content)).module()


def _check(content: bytes) -> None:
    """Raise ValueError unless the archive is data alone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise ValueError("a part of it occurs twice")
        parts = {name.partition("/")[2]: name for name in names}
        strange = sorted(part for part in parts if not MEMBERS.fullmatch(part))
        if strange:
            raise ValueError(f"it holds '{strange[0]}', which no student needs")
        if damaged := archive.testzip():
            raise ValueError(f"its part '{damaged}' is damaged")
        if archive.read(parts["data/sample_inputs/model.pt"]):
            raise ValueError("it holds pickled inputs")
        for kind in ("weights", "constants"):
            config = json.loads(archive.read(parts[f"data/{kind}/model_{kind}_config.json"]))
            if any(entry["use_pickle"] for entry in config["config"].values()):
                raise ValueError(f"its {kind} are pickled")
        _check_graph(json.loads(archive.read(parts["models/model.json"])))


def _check_graph(model: dict[str, Any]) -> None:
    if model.get("guards_code"):
        raise ValueError("it holds code")
    for key, value in _entries(model):
        if key == "target" and not (isinstance(value, str) and OPERATORS.fullmatch(value)):
            raise ValueError(f"it calls '{value}', which is no operator of ATen")
        if key == "expr_str" and not _is_plain(value):
            raise ValueError(f"'{value}' is no size")
        if key in ("metadata", "custom_obj_values", "treespec_namedtuple_fields") and value:
            raise ValueError(f"it holds {key}")
        if key in ("in_spec", "out_spec"):
            kinds = {kind for name, kind in _entries(json.loads(value)) if name == "type"}
            if kinds - {None, "builtins.tuple", "builtins.list", "builtins.dict"}:
                raise ValueError("its inputs or outputs are of a kind of their own")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _is_plain(expression: Any) -> bool:
    """Say whether a size, e.g. ``2*Symbol('s77', integer=True)``, is arithmetic on symbols and nothing more."""
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, TypeError, ValueError):
        return False
    allowed = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.keyword, ast.Load)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            plain = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        elif isinstance(node, ast.Name):
            plain = node.id in FUNCTIONS or re.fullmatch(r"[suz]+f?\d+", node.id) is not None
        elif isinstance(node, ast.Constant):
            plain = not isinstance(node.value, str) or re.fullmatch(r"[suz]+f?\d+", node.value) is not None
        else:
            plain = isinstance(node, allowed)
        if not plain:
            return False
    return True
