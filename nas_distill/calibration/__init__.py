"""The calibration study: how well short scores predict quality after full distillation, and advice for a search."""
