"""What the tests use of fastln's private modules: named here and nowhere else in tests/."""

from __future__ import annotations

import contextlib

from fastln._core.effort import get_stream_bytes, next_choice, set_min_parallel_bytes, set_stream_bytes, tell_seconds
from fastln._core.facts import config
from fastln._core.isa import build_info
from fastln._core.layers import run_layers_back
from fastln._core.stores import calls_of, forget
from fastln._core.waking import Waking

__all__ = [
    "Waking",
    "build_info",
    "calls_of",
    "config",
    "forget",
    "get_stream_bytes",
    "min_parallel_bytes",
    "next_choice",
    "run_layers_back",
    "set_min_parallel_bytes",
    "set_stream_bytes",
    "stream_bytes",
    "tell_seconds",
]


@contextlib.contextmanager
def min_parallel_bytes(size):
    """Within: calls of at least so many bytes get the threads that they ask for."""
    previous = set_min_parallel_bytes(size)
    try:
        yield
    finally:
        set_min_parallel_bytes(previous)


@contextlib.contextmanager
def stream_bytes(size):
    """Within: results of calls of at least so many bytes go past the cache; None is the size of the cache."""
    previous = set_stream_bytes(size)
    try:
        yield
    finally:
        set_stream_bytes(previous)
