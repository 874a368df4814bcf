"""Operations touch their results only: no byte around an array, no argument, not the floating-point environment."""

from __future__ import annotations

import itertools
import sys
import tracemalloc

import numpy as np
import pytest
from fences import needs_mprotect
from helpers import MALLOC, SEES_PEAKS, assert_same_bits, in_wider_rows, output_of, run_python
from operations import MIXED, Kind
from regimes import EDGE_COLS, computed

import fastln

pytestmark = [pytest.mark.once_per_kernel, pytest.mark.once_per_width]

SENTINEL = 0xA5

GUARD_PAGES = r"""
import itertools, sys
import numpy as np
import fastln
from fences import Room
from helpers import assert_all_same_bits
from internals import stream_bytes
from operations import OPERATIONS

kernel, isa, dtype = OPERATIONS[sys.argv[1]], sys.argv[2], np.dtype(sys.argv[3])
operations = [operation for operation in OPERATIONS.values() if kernel.name in (operation.name, operation.kernel)]
fastln.set_isa(isa)
base = kernel.base
rooms = {name: Room(33 * 1100 * 8) for name in (*kernel.arguments, *kernel.buffers)}
if sys.argv[4:] == ["touch the fence"]:
    rooms[base].touch_the_fence()

masks = itertools.cycle(kernel.masks or [None])  # take turns: what is masked off need not be read
places = itertools.cycle(itertools.product(kernel.in_place, kernel.buffers))


def check(operation, arguments, at_end, gap, stream):
    expected = operation(**arguments)
    shape = arguments[base].shape
    gaps = {name: gap for name, value in arguments.items() if value is not None and value.shape == shape}
    fenced = {
        name: value if value is None else rooms[name].place(value, at_end, gaps.get(name, 0))
        for name, value in arguments.items()
    }
    out = {name: rooms[name].place(np.zeros_like(arguments[base]), at_end, gap) for name in kernel.buffers}
    mask = next(masks)
    replaced, buffer = next(places)
    with stream_bytes(0 if stream else 1 << 56):
        for options in ({}, {"output_mask": mask} if mask else {}, out, {buffer: fenced[replaced]}):
            found = operation(**fenced, **options)
            assert_all_same_bits(found, {name: expected[name] for name in found}, list(options))


# Rows, the gap between them, and widths: 16 and 8 rows at a time, blocks of rows; then those that go past the cache.
cases = [("mean 10", rows, gap, range(1, 131)) for rows, gap in ((1, 0), (2, 0), (5, 0), (8, 0), (33, 0), (3, 7))]
cases += [("mean 10", rows, gap, range(1, 67)) for rows, gap in ((17, 0), (19, 7))]
cases += [("huge", 2, 0, range(1, 131))] if "huge" in kernel.regimes else []
streamed = [("mean 10", rows, 0, (256, 257, 272, 768, 1040)) for rows in (1, 2, 9, 17)]
for stream, (label, rows, gap, widths) in itertools.chain(
    itertools.product((False,), cases), itertools.product((True,), streamed)
):
    for cols in widths:
        arguments = kernel.make(label, rows, cols, dtype)
        for operation, absent, at_end in itertools.product(operations, kernel.absences, (True, False)):
            if operation is not kernel and rows != 5:  # the same loops: some of them are enough
                continue
            where = f"{operation} {label} rows={rows} gap={gap} D={cols} without {absent}, stream {stream}"
            print(where, "end" if at_end else "start", flush=True)
            check(operation, arguments | dict.fromkeys(absent), at_end, gap, stream)
print("done")
"""


@needs_mprotect
def test_nothing_is_touched_before_or_after_the_arrays(operation, isa, dtype):
    done = run_python(GUARD_PAGES, operation, isa, dtype)
    last = done.stdout.splitlines()[-1] if done.stdout else "the start"
    assert done.returncode == 0, f"exit status {done.returncode} at {last}\n{done.stderr[-3000:]}"
    assert last == "done"


@needs_mprotect
def test_the_guard_pages_do_guard():
    done = run_python(GUARD_PAGES, "layer_norm_forward", fastln.get_isa(), "float32", "touch the fence")
    assert done.returncode < 0, "reading the fence must end the process by a signal"


@pytest.mark.parametrize("gap", [0, 1, 9])
def test_bytes_around_buffers_stay_as_they_are(operation, absent, gap, dtype, isa, always_parallel):
    for rows, cols in itertools.product((7, 33), EDGE_COLS):
        arguments = operation.make(MIXED, rows, cols, dtype, absent)
        before = {name: value.copy() for name, value in arguments.items() if value is not None}
        rooms = {name: np.full((rows + 2, cols + gap + 2), 0, dtype) for name in operation.buffers}
        for room in rooms.values():
            room.view(np.uint8)[...] = SENTINEL
        out = {name: room[1:-1, 1 : 1 + cols] for name, room in rooms.items()}
        operation(**arguments, **out, num_threads=3)
        untouched = np.ones((rows + 2, cols + gap + 2), bool)
        untouched[1:-1, 1 : 1 + cols] = False
        for room in rooms.values():
            assert (np.ascontiguousarray(room[untouched]).view(np.uint8) == SENTINEL).all(), f"rows={rows}, D={cols}"
        for name, value in before.items():
            assert_same_bits(arguments[name], value, f"{name}, rows={rows}, D={cols}")


