"""Student folders: ``model.safetensors`` (weights) and ``architecture.json`` (everything else)."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas_distill.export.graph import load_program, save_program
from nas_distill.export.provenance import Provenance
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.spaces.builders import describe
from nas_distill.utils.errors import ConfigError, ExportError, NasDistillError, StorageError, TrustError
from nas_distill.utils.files import atomic_path, plain_file, write_json
from nas_distill.utils.modules import root_cause
from nas_distill.utils.references import load_reference, only_known, remember_builder
from nas_distill.utils.seeds import seeded_torch

FORMAT = 1
LARGEST_SPEC = 2**26  # 64 MiB
WEIGHTS, SPEC, PROGRAM = "model.safetensors", "architecture.json", "model.pt2"


_TYPES: dict[str, Any] = {
    "builder": str,
    "importable": bool,
    "keywords": dict | None,
    "values": dict,
    "hash": str,
    "input_shape": list,
    "num_classes": int,
    "program": str | None,
}


def save_student(
    folder: str | Path,
    module: nn.Module,
    architecture: Architecture,
    space: SearchSpace,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    normalisation: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    provenance: Provenance | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a student's folder, each file atomically, ``architecture.json`` last; return the folder.

    Args:
        folder: created if missing; an older student in it is replaced. If the builder cannot be imported by name and
            torch cannot export the network as a graph either, ``program_error`` in ``architecture.json`` gives the
            reason, and ``load_student`` needs the builder as an argument.
        module: the network, on any device; it is not changed.
        architecture: the parameters that the network was built from.
        space: gives the builder and its fixed arguments.
        input_shape: shape of one sample, (C, H, W) for images.
        num_classes: number of logits.
        normalisation: ``{"scale": s, "mean": [...], "std": [...]}``: inputs are ``(raw * scale - mean) / std``.
        class_names: one per class, in the order of the logits.
        provenance: how the network was trained.
        metadata: further JSON values to keep, such as seconds and seed.

    Raises:
        ExportError: the weights are not plain tensors, or a value cannot be written as JSON.
        StorageError: a file cannot be written, for example because the disk is full.
    """
    folder = Path(folder)
    shape = [int(size) for size in input_shape]
    reference, builder, importable = _reference(space)
    data = {"input_shape": shape, "num_classes": int(num_classes)}
    keywords = _keywords(builder, architecture.to_dict(), space.arguments, data)
    plain = _is_json(keywords)
    spec: dict[str, Any] = {
        "format": FORMAT,
        "builder": reference,
        "importable": importable and plain,
        "keywords": keywords if plain else None,
        "space": space.name,
        "values": architecture.to_dict(),
        "hash": architecture.hash,
        "input_shape": shape,
        "num_classes": int(num_classes),
        "normalisation": dict(normalisation) if normalisation is not None else None,
        "class_names": list(class_names) if class_names is not None else None,
        "program": None,
        "program_error": None,
        "torch": str(torch.__version__),
        "provenance": None if provenance is None else provenance.model_dump(mode="json"),
        "metadata": dict(metadata or {}),
    }
    if not _is_json(spec):
        raise ExportError(
            f"{folder / SPEC} cannot be written: metadata, normalisation and class names must be JSON values."
        )
    try:
        with atomic_path(folder / WEIGHTS) as temporary:
            save_file(_plain_weights(module, folder / WEIGHTS), temporary, metadata={"architecture": architecture.hash})
        (folder / PROGRAM).unlink(missing_ok=True)
        if not spec["importable"] or _is_local(space, reference):
            spec |= _save_graph(module, shape, folder / PROGRAM)
        write_json(folder / SPEC, spec)
        if spec["importable"]:
            remember_builder(reference, builder)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"The student cannot be written to {folder} ({root_cause(error)}); fix that, then resume."
        ) from error
    return folder


