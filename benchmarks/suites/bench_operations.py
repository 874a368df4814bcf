"""Every operation under pytest-benchmark: python -m pytest benchmarks, from a clone."""


def bench_operation(run_cell):
    """Every contender on every shape, grouped by operation and shape."""
    run_cell()
