"""Parts of benchmarks/inherit.py."""
