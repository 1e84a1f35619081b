"""Blockwise distillation: alternatives of each block, trained separately and assembled."""
