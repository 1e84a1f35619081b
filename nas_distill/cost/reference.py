"""FLOPs as fvcore counts them: the definition of a multiply-add to which the project's own count is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas_distill.common.quiet import quiet
from nas_distill.cost.undisturbed import device_of, example, input_dtype, undisturbed

if TYPE_CHECKING:
    import torch
    from torch import nn

_ELEMENTWISE = (
    *("batch_norm", "group_norm", "layer_norm", "instance_norm", "upsample_nearest2d", "upsample_bilinear2d"),
    *("adaptive_avg_pool2d", "grid_sampler"),
)


def fvcore_flops(
    model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None
) -> tuple[int, frozenset[str]]:
    """Return fvcore's fused multiply-adds of one input of ``input_shape`` (without the batch), and what it left out.

    The second value names operations for which fvcore has no formula; attention and recurrent layers are among them,
    so ``count`` is higher where a model has any. Normalisation, interpolation and pooling count 0 here, as in
    ``count``; fvcore itself gives them a few operations per element. The model is left as it was.
    """
    with undisturbed(model), quiet(prints=False):
        from fvcore.nn import FlopCountAnalysis

        data = example(model, (1, *input_shape), input_dtype(model, dtype)).to(device_of(model))
        analysis = FlopCountAnalysis(model, data)
        analysis.set_op_handle(**{f"aten::{name}": _nothing for name in _ELEMENTWISE})
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.total()), frozenset(analysis.unsupported_ops())


def _nothing(inputs: object, outputs: object) -> int:
    return 0
