"""The arrays of a cell, which all contenders share, and what a contender makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..operations import OPERATIONS, Operation
from .cells import CACHE_LINE, Cell, as_dtype

EPS = 1e-5  # the eps of every operation, in squared units of x

# Elements of x that are worked on at a time where the whole of it would need much memory in a wider dtype.
BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class Arrays:
    """Inputs that all contenders share, and `out` and `sum`, the caller's buffers, for those who can write to them.

    x, residual, dy, ds, out, sum: (rows, cols); weight, bias: (cols,); mean, rstd: (rows, 1), those of x. All begin at
    the cell's offset, and are of its dtype, but for mean and rstd of 16 bits, which are float32. Those that the
    operation neither reads nor writes are None, but for weight and bias.
    """

    operation: Operation
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    residual: np.ndarray | None
    dy: np.ndarray | None
    ds: np.ndarray | None
    mean: np.ndarray | None
    rstd: np.ndarray | None
    out: np.ndarray
    sum: np.ndarray | None
    threads: int
    offset: int

    def normalized(self, rows: np.ndarray | slice) -> np.ndarray:
        """The rows that are normalized: those of x, or of its sum with the residual, rounded to their dtype."""
        return self.x[rows] if self.residual is None else self.x[rows] + self.residual[rows]


class Prepared(NamedTuple):
    """What a contender makes of the arrays: a call, and the outputs in what the call returned, for the check.

    The outputs are those that the operation writes, in its order. `within` makes a context that is entered before calls
    are made, and left after them: neither is timed.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], tuple[np.ndarray, ...]]
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


def empty_at(offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """As np.empty, so many bytes into a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    first = (offset - memory.ctypes.data) % CACHE_LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def make_arrays(cell: Cell, seed: int = 0, mean_over_std: float = 0.0) -> Arrays:
    """Rows of N(mean_over_std, 1), a weight around 1, a bias around 0, all random."""
    rng = np.random.default_rng(seed)
    dtype = as_dtype(cell.dtype)
    computed = computed_dtype(dtype)
    operation = OPERATIONS[cell.operation]

    def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        drawn = array = empty_at(cell.offset, shape, dtype)
        if computed != dtype:
            drawn = np.empty(shape, computed)
        rng.standard_normal(dtype=computed.type, out=drawn)
        if std != 1:
            drawn *= std
        if mean:
            drawn += mean
        if drawn is not array:
            array[...] = drawn
        return array

    def rows(name: str) -> np.ndarray | None:
        return normal(cell.rows, cell.cols) if name in operation.reads else None

    def buffer() -> np.ndarray:
        array = empty_at(cell.offset, (cell.rows, cell.cols), dtype)
        array[...] = 0  # touched, so that no contender pays for its pages
        return array

    x = normal(cell.rows, cell.cols, mean=mean_over_std)
    mean, rstd = (
        empty_at(cell.offset, (cell.rows, 1), computed) if name in operation.reads else None
        for name in ("mean", "rstd")
    )
    if mean is not None or rstd is not None:
        fill_moments(operation, x, mean, rstd)
    return Arrays(
        operation,
        x,
        weight=normal(cell.cols, mean=1, std=0.1),
        bias=normal(cell.cols, std=0.1),
        residual=rows("residual"),
        dy=rows("dy"),
        ds=rows("ds"),
        mean=mean,
        rstd=rstd,
        out=buffer(),
        sum=buffer() if "sum" in operation.writes else None,
        threads=cell.threads,
        offset=cell.offset,
    )


def computed_dtype(dtype: np.dtype) -> np.dtype:
    """What is computed with: float32 where numbers of 16 bits are stored."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def fill_moments(operation: Operation, x: np.ndarray, mean: np.ndarray | None, rstd: np.ndarray | None) -> None:
    """Write the moments of the rows of x, found in float64, to those arrays that there are."""
    for rows in blocks_of_rows(x, BLOCK_ELEMENTS):
        normalized = operation.normalize(x[rows], EPS, np.float64)
        if mean is not None:
            mean[rows] = normalized.mean
        if rstd is not None:
            rstd[rows] = normalized.rstd


def blocks_of_rows(x: np.ndarray, elements: int) -> Iterator[slice]:
    """All rows of x, in slices of about so many elements."""
    step = max(1, elements // x.shape[1])
    yield from (slice(first, first + step) for first in range(0, len(x), step))
