"""Shared foundations: errors, files, seeds, devices, references to user code, layers of networks."""
