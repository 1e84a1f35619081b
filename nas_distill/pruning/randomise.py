"""Random weights and fixed norm statistics, the conditions under which pruning groups are verified."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from nas_distill.utils.layers.hooks import Hooks


def randomise_weights(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all weights at random, in place: none is zero, and outputs of layers are about as large as their inputs."""
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
def fitting_statistics(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Fit the statistics of batch norms to their inputs in the forward pass inside of the ``with`` block.

    Activations of a deep network then neither grow nor vanish, and each layer has an effect on the output. The
    statistics of channels differ at random.
    """

    def fit(part: nn.Module, args: Any, kwargs: Any) -> None:
        assert isinstance(part, _NormBase)
        if part.running_mean is None or part.running_var is None:
            return
        mean, spread = float(args[0].mean()), max(float(args[0].std()), 1e-6)
        part.running_mean.copy_(mean + 0.3 * spread * torch.randn(part.running_mean.shape, generator=generator))
        part.running_var.copy_(spread**2 * (0.5 + torch.rand(part.running_var.shape, generator=generator)))

    with Hooks() as hooks:
        for part in module.modules():
            if isinstance(part, _NormBase):
                hooks.before(part, fit)
        yield


class WrittenNorm(NamedTuple):
    """An RMS norm that a module computes by itself: its epsilon, and what is added to its weight."""

    epsilon: float
    offset: float


def written_norm(module: nn.Module) -> WrittenNorm | None:
    """Return how ``module`` computes an RMS norm over the last dimension, as Llama's do; None for other modules."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.RMSNorm) or weight is None or weight.dim() != 1 or len(list(module.parameters())) > 1:
        return None
    x = torch.randn((2, 3, len(weight)), generator=torch.Generator().manual_seed(0)).to(weight)
    for epsilon in (value for value in vars(module).values() if type(value) is float):
        for offset in (0.0, 1.0):
            try:
                made, wanted = module(x), functional.rms_norm(x, weight.shape, weight + offset, epsilon)
            except Exception:
                return None
            if isinstance(made, Tensor) and made.shape == wanted.shape and torch.allclose(made, wanted, 1e-4, 1e-5):
                return WrittenNorm(epsilon, offset)
    return None


def _normalised(module: nn.Module, norm: WrittenNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        weight = module.get_parameter("weight")
        return functional.rms_norm(x, weight.shape, weight + norm.offset, norm.epsilon)

    return forward


class FixedNorms:
    """Layer norms whose mean and variance are replaced by one constant factor per call.

    All forward passes must be of one network, pruned or not: the factors are those of the first pass, in the order of
    calls. A group norm of several groups keeps its statistics, also if pruning leaves only one of its groups.

    Attributes:
        any: the network has such norms.
    """

    def __init__(self) -> None:
        self._factors: list[float | None] = []
        self._fitted = False
        self._written: dict[str, WrittenNorm] | None = None
        self.any = False

    @contextmanager
    def fixed(self, module: nn.Module) -> Iterator[None]:
        """Fix the statistics of one forward pass of ``module`` inside of the ``with`` block."""
        if not self._fitted:
            self._factors.clear()
        if self._written is None:
            self._written = {name: found for name, part in module.named_modules() if (found := written_norm(part))}
        with _Fixed(self), ExitStack() as stack:
            for name, part in module.named_modules():
                if name in self._written:
                    part.__dict__["forward"] = _normalised(part, self._written[name])
                    stack.callback(part.__dict__.pop, "forward")
            yield
        self._fitted = True

    def factor(self, call: int, input: Tensor, over_all: bool) -> float | None:
        """Return the factor by which call number ``call`` scales its input; None if it keeps its own statistics."""
        if not self._fitted:
            spread = float(input.double().std())
            self._factors.append(1 / max(spread, 1e-6) if over_all else None)
            self.any = self.any or over_all
        return self._factors[call]


class _Fixed(TorchFunctionMode):
    def __init__(self, norms: FixedNorms) -> None:
        super().__init__()
        self._norms, self._calls = norms, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _ARGUMENTS:
            return func(*args, **(kwargs or {}))
        given = dict(zip(_ARGUMENTS[func], args)) | (kwargs or {})
        input: Tensor = given["input"]
        maps = func is functional.group_norm
        factor = self._norms.factor(self._calls, input, not maps or given["num_groups"] == 1)
        self._calls += 1
        if factor is None:
            return func(**given)
        made = factor * input
        shape = (-1, *[1] * (input.dim() - 2)) if maps else None
        if (weight := given.get("weight")) is not None:
            made = made * (weight if shape is None else weight.view(shape))
        if (bias := given.get("bias")) is not None:
            made = made + (bias if shape is None else bias.view(shape))
        return made


_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    functional.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    functional.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
}
