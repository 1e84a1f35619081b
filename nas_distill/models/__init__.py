"""Builders: from the parameters of an architecture to a torch module."""
