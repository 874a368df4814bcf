"""What is promised of errors: the sizes that they are judged by, and how many eps of these they may be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from regimes import computed, finfo, is_narrow

from fastln._reference import gradient_sizes, gradients, output_size, parameter_gradients, scale_and_shift


def half_subnormal(dtype):
    """Half of the smallest subnormal: what one correct rounding costs where the dtype has no more digits."""
    return np.longdouble(finfo(dtype).smallest_subnormal) / 2


def half_unit(found):
    """Half of the unit in the last place of each number: what rounding it to a dtype that is only stored costs."""
    info = finfo(found.dtype)
    _, exponent = np.frexp(found.astype(np.float32))
    exponent = np.where(found == 0, info.minexp, np.maximum(exponent - 1, info.minexp))
    return np.ldexp(np.longdouble(1), exponent - info.nmant) / 2


# The largest errors, in eps of the dtype times the size of what was computed, which the functions below have.
#
# What ordinary rows keep: those of regimes.py, of whatever mean, outlier and magnitude.
USUAL = {"y": 2, "mean": 1, "rstd": 2, "dx": 4, "dweight": 2, "dweight of many rows": 2, "dbias": 2}
# And each step of a recurrent cell in ordinary numbers, from the state that it begins with (recurrent_cases.py).
USUAL["h and c"] = 2
# What is promised for every row. docs/accuracy.md proves it; tests/adversary.py searches for rows that come near it.
PROMISED = {
    "float32": {"y": 15, "mean": 5, "rstd": 7, "dx": 45, "dweight": 17, "dbias": 2.1},
    "float64": {"y": 20, "mean": 7, "rstd": 10, "dx": 54, "dweight": 19, "dbias": 2.1},
}
# The same of RMS norm, which has no mean to lose digits to.
PROMISED_OF_RMS = {
    "float32": {"y": 4.5, "rstd": 3.5, "dx": 18, "dweight": 6.5},
    "float64": {"y": 6, "rstd": 5, "dx": 23, "dweight": 8},
}


def in_eps(found, expected, size):
    """The largest error of `found`, in eps of the dtype that it was computed in, times its size.

    What rounding costs, whatever was computed before, is taken off first: half of the smallest subnormal, since a
    result may be subnormal; half of the last place where the dtype is only stored.
    """
    rounding = half_unit(found) if is_narrow(found.dtype) else half_subnormal(found.dtype)
    error = np.maximum(np.abs(found.astype(np.longdouble) - expected) - rounding, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = error / (np.longdouble(finfo(computed(found.dtype)).eps) * size)
    return float(np.where(error == 0, 0, errors).max(initial=0))


def output_error(y, exact, weight=None, bias=None):
    """The largest error of y (2-d), in eps times its size; inf if NaN or Inf is out of place."""
    expected = scale_and_shift(exact.x_hat, weight, bias)
    undefined = np.isnan(expected)
    if not (np.isnan(y) == undefined).all() or np.isinf(y).any():
        return np.inf
    defined = np.where(undefined, y.dtype.type(0), y)
    return in_eps(defined, np.where(undefined, 0, expected), output_size(exact.x_hat, weight, bias))


def mean_error(mean, x, exact):
    """The largest error of the mean output, in eps (|mean| + max|x - mean|).

    The first term is the rounding of the result (half of it would be perfect), the second what summing the row costs.
    """
    spread = np.abs(x.astype(np.longdouble) - exact.mean).max(axis=-1, keepdims=True)
    return in_eps(mean, exact.mean, np.abs(exact.mean) + spread)


def rstd_error(rstd, exact):
    """The largest error of the rstd output, in eps rstd; Inf is right where rstd is too large."""
    too_large = exact.rstd > np.longdouble(np.finfo(rstd.dtype).max)
    if np.isnan(rstd).any() or not (np.isinf(rstd) == too_large).all():
        return np.inf
    return in_eps(np.where(too_large, 0, rstd), np.where(too_large, 0, exact.rstd), exact.rstd)


class Sized(NamedTuple):
    """An exact result in long double, and the size that errors are judged by."""

    value: np.ndarray
    size: np.ndarray


class Judged(NamedTuple):
    """The gradients dx (rows, cols), dweight (cols,) and dbias (cols,), with their sizes."""

    dx: Sized
    dweight: Sized
    dbias: Sized
    dweight_of_many_rows: Sized | None  # dweight again, with a smaller size
    dx_of_any_row: Sized  # dx again, with a larger size


# The columns of so many rows are judged by the smaller size.
MANY_ROWS = 31


def judge_gradients(dy, exact, weight=None, even=True, ds=None):
    """The gradients of sum(dy * norm(x) + ds * x), exact being what the norm makes of x, and what to judge errors by.

    With g = dy weight: of dx, rstd max(|g| + |mean g| + |xhat mean(g xhat)|), the maximum over its row; of dweight
    sum|dy xhat| and of dbias sum|dy|, however many rows are summed.

    An xhat that is near 0 is what a cancellation left, and no precision would make its error small next to itself (of
    0.1, 0.2 and 0.3 the middle one, rounded to float32, is nearly the mean). Usually it is one term among larger
    ones. But a column may have few rows, or be nearly 0 in all of them, or have one dy that outweighs all others: so
    the size of dweight that always does has max|xhat| of the row instead of |xhat|, as that of y has. The other
    one is for MANY_ROWS or more, where they are even: not of the kinds just named.

    The same is true of mean(g xhat): where its terms cancel their errors may not, and an outlier multiplies them by its
    xhat. So the size of dx that always does is rstd (max|g| + max|xhat| rms(g)).
    """
    found, sizes = gradients(dy, exact, weight, ds), gradient_sizes(dy, exact, weight, ds)
    g = scale_and_shift(dy.astype(np.longdouble), weight, None)
    largest = np.abs(exact.x_hat).max(axis=-1, keepdims=True)
    any_size = np.abs(g).max(axis=-1, keepdims=True) + largest * np.sqrt(np.square(g).mean(axis=-1, keepdims=True))
    dweight_size, _ = parameter_gradients(np.abs(dy), np.broadcast_to(largest, exact.x_hat.shape))
    return Judged(
        Sized(found.dx, sizes.dx),
        Sized(found.dweight, dweight_size),
        Sized(found.dbias, sizes.dbias),
        Sized(found.dweight, sizes.dweight) if even and len(dy) >= MANY_ROWS else None,
        Sized(found.dx, exact.rstd * any_size + (0 if ds is None else np.abs(ds.astype(np.longdouble)))),
    )


GRADIENTS = ("dx", "dweight", "dbias")


def gradient_error(found, expected):
    """The largest error of one gradient, in eps times its size; inf if it is not finite or has another shape."""
    if found.shape != expected.value.shape or not np.isfinite(found).all():
        return np.inf
    return in_eps(found, *expected)


def gradient_errors(found, expected):
    """The largest errors of dx, dweight and, if it is there, dbias by name, in eps times the sizes of USUAL."""
    sizes = (expected.dx, expected.dweight, expected.dbias)
    errors = {name: gradient_error(one, size) for name, one, size in zip(GRADIENTS, found, sizes, strict=False)}
    if expected.dweight_of_many_rows is not None:
        errors["dweight of many rows"] = gradient_error(found[1], expected.dweight_of_many_rows)
    return errors


def errors_of_any_rows(found, expected):
    """The largest errors of dx, dweight and, if it is there, dbias by name, in eps times the sizes of PROMISED."""
    sizes = (expected.dx_of_any_row, expected.dweight, expected.dbias)
    return {name: gradient_error(one, size) for name, one, size in zip(GRADIENTS, found, sizes, strict=False)}


def are_usual(errors):
    """Whether each of {name: error} is what ordinary rows keep."""
    return all(error <= USUAL[name] for name, error in errors.items())
