"""Exact results: the plain formulas in more precision than the dtype of the rows, each of them once.

The self-check, the tests and the benchmarks judge fastln and others by what stands here. It is written to be right and
to be read, not to be fast. In long double float32 rows leave 40 spare bits; float64 rows only 11, so nothing may
cancel: rows are first shifted by their mean rounded to their own dtype, and the mean of the (nearly exact) residuals is
the low half of the mean. Sums over a contiguous last axis are pairwise in NumPy. The error that remains is a few units
of 2**-64 of the row's spread, whatever its mean. The exponent range of long double makes the squares of all float32 and
float64 numbers finite and non-zero, so nothing is scaled here.

Errors are judged by the size of what was computed, which has a function of its own beside each result: next to a
result that is near 0 because its terms cancelled, no error would be small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.floating[Any]]


def long_double_suffices(dtype: DTypeLike) -> bool:
    """Whether long double has digits enough to judge results of this dtype here (on some platforms it is a double).

    Those of 16 bits are computed in float32.
    """
    computed = np.float32 if np.dtype(dtype).itemsize == 2 else dtype
    return bool(np.finfo(np.longdouble).nmant >= np.finfo(computed).nmant + 10)


class Normalized(NamedTuple):
    """Rows before weight and bias: x_hat (..., D), and mean and rstd (..., 1) that it was made with.

    The mean is 0, without axes, where the norm takes x as it is (RMS norm).
    """

    x_hat: Floats
    mean: Floats
    rstd: Floats


class Gradients(NamedTuple):
    """The gradients dx (..., D), dweight and dbias (D,); or their sizes, that of dx (..., 1)."""

    dx: Floats
    dweight: Floats
    dbias: Floats


def normalize(x: Floats, eps: float = 1e-5, precision: DTypeLike = np.longdouble) -> Normalized:
    """Normalize the last axis: x_hat = (x - mean) rstd with rstd = 1 / sqrt(variance + eps), eps in squared units of x.

    NaN where the variance and eps are both 0. A `precision` other than long double is for where time matters more:
    float64 leaves float32 rows 29 bits.
    """
    x = np.ascontiguousarray(x)
    wide = x.astype(precision)
    high = wide.mean(axis=-1, keepdims=True).astype(x.dtype).astype(precision)
    residual = wide - high
    low = residual.mean(axis=-1, keepdims=True)
    centred = residual - low
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        rstd = 1 / np.sqrt(variance + wide.dtype.type(eps))
        return Normalized(centred * rstd, high + low, rstd)


def normalize_by_rms(x: Floats, eps: float = 1e-5, precision: DTypeLike = np.longdouble) -> Normalized:
    """The same around 0: x_hat = x rstd with rstd = 1 / sqrt(mean square + eps)."""
    wide = np.ascontiguousarray(x).astype(precision)
    with np.errstate(divide="ignore", invalid="ignore"):
        rstd = 1 / np.sqrt(np.square(wide).mean(axis=-1, keepdims=True) + wide.dtype.type(eps))
        return Normalized(wide * rstd, np.zeros((), precision), rstd)


def layer_norm(
    x: Floats, weight: Floats | None = None, bias: Floats | None = None, eps: float = 1e-5
) -> tuple[Floats, Floats, Floats]:
    """Layer norm of the last axis of x (..., D): y = x_hat weight + bias, mean and rstd. weight and bias are (D,)."""
    x_hat, mean, rstd = normalize(x, eps)
    return scale_and_shift(x_hat, weight, bias), mean, rstd


def rms_norm(x: Floats, weight: Floats | None = None, eps: float = 1e-5) -> tuple[Floats, Floats]:
    """RMS norm of the last axis of x (..., D): y = x_hat weight and rstd. weight is (D,)."""
    x_hat, _, rstd = normalize_by_rms(x, eps)
    return scale_and_shift(x_hat, weight, None), rstd


def scale_and_shift(x_hat: Floats, weight: Floats | None, bias: Floats | None) -> Floats:
    """x_hat weight + bias, in the precision of x_hat."""
    y = x_hat if weight is None else x_hat * weight.astype(x_hat.dtype)
    return y if bias is None else y + bias.astype(x_hat.dtype)


def output_size(x_hat: Floats, weight: Floats | None = None, bias: Floats | None = None) -> Floats:
    """What errors of y are judged by: |weight| max|x_hat| + |bias|, the maximum over the row; (..., D) or (..., 1)."""
    size = np.abs(x_hat).max(axis=-1, keepdims=True)
    return scale_and_shift(size, None if weight is None else np.abs(weight), None if bias is None else np.abs(bias))


def layer_norm_backward(dy: Floats, x: Floats, weight: Floats | None = None, eps: float = 1e-5) -> Gradients:
    """The gradients of sum(dy * layer_norm(x)): dx (..., D); dweight and dbias (D,), over all axes but the last."""
    return gradients(dy, normalize(x, eps), weight)


def rms_norm_backward(dy: Floats, x: Floats, weight: Floats | None = None, eps: float = 1e-5) -> tuple[Floats, Floats]:
    """The gradients of sum(dy * rms_norm(x)): dx (..., D); dweight (D,), over all axes but the last."""
    dx, dweight, _ = gradients(dy, normalize_by_rms(x, eps), weight)
    return dx, dweight


def gradients(dy: Floats, normalized: Normalized, weight: Floats | None = None, ds: Floats | None = None) -> Gradients:
    """Those of layer_norm_backward or rms_norm_backward, in the precision of x_hat.

    With g = dy weight, dx = rstd (g - mean(g) - x_hat mean(g x_hat)) + ds, without mean(g) where the norm has no mean.
    ds is the gradient that reaches the rows beside the norm.
    """
    g, mean_g, along = _terms_of_dx(dy, normalized, weight)
    dx = normalized.rstd * (g - mean_g - along)
    return Gradients(dx if ds is None else dx + ds.astype(dx.dtype), *parameter_gradients(dy, normalized.x_hat))


def parameter_gradients(dy: Floats, x_hat: Floats) -> tuple[Floats, Floats]:
    """Sum dy x_hat (dweight) and dy (dbias) over all axes but the last. Any columns of the two will do."""
    wide = np.ascontiguousarray(dy).astype(x_hat.dtype)
    return sum_rows(wide * x_hat), sum_rows(wide)


def gradient_sizes(
    dy: Floats, normalized: Normalized, weight: Floats | None = None, ds: Floats | None = None
) -> Gradients:
    """What errors of the gradients are judged by.

    Of dx, rstd max(|g| + |mean(g)| + |x_hat mean(g x_hat)|), the maximum over the row, (..., 1), plus |ds|; of dweight
    and dbias the sums of |dy x_hat| and |dy|, (D,).
    """
    g, mean_g, along = _terms_of_dx(dy, normalized, weight)
    size = normalized.rstd * (np.abs(g) + np.abs(mean_g) + np.abs(along)).max(axis=-1, keepdims=True)
    if ds is not None:
        size = size + np.abs(ds.astype(size.dtype))
    return Gradients(size, *parameter_gradients(np.abs(dy), np.abs(normalized.x_hat)))


def _terms_of_dx(dy: Floats, normalized: Normalized, weight: Floats | None) -> tuple[Floats, Floats, Floats]:
    """g, its mean (0 where the norm has none), and what of it points along x_hat."""
    x_hat = normalized.x_hat
    g = scale_and_shift(np.ascontiguousarray(dy).astype(x_hat.dtype), weight, None)
    along = x_hat * (g * x_hat).mean(axis=-1, keepdims=True)
    return g, g.mean(axis=-1, keepdims=True) if normalized.mean.ndim else normalized.mean, along


def sum_rows(terms: Floats) -> Floats:
    """Sum over all axes but the last, pairwise as NumPy sums along memory."""
    sums: Floats = np.ascontiguousarray(terms.reshape(-1, terms.shape[-1]).T).sum(axis=-1)
    return sums
