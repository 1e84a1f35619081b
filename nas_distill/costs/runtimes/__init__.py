"""Deployment runtimes, one per file: how a network is written to a file, loaded, run and timed."""

from nas_distill.costs.runtimes.runtime import DEFAULT, Runtime, find_runtime, runtime_names

__all__ = ["DEFAULT", "Runtime", "find_runtime", "runtime_names"]
