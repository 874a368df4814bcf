"""The exact results, the sizes that errors are judged by, what is promised, and kinds of rows ("regimes").

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


# The largest errors, in eps of the dtype times the size of what was computed, which the functions below have.
#
# What ordinary rows keep: those of the regimes below, of whatever mean, outlier and magnitude.
USUAL = {"y": 2, "mean": 1, "rstd": 2, "dx": 4, "dweight": 2, "dweight of many rows": 2, "dbias": 2}
# What is promised for every row. docs/accuracy.md proves it; tests/adversary.py searches for rows that come near it.
PROMISED = {
    "float32": {"y": 15, "mean": 5, "rstd": 7, "dx": 45, "dweight": 17, "dbias": 2.1},
    "float64": {"y": 20, "mean": 7, "rstd": 10, "dx": 54, "dweight": 19, "dbias": 2.1},
}


def in_eps(error, size, dtype):
    """The largest error, in eps times its size.

    Half of the smallest subnormal is taken off first: where the result is subnormal, rounding it to the dtype costs
    that much whatever was computed before.
    """
    error = np.maximum(np.abs(error) - half_subnormal(dtype), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = error / (np.longdouble(np.finfo(dtype).eps) * size)
    return float(np.where(error == 0, 0, errors).max(initial=0))


def output_size(xhat, weight, bias):
    """What errors of y are judged by: |weight| max|xhat| + |bias|, the maximum over the row."""
    size = np.abs(xhat).max(axis=-1, keepdims=True)
    if weight is not None:
        size = size * np.abs(weight.astype(np.longdouble))
    if bias is not None:
        size = size + np.abs(bias.astype(np.longdouble))
    return size


def output_error(y, exact, weight=None, bias=None):
    """The largest error of y (2-d), in eps times its size; inf if NaN or Inf is out of place."""
    expected = exact.xhat
    if weight is not None:
        expected = expected * weight.astype(np.longdouble)
    if bias is not None:
        expected = expected + bias.astype(np.longdouble)
    undefined = np.isnan(expected)
    if not (np.isnan(y) == undefined).all() or np.isinf(y).any():
        return np.inf
    error = np.where(undefined, 0, y.astype(np.longdouble) - expected)
    return in_eps(error, output_size(exact.xhat, weight, bias), y.dtype)


def mean_error(mean, x, exact):
    """The largest error of the mean output, in eps (|mean| + max|x - mean|).

    The first term is the rounding of the result (half of it would be perfect), the second what summing the row costs.
    """
    spread = np.abs(x.astype(np.longdouble) - exact.mean).max(axis=-1, keepdims=True)
    return in_eps(mean.astype(np.longdouble) - exact.mean, np.abs(exact.mean) + spread, x.dtype)


def rstd_error(rstd, exact):
    """The largest error of the rstd output, in eps rstd; Inf is right where rstd is too large."""
    too_large = exact.rstd > np.longdouble(np.finfo(rstd.dtype).max)
    if np.isnan(rstd).any() or not (np.isinf(rstd) == too_large).all():
        return np.inf
    with np.errstate(invalid="ignore"):
        error = np.where(too_large, 0, rstd.astype(np.longdouble) - exact.rstd)
    return in_eps(error, exact.rstd, rstd.dtype)


class Sized(NamedTuple):
    """An exact result in long double, and the size that errors are judged by."""

    value: np.ndarray
    size: np.ndarray


class Gradients(NamedTuple):
    """What layer_norm_backward returns: dx (rows, cols), dweight (cols,), dbias (cols,)."""

    dx: Sized
    dweight: Sized
    dbias: Sized
    dweight_of_many_rows: Sized | None  # dweight again, with a smaller size
    dx_of_any_row: Sized  # dx again, with a larger size


# The columns of so many rows are judged by the smaller size.
MANY_ROWS = 31


def sum_rows(terms):
    """Sum over the first axis, pairwise as NumPy sums along memory."""
    return np.ascontiguousarray(terms.T).sum(axis=-1)


def exact_gradients(dy, exact, weight=None, even=True):
    """The gradients of sum(dy * layer_norm(x)), exact being that of x, and the sizes that errors are judged by.

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
    wide = np.ascontiguousarray(dy).astype(np.longdouble)
    g = wide if weight is None else wide * weight.astype(np.longdouble)
    mean_g = g.mean(axis=-1, keepdims=True)
    along = exact.xhat * (g * exact.xhat).mean(axis=-1, keepdims=True)
    dx = exact.rstd * (g - mean_g - along)
    size = (np.abs(g) + np.abs(mean_g) + np.abs(along)).max(axis=-1, keepdims=True)
    terms, largest = wide * exact.xhat, np.abs(exact.xhat).max(axis=-1, keepdims=True)
    any_size = np.abs(g).max(axis=-1, keepdims=True) + largest * np.sqrt(np.square(g).mean(axis=-1, keepdims=True))
    dweight = sum_rows(terms)
    many = even and len(wide) >= MANY_ROWS
    return Gradients(
        Sized(dx, exact.rstd * size),
        Sized(dweight, sum_rows(np.abs(wide) * largest)),
        Sized(sum_rows(wide), sum_rows(np.abs(wide))),
        Sized(dweight, sum_rows(np.abs(terms))) if many else None,
        Sized(dx, exact.rstd * any_size),
    )


