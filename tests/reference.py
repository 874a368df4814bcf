"""The exact result, the contract's bound on its error, and the kinds of rows ("regimes") it holds for.

The reference works in long double. For float32 inputs that leaves 40 spare bits; for float64 only 11, so
nothing may cancel: rows are first shifted by their mean rounded to the dtype of x, and the mean of the
(nearly exact) residuals is the low half of the mean. Sums over a contiguous last axis are pairwise in NumPy.
The error that remains is a few units of 2**-64 of the row's spread, whatever its mean. The exponent range of
long double makes the squares of every float32 and float64 finite and non-zero, so nothing is scaled here.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

EPS = 1e-5

# Around every vector width and unroll step, then real model widths and their neighbours.
COLS = (*range(1, 131), 255, 256, 257, 512, 513, 768, 1000, 1023, 1024, 1025, 4096, 65536)
ROWS = 4

# weight and bias are each optional on their own.
COMBINATIONS = {
    "plain": (False, False),
    "weight": (True, False),
    "bias": (False, True),
    "weight+bias": (True, True),
}


class Exact(NamedTuple):
    """What layer_norm computes, in long double: xhat (rows, cols); mean and rstd (rows, 1)."""

    xhat: np.ndarray
    mean: np.ndarray
    rstd: np.ndarray


def long_double_suffices(dtype):
    """Whether long double can judge results of this dtype here (on some platforms it is a double)."""
    return np.finfo(np.longdouble).nmant >= np.finfo(dtype).nmant + 10


def exact_layer_norm(x, eps):
    """Normalize the rows of a 2-d x in long double. NaN where the variance and eps are both 0."""
    x = np.ascontiguousarray(x)
    wide = x.astype(np.longdouble)
    high = wide.mean(axis=-1, keepdims=True).astype(x.dtype).astype(np.longdouble)
    residual = wide - high
    low = residual.mean(axis=-1, keepdims=True)
    centred = residual - low
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        rstd = 1 / np.sqrt(variance + np.longdouble(eps))
        return Exact(centred * rstd, high + low, rstd)


def half_subnormal(dtype):
    """Half of the smallest subnormal: what one correct rounding costs where the dtype has no more digits."""
    return np.longdouble(np.finfo(dtype).smallest_subnormal) / 2


def contract_bound(xhat, weight, bias, dtype):
    """The largest error of y that the contract allows: 2 eps (|weight| max|xhat| + |bias|), per element.

    eps is the dtype's. Half of the smallest subnormal comes on top: where the result is subnormal, rounding
    it to the dtype costs that much whatever was computed before.
    """
    size = np.abs(xhat).max(axis=-1, keepdims=True)
    if weight is not None:
        size = size * np.abs(weight.astype(np.longdouble))
    if bias is not None:
        size = size + np.abs(bias.astype(np.longdouble))
    return 2 * np.longdouble(np.finfo(dtype).eps) * size + half_subnormal(dtype)


def error_in_bounds(y, exact, weight=None, bias=None):
    """The largest error of y (2-d), in units of the contract's bound; inf if NaN or Inf is out of place."""
    expected = exact.xhat
    if weight is not None:
        expected = expected * weight.astype(np.longdouble)
    if bias is not None:
        expected = expected + bias.astype(np.longdouble)
    undefined = np.isnan(expected)
    if not (np.isnan(y) == undefined).all() or np.isinf(y).any():
        return np.inf
    error = np.abs(y.astype(np.longdouble) - expected) / contract_bound(exact.xhat, weight, bias, y.dtype)
    return float(np.where(undefined, 0, error).max(initial=0))


