"""What benchmarks/inherit.py is made of."""
