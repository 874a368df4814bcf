"""layer_norm touches its arrays only: not the bytes around them, not the floating-point environment."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fences import needs_mprotect
from helpers import DTYPES, EDGE_COLS, output_of, run_python
from reference import COMBINATIONS, make_mixed_rows, make_parameters

import fastln

SENTINEL = 0xA5

GUARD_PAGES = r"""
import itertools, sys
import numpy as np
import fastln
from fences import Room
from reference import COMBINATIONS, make_parameters, make_rows

rooms = {name: Room(19 * 140 * 8) for name in ("x", "weight", "bias", "out")}


def check(cols, rows, combination, at_end, gap):
    x = make_rows(regime, rows, cols, dtype)
    given = make_parameters(cols, dtype)
    weight, bias = (p if use else None for p, use in zip(given, COMBINATIONS[combination]))
    expected = fastln.layer_norm_forward(x, None, weight, bias)
    fenced_weight = weight if weight is None else rooms["weight"].place(weight, at_end)
    fenced_bias = bias if bias is None else rooms["bias"].place(bias, at_end)
    fenced_x = rooms["x"].place(x, at_end, gap)
    out = rooms["out"].place(np.zeros_like(x), at_end, gap)
    fastln.layer_norm(fenced_x, None, fenced_weight, fenced_bias, out=out)
    assert out.tobytes() == expected[0].tobytes()
    results = fastln.layer_norm_forward(fenced_x, None, fenced_weight, fenced_bias, out=out)
    for actual, one in zip(results, expected):
        assert actual.tobytes() == one.tobytes()
    fastln.layer_norm(fenced_x, None, fenced_weight, fenced_bias, out=fenced_x)
    assert fenced_x.tobytes() == expected[0].tobytes()


isa, dtype = sys.argv[1], np.dtype(sys.argv[2])
fastln.set_isa(isa)
if sys.argv[3:] == ["touch the fence"]:
    rooms["x"].touch_the_fence()
cases = [(case, range(1, 131)) for case in (("normal", 1, 0), ("normal", 5, 0), ("normal", 3, 7), ("huge", 2, 0))]
cases += [(case, range(1, 67)) for case in (("normal", 17, 0), ("normal", 19, 7))]  # 16 and 8 at a time
for (regime, rows, gap), widths in cases:
    for cols, combination, at_end in itertools.product(widths, COMBINATIONS, (True, False)):
        where = f"{regime} rows={rows} gap={gap} D={cols} {combination} {'end' if at_end else 'start'}"
        print(where, flush=True)
        check(cols, rows, combination, at_end, gap)
print("done")
"""


@needs_mprotect
@pytest.mark.parametrize("dtype_name", DTYPES)
def test_nothing_is_touched_before_or_after_the_arrays(isa, dtype_name):
    done = run_python(GUARD_PAGES, isa, dtype_name)
    last = done.stdout.splitlines()[-1] if done.stdout else "the start"
    assert done.returncode == 0, f"exit status {done.returncode} at {last}\n{done.stderr[-3000:]}"
    assert last == "done"


@needs_mprotect
def test_the_guard_pages_do_guard():
    done = run_python(GUARD_PAGES, fastln.get_isa(), "float32", "touch the fence")
    assert done.returncode < 0, "reading the fence must end the process by a signal"


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("gap", [0, 1, 9])
def test_bytes_around_out_stay_as_they_are(gap, combination, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        x = make_mixed_rows(7, cols, dtype)
        weight, bias = (
            value if use else None
            for value, use in zip(make_parameters(cols, dtype), COMBINATIONS[combination], strict=True)
        )
        before = [None if array is None else array.copy() for array in (x, weight, bias)]
        buffer = np.full((9, cols + gap + 2), 0, dtype)
        buffer.view(np.uint8)[...] = SENTINEL
        untouched = np.ones(buffer.shape, bool)
        untouched[1:8, 1 : 1 + cols] = False
        fastln.layer_norm(x, None, weight, bias, out=buffer[1:8, 1 : 1 + cols], num_threads=3)
        assert (np.ascontiguousarray(buffer[untouched]).view(np.uint8) == SENTINEL).all(), f"D={cols}"
        for array, copy in zip((x, weight, bias), before, strict=True):
            assert array is None or array.tobytes() == copy.tobytes(), f"D={cols}"


# The control part of the floating-point environment: rounding, masks, flush-to-zero. Read through fegetenv,
# whose struct is known for the two architectures that have kernels; elsewhere only the rounding is read.
FP_STATE = r"""
import ctypes, ctypes.util, platform, struct, sys

