"""Deployment runtimes, one per file: export, loading, execution and timing of networks."""

from nas_distill.costs.runtimes.runtime import DEFAULT, Runtime, find_runtime, runtime_names

__all__ = ["DEFAULT", "Runtime", "find_runtime", "runtime_names"]
