"""Auxiliary tasks: what a student learns of its inputs alone, through a head that is left behind."""
