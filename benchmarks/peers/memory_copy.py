"""The floor: the fastest copy at hand that moves as many bytes as the operation must, on as many threads.

A norm reads x and writes y, a copy of one array; with a residual it reads and writes two. The backward pass of a norm
reads dy and x and writes dx: three streams, a copy of one and a half arrays; with the gradient of the residual four.
(A copy writes half of what it moves and these backward passes a third or a quarter, and writing costs more than
reading, so a perfect backward pass may be a little below this floor.)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from timeit import Timer

import numpy as np

from ..grid.arrays import Arrays, Prepared, empty_at
from ..operations import ROWS

Copy = Callable[[], object]

# Waking Python's threads takes some 50 us: not worth a trial below.
MIN_THREADED_BYTES = 2**20


def set_threads(_threads: int) -> None:
    """The copies below take the number of threads as an argument, PyTorch's and numba's have been set."""


def any_operation(arrays: Arrays) -> Prepared:
    """Copy x to the caller's buffer, memory that the others use too, so it is as warm for all; then what is left."""
    operation = arrays.operation
    others = [getattr(arrays, name) for name in operation.reads if name in ROWS and name != "x"]
    buffers = [arrays.out] if arrays.sum is None else [arrays.out, arrays.sum]
    pairs, left = [], operation.moved * arrays.x.size // 2
    for source in (arrays.x, *others):
        source = source.reshape(-1)[:left]
        left -= source.size
        pairs.append((source, buffers.pop(0) if buffers else _target(arrays, source)))
    return _prepare([pair for pair in pairs if pair[0].size], arrays.threads)


def _target(arrays: Arrays, source: np.ndarray) -> np.ndarray:
    target = empty_at(arrays.offset, source.shape, source.dtype)
    target.fill(0)  # touched, so that the first copy pays for no pages
    return target


def _prepare(pairs: list[tuple[np.ndarray, np.ndarray]], threads: int) -> Prepared:
    pairs = [(_as_bytes(source), _as_bytes(target)) for source, target in pairs]
    makers = ways_to_copy(threads, pairs[0][0].nbytes)
    copies = [_all([make(source, target) for source, target in pairs]) for make in makers]
    number = 1 + 2**18 // pairs[0][0].nbytes
    return Prepared(min(copies, key=lambda copy: min(Timer(copy).repeat(5, number))), lambda _: ())


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _all(copies: list[Copy]) -> Copy:
    if len(copies) == 1:
        return copies[0]
    first, others = copies[0], _all(copies[1:])

    def copy_all() -> None:
        first()
        others()

    return copy_all


def ways_to_copy(threads: int, size: int) -> list[Callable[[np.ndarray, np.ndarray], Copy]]:
    """All ways to copy so many bytes that this environment has: functions that make a copy of (source, target).

    memcpy stores past the caches where that pays, PyTorch and numba have threads that wake up fast.
    """
    makers = [_memcpy]
    if threads > 1 and size >= MIN_THREADED_BYTES:
        pool = ThreadPoolExecutor(threads - 1)
        makers.append(lambda source, target: _on_threads(source, target, threads, pool))
    if importlib.util.find_spec("torch"):
        import torch

        makers.append(lambda source, target: partial(torch.from_numpy(target).copy_, torch.from_numpy(source)))
    if importlib.util.find_spec("numba") and threads > 1:
        from .numba_loops import copy_in_chunks

        makers.append(lambda source, target: partial(copy_in_chunks, source, target, threads))
    return makers


def _memcpy(source: np.ndarray, target: np.ndarray) -> Copy:
    """Assign a slice of a memoryview: memcpy with the least that Python can put around it."""
    return partial(memoryview(target).__setitem__, slice(None), memoryview(source))


def _on_threads(source: np.ndarray, target: np.ndarray, threads: int, pool: ThreadPoolExecutor) -> Copy:
    """Memcpy on Python's threads, a piece each."""
    pieces = zip(np.array_split(source, threads), np.array_split(target, threads), strict=True)
    own, *others = [partial(np.copyto, to, of) for of, to in pieces]

    def copy() -> None:
        futures = [pool.submit(other) for other in others]
        own()
        for future in futures:
            future.result()

    return copy
