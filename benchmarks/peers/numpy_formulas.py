"""NumPy, as people write it and at its best: in place, with einsum and without temporaries of the size of x.

Numbers of 16 bits are computed with in float32: NumPy's sums of them keep no more digits than they have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..grid.arrays import EPS, Arrays, Prepared, computed_dtype


def set_threads(_threads: int) -> None:
    """NumPy has no threads: what is called here uses no BLAS."""


def in_float32(prepare: Callable[[Arrays], Prepared]) -> Callable[[Arrays], Prepared]:
    """The same for arrays of 16 bits too: in buffers of float32 that are kept, rounded at the end."""

    @functools.wraps(prepare)
    def prepare_any(arrays: Arrays) -> Prepared:
        dtype = arrays.x.dtype
        if computed_dtype(dtype) == dtype:
            return prepare(arrays)
        given = {name: (getattr(arrays, name), getattr(arrays, name).astype(np.float32)) for name in narrow(arrays)}
        wide = prepare(replace(arrays, **{name: buffer for name, (_, buffer) in given.items()}))

        def call() -> tuple[np.ndarray, ...]:
            for name in arrays.operation.reads:
                if name in given:
                    array, buffer = given[name]
                    buffer[...] = array
            return tuple(output.astype(dtype) for output in wide.outputs(wide.call()))

        return Prepared(call, lambda outputs: outputs)

    return prepare_any


def narrow(arrays: Arrays) -> list[str]:
    """The names of the arrays that have the dtype of x: all but moments of 16 bits."""
    return [name for name, array in vars(arrays).items() if getattr(array, "dtype", None) == arrays.x.dtype]


def with_residual(prepare: Callable[[Arrays], Prepared]) -> Callable[[Arrays], Prepared]:
    """A norm of the sum, which goes into the caller's buffer first."""

    def prepare_sum(arrays: Arrays) -> Prepared:
        norm = prepare(replace(arrays, x=arrays.sum))

        def call() -> tuple[np.ndarray, ...]:
            np.add(arrays.x, arrays.residual, out=arrays.sum)
            return *norm.outputs(norm.call()), arrays.sum

        return Prepared(call, lambda outputs: outputs)

    return prepare_sum


def with_its_gradient(prepare: Callable[[Arrays], Prepared]) -> Callable[[Arrays], Prepared]:
    """The gradients of such a norm: what comes from the other way of the sum is added to dx."""

    def prepare_sum(arrays: Arrays) -> Prepared:
        norm = prepare(arrays)

        def call() -> tuple[np.ndarray, ...]:
            dx, *parameters = norm.outputs(norm.call())
            return np.add(dx, arrays.ds, out=dx), *parameters

        return Prepared(call, lambda gradients: gradients)

    return prepare_sum


@in_float32
def layer_norm(arrays: Arrays) -> Prepared:
    """The formula with x.mean and x.var."""
    x, weight, bias = arrays.x, arrays.weight, arrays.bias

    def call() -> np.ndarray:
        mean = x.mean(axis=-1, keepdims=True)
        var = x.var(axis=-1, keepdims=True)
        return (x - mean) / np.sqrt(var + EPS) * weight + bias

    return Prepared(call, lambda y: (y,))


@in_float32
def layer_norm_at_best(arrays: Arrays) -> Prepared:
    """Everything in the caller's buffer; einsum sums the squares without a temporary."""
    x, weight, bias, y = arrays.x, arrays.weight, arrays.bias, arrays.out
    cols = x.shape[-1]
    moment = np.empty((len(x), 1), x.dtype)

    def call() -> np.ndarray:
        np.add.reduce(x, axis=-1, keepdims=True, out=moment)
        np.divide(moment, cols, out=moment)
        np.subtract(x, moment, out=y)
        np.einsum("ij,ij->i", y, y, out=moment[:, 0])
        np.divide(moment, cols, out=moment)
        np.add(moment, EPS, out=moment)
        np.sqrt(moment, out=moment)
        np.divide(y, moment, out=y)
        np.multiply(y, weight, out=y)
        return np.add(y, bias, out=y)

    return Prepared(call, lambda y: (y,))


@in_float32
def layer_norm_backward(arrays: Arrays) -> Prepared:
    """The formula."""
    a = arrays

    def call() -> tuple[np.ndarray, ...]:
        x_hat = (a.x - a.mean) * a.rstd
        g = a.dy * a.weight
        projection = x_hat * (g * x_hat).mean(axis=-1, keepdims=True)
        dx = a.rstd * (g - g.mean(axis=-1, keepdims=True) - projection)
        return dx, (a.dy * x_hat).sum(axis=0), a.dy.sum(axis=0)

    return Prepared(call, lambda gradients: gradients)


