"""Batch-norm statistics of modules that are fed by the teacher's activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def train_norms_alone(module: nn.Module) -> None:
    """Let batch norms alone go by the batch: dropout would only disturb a regression on the teacher's activations."""
    module.eval()
    for norm in _norms([module]):
        norm.train()


@contextmanager
def anew(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Work out running means and variances anew from what passes meanwhile, all batches alike; then eval mode."""
    modules = list(modules)
    norms = [norm for norm in _norms(modules) if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for module in modules:
        module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.eval()


def _norms(modules: Iterable[nn.Module]) -> list[_BatchNorm]:
    return [part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)]
