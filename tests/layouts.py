"""Arrays in every layout: each of LAYOUTS takes contiguous rows to something of the same values elsewhere."""

from __future__ import annotations

import numpy as np
from helpers import at_offset, in_wider_rows


def misaligned(x):
    """The same, one byte off."""
    return at_offset(x, 0, 1)


def byte_swapped(x):
    """The same in the other byte order."""
    return x.astype(x.dtype.newbyteorder())


def read_only(x):
    """The same, not writable."""
    x = x.copy()
    x.flags.writeable = False
    return x


def subclass(x):
    """The same in a subclass that would notice being computed with."""

    class Array(np.ndarray):
        def __array_ufunc__(self, *inputs, **options):
            raise AssertionError("a ufunc was called")

    return x.copy().view(Array)


class WithArray:
    """Not an array, but convertible to one."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def record_field(x):
    """A field of a packed record array: misaligned, in steps of no multiple of the itemsize."""
    records = np.zeros(x.shape, [("flag", "u1"), ("value", x.dtype)]).view(np.recarray)
    records.value = x
    return records.value


def odd_row_stride(x):
    """Contiguous rows, each a byte further than whole elements would be."""
    step = x.shape[1] * x.itemsize + 1
    buffer = np.zeros(x.shape[0] * step, np.uint8)
    view = np.ndarray(x.shape, x.dtype, buffer, strides=(step, x.itemsize))
    view[...] = x
    return view


# Rows that the kernels take where they are.
STRIDED = {
    "rows reversed": lambda x: x[::-1].copy()[::-1],
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "wider rows": in_wider_rows,
    "wider rows, odd gap": lambda x: in_wider_rows(x, 3),
}

LAYOUTS = STRIDED | {
    "columns reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "both reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "every third column": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
    "odd row stride": odd_row_stride,
    "Fortran order": np.asfortranarray,
    "misaligned": misaligned,
    "byte-swapped": byte_swapped,
    "read-only": read_only,
    "subclass": subclass,
    "record field": record_field,
    "__array__": WithArray,
    "misaligned, byte-swapped, reversed": lambda x: misaligned(byte_swapped(x[::-1]))[::-1],
}
WRITABLE_LAYOUTS = [name for name in LAYOUTS if name not in ("__array__", "read-only")]


def in_layout(layout, array):
    """An array of one or two dimensions in one of LAYOUTS."""
    if layout == "__array__" or array.ndim == 2:
        return LAYOUTS[layout](array)
    return LAYOUTS[layout](array[None])[0]


# Views of a square array that overlap it.
VIEWS = {
    "the rows reversed": lambda a: a[::-1],
    "the columns reversed": lambda a: a[:, ::-1],
    "the transpose": lambda a: a.T,
    "a view": lambda a: a[...],
}
