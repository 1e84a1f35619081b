"""Archives of ``torch.export`` reduced to data: read once, checked, and written again as a fresh archive.

torch unpickles, evaluates or turns into Python source much of what such an archive may hold, and it reads ZIP files by
rules of its own, so that a crafted file looks different to it and to a check before it. What ``data_only`` returns is
an archive that it wrote itself: the tensors' raw bytes, and JSON in which each text is a name, an allowed operator or a
plain expression of sizes. Nothing else of the file reaches torch.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import re
import struct
import zipfile
from typing import Any

from nas_distill.export.operators import is_allowed

FIXED = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    "byteorder": b"little",
    ".data/version": b"6\n",
    "data/sample_inputs/model.pt": b"",
}
MODEL = "models/model.json"
CONFIGS = {"weight": "data/weights/model_weights_config.json", "tensor": "data/constants/model_constants_config.json"}
LARGEST_JSON = 2**26  # 64 MiB; the graph of ResNet-152 takes 1 MiB
LONGEST_EXPRESSION = 2000  # characters; parsing takes a stack that grows with them

_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,9}", re.ASCII)
_IGNORED = re.compile(r"\.format_version|\.storage_alignment|\.data/serialization_id")
_NAME = re.compile(r"(?!__\w*__$)[A-Za-z_]\w{0,255}", re.ASCII)
_STATE = re.compile(r"(?!__)\w{1,255}(\.(?!__)\w{1,255})*")
_SYMBOL = re.compile(r"[suz]+f?\d{1,6}", re.ASCII)
_TEXT = re.compile(r"[\w ,.>-]{0,200}", re.ASCII)  # a mode such as "bilinear", or the equation of einsum
_NUMBER = re.compile(r"-?Infinity|NaN")
_VERSION = re.compile(r"[\w.+<=-]{1,60}", re.ASCII)
_FUNCTIONS = {"Symbol", "Integer", "Rational", "Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv"}
_FUNCTIONS |= {"IntTrueDiv", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Not", "And", "Or"}
_EMPTY = ("metadata", "guards_code", "custom_obj_values", "treespec_namedtuple_fields")
_REFUSED = ("as_graph", "as_operator", "as_custom_obj", "custom_obj", "token")


def data_only(content: bytes) -> bytes:
    """Return a fresh archive with the tensors and the graph of ``content``.

    Raises:
        ValueError: it holds anything but what a student's graph needs, or is damaged.
    """
    parts = _read(content)
    model = _json(parts, MODEL)
    _check_graph(model)
    fresh = {**FIXED, MODEL: _dump(model)}
    for kind, path in CONFIGS.items():
        config = _json(parts, path)
        for name in _payloads(config, kind, parts):
            fresh[name] = parts[name]
        fresh[path] = _dump(config)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, part in fresh.items():
            archive.writestr(zipfile.ZipInfo(f"student/{name}"), part)
    return stream.getvalue()


def is_size(expression: Any) -> bool:
    """Say whether a size, e.g. ``2*Symbol('s77', integer=True)``, is arithmetic on symbols and nothing more."""
    if not isinstance(expression, str) or len(expression) > LONGEST_EXPRESSION:
        return False
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return _is_arithmetic(tree)


def _is_arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=bool() | int() as value):
            return abs(value) < 2**63
        case ast.Name(id=name):
            return _SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _is_arithmetic(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as power)):
            return 0 <= power <= 8 and _is_arithmetic(left)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            return _is_arithmetic(left) and _is_arithmetic(right)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)], keywords=assumptions):
            plain = all(isinstance(entry.value, ast.Constant) and entry.arg is not None for entry in assumptions)
            return plain and _SYMBOL.fullmatch(name) is not None
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
            return function in _FUNCTIONS - {"Symbol"} and all(_is_arithmetic(argument) for argument in arguments)
        case ast.Compare(left=left, ops=[_], comparators=[right]):
            return _is_arithmetic(left) and _is_arithmetic(right)
    return False


def _read(content: bytes) -> dict[str, bytes]:
    """Return the parts by their names below the archive's folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if not _is_single(content, archive):
            raise ValueError("it holds more than one archive")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise ValueError("a part of it is compressed or encrypted")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its parts overlap")
        parts: dict[str, bytes] = {}
        for entry in entries:
            name = entry.filename.partition("/")[2]
            if name in parts:
                raise ValueError(f"its part '{name}' occurs twice")
            if name not in (*FIXED, MODEL, *CONFIGS.values()) and not (
                _TENSOR.fullmatch(name) or _IGNORED.fullmatch(name)
            ):
                raise ValueError(f"it holds '{_shown(name)}', which no student needs")
            try:
                parts[name] = archive.read(entry)
            except zipfile.BadZipFile:
                raise ValueError(f"its part '{name}' is damaged") from None
    for name, expected in FIXED.items():
        if name not in parts:
            raise ValueError(f"it has no '{name}'")
        if parts[name] != expected and name != ".data/version":
            raise ValueError(f"its '{name}' is not {expected.decode()!r}" if expected else "it holds pickled inputs")
    return parts


