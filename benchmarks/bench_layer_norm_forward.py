"""The forward pass under pytest-benchmark: python -m pytest benchmarks, from a clone."""

from .cells import FORWARD


def bench_layer_norm_forward(run_cell):
    """Every contender on every shape, grouped by shape."""
    run_cell(FORWARD)
