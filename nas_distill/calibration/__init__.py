"""Calibration: how well short scores predict quality after full distillation, and what follows for a search."""