def load_student(
    folder: str | Path,
    *,
    builder: Callable[..., Any] | str | None = None,
    paths: Sequence[str | Path] = (),
    trust: bool = False,
) -> nn.Module:
    """Return the student of a folder in eval mode on the CPU.

    ``builder`` replaces the builder that the folder names, and is called with the same keywords (with the searched
    values only, if the fixed arguments could not be written as JSON). ``paths`` are folders to find its module in. If
    the folder's builder is not imported, the student is loaded from its graph (``model.pt2``), if it has one, with a
    warning, because such a module predicts and cannot be trained further.

    Without ``trust``, no content of the folder runs as code: nothing is unpickled or evaluated, no file is written, no
    file outside the folder is read, and the only builders called are those of nas_distill and those that this process
    has already used. With ``trust``, the builder that the folder names is imported and called.

    Raises:
        ExportError: a file is missing or damaged, the builder is unknown or not trusted and the folder has no graph, or
            the weights do not fit the network.
    """
    folder = Path(folder)
    spec = load_spec(folder, links=trust)
    graph = _graph(spec, folder, links=trust)
    if builder is None and not spec["importable"]:
        return _from_graph(spec, graph, folder)
    try:
        if builder is None:
            with nullcontext() if trust else only_known(folder):
                make = _resolve(spec["builder"], folder, paths)
        else:
            make = _resolve(builder, folder, paths)
    except ExportError:
        if graph is None:
            raise
        return _from_graph(spec, graph, folder)
    with nullcontext() if trust else only_known(folder):
        network = _build(make, spec, folder)
    _load_weights(network, _file(folder, WEIGHTS, links=trust), spec["hash"])
    return network.eval()


def load_spec(folder: str | Path, *, links: bool = True) -> dict[str, Any]:
    """Read a student's ``architecture.json``, with the keys that ``save_student`` writes.

    ``links``: whether the file may be a link to a place outside the folder.

    Raises:
        ExportError: the file is missing, damaged, too large, or of another format.
    """
    path = Path(folder) / SPEC
    try:
        spec = json.loads(plain_file(Path(folder), SPEC, largest=LARGEST_SPEC, links=links).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{folder} does not contain a student: {SPEC} is missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {root_cause(error)}.") from error
    needed = ("builder", "importable", "keywords", "values", "hash", "input_shape", "num_classes", "program")
    missing = [key for key in needed if not isinstance(spec, dict) or key not in spec]
    if missing:
        raise ExportError(f"{path} does not describe a student: '{missing[0]}' is missing.")
    if spec.get("format") != FORMAT:
        raise ExportError(f"{path} has format {spec.get('format')}; this version of nas_distill reads format {FORMAT}.")
    for key, expected in _TYPES.items():
        if not isinstance(spec[key], expected):
            raise ExportError(f"{path} is damaged: '{key}' is a {type(spec[key]).__name__}.")
    if not all(type(size) is int for size in spec["input_shape"]):
        raise ExportError(f"{path} is damaged: 'input_shape' must contain whole numbers.")
    checked: dict[str, Any] = spec
    return checked


def _file(folder: Path, name: str, *, links: bool) -> Path:
    try:
        return plain_file(folder, name, links=links)
    except FileNotFoundError as error:
        raise ExportError(f"{folder / name} does not exist.") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder / name} cannot be read: {root_cause(error)}.") from error


def _graph(spec: Mapping[str, Any], folder: Path, *, links: bool) -> Path | None:
    if spec["program"] is None:
        return None
    if spec["program"] != PROGRAM:
        raise ExportError(f"{folder / SPEC} is damaged: 'program' can only be {PROGRAM}.")
    return _file(folder, PROGRAM, links=links)


def _reference(space: SearchSpace) -> tuple[str, Callable[..., Any] | None, bool]:
    """Return the builder's reference, the builder, and whether other programs can import it by that reference."""
    reference = describe(space.builder)
    try:
        found = load_reference(reference, what="the builder", paths=space.paths)
    except ConfigError:
        found = None
    made: Callable[..., Any] | None = found if isinstance(space.builder, str) else space.builder
    return reference, made, found is not None and found is made and not reference.startswith("__main__:")


def _is_local(space: SearchSpace, reference: str) -> bool:
    """Return whether the builder's module is a file in one of the space's folders, not an installed package."""
    name = reference.partition(":")[0]
    if name.partition(".")[0] == "nas_distill":
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or "site-packages" in Path(file).parts:
        return False
    return any(Path(file).resolve().is_relative_to(path) for path in space.paths)


