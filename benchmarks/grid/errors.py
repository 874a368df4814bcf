"""The exact result in more precision than the dtype, and the largest error of a contender against it.

Errors are in units that mean the same in every cell: eps, the distance from 1 to the next number of the dtype, times
the size of what was computed. For y that is |weight| max|x_hat| + |bias|, the maximum over the row; for dx it is rstd
max(|g| + |mean(g)| + |x_hat mean(g x_hat)|) with g = dy weight, and |ds| where there is one; for dweight and dbias the
largest column's sum of |dy x_hat| and of |dy|; for the sum of x and the residual |x| + |residual|. Rounding a perfect
result costs at most half a unit; ordinary rows of fastln keep 2 for y, dweight and dbias and 4 for dx
(docs/accuracy.md), and 1 in 16 bits. What is normalized is the sum as it is rounded to the dtype.

Large arrays are judged by a sample, the same for all contenders: rows for y and dx, columns for dweight and dbias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastln import _reference as reference

from .arrays import EPS, Arrays, blocks_of_rows

# Elements that a sample has, about: what takes some hundredths of a second in long double.
SAMPLED_ELEMENTS = 2**17

# By the bytes of a number: float64 has 29 bits more than float32; for float64 there is long double, which has 11.
WIDER = {2: np.float64, 4: np.float64, 8: np.longdouble}


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


def exact_outputs(arrays: Arrays) -> Exact:
    """What the operation of these arrays must write."""
    found = {judged.name: judged for judged in (*_by_row(arrays), *_by_column(arrays))}
    return Exact(arrays.x.dtype, tuple(found[name] for name in arrays.operation.writes))


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


def eps_of(dtype: np.dtype) -> float:
    """The distance from 1 to the next number: np.finfo does not know bfloat16."""
    return float(np.nextafter(dtype.type(1), dtype.type(2))) - 1


def _normalize(arrays: Arrays, rows: np.ndarray | slice) -> reference.Normalized:
    return arrays.operation.normalize(arrays.normalized(rows), EPS, WIDER[arrays.x.itemsize])


def _by_row(arrays: Arrays) -> Iterator[Judged]:
    """Judge y and the sum, or dx, in a sample of the rows."""
    x, reads = arrays.x, arrays.operation.reads
    rows = _sample(SAMPLED_ELEMENTS // x.shape[1], len(x))
    normalized, eps = _normalize(arrays, rows), eps_of(x.dtype)
    weight, bias = (getattr(arrays, name) if name in reads else None for name in ("weight", "bias"))
    if "dx" in arrays.operation.writes:
        about = arrays.dy[rows], normalized, weight, arrays.ds[rows] if "ds" in reads else None
        name, value, size = "dx", reference.gradients(*about).dx, reference.gradient_sizes(*about).dx
    else:
        about = normalized.x_hat, weight, bias
        name, value, size = "y", reference.scale_and_shift(*about), reference.output_size(*about)
    yield Judged(name, x.shape, rows, value, eps * size)
    if "sum" in arrays.operation.writes:
        terms = [term[rows].astype(value.dtype) for term in (x, arrays.residual)]
        yield Judged("sum", x.shape, rows, sum(terms), eps * sum(map(np.abs, terms)))


def _by_column(arrays: Arrays) -> Iterator[Judged]:
    """Judge dweight and dbias in a sample of the columns, in eps of the largest column's sum."""
    if "dy" not in arrays.operation.reads:
        return
    x = arrays.x
    columns = _sample(SAMPLED_ELEMENTS // len(x), x.shape[1])
    factors = arrays.dy[:, columns], _x_hat_of_columns(arrays, columns)
    sums = reference.parameter_gradients(*factors)
    sizes = reference.parameter_gradients(*map(np.abs, factors))
    for name, value, size in zip(("dweight", "dbias"), sums, sizes, strict=True):
        yield Judged(name, x.shape[1:], columns, value, eps_of(x.dtype) * size.max())


def _x_hat_of_columns(arrays: Arrays, columns: np.ndarray) -> np.ndarray:
    """These columns of x_hat for all rows, a block of rows at a time."""
    blocks = blocks_of_rows(arrays.x, SAMPLED_ELEMENTS)
    return np.concatenate([_normalize(arrays, rows).x_hat[:, columns] for rows in blocks])
