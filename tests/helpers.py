"""What several test modules need: comparing bits, unusual memory, and Python in a fresh process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import fastln

# What a fresh process does not inherit, beside the counts of threads of all libraries: what MKL_NUM_THREADS says,
# PyTorch sets in libgomp as it is loaded.
OWN_SETTINGS = {"FASTLN_ISA", "FASTLN_MIN_PARALLEL_BYTES", "FASTLN_STREAM_BYTES", "OMP_WAIT_POLICY"}

# For growth_of_peak: whether the system can tell; and what has glibc give back what is freed, from so many bytes on.
SEES_PEAKS = os.access("/proc/self/clear_refs", os.W_OK)
MALLOC = {"MALLOC_MMAP_THRESHOLD_": 1 << 16}


def assert_same_bits(actual, expected, where=""):
    """Equal dtype, shape and bits (so that -0.0 differs from 0.0)."""
    assert actual.dtype == expected.dtype, where
    assert actual.shape == expected.shape, where
    if actual.tobytes() != expected.tobytes():
        unsigned = np.dtype(f"u{actual.itemsize}")
        differ = np.ascontiguousarray(actual).view(unsigned) != np.ascontiguousarray(expected).view(unsigned)
        place = tuple(int(i) for i in np.argwhere(differ)[0])
        raise AssertionError(
            f"{int(differ.sum())} of {differ.size} elements differ; the first, at {place}: "
            f"{actual[place]!r} instead of {expected[place]!r} {where}"
        )


def assert_all_same_bits(actual, expected, where=""):
    """The same results by name, with the same bits."""
    assert list(actual) == list(expected), where
    for name, one in actual.items():
        assert type(one) is np.ndarray, (name, where)
        assert_same_bits(one, expected[name], f"{name} {where}")


def without_nan(array):
    """The same with a number for NaN, of which sign and payload are free."""
    with np.errstate(invalid="ignore"):  # of a NaN that signals
        return np.where(np.isnan(array), array.dtype.type(-7), array)


def at_offset(array, elements=0, extra_bytes=0):
    """A writable contiguous copy that starts this far into a 64-byte aligned buffer."""
    start = elements * array.itemsize + extra_bytes
    buffer = np.zeros(array.nbytes + start + 64, np.uint8)
    start += -buffer.ctypes.data % 64
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def in_wider_rows(array, gap=5):
    """A copy whose rows are contiguous but further apart than they are long, filled with NaN in between."""
    wide = np.full((*array.shape[:-1], array.shape[-1] + gap), np.nan, array.dtype)
    view = wide[..., 2 : 2 + array.shape[-1]]
    view[...] = array
    return view


def run_python(code, *arguments, timeout=120, **environment):
    """Run code in a fresh interpreter that finds the same fastln and these helpers.

    Keywords set environment variables.
    Returns the CompletedProcess; a crash shows as a negative returncode with the traceback on stderr.
    """
    env = dict(os.environ)
    places = [str(Path(fastln.__file__).parents[1]), str(Path(__file__).parent), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    for name in env.keys() & OWN_SETTINGS | {name for name in env if name.endswith("_NUM_THREADS")}:
        del env[name]
    for name, value in environment.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = str(value)
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output_of(code, *arguments, **options):
    """What code prints, stripped; fails with its stderr if it fails."""
    done = run_python(code, *arguments, **options)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def growth_of_peak(work):
    """KiB by which the largest size of this process grows while work() runs. It sees what tracemalloc does not: malloc.

    On Linux, in a fresh process with MALLOC, or memory that was freed before is taken anew without growth.
    """

    def peak():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        raise OSError("/proc/self/status says no VmHWM")

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # from here on
    before = peak()
    work()
    return peak() - before


def keeps_no_memory(work):
    """Whether work() leaves fewer than 200 blocks behind, one time of three: what else runs may allocate, but once."""

    def blocks_kept():
        gc.collect()
        before = sys.getallocatedblocks()
        work()
        gc.collect()
        return sys.getallocatedblocks() - before

    return any(blocks_kept() < 200 for _ in range(3))
