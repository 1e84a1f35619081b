"""Allocation: which widths and blocks of a teacher to keep within a budget, judged before any training."""
