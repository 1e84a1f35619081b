"""Random weights for a network whose wiring is looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from nas_distill.common.layers.hooks import Hooks


def scramble(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all weights anew, in place: none is zero, and what layers make is about as large as what they are given."""
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
    return module


@contextmanager
def settling(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """In the forward pass inside of the block, give batch norms statistics that fit what they are given.

    So what passes through a deep network neither grows nor fades, and each layer has its part in the output. The
    statistics differ between channels at random.
    """

    def settle(part: nn.Module, args: Any, kwargs: Any) -> None:
        assert isinstance(part, _NormBase)
        if part.running_mean is None or part.running_var is None:
            return
        mean, spread = float(args[0].mean()), max(float(args[0].std()), 1e-6)
        part.running_mean.copy_(mean + 0.3 * spread * torch.randn(part.running_mean.shape, generator=generator))
        part.running_var.copy_(spread**2 * (0.5 + torch.rand(part.running_var.shape, generator=generator)))

    with Hooks() as hooks:
        for part in module.modules():
            if isinstance(part, _NormBase):
                hooks.before(part, settle)
        yield
