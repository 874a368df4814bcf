"""The exact result in more precision than the dtype, and the largest error of a contender against it.

Errors are in units that mean the same in every cell: eps, the distance from 1 to the next number of the dtype, times
the size of what was computed. For y that is |weight| max|x_hat| + |bias|, the maximum over the row; for dx it is rstd
max(|g| + |mean(g)| + |x_hat mean(g x_hat)|) with g = dy weight; for dweight and dbias the largest column's sum of
|dy x_hat| and of |dy|. Rounding a perfect result costs at most half a unit; ordinary rows of fastln keep 2 for y,
dweight and dbias and 4 for dx (docs/accuracy.md).

Large arrays are judged by a sample, the same for all contenders: rows for y and dx, columns for dweight and dbias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastln import _reference as reference

from .cells import EPS, FORWARD, Arrays

# Elements that a sample has, about: what takes some hundredths of a second in long double.
SAMPLED_ELEMENTS = 2**17

# float64 has 29 bits more than float32; for float64 there is long double, which has 11.
WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}


class OutputsError(Exception):
    """Outputs that cannot be judged: too few, or of the wrong shape or dtype."""


class Judged(NamedTuple):
    """An output's name, which part of it is judged, and what it and the unit of its error are there."""

    name: str
    shape: tuple[int, ...]
    part: object
    value: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Exact:
    """What the outputs must be."""

    dtype: np.dtype
    outputs: tuple[Judged, ...]


def exact_outputs(operation: str, arrays: Arrays) -> Exact:
    """Judge y, or dx, dweight and dbias."""
    outputs = _forward(arrays) if operation == FORWARD else _backward(arrays)
    return Exact(arrays.x.dtype, outputs)


def largest_error(outputs: tuple[np.ndarray, ...], exact: Exact) -> float:
    """The largest error of any output in its unit; inf where NaN or Inf is out of place."""
    names = ", ".join(judged.name for judged in exact.outputs)
    if len(outputs) != len(exact.outputs):
        raise OutputsError(f"outputs must be {names}, got {len(outputs)} of them")
    errors = []
    for output, judged in zip(outputs, exact.outputs, strict=True):
        if output.shape != judged.shape or output.dtype != exact.dtype:
            expected = f"{exact.dtype} of shape {judged.shape}"
            raise OutputsError(f"{judged.name} must be {expected}, got {output.dtype} of shape {output.shape}")
        with np.errstate(all="ignore"):
            error = np.abs(output[judged.part].astype(judged.value.dtype) - judged.value) / judged.unit
        errors.append(float(error.max()) if np.isfinite(error).all() else np.inf)
    return max(errors)


def _sample(size: int, of: int) -> np.ndarray:
    """Indices of so many of them at most, spread from the first to the last."""
    return np.unique(np.linspace(0, of - 1, max(1, min(size, of))).astype(np.intp))


def _normalize(x: np.ndarray) -> reference.Normalized:
    return reference.normalize(x, EPS, WIDER[x.dtype])


def _forward(arrays: Arrays) -> tuple[Judged, ...]:
    rows = _sample(SAMPLED_ELEMENTS // arrays.x.shape[1], len(arrays.x))
    x_hat = _normalize(arrays.x[rows]).x_hat
    size = reference.output_size(x_hat, arrays.weight, arrays.bias)
    y = reference.scale_and_shift(x_hat, arrays.weight, arrays.bias)
    return (Judged("y", arrays.x.shape, rows, y, np.finfo(arrays.x.dtype).eps * size),)


def _backward(arrays: Arrays) -> tuple[Judged, ...]:
    x, dy = arrays.x, arrays.dy
    eps = np.finfo(x.dtype).eps
    rows = _sample(SAMPLED_ELEMENTS // x.shape[1], len(x))
    normalized = _normalize(x[rows])
    dx = reference.gradients(dy[rows], normalized, arrays.weight).dx
    dx_size = reference.gradient_sizes(dy[rows], normalized, arrays.weight).dx
    columns = _sample(SAMPLED_ELEMENTS // len(x), x.shape[1])
    of_columns = dy[:, columns], _x_hat_of_columns(x, columns)
    dweight, dbias = reference.parameter_gradients(*of_columns)
    sizes = reference.parameter_gradients(*map(np.abs, of_columns))
    return (
        Judged("dx", x.shape, rows, dx, eps * dx_size),
        Judged("dweight", x.shape[1:], columns, dweight, eps * sizes[0].max()),
        Judged("dbias", x.shape[1:], columns, dbias, eps * sizes[1].max()),
    )


def _x_hat_of_columns(x: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """These columns of x_hat for all rows, a block of rows at a time."""
    found = np.empty((len(x), len(columns)), WIDER[x.dtype])
    step = max(1, SAMPLED_ELEMENTS // x.shape[1])
    for first in range(0, len(x), step):
        rows = slice(first, first + step)
        found[rows] = _normalize(x[rows]).x_hat[:, columns]
    return found