def _keywords(
    builder: Callable[..., Any] | None, values: dict[str, Any], arguments: dict[str, Any], data: dict[str, Any]
) -> dict[str, Any]:
    """Return all keywords of the builder's call, as in ``SearchSpace.build``; of ``data``, only those it accepts."""
    try:
        parameters = inspect.signature(builder).parameters.values() if builder is not None else None
    except (TypeError, ValueError):
        parameters = None
    if parameters is not None and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        taken = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
        data = {key: value for key, value in data.items() if key in taken}
    return {**arguments, **data, **values}


def _save_graph(module: nn.Module, shape: Sequence[int], path: Path) -> dict[str, str]:
    """Save the network as a graph if torch can export it; otherwise return the reason, so that its weights are kept."""
    try:
        save_program(module, shape, path)
    except ExportError as error:
        return {"program_error": str(error).rstrip(".")}
    return {"program": PROGRAM}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _plain_weights(module: nn.Module, path: Path) -> dict[str, Tensor]:
    state = module.state_dict()
    invalid = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if invalid:
        raise ExportError(f"{path} cannot be written: '{invalid[0]}' in the network's state is not a tensor.")
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _from_graph(spec: Mapping[str, Any], graph: Path | None, folder: Path) -> nn.Module:
    if graph is None:
        raise ExportError(
            f"{folder} names the builder '{spec['builder']}', which cannot be imported by name, and has no graph of "
            f"the student ({spec.get('program_error')}); pass a builder to load_student."
        )
    network = load_program(graph)
    warnings.warn(
        f"the builder '{spec['builder']}' was not imported, so the student of {folder} was loaded as a graph: it "
        "predicts and cannot be trained further (for that, pass a builder or trust=True to load_student)",
        stacklevel=3,
    )
    return network


def _resolve(builder: Callable[..., Any] | str, folder: Path, paths: Sequence[str | Path]) -> Callable[..., Any]:
    if not isinstance(builder, str):
        return builder
    if builder.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
        raise ExportError(f"{folder / SPEC} names '{builder}' as its builder, which is not a builder of networks.")
    try:
        found = load_reference(builder, what=f"{folder / SPEC}: the builder", paths=paths)
    except TrustError as error:
        raise ExportError(
            f"{folder / SPEC} names the builder '{builder}', whose code would run: pass that builder to load_student, "
            "or trust=True if you trust the folder."
        ) from error
    except ConfigError as error:
        raise ExportError(
            f"{str(error).rstrip('.')}; pass a builder to load_student, or the paths to find it."
        ) from error
    if not callable(found):
        raise ExportError(f"{folder / SPEC} names '{builder}' as its builder, which cannot be called.")
    builds: Callable[..., Any] = found
    return builds


def _build(builder: Callable[..., Any], spec: Mapping[str, Any], folder: Path) -> nn.Module:
    keywords = spec["keywords"] if spec["keywords"] is not None else spec["values"]
    shape = tuple(spec["input_shape"])
    keywords = {key: shape if key == "input_shape" else value for key, value in keywords.items()}
    try:
        with seeded_torch(0, "load-student"):
            network = builder(**keywords)
    except TrustError as error:
        raise ExportError(f"{folder / SPEC}: {error}") from error
    except Exception as error:
        raise ExportError(f"{folder / SPEC}: its builder raised {root_cause(error)}.") from error
    if not isinstance(network, nn.Module):
        raise ExportError(f"{folder / SPEC}: its builder returned a {type(network).__name__}, not a torch.nn.Module.")
    return network


def _load_weights(network: nn.Module, path: Path, architecture: str) -> None:
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist.") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise ExportError(f"{path} is damaged or not a safetensors file: {root_cause(error)}.") from error
    expected = network.state_dict()
    for name in [*expected, *weights]:
        if name not in weights or name not in expected:
            where = "is missing in the file" if name not in weights else "does not exist in the network"
            raise ExportError(f"{path} does not fit architecture {architecture}: '{name}' {where}.")
        if expected[name].shape != weights[name].shape:
            raise ExportError(
                f"{path} does not fit architecture {architecture}: '{name}' has shape {tuple(weights[name].shape)}, "
                f"and the network needs {tuple(expected[name].shape)}."
            )
    try:
        network.load_state_dict(weights)
    except (RuntimeError, NasDistillError) as error:
        raise ExportError(f"{path} cannot be loaded into its network: {root_cause(error)}.") from error
