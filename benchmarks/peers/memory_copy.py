"""The floor: the fastest copy at hand that moves as many bytes as the operation must, on as many threads.

The forward pass reads x and writes y, a copy of one array. The backward pass reads dy and x and writes dx: three
streams, a copy of one and a half arrays. (A copy writes half of what it moves and the backward pass a third, and
writing costs more than reading, so a perfect backward pass may be a little below this floor.)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from timeit import Timer

import numpy as np

from ..cells import BACKWARD, FORWARD, Arrays, Prepared, empty_aligned

# Waking Python's threads takes some 50 us: not worth a trial below.
MIN_THREADED_BYTES = 2**20


def set_threads(_threads: int) -> None:
    """The copies below take the number of threads as an argument, PyTorch's and numba's have been set."""


def forward(arrays: Arrays) -> Prepared:
    """Copies of the bytes of one array."""
    return _prepare(arrays, FORWARD)


def backward(arrays: Arrays) -> Prepared:
    """Copies of the bytes of one and a half arrays."""
    return _prepare(arrays, BACKWARD)


def _prepare(arrays: Arrays, operation: str) -> Prepared:
    size = arrays.x.nbytes if operation == FORWARD else arrays.x.nbytes * 3 // 2
    source, target = (empty_aligned((size,), np.dtype(np.uint8)) for _ in range(2))
    source.fill(1)
    target.fill(0)
    copies = copies_of(source, target, arrays.threads)
    fastest = min(copies, key=lambda copy: min(Timer(copy).repeat(5, number=1 + 2**18 // size)))
    return Prepared(fastest, lambda _: ())


def copies_of(source: np.ndarray, target: np.ndarray, threads: int) -> list[Callable[[], object]]:
    """All ways to copy that this environment has. source, target: one-dimensional, of bytes.

    memcpy stores past the caches where that pays, PyTorch and numba have threads that wake up fast.
    """
    copies: list[Callable[[], object]] = [_memcpy(source, target)]
    if threads > 1 and source.nbytes >= MIN_THREADED_BYTES:
        pieces = zip(np.array_split(source, threads), np.array_split(target, threads), strict=True)
        own, *others = [partial(np.copyto, to, of) for of, to in pieces]
        pool = ThreadPoolExecutor(threads - 1)

        def copy_on_threads() -> None:
            futures = [pool.submit(other) for other in others]
            own()
            for future in futures:
                future.result()

        copies.append(copy_on_threads)
    if importlib.util.find_spec("torch"):
        import torch

        copies.append(partial(torch.from_numpy(target).copy_, torch.from_numpy(source)))
    if importlib.util.find_spec("numba") and threads > 1:
        from .numba_loops import copy_in_chunks

        copies.append(partial(copy_in_chunks, source, target, threads))
    return copies


def _memcpy(source: np.ndarray, target: np.ndarray) -> Callable[[], object]:
    """Assign a slice of a memoryview: memcpy with the least that Python can put around it."""
    return partial(memoryview(target).__setitem__, slice(None), memoryview(source))
