"""Losses by name, one method per file; a user's own by ``package.module:name``."""

from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import LossSpec, find_loss, loss, loss_names

__all__ = ["Batch", "Loss", "LossSpec", "Outputs", "Shapes", "find_loss", "loss", "loss_names"]
