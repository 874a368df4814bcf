"""fastln itself: into the caller's buffer, and allocating the result."""

from __future__ import annotations

from functools import partial

import fastln

from ..cells import EPS, Arrays, Prepared

set_threads = fastln.set_num_threads


def forward(arrays: Arrays) -> Prepared:
    """layer_norm(x, D, weight, bias, eps, out=y)."""
    a = arrays
    call = partial(fastln.layer_norm, a.x, a.x.shape[-1], a.weight, a.bias, EPS, out=a.out)
    return Prepared(call, lambda y: (y,))


def forward_allocating(arrays: Arrays) -> Prepared:
    """layer_norm(x, D, weight, bias, eps): y is a new array."""
    a = arrays
    return Prepared(partial(fastln.layer_norm, a.x, a.x.shape[-1], a.weight, a.bias, EPS), lambda y: (y,))


def backward(arrays: Arrays) -> Prepared:
    """layer_norm_backward(dy, x, mean, rstd, weight, out=dx); dweight and dbias are new arrays."""
    a = arrays
    call = partial(fastln.layer_norm_backward, a.dy, a.x, a.mean, a.rstd, a.weight, out=a.out)
    return Prepared(call, lambda gradients: gradients)


def backward_allocating(arrays: Arrays) -> Prepared:
    """layer_norm_backward(dy, x, mean, rstd, weight): dx is a new array too."""
    a = arrays
    call = partial(fastln.layer_norm_backward, a.dy, a.x, a.mean, a.rstd, a.weight)
    return Prepared(call, lambda gradients: gradients)
