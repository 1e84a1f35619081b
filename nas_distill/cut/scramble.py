"""Random weights for a network whose wiring is looked at."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def scramble(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all weights anew, in place: large enough to matter all, small enough that nothing overflows."""
    with torch.no_grad():
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is None or not weight.is_floating_point():
                    continue
                drawn = torch.randn(weight.shape, generator=generator)
                if weight.dim() > 1:
                    weight.copy_(drawn * math.sqrt(2 / max(1, weight[0].numel())))
                else:
                    weight.copy_(1 + 0.3 * drawn if name == "weight" else 0.3 * drawn)
            if isinstance(part, _NormBase) and part.running_var is not None and part.running_mean is not None:
                part.running_mean.copy_(0.3 * torch.randn(part.running_mean.shape, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=generator))
    return module
