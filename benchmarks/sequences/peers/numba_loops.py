"""numba: products by BLAS, and the cell as loops that one would write, `prange` over rows and `fastmath`."""

from __future__ import annotations

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 -- numba's BLAS, loaded before its threads are limited
from threadpoolctl import threadpool_limits

from ...grid.arrays import EPS, Prepared
from ..cells import Arrays


def set_threads(threads: int) -> None:
    """Of the loops, and of the BLAS that multiplies for numba: left alone, its threads would spin between the loops."""
    numba.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")


@numba.njit(fastmath=True, inline="always")
def _norm(a, weight, bias, eps):
    total = np.float32(0)
    for j in range(len(a)):
        total += a[j]
    mean = np.float32(total / len(a))
    squares = np.float32(0)
    for j in range(len(a)):
        squares += (a[j] - mean) * (a[j] - mean)
    rstd = np.float32(1 / np.sqrt(squares / len(a) + eps))
    for j in range(len(a)):
        a[j] = (a[j] - mean) * rstd * weight[j] + bias[j]


@numba.njit(fastmath=True, inline="always")
def _logistic(a):
    return np.float32(1) / (np.float32(1) + np.exp(-a))


@numba.njit(parallel=True, fastmath=True)
def _run(x, h, c, weight_ih, weight_hh, ih, hh, cn, eps, from_x, sums, normed, y):
    steps, batch, hidden = x.shape
    np.dot(x.reshape(steps * batch, hidden), weight_ih, from_x)
    for row in numba.prange(steps * batch):
        _norm(from_x[row], ih[0], ih[1], eps)
    for t in range(steps):
        np.dot(h, weight_hh, sums)
        for row in numba.prange(batch):
            a, gates = sums[row], from_x[t * batch + row]
            _norm(a, hh[0], hh[1], eps)
            for j in range(hidden):
                i, f = _logistic(a[j] + gates[j]), _logistic(a[hidden + j] + gates[hidden + j])
                g = np.tanh(a[2 * hidden + j] + gates[2 * hidden + j])
                c[row, j] = f * c[row, j] + i * g
                normed[row, j] = c[row, j]
            _norm(normed[row], cn[0], cn[1], eps)
            for j in range(hidden):
                o = _logistic(a[3 * hidden + j] + gates[3 * hidden + j])
                y[t, row, j] = h[row, j] = o * np.tanh(normed[row, j])


def sequence(arrays: Arrays) -> Prepared:
    """The compiled loops, in buffers that are kept."""
    a, p = arrays, arrays.parameters
    steps, batch, hidden = a.x.shape
    matrices = [np.ascontiguousarray(p[name].T) for name in ("weight_ih", "weight_hh")]
    norms = [(p[f"ln_{key}.weight"], p[f"ln_{key}.bias"]) for key in ("ih", "hh", "c")]
    rows = [(steps * batch, 4 * hidden), (batch, 4 * hidden), (batch, hidden)]
    buffers = [np.empty(shape, np.float32) for shape in rows]
    h, c, eps = np.empty_like(a.h0), np.empty_like(a.c0), np.float32(EPS)

    def call() -> np.ndarray:
        np.copyto(h, a.h0)
        np.copyto(c, a.c0)
        _run(a.x, h, c, *matrices, *norms, eps, *buffers, a.out)
        return a.out

    return Prepared(call, lambda y: (y,))
