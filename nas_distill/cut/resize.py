"""What a module keeps besides its tensors about how many channels it has, set to what is left of them."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nas_distill.cut.plan import Side


def resize(root: nn.Module, name: str, side: Side, left: int) -> None:
    """Set the attributes of a module, one of whose sides has ``left`` channels now."""
    try:
        module = root.get_submodule(name)
    except AttributeError:
        return  # a parameter by itself
    if isinstance(module, _ConvNd):
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


def _convolution(module: _ConvNd, side: Side, left: int) -> None:
    if side == "in":
        module.in_channels = left
    elif module.groups == 1:
        module.out_channels = left
    else:  # whole groups are cut
        module.in_channels = module.in_channels * left // module.out_channels
        module.groups = module.groups * left // module.out_channels
        module.out_channels = left
