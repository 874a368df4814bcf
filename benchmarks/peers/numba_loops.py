"""numba: loops as one would write them, `prange` over rows and `fastmath`, into the caller's buffers.

An argument that is None is known when a loop is compiled: without a residual, nothing is left of it, and s is x.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numba
import numpy as np

from ..grid.arrays import EPS, Arrays, Prepared

set_threads = numba.set_num_threads


@numba.njit(parallel=True, fastmath=True)
def _layer_norm(x, residual, weight, bias, eps, s, y):
    rows, cols = x.shape
    for i in numba.prange(rows):
        if residual is not None:
            for j in range(cols):
                s[i, j] = x[i, j] + residual[i, j]
        total = x.dtype.type(0)
        for j in range(cols):
            total += s[i, j]
        mean = x.dtype.type(total / cols)
        squares = x.dtype.type(0)
        for j in range(cols):
            centred = s[i, j] - mean
            squares += centred * centred
        rstd = x.dtype.type(1 / np.sqrt(squares / cols + eps))
        for j in range(cols):
            y[i, j] = (s[i, j] - mean) * rstd * weight[j] + bias[j]


@numba.njit(parallel=True, fastmath=True)
def _layer_norm_backward(dy, ds, x, mean, rstd, weight, dx, partial_dweight, partial_dbias):
    rows, cols = x.shape
    chunks = len(partial_dweight)
    for chunk in numba.prange(chunks):
        dweight, dbias = partial_dweight[chunk], partial_dbias[chunk]
        dweight[:] = 0
        dbias[:] = 0
        for i in range(rows * chunk // chunks, rows * (chunk + 1) // chunks):
            m, r = mean[i, 0], rstd[i, 0]
            sum_g = x.dtype.type(0)
            sum_g_x_hat = x.dtype.type(0)
            for j in range(cols):
                x_hat = (x[i, j] - m) * r
                g = dy[i, j] * weight[j]
                sum_g += g
                sum_g_x_hat += g * x_hat
                dweight[j] += dy[i, j] * x_hat
                dbias[j] += dy[i, j]
            mean_g = x.dtype.type(sum_g / cols)
            mean_g_x_hat = x.dtype.type(sum_g_x_hat / cols)
            for j in range(cols):
                x_hat = (x[i, j] - m) * r
                gradient = r * (dy[i, j] * weight[j] - mean_g - x_hat * mean_g_x_hat)
                if ds is not None:
                    gradient += ds[i, j]
                dx[i, j] = gradient


@numba.njit(parallel=True, fastmath=True)
def _rms_norm(x, residual, weight, eps, s, y):
    rows, cols = x.shape
    for i in numba.prange(rows):
        if residual is not None:
            for j in range(cols):
                s[i, j] = x[i, j] + residual[i, j]
        squares = x.dtype.type(0)
        for j in range(cols):
            squares += s[i, j] * s[i, j]
        rstd = x.dtype.type(1 / np.sqrt(squares / cols + eps))
        for j in range(cols):
            y[i, j] = s[i, j] * rstd * weight[j]


@numba.njit(parallel=True, fastmath=True)
def _rms_norm_backward(dy, ds, x, rstd, weight, dx, partial_dweight):
    rows, cols = x.shape
    chunks = len(partial_dweight)
    for chunk in numba.prange(chunks):
        dweight = partial_dweight[chunk]
        dweight[:] = 0
        for i in range(rows * chunk // chunks, rows * (chunk + 1) // chunks):
            r = rstd[i, 0]
            sum_g_x_hat = x.dtype.type(0)
            for j in range(cols):
                x_hat = x[i, j] * r
                sum_g_x_hat += dy[i, j] * weight[j] * x_hat
                dweight[j] += dy[i, j] * x_hat
            mean_g_x_hat = x.dtype.type(sum_g_x_hat / cols)
            for j in range(cols):
                gradient = r * (dy[i, j] * weight[j] - x[i, j] * r * mean_g_x_hat)
                if ds is not None:
                    gradient += ds[i, j]
                dx[i, j] = gradient


@numba.njit(parallel=True)
def copy_in_chunks(source, target, chunks):
    """A copy, one piece a thread, for the floor."""
    size = len(source)
    for chunk in numba.prange(chunks):
        first, last = size * chunk // chunks, size * (chunk + 1) // chunks
        target[first:last] = source[first:last]


def layer_norm(arrays: Arrays) -> Prepared:
    """Three sweeps over each row, after the sum if there is one."""
    a = arrays
    given = a.x, a.residual, a.weight, a.bias, a.x.dtype.type(EPS)
    return _forward(_layer_norm, arrays, *given)


def layer_norm_backward(arrays: Arrays) -> Prepared:
    """Two sweeps over each row; parameters are summed by thread, then over threads."""
    a = arrays
    dweight, dbias = (np.empty((min(a.threads, len(a.x)), a.x.shape[1]), a.x.dtype) for _ in range(2))

    def call() -> tuple[np.ndarray, ...]:
        _layer_norm_backward(a.dy, a.ds, a.x, a.mean, a.rstd, a.weight, a.out, dweight, dbias)
        return a.out, dweight.sum(axis=0), dbias.sum(axis=0)

    return Prepared(call, lambda gradients: gradients)


def rms_norm(arrays: Arrays) -> Prepared:
    """Two sweeps over each row, after the sum if there is one."""
    a = arrays
    return _forward(_rms_norm, arrays, a.x, a.residual, a.weight, a.x.dtype.type(EPS))


def _forward(function: Callable[..., None], arrays: Arrays, *given: object) -> Prepared:
    outputs = (arrays.out,) if arrays.sum is None else (arrays.out, arrays.sum)
    s = arrays.x if arrays.sum is None else arrays.sum
    return Prepared(partial(function, *given, s, arrays.out), lambda _: outputs)


def rms_norm_backward(arrays: Arrays) -> Prepared:
    """Two sweeps over each row; dweight is summed by thread, then over threads."""
    a = arrays
    dweight = np.empty((min(a.threads, len(a.x)), a.x.shape[1]), a.x.dtype)

    def call() -> tuple[np.ndarray, ...]:
        _rms_norm_backward(a.dy, a.ds, a.x, a.rstd, a.weight, a.out, dweight)
        return a.out, dweight.sum(axis=0)

    return Prepared(call, lambda gradients: gradients)


add_layer_norm, add_layer_norm_backward = layer_norm, layer_norm_backward
add_rms_norm, add_rms_norm_backward = rms_norm, rms_norm_backward