def mean_error_in_bounds(mean, x, exact):
    """The largest error of the mean output, in units of eps (|mean| + max|x - mean|).

    The first term is the rounding of the result (half of it would be perfect). The second is what summing the
    row may cost; an error of the mean moves every y by as much over the standard deviation, so this share of
    the spread is half of what the bound on y leaves for everything.
    """
    spread = np.abs(x.astype(np.longdouble) - exact.mean).max(axis=-1, keepdims=True)
    unit = np.longdouble(np.finfo(x.dtype).eps) * (np.abs(exact.mean) + spread)
    error = np.abs(mean.astype(np.longdouble) - exact.mean)
    return float((error / np.maximum(unit, half_subnormal(x.dtype))).max(initial=0))


def rstd_error_in_bounds(rstd, exact):
    """The largest error of the rstd output, in units of 2 eps rstd; Inf is right where rstd is too large."""
    largest = np.longdouble(np.finfo(rstd.dtype).max)
    too_large = exact.rstd > largest
    if np.isnan(rstd).any() or not (np.isinf(rstd) == too_large).all():
        return np.inf
    unit = 2 * np.longdouble(np.finfo(rstd.dtype).eps) * exact.rstd + half_subnormal(rstd.dtype)
    with np.errstate(invalid="ignore"):
        error = np.abs(rstd.astype(np.longdouble) - exact.rstd) / unit
    return float(np.where(too_large, 0, error).max(initial=0))


# Regimes


@dataclass(frozen=True)
class Regime:
    """Rows of one kind: make(rng, rows, cols, dtype) returns them in float64 or in dtype."""

    make: Callable
    eps: float = EPS


def _normal(mean=0.0, float32_scale=1.0, float64_scale=1.0):
    def make(rng, rows, cols, dtype):
        scale = float32_scale if dtype == np.float32 else float64_scale
        return scale * (rng.standard_normal((rows, cols)) + mean)

    return make


def _outlier(place):
    def make(rng, rows, cols, dtype):
        x = rng.standard_normal((rows, cols))
        # From one that fits to one whose square does not.
        x[:, int(place * (cols - 1))] = np.resize([1e3, -1e6, 1e12, -1e30], rows)
        return x

    return make


def _near_max(rng, rows, cols, dtype):
    largest = float(np.finfo(dtype).max)
    x = rng.uniform(-1, 1, (rows, cols)) * largest
    x[1::4] = rng.uniform(0.5, 1, x[1::4].shape) * largest  # one sign: the sum overflows
    x[2::4] = np.where(rng.random(x[2::4].shape) < 0.5, -largest, largest)
    x[3::4] = -largest  # and one of the other sign: its distance from the mean overflows
    x[:, -1] = largest
    return x


def _subnormal(rng, rows, cols, dtype):
    info = np.finfo(dtype)
    return rng.integers(-(2**info.nmant), 2**info.nmant, (rows, cols)) * float(info.smallest_subnormal)


def _constant(rng, rows, cols, dtype):
    info = np.finfo(dtype)
    values = [
        0.0,
        1.1,
        -float(info.max),
        float(info.smallest_subnormal),
        1e5 / 3,
        -float(info.tiny),
        1e-5,
        7e9,
    ]
    return np.repeat(rng.choice(values, (rows, 1)), cols, axis=1)


def _lognormal(rng, rows, cols, dtype):
    return np.exp(2 * rng.standard_normal((rows, cols)))


def _two_valued(rng, rows, cols, dtype):
    # Every square rounds the same way, so a sum of them drifts instead of wandering.
    size = rng.uniform(1, 4, (rows, 1))
    low = np.where(np.arange(rows) % 2 == 0, -1, 0)[:, None]
    return np.where(rng.random((rows, cols)) < 0.5, low, 1) * size


def _ramp(rng, rows, cols, dtype):
    x = np.tile(np.arange(cols, dtype=np.float64), (rows, 1))
    x[1::4] *= -0.1
    x[2::4] = 1e4 + x[2::4] / cols
    x[3::4] = np.sort(rng.standard_normal(x[3::4].shape), axis=-1)
    return x


