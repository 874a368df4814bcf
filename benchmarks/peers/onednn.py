"""oneDNN, called from C++ on memory objects made beforehand, into the caller's buffers: what no Python user reaches.

`onednn.cpp` beside this file is compiled by the system's compiler when it is first needed, into build/.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import weakref
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ..grid.arrays import EPS, Arrays, Prepared, empty_at

SOURCE = Path(__file__).with_suffix(".cpp")
LIBRARY = SOURCE.parents[2] / "build/benchmarks-native/onednn.so"
INSTALL = "not installed: apt-get install libdnnl-dev"


def compile_command(compiler: str) -> list[str]:
    """What makes LIBRARY of SOURCE."""
    flags = ["-std=c++17", "-O2", "-fopenmp", "-shared", "-fPIC"]
    return [*shlex.split(compiler), *flags, str(SOURCE), "-o", str(LIBRARY), "-ldnnl"]


class _NotBuiltError(Exception):
    """Why there is no library, in one line."""


def _build(compiler: str) -> None:
    LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(compile_command(compiler), capture_output=True, text=True, check=False)
    except OSError as error:
        raise _NotBuiltError(f"not built: {compiler}: {error.strerror}") from None
    if done.returncode:
        absent = "dnnl.hpp" in done.stderr or "-ldnnl" in done.stderr
        first = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
        raise _NotBuiltError(INSTALL if absent else f"not built: {first[:160]}")


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.PyDLL | None, str | None]:
    """The library, or why there is none."""
    try:
        if not LIBRARY.exists() or LIBRARY.stat().st_mtime < SOURCE.stat().st_mtime:
            _build(os.environ.get("CXX", "c++"))
        library = ctypes.PyDLL(str(LIBRARY))  # keeps the GIL: letting go of it would be timed
    except _NotBuiltError as failure:
        return None, str(failure)
    except OSError:  # it was built for a oneDNN that has been removed since
        LIBRARY.unlink(missing_ok=True)
        return None, INSTALL
    floats = ctypes.c_void_p
    library.onednn_forward.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_float, *[floats] * 4]
    library.onednn_backward.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_float, *[floats] * 9]
    for make in (library.onednn_forward, library.onednn_backward):
        make.restype = ctypes.c_void_p
    for use in (library.onednn_execute, library.onednn_free):
        use.argtypes, use.restype = [ctypes.c_void_p], None
    for text in (library.onednn_error, library.onednn_version):
        text.restype = ctypes.c_char_p
    return library, None


def missing() -> str | None:
    """What has to be installed before this can run, or None."""
    return _load()[1]


def versions() -> dict[str, str]:
    """The version of the library that was found."""
    return {"oneDNN": _load()[0].onednn_version().decode()}


def set_threads(threads: int) -> None:
    """omp_set_num_threads in the OpenMP runtime of oneDNN. Primitives made after it use so many."""
    _load()[0].onednn_set_threads(threads)


def _prepare(make: str, rows_of: np.ndarray, *buffers: np.ndarray):
    """A call of the primitive that `make` makes on these buffers, which it keeps."""
    library = _load()[0]
    made = getattr(library, make)(*rows_of.shape, EPS, *(buffer.ctypes.data for buffer in buffers))
    if not made:
        raise RuntimeError(library.onednn_error().decode())
    call = partial(library.onednn_execute, ctypes.c_void_p(made))
    call.buffers = buffers
    weakref.finalize(call, library.onednn_free, made)
    return call


def layer_norm(arrays: Arrays) -> Prepared:
    """A primitive for inference, which finds the moments and does not write them."""
    a = arrays
    return Prepared(_prepare("onednn_forward", a.x, a.x, a.weight, a.bias, a.out), lambda _: (a.out,))


def layer_norm_backward(arrays: Arrays) -> Prepared:
    """dx, dweight and dbias from the saved mean and variance."""
    a = arrays
    var = empty_at(a.offset, a.rstd.shape, a.rstd.dtype)
    var[...] = 1 / np.square(a.rstd, dtype=np.float64) - EPS
    dweight, dbias = (empty_at(a.offset, a.weight.shape, a.weight.dtype) for _ in range(2))
    call = _prepare("onednn_backward", a.x, a.dy, a.x, a.mean, var, a.weight, a.bias, a.out, dweight, dbias)
    return Prepared(call, lambda _: (a.out, dweight, dbias))
