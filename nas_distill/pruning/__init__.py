"""Structured pruning: students that are pruned from the teacher and inherit its weights."""