def gradient_error(found, expected):
    """The largest error of one gradient, in eps times its size; inf if it is not finite or has another shape."""
    if found.shape != expected.value.shape or not np.isfinite(found).all():
        return np.inf
    return in_eps(found.astype(np.longdouble) - expected.value, expected.size, found.dtype)


def gradient_errors(found, expected):
    """The largest errors of dx, dweight and dbias by name, in eps times the sizes that go with USUAL."""
    dx, dweight, dbias = found
    errors = {
        "dx": gradient_error(dx, expected.dx),
        "dweight": gradient_error(dweight, expected.dweight),
        "dbias": gradient_error(dbias, expected.dbias),
    }
    if expected.dweight_of_many_rows is not None:
        errors["dweight of many rows"] = gradient_error(dweight, expected.dweight_of_many_rows)
    return errors


def errors_of_any_rows(found, expected):
    """The largest errors of dx, dweight and dbias by name, in eps times the sizes that go with PROMISED."""
    sizes = (expected.dx_of_any_row, expected.dweight, expected.dbias)
    return {name: gradient_error(*pair) for name, *pair in zip(("dx", "dweight", "dbias"), found, sizes, strict=True)}


def are_usual(errors):
    """Whether each of {name: error} is what ordinary rows keep."""
    return all(error <= USUAL[name] for name, error in errors.items())


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


def _outlier(place, sizes=(1e3, -1e6, 1e12, -1e30)):  # from one that fits to one whose square does not
    def make(rng, rows, cols, dtype):
        x = rng.standard_normal((rows, cols))
        x[:, int(place * (cols - 1))] = np.resize(sizes, rows)
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


# The rows that the backward pass is judged by. Left out are those of REGIMES that only forward's careful path can
# take: "huge", "near max", "subnormal", "any scale", "tiny" with eps 0 and the outlier of 1e30. There the product of
# two elements or of two rstd is out of range, or rstd itself is subnormal. Forward has to cope, since it is given any
# x; gradients of such rows are not promised. ("tiny" with the usual eps is here: its rstd is that of a row of zeros.)
BACKWARD_REGIMES = {
    name: REGIMES[name]
    for name in (
        "normal",
        "mean 10",
        "mean 1e3",
        "mean 1e4",
        "mean 1e5",
        "lognormal",
        "near eps",
        "tiny",
        "constant",
        "two-valued",
        "ramp",
    )
} | {
    "moderate outlier first": Regime(_outlier(0.0, (1e3, -1e6, 30.0, -1e12))),
    "moderate outlier last": Regime(_outlier(1.0, (1e3, -1e6, 30.0, -1e12))),
    "scale 1e10": Regime(_normal(float32_scale=1e10, float64_scale=1e10)),
    "scale 1e-10": Regime(_normal(float32_scale=1e-10, float64_scale=1e-10)),
    "scale 1e-10, eps 1e-30": Regime(_normal(float32_scale=1e-10, float64_scale=1e-10), eps=1e-30),
}


def _constant_dy(rng, x):
    # As the loss mean(y) gives it: every term of dbias and of each mean is the same, so their roundings add up.
    return np.broadcast_to(rng.choice([1.1, 1 / 3, -1 / 768, 0.7], (len(x), 1)), x.shape)


def _one_number(rng, x):
    return np.full(x.shape, 1.1)


def _along_xhat(rng, x):
    # What dx is orthogonal to: nearly everything cancels.
    centred = x - x.mean(axis=-1, keepdims=True)
    xhat = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPS)
    return 3 * xhat + 1e-3 * rng.standard_normal(x.shape)