libm = ctypes.CDLL(ctypes.util.find_library("m") or None)


def control():
    env = ctypes.create_string_buffer(256)
    if libm.fegetenv(env):
        raise OSError("fegetenv failed")
    state = [libm.fegetround()]
    if sys.platform == "linux" and platform.machine() == "x86_64":
        state.append(struct.unpack_from("<H", env.raw, 0)[0])           # x87 control word
        state.append(struct.unpack_from("<I", env.raw, 28)[0] & ~0x3F)  # MXCSR but its sticky flags
    elif sys.platform == "linux" and platform.machine() == "aarch64":
        state.append(struct.unpack_from("<I", env.raw, 0)[0])           # FPCR
    tiny = 5e-324
    state.append(tiny * 1.0 != 0 and 2.5e-310 / 2 != 0)
    return state
"""

needs_libm = pytest.mark.skipif(sys.platform == "win32", reason="needs fegetenv")


@needs_libm
def test_import_leaves_the_floating_point_environment_alone():
    code = FP_STATE + "before = control()\nimport fastln\nassert control() == before, (before, control())"
    output_of(code)


FP_CALLS = (
    FP_STATE
    + r"""
import threading
import numpy as np
import fastln
from fastln._core import effort
from reference import REGIMES, make_parameters, make_rows

effort.set_min_parallel_bytes(0)
fastln.set_isa(sys.argv[1])
dtype = np.dtype(sys.argv[2])
serious = 0x01 | 0x04 | 0x08 if platform.machine() == "x86_64" else 0x07  # invalid, divide by zero, overflow
before = control()
for regime in REGIMES:
    for cols in (1, 5, 16, 65, 768):
        x = make_rows(regime, 6, cols, dtype)
        for threads in (1, 2):
            libm.feclearexcept(serious)
            weight, bias = make_parameters(cols, dtype)
            y, mean, rstd = fastln.layer_norm_forward(x, None, weight, bias, num_threads=threads)
            fastln.layer_norm_backward(y, x, mean, rstd, weight, num_threads=threads)
            assert control() == before, (regime, cols, before, control())
            if regime in ("normal", "mean 1e5", "lognormal") and threads == 1:
                assert libm.fetestexcept(serious) == 0, (regime, cols, "raised a flag for ordinary numbers")
x = np.full((3, 70), np.nan, dtype)
fastln.layer_norm(x, out=x)
fastln.layer_norm_backward(x, x, x[:, :1], x[:, :1], out=x)
for bad in ({"eps": -1.0}, {"weight": x}, {"num_threads": 0}):
    try:
        fastln.layer_norm(x, **bad)
    except ValueError:
        pass
    else:
        raise AssertionError(bad)
assert control() == before, (before, control())
"""
)


@needs_libm
@pytest.mark.parametrize("dtype_name", DTYPES)
def test_calls_leave_the_floating_point_environment_alone(isa, dtype_name):
    output_of(FP_CALLS, isa, dtype_name, OMP_WAIT_POLICY="passive")


def test_subnormal_numbers_are_not_flushed(dtype, isa, always_parallel):
    x = make_mixed_rows(8, 64, dtype)
    for threads in (1, 2):
        fastln.layer_norm(x, num_threads=threads)
        smallest = np.finfo(dtype).smallest_subnormal
        assert (np.full(64, smallest) * dtype.type(1) != 0).all()
        # A subnormal weight on an otherwise ordinary row: the result is subnormal, and not zero.
        weight = np.full(64, np.finfo(dtype).tiny / 8, dtype)
        y = fastln.layer_norm(make_rows_of_two(dtype), None, weight, num_threads=threads)
        assert (np.abs(y) > np.finfo(dtype).tiny / 16).all()


def make_rows_of_two(dtype):
    """Rows of +1 and -1."""
    return np.tile(np.array([1, -1], dtype), (8, 32))
