"""Distillation: losses, schedules and the one training loop."""

from nas_distill.distill.distiller import Distiller

__all__ = ["Distiller"]
