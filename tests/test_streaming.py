"""Results that go past the cache: the same bits, and nothing touched that is not the result's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fences import needs_mprotect
from helpers import assert_same_bits, at_offset, in_wider_rows, output_of, run_python
from reference import make_parameters, make_rows

import fastln
from fastln._core import effort

# Short rows of whole cache lines; from the shortest that need not be; more than one tree or block.
COLS = (16, 17, 32, 64, 127, 128, 255, 256, 257, 272, 300, 512, 768, 1000, 1040, 2100, 4090, 4096, 4112, 8200)
ROWS = (1, 2, 3, 7, 8, 9, 16, 33)


@pytest.fixture
def stream_bytes():
    """Sets the size from which results are streamed, for the time of a test."""
    previous = effort.set_stream_bytes(None)
    yield effort.set_stream_bytes
    effort.set_stream_bytes(previous)


@pytest.mark.parametrize("cols", COLS)
def test_streamed_rows_have_the_same_bits(cols, dtype, isa, stream_bytes):
    weight, bias = make_parameters(cols, dtype)
    for rows, start, out_start in itertools.product(ROWS, (0, 4), (0, 4, 12)):
        x = at_offset(make_rows("mean 10", rows, cols, dtype), start)
        out = at_offset(np.zeros_like(x), out_start)
        stream_bytes(1 << 56)
        expected = fastln.layer_norm(x, None, weight, bias)
        stream_bytes(0)
        assert_same_bits(fastln.layer_norm(x, None, weight, bias, out=out), expected)
        wide = in_wider_rows(x, 16)
        assert_same_bits(fastln.layer_norm(wide, None, weight, bias, out=in_wider_rows(x, 16)), expected)


@pytest.mark.parametrize("cols", COLS)
def test_streamed_gradients_have_the_same_bits(cols, dtype, isa, stream_bytes):
    weight, _ = make_parameters(cols, dtype)
    for rows, start in itertools.product(ROWS, (0, 4)):
        x, dy = make_rows("mean 10", rows, cols, dtype), make_rows("normal", rows, cols, dtype)
        _, mean, rstd = fastln.layer_norm_forward(x)
        out = at_offset(np.zeros_like(x), start)
        for w, mask in itertools.product(
            (weight, None), ((True, True, True), (True, False, True), (True, True, False))
        ):
            stream_bytes(1 << 56)
            expected = fastln.layer_norm_backward(dy, x, mean, rstd, w, output_mask=mask)
            stream_bytes(0)
            found = fastln.layer_norm_backward(dy, x, mean, rstd, w, output_mask=mask, out=out)
            for one, other in zip(found, expected, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert_same_bits(one, other)


@pytest.mark.parametrize("cols", [32, 128, 200, 257, 768, 1000])
def test_rows_out_of_the_ordinary_among_streamed_ones_have_the_same_bits(cols, dtype, isa, stream_bytes):
    """These are written by other means, between lines that two rows share."""
    x = make_rows("normal", 23, cols, dtype)
    x[0] = x[5] = 3
    x[2, cols // 2] = np.nan
    x[7] *= dtype.type(1e-30)
    x[12:15] = 0
    x[22] *= dtype.type(1e30)
    expected, mean, rstd = fastln.layer_norm_forward(x)
    dy = make_rows("normal", 23, cols, dtype)
    gradients = fastln.layer_norm_backward(dy, x, mean, rstd)
    stream_bytes(0)
    for start in (0, 4, 12):
        out = at_offset(np.zeros_like(x), start)
        assert_same_bits(fastln.layer_norm(at_offset(x, start), out=out), expected)
        found = fastln.layer_norm_backward(dy, x, mean, rstd, out=out)
        for one, other in zip(found, gradients, strict=True):
            assert np.array_equal(np.isnan(one), np.isnan(other))  # of NaN, the sign is free
            assert_same_bits(np.nan_to_num(one, nan=7), np.nan_to_num(other, nan=7))


@pytest.mark.parametrize("threads", [2, 3])
def test_streams_of_several_threads_have_the_same_bits(threads, dtype, stream_bytes, always_parallel):
    x, dy = make_rows("mean 10", 300, 768, dtype), make_rows("normal", 300, 768, dtype)
    x = at_offset(x, 4)
    y, mean, rstd = fastln.layer_norm_forward(x, num_threads=1)
    expected = fastln.layer_norm_backward(dy, x, mean, rstd, num_threads=1)
    stream_bytes(0)
    assert_same_bits(fastln.layer_norm(x, out=at_offset(np.zeros_like(x), 4), num_threads=threads), y)
    for one, other in zip(fastln.layer_norm_backward(dy, x, mean, rstd, num_threads=threads), expected, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("cols", [16400, 65553])
def test_a_streamed_row_of_several_threads_has_the_same_bits(cols, dtype, isa, stream_bytes, always_parallel):
    weight, bias = make_parameters(cols, dtype)
    for threads, start in itertools.product((2, 3), (0, 4)):
        x = at_offset(make_rows("mean 10", 1, cols, dtype), start)
        stream_bytes(1 << 56)
        expected = fastln.layer_norm(x, None, weight, bias, num_threads=1)
        stream_bytes(0)
        out = at_offset(np.zeros_like(x), start)
        assert_same_bits(fastln.layer_norm(x, None, weight, bias, out=out, num_threads=threads), expected)


def test_streaming_in_place_has_the_same_bits(dtype, isa, stream_bytes):
    x, dy = make_rows("mean 10", 9, 768, dtype), make_rows("normal", 9, 768, dtype)
    y, mean, rstd = fastln.layer_norm_forward(x)
    dx, _, _ = fastln.layer_norm_backward(dy, x, mean, rstd)
    stream_bytes(0)
    for out in (dy.copy(), x.copy()):
        arguments = (out, x) if np.array_equal(out, dy) else (dy, out)
        assert_same_bits(fastln.layer_norm_backward(*arguments, mean, rstd, out=out)[0], dx)
    assert_same_bits(fastln.layer_norm(x, out=x), y)


GUARD_PAGES = r"""
import sys
import numpy as np
import fastln
from fastln._core import effort
from fences import Room
from reference import make_parameters, make_rows