def _normal_dy(mean=0.0, scale=1.0):
    def make(rng, x):
        return scale * (rng.standard_normal(x.shape) + mean)

    return make


def _dy_outliers(rng, x):
    dy = rng.standard_normal(x.shape)
    dy[np.arange(len(dy)), rng.integers(0, dy.shape[1], len(dy))] *= 1e6
    return dy


# {kind of dy: its maker, from the rows in float64}
DY = {
    "normal": _normal_dy(),
    "along xhat": _along_xhat,
    "mean 1e3": _normal_dy(mean=1e3),
    "outliers": _dy_outliers,
    "constant rows": _constant_dy,
    "one number": _one_number,
    "scale 1e10": _normal_dy(scale=1e10),
    "scale 1e-10": _normal_dy(scale=1e-10),
}

# {label: (regime of x, kind of dy)}
GRADIENT_REGIMES = {name: (name, "normal") for name in BACKWARD_REGIMES} | {
    f"{name}, dy {kind}": (name, kind) for name in ("normal", "mean 1e4") for kind in DY if kind != "normal"
}

# Of those, the ones in which a column may have a single term that counts, or nearly none.
UNEVEN = ("ramp", "normal, dy outliers", "mean 1e4, dy outliers")


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


def find_regime(name):
    """The regime of a name, of forward's or of those that backward adds."""
    return REGIMES.get(name) or BACKWARD_REGIMES[name]


def make_rows(regime, rows, cols, dtype):
    """Rows of a named regime, always the same ones for the same arguments."""
    rng = np.random.default_rng([zlib.crc32(regime.encode()), rows, cols])
    return find_regime(regime).make(rng, rows, cols, np.dtype(dtype)).astype(dtype)


def make_parameters(cols, dtype):
    """A weight and a bias of ordinary size, both signs."""
    rng = np.random.default_rng([cols, 1])
    return rng.standard_normal(cols).astype(dtype), rng.standard_normal(cols).astype(dtype)


def make_mixed_rows(rows, cols, dtype, regimes=REGIMES):
    """Rows that take turns through every regime with the usual eps: fast and careful paths side by side."""
    names = [name for name, regime in regimes.items() if regime.eps == EPS]
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


class GradientCase(NamedTuple):
    """dy for rows of one regime and width, a weight, and the exact gradients with that weight and without."""

    dy: np.ndarray
    x: np.ndarray
    eps: float
    weight: np.ndarray
    weighted: Gradients
    plain: Gradients


def make_gradient_inputs(label, rows, cols, dtype):
    """Of a named regime: dy and x, always the same ones for the same arguments."""
    regime, kind = GRADIENT_REGIMES[label]
    x = make_rows(regime, rows, cols, dtype)
    rng = np.random.default_rng([zlib.crc32(label.encode()), rows, cols, 2])
    return np.array(DY[kind](rng, x.astype(np.float64)), dtype), x


def make_gradient_case(label, rows, cols, dtype):
    """Of a named regime: dy, x, and the exact gradients."""
    dy, x = make_gradient_inputs(label, rows, cols, dtype)
    eps = find_regime(GRADIENT_REGIMES[label][0]).eps
    weight = make_parameters(cols, dtype)[0]
    exact = exact_layer_norm(x, eps)
    weighted, plain = (exact_gradients(dy, exact, w, even=label not in UNEVEN) for w in (weight, None))
    return GradientCase(dy, x, eps, weight, weighted, plain)


def gradient_shapes(label):
    """The (rows, cols) to try: every width for the most usual regimes, for the others those around registers."""
    every = GRADIENT_REGIMES[label] in (("normal", "normal"), ("mean 1e4", "normal"))
    cols = [cols for cols in COLS if every or cols < 5 or (cols % 16 in (15, 0, 1, 5) and cols <= 4096)]
    rows = (8, 33, 1, 9, 64, 3, 32, 5, 31)  # widths take turns
    return [(2 if size > 4096 else rows[i % len(rows)], size) for i, size in enumerate(cols)]


@functools.lru_cache(maxsize=2)  # as make_cases
def make_gradient_cases(label, dtype):
    """The cases of a regime, computed once for all ISAs."""
    return [make_gradient_case(label, rows, cols, dtype) for rows, cols in gradient_shapes(label)]
