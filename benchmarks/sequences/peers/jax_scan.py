"""JAX: the cell under jit and lax.scan. It allocates its results; a call ends when they are there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...grid.arrays import EPS, Prepared
from ...peers.jax_jit import set_threads
from ..cells import Arrays

__all__ = ["sequence", "set_threads", "training"]


def sequence(arrays: Arrays) -> Prepared:
    """One call of the compiled scan."""
    x, state, p, _ = _on_device(arrays)
    function = jax.jit(_run)
    return Prepared(lambda: function(x, state, p).block_until_ready(), lambda y: (np.asarray(y),))


def training(arrays: Arrays) -> Prepared:
    """The scan and its vjp with respect to x and all parameters."""
    x, state, p, dy = _on_device(arrays)

    @jax.jit
    def function(x: Any, state: Any, p: Any, dy: Any) -> Any:
        y, back = jax.vjp(lambda x, p: _run(x, state, p), x, p)
        return y, back(dy)

    def call() -> Any:
        return jax.block_until_ready(function(x, state, p, dy))

    return Prepared(call, lambda found: (np.asarray(found[0]), np.asarray(found[1][1]["weight_hh"])))


def _on_device(arrays: Arrays) -> tuple[Any, ...]:
    a = arrays
    return jax.device_put((a.x, (a.h0, a.c0), a.parameters, a.dy))


def _norm(a: Any, p: Any, name: str) -> Any:
    mean, var = a.mean(axis=-1, keepdims=True), a.var(axis=-1, keepdims=True)
    return (a - mean) * jax.lax.rsqrt(var + EPS) * p[f"{name}.weight"] + p[f"{name}.bias"]


def _run(x: Any, state: Any, p: Any) -> Any:
    from_x = _norm(x @ p["weight_ih"].T, p, "ln_ih")
    weight_hh = p["weight_hh"].T

    def step(state: Any, from_x: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(from_x + _norm(h @ weight_hh, p, "ln_hh"), 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(_norm(c, p, "ln_c"))
        return (h, c), h

    return jax.lax.scan(step, state, from_x)[1]
