"""Batch-norm statistics of modules that are fed by the teacher's activations."""

from __future__ import annotations

from torch import nn

from nas_distill.cut.statistics import batch_norms


def train_norms_alone(module: nn.Module) -> None:
    """Let only batch norms go by the batch: dropout would only disturb a regression on the teacher's activations."""
    module.eval()
    for norm in batch_norms([module]):
        norm.train()
