"""A cell of the grid: an operation, a shape, a dtype and a number of threads; and the arrays that it works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

FORWARD, BACKWARD = OPERATIONS = ("forward", "backward")
DTYPES = ("float32", "float64")
EPS = 1e-5  # the eps of layer_norm, in squared units of x

# Arrays begin on a cache line, so that every library can use them where they are.
ALIGNMENT = 64


@dataclass(frozen=True)
class Cell:
    """One place of the grid."""

    operation: str
    rows: int
    cols: int
    dtype: str
    threads: int

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

    def __str__(self) -> str:
        """Every coordinate in words."""
        plural = "" if self.threads == 1 else "s"
        return f"{self.operation} {self.shape} {self.dtype} {self.threads} thread{plural}"

    def to_json(self) -> dict[str, Any]:
        """Coordinates by name."""
        return asdict(self)


@dataclass(frozen=True)
class Arrays:
    """Inputs that all contenders share, and `out`, the caller's buffer, for those who can write to one.

    x, dy, out: (rows, cols); weight, bias: (cols,); mean, rstd: (rows, 1), those of x.
    """

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    dy: np.ndarray
    mean: np.ndarray
    rstd: np.ndarray
    out: np.ndarray
    threads: int


class Prepared(NamedTuple):
    """What a contender makes of the arrays: a call, and the outputs in what the call returned, for the check.

    The outputs are those of fastln: (y,) of the forward pass, (dx, dweight, dbias) of the backward pass.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], tuple[np.ndarray, ...]]


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """As np.empty, at the beginning of a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def make_arrays(cell: Cell, seed: int = 0, mean_over_std: float = 0.0) -> Arrays:
    """Rows of N(mean_over_std, 1), a weight around 1, a bias around 0, all random."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(cell.dtype)

    def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        array = empty_aligned(shape, dtype)
        rng.standard_normal(dtype=dtype.type, out=array)
        if std != 1:
            array *= std
        if mean:
            array += mean
        return array

    x = normal(cell.rows, cell.cols, mean=mean_over_std)
    backward = cell.operation == BACKWARD
    mean = x.mean(-1, keepdims=True, dtype=np.float64) if backward else np.zeros((cell.rows, 1))
    rstd = 1 / np.sqrt(row_variance(x, mean) + EPS) if backward else np.ones((cell.rows, 1))
    out = empty_aligned(x.shape, dtype)
    out.fill(0)  # touched, so that no contender pays for its pages
    return Arrays(
        x,
        weight=normal(cell.cols, mean=1, std=0.1),
        bias=normal(cell.cols, std=0.1),
        dy=normal(cell.rows, cell.cols) if backward else out,
        mean=mean.astype(dtype),
        rstd=rstd.astype(dtype),
        out=out,
        threads=cell.threads,
    )


def row_variance(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Biased variance of each row in float64, (rows, 1), a block of rows at a time to spare memory."""
    variance = np.empty((len(x), 1))
    step = max(1, 2**20 // x.shape[1])
    for first in range(0, len(x), step):
        rows = slice(first, first + step)
        variance[rows] = np.square(x[rows] - mean[rows]).mean(-1, keepdims=True)
    return variance