@in_float32
def layer_norm_backward_at_best(arrays: Arrays) -> Prepared:
    """Two buffers that are kept between calls; einsum for every sum of products."""
    a, dx = arrays, arrays.out
    cols = a.x.shape[-1]
    x_hat = np.empty_like(a.x)
    g_mean, projection = np.empty_like(a.rstd), np.empty_like(a.rstd)

    def call() -> tuple[np.ndarray, ...]:
        np.subtract(a.x, a.mean, out=x_hat)
        np.multiply(x_hat, a.rstd, out=x_hat)
        np.multiply(a.dy, a.weight, out=dx)
        np.add.reduce(dx, axis=-1, keepdims=True, out=g_mean)
        np.divide(g_mean, cols, out=g_mean)
        np.einsum("ij,ij->i", dx, x_hat, out=projection[:, 0])
        np.divide(projection, cols, out=projection)
        dweight = np.einsum("ij,ij->j", a.dy, x_hat)
        dbias = np.add.reduce(a.dy, axis=0)
        np.multiply(x_hat, projection, out=x_hat)
        np.subtract(dx, g_mean, out=dx)
        np.subtract(dx, x_hat, out=dx)
        return np.multiply(dx, a.rstd, out=dx), dweight, dbias

    return Prepared(call, lambda gradients: gradients)


@in_float32
def rms_norm(arrays: Arrays) -> Prepared:
    """The formula."""
    x, weight = arrays.x, arrays.weight

    def call() -> np.ndarray:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS) * weight

    return Prepared(call, lambda y: (y,))


@in_float32
def rms_norm_at_best(arrays: Arrays) -> Prepared:
    """Everything in the caller's buffer; einsum sums the squares without a temporary."""
    x, weight, y = arrays.x, arrays.weight, arrays.out
    cols = x.shape[-1]
    moment = np.empty((len(x), 1), x.dtype)

    def call() -> np.ndarray:
        np.einsum("ij,ij->i", x, x, out=moment[:, 0])
        np.divide(moment, cols, out=moment)
        np.add(moment, EPS, out=moment)
        np.sqrt(moment, out=moment)
        np.divide(x, moment, out=y)
        return np.multiply(y, weight, out=y)

    return Prepared(call, lambda y: (y,))


@in_float32
def rms_norm_backward(arrays: Arrays) -> Prepared:
    """The formula."""
    a = arrays

    def call() -> tuple[np.ndarray, ...]:
        x_hat = a.x * a.rstd
        g = a.dy * a.weight
        dx = a.rstd * (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True))
        return dx, (a.dy * x_hat).sum(axis=0)

    return Prepared(call, lambda gradients: gradients)


@in_float32
def rms_norm_backward_at_best(arrays: Arrays) -> Prepared:
    """Two buffers that are kept between calls; einsum for every sum of products."""
    a, dx = arrays, arrays.out
    cols = a.x.shape[-1]
    x_hat, projection = np.empty_like(a.x), np.empty_like(a.rstd)

    def call() -> tuple[np.ndarray, ...]:
        np.multiply(a.x, a.rstd, out=x_hat)
        np.multiply(a.dy, a.weight, out=dx)
        np.einsum("ij,ij->i", dx, x_hat, out=projection[:, 0])
        np.divide(projection, cols, out=projection)
        dweight = np.einsum("ij,ij->j", a.dy, x_hat)
        np.multiply(x_hat, projection, out=x_hat)
        np.subtract(dx, x_hat, out=dx)
        return np.multiply(dx, a.rstd, out=dx), dweight

    return Prepared(call, lambda gradients: gradients)


add_layer_norm = in_float32(with_residual(layer_norm))
add_layer_norm_at_best = in_float32(with_residual(layer_norm_at_best))
add_layer_norm_backward = in_float32(with_its_gradient(layer_norm_backward))
add_layer_norm_backward_at_best = in_float32(with_its_gradient(layer_norm_backward_at_best))
add_rms_norm = in_float32(with_residual(rms_norm))
add_rms_norm_at_best = in_float32(with_residual(rms_norm_at_best))
add_rms_norm_backward = in_float32(with_its_gradient(rms_norm_backward))
add_rms_norm_backward_at_best = in_float32(with_its_gradient(rms_norm_backward_at_best))
