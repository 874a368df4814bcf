"""Results that go past the cache: the same bits; test_memory.py sees to it that nothing else is touched."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from helpers import assert_all_same_bits, at_offset, in_wider_rows, output_of, run_python, without_nan
from internals import config, get_stream_bytes, stream_bytes
from regimes import make_rows

pytestmark = [pytest.mark.once_per_kernel, pytest.mark.once_per_width]

# Short rows of whole cache lines; from the shortest that need not be; more than one tree or block.
COLS = (16, 17, 32, 64, 127, 128, 255, 256, 257, 272, 300, 512, 768, 1000, 1040, 2100, 4090, 4096, 4112, 8200)
ROWS = (1, 2, 3, 7, 8, 9, 16, 33)
LABEL = "mean 10"
NEVER = 1 << 56


def moved(operation, arguments, start):
    """The same arguments; those by row begin so many elements into a line of the cache."""
    by_row = [name for name in operation.by_row if arguments.get(name) is not None]
    return arguments | {name: at_offset(arguments[name], start) for name in by_row}


@pytest.mark.parametrize("cols", COLS)
def test_streamed_results_have_the_same_bits(operation, cols, dtype, isa):
    masks = [{"output_mask": mask} for mask in operation.masks if mask[0]] or [{}]
    for (turn, rows), start in itertools.product(enumerate(ROWS), (0, 4)):
        absent = operation.absences[(turn + start // 4) % len(operation.absences)]
        arguments = operation.make(LABEL, rows, cols, dtype, absent)
        given = moved(operation, arguments, start)
        wide = {**arguments, operation.base: in_wider_rows(arguments[operation.base], 16)}
        with stream_bytes(NEVER):
            expected = operation(**arguments)
        with stream_bytes(0):
            for out_start, options in itertools.product((0, 4, 12), masks):
                found = operation.into(partial(at_offset, elements=out_start), given, **options)
                assert_all_same_bits(found, {name: expected[name] for name in found}, f"rows={rows}, {options}")
            found = operation.into(partial(in_wider_rows, gap=16), wide)
            assert_all_same_bits(found, expected, f"rows={rows}, wide")


@pytest.mark.parametrize("cols", [32, 128, 200, 257, 768, 1000])
def test_rows_out_of_the_ordinary_among_streamed_ones_have_the_same_bits(operation, cols, dtype, isa):
    """These are written by other means, between lines that two rows share."""
    data = operation.data("normal", 23, cols, dtype)
    operation.change_rows(data, [0, 5], lambda rows: 3)
    nan = dtype.type(np.nan)
    operation.change_rows(data, 2, lambda row: np.where(np.arange(cols) == cols // 2, nan, row))
    operation.change_rows(data, 7, lambda row: make_rows("tiny", 1, cols, dtype)[0])
    operation.change_rows(data, slice(12, 15), lambda rows: 0)
    operation.change_rows(data, 22, lambda row: make_rows("huge", 1, cols, dtype)[0])
    arguments = operation.complete(data)
    expected = all_without_nan(operation(**arguments))
    with stream_bytes(0):
        for start in (0, 4, 12):
            found = operation.into(partial(at_offset, elements=start), moved(operation, arguments, start))
            assert_all_same_bits(all_without_nan(found), expected)


def all_without_nan(results):
    """The same without NaN, by name."""
    return {name: without_nan(one) for name, one in results.items()}


@pytest.mark.parametrize("threads", [2, 3])
def test_streams_of_several_threads_have_the_same_bits(operation, threads, dtype, always_parallel):
    arguments = operation.make(LABEL, 300, 768, dtype)
    expected = operation(**arguments, num_threads=1)
    with stream_bytes(0):
        for start in (0, 4):
            given = moved(operation, arguments, start)
            assert_all_same_bits(operation(**given, num_threads=threads), expected)
            found = operation.into(partial(at_offset, elements=start), given, num_threads=threads)
            assert_all_same_bits(found, expected)


@pytest.mark.parametrize("cols", [16400, 65553])
def test_a_streamed_row_of_several_threads_has_the_same_bits(operation, cols, dtype, isa, always_parallel):
    arguments = operation.make(LABEL, 1, cols, dtype)
    with stream_bytes(NEVER):
        expected = operation(**arguments, num_threads=1)
    with stream_bytes(0):
        for threads, start in itertools.product((2, 3), (0, 4)):
            given = moved(operation, arguments, start)
            found = operation.into(partial(at_offset, elements=start), given, num_threads=threads)
            assert_all_same_bits(found, expected)


def test_streaming_in_place_has_the_same_bits(operation, replaced, buffer, dtype, isa):
    arguments = operation.make(LABEL, 9, 768, dtype)
    expected = operation(**arguments)
    with stream_bytes(0):
        given = {**arguments, replaced: arguments[replaced].copy()}
        assert_all_same_bits(operation.in_the_place_of(replaced, given, buffer), expected)


def test_the_default_comes_from_the_cache():
    with stream_bytes(None):
        assert get_stream_bytes() >= 1 << 16
        assert config()["runtime"]["stream_bytes"] == get_stream_bytes()


def test_the_environment_sets_the_size():
    code = "from internals import get_stream_bytes; print(get_stream_bytes())"
    assert output_of(code, FASTLN_STREAM_BYTES="12345") == "12345"


@pytest.mark.parametrize("value", ["-1", "1e6", "many", "9" * 30])
def test_a_bad_size_in_the_environment_is_an_import_error(value):
    done = run_python("import fastln", FASTLN_STREAM_BYTES=value)
    assert done.returncode == 1
    assert f"FASTLN_STREAM_BYTES must be a number of bytes below 10**18, got '{value}'" in done.stderr
