"""NumPy, step by step in buffers that are kept, with fastln's layer norm: what one would write with both at hand."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

import fastln

from ...grid.arrays import EPS, Prepared
from ..cells import Arrays


def set_threads(threads: int) -> None:
    """Of BLAS, for the products; fastln has its own number, which has been set."""
    threadpool_limits(threads, user_api="blas")


def sequence(arrays: Arrays) -> Prepared:
    """One product for x at all steps, then a product and some fifteen calls a step."""
    a, p = arrays, arrays.parameters
    steps, batch, hidden = a.x.shape
    # The layout that BLAS is faster with: (H, 4 H).
    weight_ih, weight_hh = (np.ascontiguousarray(p[name].T) for name in ("weight_ih", "weight_hh"))
    norms = {key: (p[f"ln_{key}.weight"], p[f"ln_{key}.bias"], EPS) for key in ("ih", "hh", "c")}
    from_x = np.empty((steps, batch, 4 * hidden), np.float32)
    sums = np.empty((batch, 4 * hidden), np.float32)
    c, kept, normed = (np.empty((batch, hidden), np.float32) for _ in range(3))
    half = np.float32(0.5)

    def logistic(part: np.ndarray) -> None:
        """In place: tanh is faster in NumPy than exp and a division."""
        np.multiply(part, half, out=part)
        np.tanh(part, out=part)
        np.multiply(part, half, out=part)
        np.add(part, half, out=part)

    def call() -> np.ndarray:
        np.matmul(a.x, weight_ih, out=from_x)
        fastln.layer_norm(from_x, None, *norms["ih"], out=from_x)
        np.copyto(c, a.c0)
        h = a.h0
        for t in range(steps):
            np.matmul(h, weight_hh, out=sums)
            fastln.layer_norm(sums, None, *norms["hh"], out=sums)
            np.add(sums, from_x[t], out=sums)
            g = sums[:, 2 * hidden : 3 * hidden]
            logistic(sums[:, : 2 * hidden])
            np.tanh(g, out=g)
            logistic(sums[:, 3 * hidden :])
            np.multiply(sums[:, hidden : 2 * hidden], c, out=c)
            np.multiply(sums[:, :hidden], g, out=kept)
            np.add(c, kept, out=c)
            fastln.layer_norm(c, None, *norms["c"], out=normed)
            np.tanh(normed, out=normed)
            h = np.multiply(sums[:, 3 * hidden :], normed, out=a.out[t])
        return a.out

    return Prepared(call, lambda y: (y,))
