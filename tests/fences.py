"""Memory between pages without access: touching a byte before or after an array ends the process by a signal."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest

needs_mprotect = pytest.mark.skipif(sys.platform == "win32", reason="needs mmap and mprotect")


class Room:
    """A page without access, room for so many bytes, a page without access."""

    def __init__(self, size):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        page = mmap.PAGESIZE
        size = -(-size // page) * page
        whole = np.frombuffer(mmap.mmap(-1, size + 2 * page), np.uint8)
        self.bytes = whole[page : page + size]
        for fence in (0, page + size):
            if libc.mprotect(whole.ctypes.data + fence, page, 0):
                raise OSError(ctypes.get_errno(), "mprotect failed")

    def place(self, array, at_end, gap=0):
        """A copy of array against a fence; its rows may lie apart, without a gap after the last one."""
        rows, cols = array.shape if array.ndim == 2 else (1, array.size)
        size = array.itemsize * (rows * (cols + gap) - gap)
        start = self.bytes.size - size if at_end else 0
        strides = (array.itemsize * (cols + gap), array.itemsize)[-array.ndim :]
        view = np.ndarray(array.shape, array.dtype, self.bytes[start : start + size], strides=strides)
        view[...] = array
        return view

    def touch_the_fence(self):
        """Read the first byte that is out of bounds."""
        ctypes.string_at(self.bytes.ctypes.data + self.bytes.size, 1)
