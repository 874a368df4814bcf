"""The operations under pytest-benchmark: python -m pytest benchmarks, from a clone."""
