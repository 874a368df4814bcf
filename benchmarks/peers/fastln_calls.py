"""fastln itself, whatever the operation: into the caller's buffer, and allocating the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import fastln

from ..grid.arrays import EPS, Arrays, Prepared

set_threads = fastln.set_num_threads


def any_operation(arrays: Arrays) -> Prepared:
    """The function with `out=`: y or dx is the caller's buffer, so is the sum; dweight and dbias are new arrays."""
    buffers = {"out": arrays.out} if arrays.sum is None else {"out": arrays.out, "residual_out": arrays.sum}
    return Prepared(partial(_call(arrays), **buffers), _as_outputs)


def any_operation_allocating(arrays: Arrays) -> Prepared:
    """The function without it: all results are new arrays."""
    return Prepared(_call(arrays), _as_outputs)


def _call(arrays: Arrays) -> Callable[..., Any]:
    """The function of the operation's name with all that it takes by position, which is the fastest way to call it."""
    function = getattr(fastln, arrays.operation.name)
    values = vars(arrays) | {"s": arrays.x, "normalized_shape": arrays.x.shape[-1], "eps": EPS}
    parameters = inspect.signature(function).parameters.values()
    return partial(function, *(values[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD))


def _as_outputs(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
