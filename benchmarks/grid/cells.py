"""A cell of the grid: operation, shape, dtype, threads, place of the arrays in memory."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..operations import OPERATIONS

SIXTEEN_BITS = ("bfloat16", "float16")
DTYPES = ("float32", "float64", *SIXTEEN_BITS)
FULL_PRECISION = "float32 and float64"
KINDS = (FULL_PRECISION, *SIXTEEN_BITS)

CACHE_LINE = 64
# Where arrays begin, in bytes into a cache line. NumPy's are 16 bytes into one where they are large, as malloc keeps
# that much before what it gives: that is what users have, so it is the standard. Many kernels, and copies, are faster
# on arrays that begin a line.
OFFSETS = NUMPY_OFFSET, LINE_OFFSET = (16, 0)


@dataclass(frozen=True)
class Cell:
    """One place of the grid; `operation` is the name of one of OPERATIONS."""

    operation: str
    rows: int
    cols: int
    dtype: str
    threads: int
    offset: int = NUMPY_OFFSET

    @property
    def title(self) -> str:
        """The operation as people read it."""
        return OPERATIONS[self.operation].title

    @property
    def shape(self) -> str:
        """As people write it."""
        return f"{self.rows}x{self.cols}"

    @property
    def array_bytes(self) -> int:
        """The bytes of x."""
        return self.rows * self.cols * as_dtype(self.dtype).itemsize

    @property
    def bytes_moved(self) -> int:
        """The least that must move: x and y; dy, x and dx; x, the residual, y and their sum."""
        return self.array_bytes * OPERATIONS[self.operation].moved

    @property
    def place(self) -> str:
        """Where its arrays begin, in words."""
        return {NUMPY_OFFSET: "arrays as NumPy places them", LINE_OFFSET: "arrays on cache lines"}[self.offset]

    @property
    def group(self) -> str:
        """What it has in common with cells of other shapes."""
        words = [self.title, self.dtype, threads_in_words(self.threads)]
        return ", ".join(words if self.offset == NUMPY_OFFSET else [*words, self.place])

    @property
    def kind(self) -> str:
        """The dtypes that means are over: those that are computed in, and each of 16 bits by itself."""
        return self.dtype if self.dtype in SIXTEEN_BITS else FULL_PRECISION

    def __str__(self) -> str:
        """Every coordinate in words."""
        place = "" if self.offset == NUMPY_OFFSET else f", {self.place}"
        return f"{self.title} {self.shape} {self.dtype} {threads_in_words(self.threads)}{place}"

    def to_json(self) -> dict[str, Any]:
        """Coordinates by name."""
        return asdict(self)


def as_dtype(name: str) -> np.dtype:
    """The dtype of this name; bfloat16 is of ml_dtypes, which is imported where it is needed only."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def threads_in_words(threads: int) -> str:
    """1 thread, 2 threads."""
    return f"{threads} thread{'' if threads == 1 else 's'}"


def available_cpus() -> int:
    """The CPUs that this process may run on: as many threads as a cell may have."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