def test_arguments_are_left_alone_and_may_be_read_only(operation, absent, dtype, isa, always_parallel):
    arguments = operation.make(MIXED, 40, 65, dtype, absent)
    before = {name: value.copy() for name, value in arguments.items() if value is not None}
    masks = [{"output_mask": mask} for mask in operation.masks] or [{}]
    for options, threads in itertools.product(masks, (1, 3)):
        operation(**arguments, **options, num_threads=threads)
    for name, value in before.items():
        assert_same_bits(arguments[name], value)
        arguments[name].flags.writeable = False
    operation(**arguments)


@pytest.mark.parametrize("layout", [np.copy, in_wider_rows])
def test_no_call_makes_an_array_of_its_rows(operation, absent, layout, dtype):
    """Where results have buffers, memory is allocated for parameters and statistics alone, of whatever dtype."""
    arguments = operation.make("normal", 300, 1000, dtype, absent)
    by_row = [name for name in operation.by_row if arguments.get(name) is not None]
    arguments |= {name: layout(arguments[name]) for name in by_row if operation.arguments[name] is Kind.ROWS}
    buffers = {name: layout(np.zeros((300, 1000), dtype)) for name in operation.buffers}
    weight = arguments["weight"]
    calls = [buffers, buffers if weight is None else {**buffers, "weight": weight.astype(computed(dtype))}]
    own = [arguments[name] for name in operation.in_place if arguments[name] is not None]
    calls += [dict(zip(buffers, places, strict=True)) for places in itertools.permutations(own, len(buffers))]
    operation(**arguments, **buffers)  # the first call of a process may import something
    for call in calls:
        tracemalloc.start()
        try:
            operation(**{**arguments, **call}, num_threads=1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 300 * 1000 * dtype.itemsize / 10, [*call]


PEAKS = r"""
import numpy as np
from helpers import growth_of_peak
from operations import OPERATIONS

for operation in OPERATIONS.values():
    for rows, cols in ((4096, 512), (3, 700_000)) if operation.kernel is None else ():
        arguments = operation.make("normal", rows, cols, np.dtype(np.float32))
        buffers = {name: np.zeros((rows, cols), np.float32) for name in operation.buffers}

        def call(times):
            for _ in range(times):
                operation(**arguments, **buffers, num_threads=2)

        call(1)  # threads and their stacks
        print(operation.name, cols, growth_of_peak(lambda: call(50)))
"""


@pytest.mark.skipif(not SEES_PEAKS, reason="reads what Linux says of a process")
def test_no_call_takes_or_keeps_memory_that_python_does_not_see():
    """Chunks of rows and totals over them, rows in segments, columns: whichever way, what is allocated is little.

    The size of x is 8 MiB. Of 50 calls, what one of them kept would show: of 4096x512 the totals are 128 KiB at least.
    """
    lines = [line.split() for line in output_of(PEAKS, **MALLOC).splitlines()]
    assert len(lines) >= 8
    for name, cols, growth in lines:
        gradients_of_parameters = 2 * int(cols) * 4 / 1024  # which are returned
        assert int(growth) < 2048 + gradients_of_parameters, (name, cols)


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
import itertools
import numpy as np
import fastln
from internals import set_min_parallel_bytes
from operations import OPERATIONS
from regimes import REGIMES

set_min_parallel_bytes(0)
operation, isa, dtype = OPERATIONS[sys.argv[1]], sys.argv[2], np.dtype(sys.argv[3])
fastln.set_isa(isa)
serious = 0x01 | 0x04 | 0x08 if platform.machine() == "x86_64" else 0x07  # invalid, divide by zero, overflow
before = control()
for label, cols in itertools.product(dict.fromkeys((*REGIMES, *operation.regimes)), (1, 5, 16, 65, 768)):
    arguments = operation.make(label, 6, cols, dtype)
    for threads in (1, 2):
        libm.feclearexcept(serious)
        operation(**arguments, num_threads=threads)
        assert control() == before, (label, cols, before, control())
        if label in ("normal", "mean 1e5", "lognormal") and threads == 1:
            assert libm.fetestexcept(serious) == 0, (label, cols, "raised a flag for ordinary numbers")
nan = {name: np.full_like(value, np.nan) for name, value in operation.make("normal", 3, 70, dtype).items()}
for name in operation.in_place:
    operation(**nan, out=nan[name])
for bad in ({"normalized_shape": 71}, {"weight": nan[operation.base]}, {"num_threads": 0}):
    try:
        operation(**nan | bad)
    except ValueError:
        pass
    else:
        raise AssertionError(bad)
assert control() == before, (before, control())
"""
)


@needs_libm
def test_calls_leave_the_floating_point_environment_alone(operation, isa, dtype):
    output_of(FP_CALLS, operation, isa, dtype, OMP_WAIT_POLICY="passive")
