"""PyTorch, eager and compiled, on tensors that share the memory of the arrays. It allocates its results.

The `out=` variants of aten compute elsewhere and copy, so they are slower than what stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch._dynamo
from torch.nn import functional

from ..grid.arrays import EPS, Arrays, Prepared

# For good: nothing here needs autograd, and a context around each call would be timed.
torch.inference_mode().__enter__()

set_threads = torch.set_num_threads


def _as_arrays(tensors: Any) -> tuple[np.ndarray, ...]:
    return tuple(tensor.numpy() for tensor in tensors)


def _tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled for one shape and one number of threads, with nothing left of what was compiled before."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def _layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def _layer_norm_backward(dy, x, mean, rstd, weight, bias):
    return torch.ops.aten.native_layer_norm_backward(dy, x, x.shape[-1:], mean, rstd, weight, bias, [True] * 3)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, EPS)


def layer_norm(arrays: Arrays) -> Prepared:
    """torch.nn.functional.layer_norm in inference mode."""
    x, weight, bias = _tensors(arrays.x, arrays.weight, arrays.bias)
    call = partial(functional.layer_norm, x, tuple(x.shape[-1:]), weight, bias, EPS)
    return Prepared(call, lambda y: (y.numpy(),))


def layer_norm_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    tensors = _tensors(arrays.x, arrays.weight, arrays.bias)
    return Prepared(partial(_compile(_layer_norm), *tensors), lambda y: (y.numpy(),))


def layer_norm_backward(arrays: Arrays) -> Prepared:
    """torch.ops.aten.native_layer_norm_backward, what autograd calls."""
    a = arrays
    dy, x, mean, rstd, weight, bias = _tensors(a.dy, a.x, a.mean, a.rstd, a.weight, a.bias)
    function = torch.ops.aten.native_layer_norm_backward.default
    call = partial(function, dy, x, list(x.shape[-1:]), mean, rstd, weight, bias, [True] * 3)
    return Prepared(call, _as_arrays)


def layer_norm_backward_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    a = arrays
    tensors = _tensors(a.dy, a.x, a.mean, a.rstd, a.weight, a.bias)
    return Prepared(partial(_compile(_layer_norm_backward), *tensors), _as_arrays)


def rms_norm(arrays: Arrays) -> Prepared:
    """torch.nn.functional.rms_norm in inference mode."""
    x, weight = _tensors(arrays.x, arrays.weight)
    call = partial(functional.rms_norm, x, tuple(x.shape[-1:]), weight, EPS)
    return Prepared(call, lambda y: (y.numpy(),))


def rms_norm_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    tensors = _tensors(arrays.x, arrays.weight)
    return Prepared(partial(_compile(_rms_norm), *tensors), lambda y: (y.numpy(),))


def rms_norm_backward(arrays: Arrays) -> Prepared:
    """What autograd makes of rms_norm, whose forward pass is made before: on the CPU there is no operator for it."""
    with torch.inference_mode(False):
        x, weight, dy = (tensor.clone() for tensor in _tensors(arrays.x, arrays.weight, arrays.dy))
        inputs = (x.requires_grad_(), weight.requires_grad_())
        with torch.enable_grad():
            y = _rms_norm(x, weight)
    call = partial(torch.autograd.grad, y, inputs, dy, retain_graph=True)
    return Prepared(call, _as_arrays)