isa, dtype = sys.argv[1], np.dtype(sys.argv[2])
fastln.set_isa(isa)
effort.set_stream_bytes(0)
rooms = {name: Room(17 * 1100 * 8) for name in ("dy", "x", "out")}
for rows in (1, 2, 9, 17):
    for cols in (256, 257, 272, 768, 1040):
        for at_end in (True, False):
            print(f"rows={rows} D={cols} {'end' if at_end else 'start'}", flush=True)
            x, dy = make_rows("mean 10", rows, cols, dtype), make_rows("normal", rows, cols, dtype)
            expected, mean, rstd = fastln.layer_norm_forward(x)
            dx, _, _ = fastln.layer_norm_backward(dy, x, mean, rstd)
            fenced_x, fenced_dy = rooms["x"].place(x, at_end), rooms["dy"].place(dy, at_end)
            out = rooms["out"].place(np.zeros_like(x), at_end)
            assert fastln.layer_norm(fenced_x, out=out).tobytes() == expected.tobytes()
            fastln.layer_norm_backward(fenced_dy, fenced_x, mean, rstd, out=out)
            assert out.tobytes() == dx.tobytes()
print("done")
"""


@needs_mprotect
@pytest.mark.parametrize("dtype_name", ["float32", "float64"])
def test_streams_touch_nothing_before_or_after_the_arrays(isa, dtype_name):
    done = run_python(GUARD_PAGES, isa, dtype_name)
    assert done.returncode == 0, f"{done.stdout[-200:]}\n{done.stderr[-2000:]}"
    assert done.stdout.rstrip().endswith("done")


def test_the_default_comes_from_the_cache(stream_bytes):
    assert effort.get_stream_bytes() >= 1 << 16
    assert fastln._core.facts.config()["runtime"]["stream_bytes"] == effort.get_stream_bytes()


def test_the_environment_sets_the_size():
    code = "from fastln._core import effort; print(effort.get_stream_bytes())"
    assert output_of(code, FASTLN_STREAM_BYTES="12345") == "12345"


@pytest.mark.parametrize("value", ["-1", "1e6", "many", "9" * 30])
def test_a_bad_size_in_the_environment_is_an_import_error(value):
    done = run_python("import fastln", FASTLN_STREAM_BYTES=value)
    assert done.returncode == 1
    assert f"FASTLN_STREAM_BYTES must be a number of bytes, got '{value}'" in done.stderr
