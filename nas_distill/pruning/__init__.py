"""Structured pruning: students that are cut from the teacher and start with its weights."""
