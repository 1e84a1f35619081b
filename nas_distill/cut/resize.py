"""What a module keeps besides its tensors about how many channels or heads it has."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nas_distill.cut.plan import Side

_COUNTS = ("num_heads", "num_attention_heads", "num_key_value_heads", "n_heads", "n_head", "nheads", "heads")
_WIDTHS = ("all_head_size", "inner_dim", "attn_dim")


def size_of(module: nn.Module, side: Side) -> int:
    """Return how many channels (or heads) a module has on one side; 0 for what is not known."""
    if isinstance(module, nn.MultiheadAttention):
        result: int = module.embed_dim if side == "in" else 3 * module.num_heads * module.head_dim
        return result
    if isinstance(module, _ConvNd):
        return module.in_channels if side == "in" else module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if isinstance(module, _NormBase):
        return module.num_features
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    if isinstance(module, nn.RNNBase):
        return (
            module.input_size if side == "in" else (1 + module.bidirectional) * (module.proj_size or module.hidden_size)
        )
    return heads_of(module)


def resize(module: nn.Module, side: Side, left: int) -> None:
    """Set the attributes of a module, one of whose sides has ``left`` channels (or heads) now."""
    if isinstance(module, nn.MultiheadAttention):
        if side == "in":
            module.embed_dim = module.kdim = module.vdim = left
        else:
            module.num_heads = left // (3 * module.head_dim)
    elif isinstance(module, _ConvNd):
        _convolution(module, side, left)
    elif isinstance(module, nn.Linear):
        setattr(module, "in_features" if side == "in" else "out_features", left)
    elif isinstance(module, _NormBase):
        module.num_features = left
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], left)
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups > 1:  # whole groups are cut, so each keeps its number of channels
            module.num_groups = left * module.num_groups // module.num_channels
        module.num_channels = left
    elif isinstance(module, nn.PReLU):
        module.num_parameters = left
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = left
    elif isinstance(module, nn.RNNBase):
        module.input_size = left
    else:
        _heads(module, left)


def heads_of(module: nn.Module) -> int:
    """Return how many heads a module says that it has; 0 if it says nothing, or they are not all alike."""
    counts = {getattr(module, name) for name in _COUNTS if type(getattr(module, name, None)) is int}
    return counts.pop() if len(counts) == 1 else 0


def _heads(module: nn.Module, left: int) -> None:
    heads = heads_of(module)
    for name in _WIDTHS:
        if type(width := getattr(module, name, None)) is int:
            setattr(module, name, width * left // heads)
    for name in _COUNTS:
        if type(getattr(module, name, None)) is int:
            setattr(module, name, left)


def _convolution(module: _ConvNd, side: Side, left: int) -> None:
    if side == "in":
        module.in_channels = left
    elif module.groups == 1:
        module.out_channels = left
    else:  # whole groups are cut
        module.in_channels = module.in_channels * left // module.out_channels
        module.groups = module.groups * left // module.out_channels
        module.out_channels = left
