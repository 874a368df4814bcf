"""JAX: jit on the CPU. It allocates its results; a call ends when they are there."""

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


def _layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + EPS) * weight + bias


def _rms_norm(x: Any, weight: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPS) * weight


def _on_device(*arrays: np.ndarray) -> list[Any]:
    return [jax.device_put(array, may_alias=True) for array in arrays]


def _forward(formula: Callable[..., Any], *arrays: np.ndarray) -> Prepared:
    inputs = _on_device(*arrays)
    function = jax.jit(formula)
    return Prepared(lambda: function(*inputs).block_until_ready(), lambda y: (np.asarray(y),))


def _backward(formula: Callable[..., Any], dy: np.ndarray, *arrays: np.ndarray) -> Prepared:
    """What the forward pass saves is made before."""
    dy, *inputs = _on_device(dy, *arrays)
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
