"""Samplers by name: built-in ones, and a user's own as ``package.module:name``."""

from nas_distill.engine.parameters import ArchitectureSampler
from nas_distill.engine.samplers import known_cost as known_cost  # registers itself
from nas_distill.engine.samplers import optuna_samplers as optuna_samplers  # registers its samplers
from nas_distill.engine.samplers.knowledge import Knowledge, Past, PastState
from nas_distill.engine.samplers.registry import WHERE, Sampler, find_sampler, sampler_names

__all__ = ["WHERE", "ArchitectureSampler", "Knowledge", "Past", "PastState", "Sampler", "find_sampler", "sampler_names"]
