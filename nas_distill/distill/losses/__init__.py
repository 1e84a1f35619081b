"""Every loss a student may be taught by, by name; `registry.py` finds them, `loss.py` says what one is."""

from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import LossSpec, find_loss, loss, loss_names

__all__ = ["Batch", "Loss", "LossSpec", "Outputs", "Shapes", "find_loss", "loss", "loss_names"]
