"""Archives of ``torch.export``: an allow-list of operators, and copies that hold data only."""

from __future__ import annotations

import ast
import io
import json
import keyword
import re
import struct
import zipfile
from typing import Any

_POINTWISE = """
    abs acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip complex conj copysign cos cosh
    deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fill fix float_power floor floor_divide fmax fmin
    fmod frac ge gelu glu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot imag
    isfinite isinf isnan le leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2
    logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul multiply mvlgamma
    nan_to_num ne neg negative not_equal polar polygamma positive pow prelu rad2deg real reciprocal relu relu6 remainder
    round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink special_expit
    special_entr special_erf special_log1p special_logit special_xlogy sqrt square sub subtract tan tanh threshold
    true_divide trunc view_as_complex view_as_real where xlogy zero __and__ __or__ __xor__
"""
_LAYERS = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear binary_cross_entropy
    channel_shuffle conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    cosine_similarity dropout embedding embedding_bag feature_alpha_dropout feature_dropout group_norm gru gru_cell
    instance_norm im2col col2im layer_norm linear log_softmax logcumsumexp lstm lstm_cell max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
    max_unpool3d pairwise_distance pixel_shuffle pixel_unshuffle rms_norm rnn_relu rnn_relu_cell rnn_tanh
    rnn_tanh_cell scaled_dot_product_attention softmax unfold upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    affine_grid_generator grid_sampler grid_sampler_2d grid_sampler_3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    _convolution _log_softmax _softmax _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d
"""
_SHAPES = """
    alias atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat chunk clone column_stack concat
    concatenate constant_pad_nd contiguous copy detach diag diag_embed diagonal diagonal_scatter diff dsplit dstack
    expand expand_as expand_copy flatten flip fliplr flipud gather hsplit hstack index index_add index_copy
    index_fill index_put index_select kron lift lift_fresh lift_fresh_copy masked_scatter masked_select meshgrid
    moveaxis movedim mT mH matrix_H numpy_T narrow pad pad_sequence permute pin_memory ravel reflection_pad1d
    reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
    reshape reshape_as resolve_conj resolve_neg roll rot90 scatter scatter_add scatter_reduce select select_scatter
    slice slice_scatter split split_with_sizes squeeze stack sum_to_size swapaxes swapdims t take take_along_dim
    tensor_split tile to transpose tril triu type_as unbind unflatten unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze view view_as vsplit vstack _shape_as_tensor _to_copy _unsafe_view adjoint
    as_strided index_reduce
"""
_REDUCTIONS = """
    all amax amin aminmax any argmax argmin argsort bincount bucketize count_nonzero cummax cummin cumprod cumsum
    histc isclose isin kthvalue linalg_norm linalg_matrix_norm linalg_vector_norm logsumexp max mean median min mode
    msort nanmean nanmedian nansum nonzero norm prod quantile searchsorted sort std std_mean sum topk trace unique_dim
    var var_mean frobenius_norm nuclear_norm renorm equal allclose
"""
_PRODUCTS = """
    addbmm addmm addmv addr baddbmm bmm cdist chain_matmul cross dot einsum inner linalg_cross linalg_det linalg_inv
    linalg_matmul linalg_matrix_power linalg_multi_dot linalg_qr linalg_solve linalg_svd linalg_vecdot matmul
    matrix_power mm mv outer tensordot vdot fft_fft fft_fft2 fft_fftn fft_fftfreq fft_fftshift fft_hfft fft_ifft
    fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq
    fft_rfftn istft stft
"""
_NEW_TENSORS = """
    arange bartlett_window bernoulli blackman_window empty empty_like eye full full_like hamming_window hann_window
    kaiser_window linspace logspace multinomial new_empty new_full new_ones new_zeros normal normal_functional ones
    ones_like one_hot rand rand_like randint randint_like randn randn_like randperm scalar_tensor tril_indices
    triu_indices uniform vander zeros zeros_like
"""
_SIZES = """
    item numel size stride sym_numel sym_size sym_storage_offset sym_stride sym_constrain_range
    sym_constrain_range_for_size is_nonzero _assert_async _assert_scalar _assert_tensor_metadata _local_scalar_dense
