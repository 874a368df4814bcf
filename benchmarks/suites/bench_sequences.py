"""Sequences under pytest-benchmark: every contender that runs a layer-normalized LSTM, and the floors."""

from __future__ import annotations

import pytest

import fastln

from ..contenders import RefusedError
from ..grid.cells import available_cpus
from ..sequences.cells import SEQUENCE, TRAINING, Cell, exact_outputs, make_arrays
from ..sequences.contenders import CONTENDERS

# So small that every contender can be run without being timed, and one that is worth timing.
TINY, TIMED = (3, 2, 16), (50, 8, 128)


@pytest.mark.parametrize("threads", sorted({1, available_cpus()}))
@pytest.mark.parametrize("sequences_of", CONTENDERS, ids=lambda contender: contender.key)
@pytest.mark.parametrize("work", [SEQUENCE, TRAINING])
def bench_sequence(benchmark, work, sequences_of, threads):
    """Every contender, grouped by work and threads."""
    if reason := sequences_of.missing():
        pytest.skip(f"{sequences_of.name}: {reason}")
    steps, batch, hidden = TINY if benchmark.disabled else TIMED
    cell = Cell(work, hidden, batch, threads, steps)
    arrays, before = make_arrays(cell), fastln.get_num_threads()
    sequences_of.set_threads(threads)
    try:
        prepared, error = sequences_of.prepare_checked(arrays, exact_outputs(arrays))
        benchmark.group = str(cell)
        benchmark(prepared.call)
        benchmark.extra_info.update(contender=sequences_of.name, largest_error=error)
    except RefusedError as refusal:
        if refusal.error is not None and not sequences_of.needs:
            raise
        pytest.skip(f"{sequences_of.name}: {refusal}")
    finally:
        fastln.set_num_threads(before)
