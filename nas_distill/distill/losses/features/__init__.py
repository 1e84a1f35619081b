"""Losses on features: what a student's inner layers learn from its teacher's, one method a file."""