def _any_scale(rng, rows, cols, dtype):
    # Every power of two that the dtype has: no threshold between the usual and the careful path is missed.
    info = np.finfo(dtype)
    exponent = rng.integers(info.minexp - info.nmant // 2, info.maxexp - 4, (rows, 1))
    return np.ldexp(rng.standard_normal((rows, cols)), exponent)


REGIMES = {
    "normal": Regime(_normal()),
    "mean 10": Regime(_normal(mean=10.0)),
    "mean 1e3": Regime(_normal(mean=1e3)),
    "mean 1e4": Regime(_normal(mean=1e4)),
    "mean 1e5": Regime(_normal(mean=1e5)),
    "outlier first": Regime(_outlier(0.0)),
    "outlier middle": Regime(_outlier(0.5)),
    "outlier last": Regime(_outlier(1.0)),
    "near eps": Regime(_normal(float32_scale=EPS**0.5, float64_scale=EPS**0.5)),
    "tiny": Regime(_normal(float32_scale=1e-20, float64_scale=1e-160)),
    "tiny, eps 0": Regime(_normal(float32_scale=1e-20, float64_scale=1e-160), eps=0.0),
    "tiny, mean 1e4, eps 0": Regime(_normal(mean=1e4, float32_scale=1e-20, float64_scale=1e-160), eps=0.0),
    "huge": Regime(_normal(float32_scale=1e20, float64_scale=1e160)),
    "huge, mean 1e4": Regime(_normal(mean=1e4, float32_scale=1e20, float64_scale=1e160)),
    "near max": Regime(_near_max),
    "subnormal": Regime(_subnormal),
    "subnormal, eps 0": Regime(_subnormal, eps=0.0),
    "any scale": Regime(_any_scale),
    "any scale, eps 0": Regime(_any_scale, eps=0.0),
    "constant": Regime(_constant),
    "lognormal": Regime(_lognormal),
    "two-valued": Regime(_two_valued),
    "ramp": Regime(_ramp),
}


class Case(NamedTuple):
    """Rows of one regime and width, parameters for them and their exact normalization."""

    x: np.ndarray
    eps: float
    weight: np.ndarray
    bias: np.ndarray
    exact: Exact

    def parameters(self, combination):
        """(weight or None, bias or None)."""
        use_weight, use_bias = COMBINATIONS[combination]
        return (self.weight if use_weight else None), (self.bias if use_bias else None)


def make_rows(regime, rows, cols, dtype):
    """Rows of a named regime, always the same ones for the same arguments."""
    rng = np.random.default_rng([zlib.crc32(regime.encode()), rows, cols])
    return REGIMES[regime].make(rng, rows, cols, np.dtype(dtype)).astype(dtype)


def make_parameters(cols, dtype):
    """A weight and a bias of ordinary size, both signs."""
    rng = np.random.default_rng([cols, 1])
    return rng.standard_normal(cols).astype(dtype), rng.standard_normal(cols).astype(dtype)


def make_mixed_rows(rows, cols, dtype):
    """Rows that take turns through every regime with the usual eps: fast and careful paths side by side."""
    names = [name for name, regime in REGIMES.items() if regime.eps == EPS]
    stack = np.stack([make_rows(name, -(-rows // len(names)), cols, dtype) for name in names], axis=1)
    return np.ascontiguousarray(stack.reshape(-1, cols)[:rows])


def make_case(regime, rows, cols, dtype):
    """Rows, parameters and the exact result."""
    x = make_rows(regime, rows, cols, dtype)
    eps = REGIMES[regime].eps
    return Case(x, eps, *make_parameters(cols, dtype), exact_layer_norm(x, eps))


@functools.lru_cache(maxsize=2)  # tests run through the ISAs innermost; a case list is about 10 MB
def make_cases(regime, dtype):
    """The cases of a regime at every width, computed once for all ISAs and combinations."""
    return [make_case(regime, ROWS, cols, dtype) for cols in COLS]
