"""What the pytest-benchmark suites share: a benchmark for each contender and shape, with what is needed to judge it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .. import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

import fastln

from ..contenders import CONTENDERS, RefusedError
from ..grid import shapes
from ..grid.arrays import make_arrays
from ..grid.cells import DTYPES, Cell, available_cpus
from ..grid.errors import exact_outputs
from ..operations import OPERATIONS
from ..shown.units import gigabytes_per_second


def pytest_generate_tests(metafunc):
    """A benchmark of each contender in each cell; shapes are tiny where nothing is timed."""
    if "contender" not in metafunc.fixturenames:
        return
    timed = not metafunc.config.getoption("benchmark_disable")
    chosen = shapes.QUICK if timed else shapes.TINY
    metafunc.parametrize("operation", OPERATIONS)
    metafunc.parametrize("contender", CONTENDERS, ids=lambda contender: contender.key)
    metafunc.parametrize("shape", chosen, ids=lambda shape: f"{shape.rows}x{shape.cols}")
    metafunc.parametrize("dtype", DTYPES[:1] if timed else DTYPES)
    metafunc.parametrize("threads", sorted({1, available_cpus()}))


def pytest_collection_modifyitems(items):
    """Libraries may warn: what is theirs is not an error here."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def run_cell(benchmark, operation, contender, shape, dtype, threads):
    """run_cell() checks the contender's result, then times it."""

    def run():
        if reason := contender.missing():
            pytest.skip(f"{contender.name}: {reason}")
        cell = Cell(operation, *shape, dtype, threads)
        arrays = make_arrays(cell)
        contender.set_threads(threads)
        try:
            prepared, error = contender.prepare_checked(arrays, exact_outputs(arrays))
        except RefusedError as refusal:
            if refusal.error is not None and not contender.needs:
                raise
            pytest.skip(f"{contender.name}: {refusal}")
        benchmark.group = str(cell)
        with prepared.within():
            benchmark(prepared.call)
        benchmark.extra_info.update(
            operation=operation,
            contender=contender.name,
            rows=cell.rows,
            cols=cell.cols,
            dtype=dtype,
            isa=fastln.get_isa(),
            threads=threads,
            bytes_moved=cell.bytes_moved,
            largest_error=error,
        )
        if not benchmark.disabled:
            benchmark.extra_info["GB/s"] = gigabytes_per_second(cell.bytes_moved, benchmark.stats.stats.median)

    previous = fastln.get_num_threads()
    yield run
    fastln.set_num_threads(previous)