def _is_single(content: bytes, archive: zipfile.ZipFile) -> bool:
    """Say whether the file is one archive from its first byte to its last, whose end says where its contents begin."""
    signature, *_, start, comment = struct.unpack("<4sHHHHLLH", content[-22:])
    starts = (archive.start_dir, 0xFFFFFFFF)  # the latter in archives of 4 GiB and more
    first = min((entry.header_offset for entry in archive.infolist()), default=0)
    return signature == b"PK\x05\x06" and comment == 0 and start in starts and first == 0


def _json(parts: dict[str, bytes], name: str) -> dict[str, Any]:
    if name not in parts:
        raise ValueError(f"it has no '{name}'")
    if len(parts[name]) > LARGEST_JSON:
        raise ValueError(f"its '{name}' is larger than {LARGEST_JSON} bytes")
    found = json.loads(parts[name])
    if not isinstance(found, dict):
        raise ValueError(f"its '{name}' is not a mapping")
    return found


def _dump(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _payloads(config: dict[str, Any], kind: str, parts: dict[str, bytes]) -> list[str]:
    """Check the description of an archive's weights or constants; return the parts that hold their bytes."""
    if set(config) != {"config"} or not isinstance(config["config"], dict):
        raise ValueError(f"its list of {kind}s is damaged")
    folder = CONFIGS[kind].rpartition("/")[0]
    used: dict[str, None] = {}
    for name, entry in config["config"].items():
        if not _STATE.fullmatch(name):
            raise ValueError(f"'{_shown(name)}' is not the name of a tensor")
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise ValueError(f"its {kind}s are pickled")
        path = f"{folder}/{entry.get('path_name')}"
        if not (_TENSOR.fullmatch(path) and path in parts):
            raise ValueError(f"its {kind} '{name}' has no bytes")
        meta = entry.get("tensor_meta")
        if not isinstance(meta, dict):
            raise ValueError(f"its {kind} '{name}' has no shape")
        sizes = [size.get("as_int") for size in meta["sizes"]]
        if not all(type(size) is int and size >= 0 for size in sizes) or (parts[path] == b"" and 0 not in sizes):
            raise ValueError(f"its {kind} '{name}' has no shape")
        _check_texts({"tensor_meta": meta})
        used[path] = None
    return list(used)


def _check_graph(model: dict[str, Any]) -> None:
    if any(symbol for symbol in model.get("range_constraints", {}) if not _SYMBOL.fullmatch(symbol)):
        raise ValueError("its ranges are of no sizes")
    _check_texts(model)


def _check_texts(value: Any, key: str = "") -> None:
    """Check every text and every number of a graph, each by the key that it is found under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{_shown(name)}' is not a name")
            if name in _REFUSED:
                raise ValueError(f"it holds '{name}'")
            if name in _EMPTY and inner:
                raise ValueError("it holds code" if name == "guards_code" else f"it holds {name}")
            if name == "target" and not is_allowed(inner):
                raise ValueError(f"it calls '{_shown(inner)}', which is not an operator that a student needs")
            if name == "expr_str" and not is_size(inner):
                raise ValueError(f"'{_shown(inner)}' is no size")
            _check_texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner, key)
    elif isinstance(value, str):
        _check_text(value, key)
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("a number in it is too large")


def _check_text(text: str, key: str) -> None:
    if key in ("target", "expr_str"):
        return  # checked where they were found
    if key in ("in_spec", "out_spec"):
        _, spec = json.loads(text)
        _check_tree(spec)
    elif key == "type":
        if text != "cpu":
            raise ValueError(f"it runs on '{_shown(text)}'")
    elif key in ("parameter_name", "buffer_name", "tensor_constant_name", "fqn"):
        if text and not _STATE.fullmatch(text):
            raise ValueError(f"'{_shown(text)}' is not the name of a tensor")
    elif key in ("as_string", "as_strings"):
        if not _TEXT.fullmatch(text):
            raise ValueError(f"it holds the text '{_shown(text)}'")
    elif key in ("as_float", "as_floats", "as_float_lists", "real", "imag"):
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"'{_shown(text)}' is not a number")
    elif key == "torch_version":
        if not _VERSION.fullmatch(text):
            raise ValueError("its version is not one of torch")
    elif key == "verifiers":
        if text not in ("", "ATEN", "TRAINING"):
            raise ValueError(f"it is of the dialect '{_shown(text)}'")
    elif not _NAME.fullmatch(text) or keyword.iskeyword(text):
        # Names become identifiers of the Python source that torch writes for a graph.
        raise ValueError(f"'{_shown(text)}' is not a name")


def _check_tree(spec: Any) -> None:
    """Check the structure of inputs or outputs: tuples, lists and dicts of tensors, keys as plain text."""
    if spec["type"] not in (None, "builtins.tuple", "builtins.list", "builtins.dict"):
        raise ValueError("its inputs or outputs are of a kind of their own")
    context = spec["context"]
    keys = json.loads(context) if isinstance(context, str) else context
    if keys is not None and not (isinstance(keys, list) and all(type(entry) in (str, int) for entry in keys)):
        raise ValueError("its inputs or outputs are of a kind of their own")
    if any(isinstance(entry, str) and not _NAME.fullmatch(entry) for entry in keys or []):
        raise ValueError("its inputs or outputs are of a kind of their own")
    for inner in spec["children_spec"]:
        _check_tree(inner)


def _shown(text: Any) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in str(text))
    return shown if len(shown) <= 80 else shown[:79] + "…"
