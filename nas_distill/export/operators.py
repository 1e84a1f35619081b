"""Allow-list of the operators that a student's graph may call.

These are the operators of ATen that ``torch.export`` writes for networks in eval mode, and arithmetic on sizes. All of
them compute tensors from tensors. Operators that open files (``from_file``, ``save``), print, take or return Python
objects, or belong to another namespace are not in the list. Nor are operators that leave checking their arguments to
the functions of torch that call them (``_reshape_alias``, ``native_batch_norm``, ``_weight_norm``): called with other
arguments, they read and write memory outside of their tensors.
"""

from __future__ import annotations

import re

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
"""Overloads that write outside of their result for some arguments (negative repeats)."""

ATEN = frozenset(" ".join((_POINTWISE, _LAYERS, _SHAPES, _REDUCTIONS, _PRODUCTS, _NEW_TENSORS, _SIZES)).split())
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)
_ON_SIZES = re.compile(
    r"torch\.sym_(not|int|float|max|min|sum)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
)


def is_allowed(target: object) -> bool:
    """Say whether a graph may call ``target``, e.g. ``"torch.ops.aten.conv2d.default"``.

    An operator that works in place (``relu_``) is allowed where the one that does not is.
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