"""

_UNCHECKED = {("repeat_interleave", "Tensor"), ("repeat_interleave", "self_Tensor")}
"""Overloads that write outside their result for some arguments (negative repeats)."""

ATEN = frozenset(" ".join((_POINTWISE, _LAYERS, _SHAPES, _REDUCTIONS, _PRODUCTS, _NEW_TENSORS, _SIZES)).split())
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)
_ON_SIZES = re.compile(
    r"torch\.sym_(not|int|float|max|min|sum)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
)


def is_allowed(target: object) -> bool:
    """Return whether a graph may call ``target``, e.g. ``"torch.ops.aten.conv2d.default"``.

    An in-place operator (``relu_``) is allowed if its out-of-place form is.
    """
    if not isinstance(target, str):
        return False
    if _ON_SIZES.fullmatch(target):
        return True
    found = _ATEN.fullmatch(target)
    if found is None:
        return False
    name, overload = found.groups()
    if (name, overload) in _UNCHECKED:
        return False
    in_place = name.endswith("_") and not name.endswith("__")
    return (name in ATEN or (in_place and name[:-1] in ATEN)) and "out" not in overload.split("_")


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
LONGEST_EXPRESSION = 2000  # characters; the stack needed for parsing grows with them

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
    """Return a new archive with the tensors and the graph of ``content`` only.

    Raises:
        ValueError: the archive is damaged, or contains anything that the graph of a student does not need.
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
    """Return whether a size, e.g. ``2*Symbol('s77', integer=True)``, is only arithmetic on symbols."""
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
    """Return the parts of an archive by their names below its folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if not _is_single(content, archive):
            raise ValueError("it contains more than one archive")
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
                raise ValueError(f"it contains '{_shown(name)}', which no student needs")
            try:
                parts[name] = archive.read(entry)
            except zipfile.BadZipFile:
                raise ValueError(f"its part '{name}' is damaged") from None
    for name, expected in FIXED.items():
        if name not in parts:
            raise ValueError(f"it has no '{name}'")
        if parts[name] != expected and name != ".data/version":
            raise ValueError(f"its '{name}' is not {expected.decode()!r}" if expected else "it contains pickled inputs")
    return parts


def _is_single(content: bytes, archive: zipfile.ZipFile) -> bool:
    """Return whether the file is a single archive from first to last byte, with its directory where its end says."""
    signature, *_, start, comment = struct.unpack("<4sHHHHLLH", content[-22:])
    starts = (archive.start_dir, 0xFFFFFFFF)  # the latter for archives of 4 GiB and more
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
    """Check the description of an archive's weights or constants; return the parts with their bytes."""
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
        raise ValueError("its ranges are not of sizes")
    _check_texts(model)


def _check_texts(value: Any, key: str = "") -> None:
    """Check all texts and numbers of a graph by the keys that they are stored under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{_shown(name)}' is not a name")
            if name in _REFUSED:
                raise ValueError(f"it contains '{name}'")
            if name in _EMPTY and inner:
                raise ValueError("it contains code" if name == "guards_code" else f"it contains {name}")
            if name == "target" and not is_allowed(inner):
                raise ValueError(f"it calls '{_shown(inner)}', which is not an operator that a student needs")
            if name == "expr_str" and not is_size(inner):
                raise ValueError(f"'{_shown(inner)}' is not a size")
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
        return  # checked in _check_texts
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
            raise ValueError(f"it contains the text '{_shown(text)}'")
    elif key in ("as_float", "as_floats", "as_float_lists", "real", "imag"):
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"'{_shown(text)}' is not a number")
    elif key == "torch_version":
        if not _VERSION.fullmatch(text):
            raise ValueError("its version is not a version of torch")
    elif key == "verifiers":
        if text not in ("", "ATEN", "TRAINING"):
            raise ValueError(f"its dialect is '{_shown(text)}'")
    elif not _NAME.fullmatch(text) or keyword.iskeyword(text):
        # Names become identifiers in the Python source that torch generates for a graph.
        raise ValueError(f"'{_shown(text)}' is not a name")


def _check_tree(spec: Any) -> None:
    """Check the structure of inputs or outputs: tuples, lists and dicts of tensors, with plain text as keys."""
    if spec["type"] not in (None, "builtins.tuple", "builtins.list", "builtins.dict"):
        raise ValueError("its inputs or outputs are not tuples, lists or dicts of tensors")
    context = spec["context"]
    keys = json.loads(context) if isinstance(context, str) else context
    if keys is not None and not (isinstance(keys, list) and all(type(entry) in (str, int) for entry in keys)):
        raise ValueError("its inputs or outputs are not tuples, lists or dicts of tensors")
    if any(isinstance(entry, str) and not _NAME.fullmatch(entry) for entry in keys or []):
        raise ValueError("its inputs or outputs are not tuples, lists or dicts of tensors")
    for inner in spec["children_spec"]:
        _check_tree(inner)


def _shown(text: Any) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in str(text))
    return shown if len(shown) <= 80 else shown[:79] + "…"
