"""A cell of the grid: operation, shape, dtype, threads, place of the arrays in memory; and these arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

FORWARD, BACKWARD = OPERATIONS = ("forward", "backward")
DTYPES = ("float32", "float64")
EPS = 1e-5  # the eps of layer_norm, in squared units of x

CACHE_LINE = 64
# Where arrays begin, in bytes into a cache line. NumPy's are 16 bytes into one where they are large, as malloc keeps
# that much before what it gives: that is what users have, so it is the standard. Many kernels, and copies, are faster
# on arrays that begin a line.
OFFSETS = NUMPY_OFFSET, LINE_OFFSET = (16, 0)


@dataclass(frozen=True)
class Cell:
    """One place of the grid."""

    operation: str
    rows: int
    cols: int
    dtype: str
    threads: int
    offset: int = NUMPY_OFFSET

    @property
    def shape(self) -> str:
        """As people write it."""
        return f"{self.rows}x{self.cols}"

    @property
    def array_bytes(self) -> int:
        """The bytes of x."""
        return self.rows * self.cols * np.dtype(self.dtype).itemsize

    @property
    def bytes_moved(self) -> int:
        """The least that must move: x and y; dy, x and dx. Parameters and moments are left out."""
        return self.array_bytes * (2 if self.operation == FORWARD else 3)

    @property
    def place(self) -> str:
        """Where its arrays begin, in words."""
        return {NUMPY_OFFSET: "arrays as NumPy places them", LINE_OFFSET: "arrays on cache lines"}[self.offset]

    @property
    def group(self) -> str:
        """What it has in common with cells of other shapes."""
        words = [self.operation, self.dtype, threads_in_words(self.threads)]
        return ", ".join(words if self.offset == NUMPY_OFFSET else [*words, self.place])

    def __str__(self) -> str:
        """Every coordinate in words."""
        place = "" if self.offset == NUMPY_OFFSET else f", {self.place}"
        return f"{self.operation} {self.shape} {self.dtype} {threads_in_words(self.threads)}{place}"

    def to_json(self) -> dict[str, Any]:
        """Coordinates by name."""
        return asdict(self)


def threads_in_words(threads: int) -> str:
    """1 thread, 2 threads."""
    return f"{threads} thread{'' if threads == 1 else 's'}"


@dataclass(frozen=True)
class Arrays:
    """Inputs that all contenders share, and `out`, the caller's buffer, for those who can write to one.

    x, dy, out: (rows, cols); weight, bias: (cols,); mean, rstd: (rows, 1), those of x. All begin at the cell's offset.
    """

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    dy: np.ndarray
    mean: np.ndarray
    rstd: np.ndarray
    out: np.ndarray
    threads: int
    offset: int


class Prepared(NamedTuple):
    """What a contender makes of the arrays: a call, and the outputs in what the call returned, for the check.

    The outputs are those of fastln: (y,) of the forward pass, (dx, dweight, dbias) of the backward pass.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], tuple[np.ndarray, ...]]


def empty_at(offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """As np.empty, so many bytes into a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    first = (offset - memory.ctypes.data) % CACHE_LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def make_arrays(cell: Cell, seed: int = 0, mean_over_std: float = 0.0) -> Arrays:
    """Rows of N(mean_over_std, 1), a weight around 1, a bias around 0, all random."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(cell.dtype)

    def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        array = empty_at(cell.offset, shape, dtype)
        rng.standard_normal(dtype=dtype.type, out=array)
        if std != 1:
            array *= std
        if mean:
            array += mean
        return array

    def placed(values: np.ndarray) -> np.ndarray:
        array = empty_at(cell.offset, values.shape, dtype)
        array[...] = values
        return array

    x = normal(cell.rows, cell.cols, mean=mean_over_std)
    backward = cell.operation == BACKWARD
    mean = x.mean(-1, keepdims=True, dtype=np.float64) if backward else np.zeros((cell.rows, 1))
    rstd = 1 / np.sqrt(row_variance(x, mean) + EPS) if backward else np.ones((cell.rows, 1))
    out = empty_at(cell.offset, x.shape, dtype)
    out.fill(0)  # touched, so that no contender pays for its pages
    return Arrays(
        x,
        weight=normal(cell.cols, mean=1, std=0.1),
        bias=normal(cell.cols, std=0.1),
        dy=normal(cell.rows, cell.cols) if backward else out,
        mean=placed(mean),
        rstd=placed(rstd),
        out=out,
        threads=cell.threads,
        offset=cell.offset,
    )


def row_variance(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Biased variance of each row in float64, (rows, 1), a block of rows at a time to spare memory."""
    variance = np.empty((len(x), 1))
    step = max(1, 2**20 // x.shape[1])
    for first in range(0, len(x), step):
        rows = slice(first, first + step)
        variance[rows] = np.square(x[rows] - mean[rows]).mean(-1, keepdims=True)
    return variance
