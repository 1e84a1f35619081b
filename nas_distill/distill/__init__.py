"""Distillation: losses, objective, schedules and the training loop."""

from nas_distill.distill.distiller import Distiller

__all__ = ["Distiller"]
