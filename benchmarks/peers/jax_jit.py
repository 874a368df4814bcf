"""JAX: jit on the CPU. It allocates its results; a call ends when they are there.

Numbers of 16 bits are computed with in float32, as the norms of its libraries do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.backend import clear_backends

from ..grid.arrays import EPS, Arrays, Prepared

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)  # or float64 would be computed in float32


def set_threads(threads: int) -> None:
    """Begin anew with so many threads.

    JAX has no setting for it: it makes as many threads as the process has CPUs when its CPU client begins. So a new
    client begins while this thread may run on so many CPUs only, and then all threads get all CPUs back.
    """
    clear_backends()
    jax.clear_caches()
    if not hasattr(os, "sched_setaffinity"):
        return
    cpus = os.sched_getaffinity(0)
    before = _thread_ids()
    os.sched_setaffinity(0, sorted(cpus)[:threads])
    try:
        jax.block_until_ready(jnp.zeros(1) + 1)
    finally:
        for thread in {0} | (_thread_ids() - before):
            os.sched_setaffinity(thread, cpus)


def _thread_ids() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")} if os.path.isdir("/proc/self/task") else set()


def _wide(x: Any) -> Any:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    wide = _wide(x)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    var = jnp.var(wide, axis=-1, keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(var + EPS) * weight + bias).astype(x.dtype)


def _rms_norm(x: Any, weight: Any) -> Any:
    wide = _wide(x)
    return (wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPS) * weight).astype(x.dtype)


def _with_sum(norm: Callable[..., Any]) -> Callable[..., Any]:
    """The norm of a sum, and that sum: what flows back from both reaches x and the residual alike."""
    return lambda total, *parameters: (norm(total, *parameters), total)


def _on_device(*arrays: np.ndarray) -> list[Any]:
    return [jax.device_put(array, may_alias=True) for array in arrays]


def _forward(formula: Callable[..., Any], *arrays: np.ndarray) -> Prepared:
    inputs = _on_device(*arrays)
    function = jax.jit(formula)
    return Prepared(lambda: function(*inputs).block_until_ready(), lambda y: (np.asarray(y),))


def _forward_of_the_sum(norm: Callable[..., Any], *arrays: np.ndarray) -> Prepared:
    inputs, with_sum = _on_device(*arrays), _with_sum(norm)
    function = jax.jit(lambda x, residual, *parameters: with_sum(x + residual, *parameters))
    return Prepared(lambda: jax.block_until_ready(function(*inputs)), lambda found: tuple(map(np.asarray, found)))


def _backward(formula: Callable[..., Any], dy: Any, *arrays: np.ndarray) -> Prepared:
    """What the forward pass saves is made before. dy is the gradient of its result, or a tuple of them."""
    inputs = _on_device(*arrays)
    dy = tuple(_on_device(*dy)) if isinstance(dy, tuple) else _on_device(dy)[0]
    vjp = jax.jit(lambda *inputs: jax.vjp(formula, *inputs)[1])(*inputs)
    function = jax.jit(lambda vjp, dy: vjp(dy))
    return Prepared(lambda: jax.block_until_ready(function(vjp, dy)), lambda g: tuple(map(np.asarray, g)))


def layer_norm(arrays: Arrays) -> Prepared:
    """The formula under jit."""
    return _forward(_layer_norm, arrays.x, arrays.weight, arrays.bias)


def layer_norm_backward(arrays: Arrays) -> Prepared:
    """The vjp of the formula under jit."""
    return _backward(_layer_norm, arrays.dy, arrays.x, arrays.weight, arrays.bias)


def rms_norm(arrays: Arrays) -> Prepared:
    """The formula under jit."""
    return _forward(_rms_norm, arrays.x, arrays.weight)


def rms_norm_backward(arrays: Arrays) -> Prepared:
    """The vjp of the formula under jit."""
    return _backward(_rms_norm, arrays.dy, arrays.x, arrays.weight)


def add_layer_norm(arrays: Arrays) -> Prepared:
    """The sum and the formula under one jit."""
    return _forward_of_the_sum(_layer_norm, arrays.x, arrays.residual, arrays.weight, arrays.bias)


def add_layer_norm_backward(arrays: Arrays) -> Prepared:
    """The vjp of both under jit."""
    return _backward(_with_sum(_layer_norm), (arrays.dy, arrays.ds), arrays.x, arrays.weight, arrays.bias)


def add_rms_norm(arrays: Arrays) -> Prepared:
    """The sum and the formula under one jit."""
    return _forward_of_the_sum(_rms_norm, arrays.x, arrays.residual, arrays.weight)


def add_rms_norm_backward(arrays: Arrays) -> Prepared:
    """The vjp of both under jit."""
    return _backward(_with_sum(_rms_norm), (arrays.dy, arrays.ds), arrays.x, arrays.weight)
