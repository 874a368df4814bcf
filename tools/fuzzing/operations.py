"""The operations that are fuzzed. Whoever adds one adds an entry: its arguments and results by kind, and a judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fastln

from . import (
    BACKWARD_REGIMES,
    PROMISED,
    PROMISED_OF_RMS,
    REGIMES,
    Array,
    computed,
    exact,
    finfo,
    half_subnormal,
    half_unit,
    is_narrow,
)


class FindingError(Exception):
    """What a case showed to be wrong."""


ROWS, STATS, PARAMETER = "rows", "stats", "parameter"  # of the shape of x; one number a row; of normalized_shape


ANY_ROWS = tuple(REGIMES)


class Problem(NamedTuple):
    """The values of a call, before they get their places in memory: contiguous arrays, of dtypes that go together."""

    arrays: dict[str, Array | None]  # rows as (rows, cols), stats as (rows, 1), parameters as (cols,)
    eps: float


@dataclass(frozen=True)
class Operation:
    """A function of fastln, by kinds of arguments and results."""

    call: Callable[..., Any]  # everything by name
    plain: Callable[..., Any]  # what must give the same bits
    arrays: Mapping[str, str]  # {argument: kind}; x is one of them
    optional: tuple[str, ...]
    results: tuple[str, ...]  # kinds; the first can go to `out`, the second of some to `residual_out`
    options: tuple[str, ...]  # of eps, output_mask, out, residual_out
    judge: Callable[[Problem, tuple[Array | None, ...]], Iterator[tuple[str, float]]]
    regimes: tuple[str, ...]  # of x
    statistics: Callable[[Array, float], dict[str, Array]] | None = None  # those among the arguments, of x and eps
    others: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # {argument: values that change no bit}
    base: str = "x"  # the argument whose dtype is that of the results

    @property
    def of_base_dtype(self) -> tuple[str, ...]:
        """The arguments that are not converted."""
        return (self.base, "residual")


class Norm(NamedTuple):
    """What the results of a norm are judged by."""

    normalize: Callable[[Array, float], exact.Normalized]
    promised: Mapping[str, Mapping[str, float]]
    saved: Callable[[Array, float], dict[str, Array]]  # what its forward pass leaves for the gradients


def excess(
    promised: Mapping[str, Mapping[str, float]],
    result: str,
    found: Array,
    value: Array,
    size: Array,
    more: Array | float = 0,
) -> float:
    """The largest error, in units of what is promised of the result; what is not finite is none of it.

    `more` is what it costs to round something before the result.
    """
    dtype = computed(found.dtype)
    bound = promised[dtype.name][result] * np.longdouble(finfo(dtype).eps) * size
    error = np.where(np.isfinite(found), np.abs(found.astype(np.longdouble) - value), np.inf)
    # What it costs to round a subnormal result, or one of 16 bits, whatever was computed before.
    rounding = half_unit(found) if is_narrow(found.dtype) else half_subnormal(found.dtype)
    error = np.maximum(error - rounding - more, 0)
    judged = np.isfinite(value) & np.isfinite(bound)
    if is_narrow(found.dtype):  # gradients may be out of its range; then nothing is promised
        judged &= np.abs(value) + size < float(finfo(found.dtype).max) / 4
    return float(np.where(error == 0, 0, error / bound)[judged].max(initial=0))


def judge_forward(
    norm: Norm, problem: Problem, found: tuple[Array | None, ...], rounds_x_hat: bool = False
) -> Iterator[tuple[str, float]]:
    """The errors of y, and of mean and rstd where they are there."""
    x, residual, weight, bias = (problem.arrays.get(name) for name in ("x", "residual", "weight", "bias"))
    y = found[0]
    if residual is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            x = x + residual
        if not np.array_equal(x, found[1], equal_nan=True):
            raise FindingError("s is not x + residual")
        found = (y, *found[2:])
    finite = np.isfinite(x).all(axis=1)
    if not np.isnan(y[~finite]).all():
        raise FindingError("a row with NaN or Inf is not all NaN")
    rows = x[finite]
    if not len(rows):
        return
    normalized = norm.normalize(rows, problem.eps)
    value = exact.scale_and_shift(normalized.x_hat, weight, bias)
    # Where eps and the variance are 0, the result is NaN.
    if not np.isnan(y[finite][np.isnan(value)]).all():
        raise FindingError("a row of 0 / 0 is not NaN")
    size = np.broadcast_to(exact.output_size(normalized.x_hat, weight, bias), rows.shape)
    # Parameters may carry the result out of the range of the dtype; then nothing is promised.
    value = np.where(np.abs(value) + size < float(finfo(y.dtype).max) / 4, value, np.nan)
    more = rounding_of_x_hat(normalized.x_hat, weight, y.dtype) if rounds_x_hat and is_narrow(y.dtype) else 0
    yield "y", excess(norm.promised, "y", y[finite], value, size, more)
    if len(found) == 1:
        return
    *mean, rstd = (one[finite] for one in found[1:])
    if mean:
        spread = np.abs(rows.astype(np.longdouble) - normalized.mean).max(axis=1, keepdims=True)
        yield "mean", excess(norm.promised, "mean", mean[0], normalized.mean, np.abs(normalized.mean) + spread)
    expected = np.where(normalized.rstd > np.finfo(rstd.dtype).max, np.inf, normalized.rstd)
    yield "rstd", excess(norm.promised, "rstd", rstd, expected, expected)


def rounding_of_x_hat(x_hat: Array, weight: Array | None, dtype: np.dtype) -> Array:
    """What y loses where x_hat is rounded to a dtype before the weight. It may be past a power of two by its error."""
    unit = half_unit((x_hat * (1 + 2.0**-12)).astype(dtype))
    return unit if weight is None else unit * np.abs(weight.astype(np.longdouble))


def mean_and_rstd(x: Array, eps: float) -> dict[str, Array]:
    """What layer_norm_forward returns besides y."""
    _, mean, rstd = fastln.layer_norm_forward(x, eps=eps, num_threads=1)
    return {"mean": mean, "rstd": rstd}


def rstd_of_rms(x: Array, eps: float) -> dict[str, Array]:
    """What rms_norm_forward returns besides y."""
    return {"rstd": fastln.rms_norm_forward(x, eps=eps, num_threads=1)[1]}


def judge_backward(norm: Norm, problem: Problem, found: tuple[Array | None, ...]) -> Iterator[tuple[str, float]]:
    """The errors of dx, dweight and dbias, those that are there; nothing where nothing is promised.

    That is where mean and rstd are not those of x, or a product of two numbers might be out of range.
    """
    dy, rstd, weight, ds = (problem.arrays.get(name) for name in ("dy", "rstd", "weight", "ds"))
    x = problem.arrays["s" if "s" in problem.arrays else "x"]
    present = {name: a for name, a in problem.arrays.items() if a is not None}
    if not len(x) or not all(np.isfinite(a).all() for name, a in present.items() if name != "weight"):
        return
    if any(problem.arrays[name].tobytes() != a.tobytes() for name, a in norm.saved(x, problem.eps).items()):
        return
    dy, weight, ds = (None if a is None else a.astype(np.longdouble) for a in (dy, weight, ds))
    g = np.abs(dy if weight is None else dy * weight)
    if max(g.max(), np.abs(dy).max(), rstd.max(), 1 / rstd.min()) > 1e13 or np.abs(x).max() > 1e15:
        return
    normalized = norm.normalize(x, problem.eps)
    value = exact.gradients(dy, normalized, weight, ds)
    wide = np.abs(dy).astype(np.longdouble)
    g = exact.scale_and_shift(wide, None if weight is None else np.abs(weight), None)
    largest = np.abs(normalized.x_hat).max(axis=1, keepdims=True)
    precision = finfo(computed(x.dtype))
    least = precision.tiny / precision.eps  # below this size, products of two numbers are subnormal
    if ((largest > 0) & (largest < least)).any():  # so is x_hat, from subnormal x under a large eps
        return
    root = np.sqrt(np.square(g).mean(axis=1, keepdims=True))
    sizes = {
        "dx": normalized.rstd * (g.max(axis=1, keepdims=True) + largest * root) + (0 if ds is None else np.abs(ds)),
        "dweight": exact.sum_rows(wide * largest),
        "dbias": exact.sum_rows(wide),
    }
    for (result, size), one, right in zip(sizes.items(), found, value, strict=False):  # RMS norm has no dbias
        if one is not None:
            yield result, excess(norm.promised, result, one, np.where(size > least, right, np.nan), size)


def last_dimension(*arrays: Any) -> tuple[int, ...]:
    """Of the first of these that has one, right or wrong."""
    for array in arrays:
        with suppress(ValueError):  # lists of unequal length
            if shape := np.shape(array)[-1:]:
                return shape
    return (1,)


def layer_norm_object(x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any) -> fastln.LayerNorm:
    """A LayerNorm that has been given these parameters. It keeps both in float64, so none is rounded here."""
    shape = last_dimension(x, weight, bias) if normalized_shape is None else normalized_shape
    norm = fastln.LayerNorm(shape, eps, dtype=np.float64)
    norm.weight, norm.bias = weight, bias
    return norm


def object_call(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """LayerNorm.__call__ as a function."""
    return layer_norm_object(x, normalized_shape, weight, bias, eps)(x, out=out, num_threads=num_threads)


def object_forward(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, num_threads=None):
    """LayerNorm.forward as a function."""
    y, saved = layer_norm_object(x, normalized_shape, weight, bias, eps).forward(x, num_threads=num_threads)
    return y, saved.mean, saved.rstd


def object_backward(dy, x, mean, rstd, weight=None, *, normalized_shape=None, out=None, num_threads=None):
    """LayerNorm.backward as a function; without a weight it gives no dweight."""
    norm = layer_norm_object(x, normalized_shape, weight, weight, 1e-5)
    return norm.backward(dy, (x, mean, rstd), out=out, num_threads=num_threads)


def object_backward_plain(weight=None, **others):
    """What `object_backward` must give: the object has its weight in float64."""
    mask = (True, weight is not None, weight is not None)
    weight = None if weight is None else np.asarray(weight).astype(np.float64)
    return fastln.layer_norm_backward(weight=weight, output_mask=mask, **others)


FORWARD = {"x": ROWS, "weight": PARAMETER, "bias": PARAMETER}
BACKWARD = {"dy": ROWS, "x": ROWS, "mean": STATS, "rstd": STATS, "weight": PARAMETER}

LAYER_NORM = Norm(exact.normalize, PROMISED, mean_and_rstd)
RMS_NORM = Norm(exact.normalize_by_rms, PROMISED_OF_RMS, rstd_of_rms)


def _forward(call, plain, results, *options):
    judge = partial(judge_forward, LAYER_NORM)
    return Operation(call, plain, FORWARD, ("weight", "bias"), results, options, judge, ANY_ROWS)


def _rms_forward(call, results):
    arrays = {name: kind for name, kind in FORWARD.items() if name != "bias"}
    others = {"cast": (None, "gemma"), "weight_offset": (0, -0.0)}
    judge = partial(judge_forward, RMS_NORM)
    return Operation(call, call, arrays, ("weight",), results, ("eps", "out"), judge, ANY_ROWS, others=others)


def _as_llama(operation):
    """The same with x_hat rounded to the dtype of x before the weight."""
    call, judge = partial(operation.call, cast="llama"), partial(judge_forward, RMS_NORM, rounds_x_hat=True)
    return replace(operation, call=call, plain=call, judge=judge, others={"weight_offset": (0, -0.0)})


def _backward(call, plain, *options):
    results = (ROWS, PARAMETER, PARAMETER)
    judge, regimes = partial(judge_backward, LAYER_NORM), tuple(BACKWARD_REGIMES)
    return Operation(call, plain, BACKWARD, ("weight",), results, options, judge, regimes, mean_and_rstd)


def _rms_backward(call):
    arrays = {name: kind for name, kind in BACKWARD.items() if name != "mean"}
    options, judge = ("output_mask", "out"), partial(judge_backward, RMS_NORM)
    regimes, others = tuple(BACKWARD_REGIMES), {"weight_offset": (0, -0.0)}
    return Operation(call, call, arrays, ("weight",), (ROWS, PARAMETER), options, judge, regimes, rstd_of_rms, others)


def _with_residual(operation, call, *stats):
    """The same norm of the sum of x and a residual."""
    rest = {name: kind for name, kind in operation.arrays.items() if name != "x"}
    arrays, options = {"x": ROWS, "residual": ROWS, **rest}, ("eps", "out", "residual_out")
    return replace(operation, call=call, plain=call, arrays=arrays, results=(ROWS, ROWS, *stats), options=options)


def _of_sum(operation, call):
    """The same gradients, of s, with what reaches that beside the norm."""
    rest = {name: kind for name, kind in operation.arrays.items() if name not in ("dy", "x")}
    arrays = {"dy": ROWS, "ds": ROWS, "s": ROWS, **rest}
    return replace(operation, call=call, plain=call, arrays=arrays, optional=("ds", "weight"), base="s")


_ln, _ln_forward, _ln_backward = fastln.layer_norm, fastln.layer_norm_forward, fastln.layer_norm_backward

OPERATIONS = {
    "layer_norm": _forward(_ln, _ln, (ROWS,), "eps", "out"),
    "layer_norm_forward": _forward(_ln_forward, _ln_forward, (ROWS, STATS, STATS), "eps", "out"),
    "layer_norm_backward": _backward(_ln_backward, _ln_backward, "output_mask", "out"),
    "rms_norm": _rms_forward(fastln.rms_norm, (ROWS,)),
    "rms_norm_forward": _rms_forward(fastln.rms_norm_forward, (ROWS, STATS)),
    "rms_norm_backward": _rms_backward(fastln.rms_norm_backward),
    "LayerNorm": _forward(object_call, _ln, (ROWS,), "eps", "out"),
    "LayerNorm.forward": _forward(object_forward, _ln_forward, (ROWS, STATS, STATS), "eps"),
    "LayerNorm.backward": _backward(object_backward, object_backward_plain, "out"),
}
OPERATIONS |= {
    "add_layer_norm": _with_residual(OPERATIONS["layer_norm"], fastln.add_layer_norm),
    "add_layer_norm_forward": _with_residual(OPERATIONS["layer_norm"], fastln.add_layer_norm_forward, STATS, STATS),
    "add_layer_norm_backward": _of_sum(OPERATIONS["layer_norm_backward"], fastln.add_layer_norm_backward),
    "add_rms_norm": _with_residual(OPERATIONS["rms_norm"], fastln.add_rms_norm),
    "add_rms_norm_forward": _with_residual(OPERATIONS["rms_norm"], fastln.add_rms_norm_forward, STATS),
    "add_rms_norm_backward": _of_sum(OPERATIONS["rms_norm_backward"], fastln.add_rms_norm_backward),
}
OPERATIONS |= {f"{name} as Llama": _as_llama(OPERATIONS[name]) for name in ("rms_norm", "add_rms_norm")}
# Of the cases; every other operation has 1.
SHARES = {
    "layer_norm": 4,
    "layer_norm_forward": 4,
    "layer_norm_backward": 8,
    "rms_norm": 3,
    "rms_norm_forward": 3,
    "rms_norm_backward": 6,
    "add_layer_norm": 3,
    "add_layer_norm_forward": 2,
    "add_layer_norm_backward": 4,
    "add_rms_norm_backward": 2,
}
