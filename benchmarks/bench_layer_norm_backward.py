"""The backward pass under pytest-benchmark: python -m pytest benchmarks, from a clone."""

from .cells import BACKWARD


def bench_layer_norm_backward(run_cell):
    """Every contender on every shape, grouped by shape."""
    run_cell(BACKWARD)
