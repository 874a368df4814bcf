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
from ..grid.cells import as_dtype

# For good: nothing here needs autograd, and a context around each call would be timed.
torch.inference_mode().__enter__()

set_threads = torch.set_num_threads

MOMENTS = ("mean", "rstd")


def _as_arrays(tensors: Any) -> tuple[np.ndarray, ...]:
    return tuple(map(_as_array, tensors))


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(as_dtype("bfloat16"))
    return tensor.numpy()


def _tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return list(map(_tensor, arrays))


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


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


def _add_layer_norm(x: torch.Tensor, residual: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
    total = x + residual
    return _layer_norm(total, *parameters), total


def _add_layer_norm_backward(ds: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
    dx, dweight, dbias = _layer_norm_backward(*given)
    return dx.add_(ds), dweight, dbias


def _add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    total = x + residual
    return _rms_norm(total, weight), total


def _saved(arrays: Arrays) -> list[torch.Tensor]:
    """What layer norm's gradients take: dy, x, mean, rstd, weight, bias.

    PyTorch saves the moments of numbers of 16 bits in as few, and takes no others.
    """
    dy, x, mean, rstd, weight, bias = _tensors(*(getattr(arrays, n) for n in ("dy", "x", *MOMENTS, "weight", "bias")))
    if arrays.mean.dtype != arrays.x.dtype:
        _, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, EPS)
    return [dy, x, mean, rstd, weight, bias]


def layer_norm(arrays: Arrays) -> Prepared:
    """torch.nn.functional.layer_norm in inference mode."""
    x, weight, bias = _tensors(arrays.x, arrays.weight, arrays.bias)
    call = partial(functional.layer_norm, x, tuple(x.shape[-1:]), weight, bias, EPS)
    return Prepared(call, lambda y: (_as_array(y),))


def layer_norm_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    tensors = _tensors(arrays.x, arrays.weight, arrays.bias)
    return Prepared(partial(_compile(_layer_norm), *tensors), lambda y: (_as_array(y),))


def layer_norm_backward(arrays: Arrays) -> Prepared:
    """torch.ops.aten.native_layer_norm_backward, what autograd calls."""
    dy, x, mean, rstd, weight, bias = _saved(arrays)
    function = torch.ops.aten.native_layer_norm_backward.default
    call = partial(function, dy, x, list(x.shape[-1:]), mean, rstd, weight, bias, [True] * 3)
    return Prepared(call, _as_arrays)


def layer_norm_backward_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    return Prepared(partial(_compile(_layer_norm_backward), *_saved(arrays)), _as_arrays)


def rms_norm(arrays: Arrays) -> Prepared:
    """torch.nn.functional.rms_norm in inference mode."""
    x, weight = _tensors(arrays.x, arrays.weight)
    call = partial(functional.rms_norm, x, tuple(x.shape[-1:]), weight, EPS)
    return Prepared(call, lambda y: (_as_array(y),))


def rms_norm_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    tensors = _tensors(arrays.x, arrays.weight)
    return Prepared(partial(_compile(_rms_norm), *tensors), lambda y: (_as_array(y),))


def rms_norm_backward(arrays: Arrays) -> Prepared:
    """What autograd makes of rms_norm, whose forward pass is made before: on the CPU there is no operator for it."""
    return Prepared(_rms_gradients(arrays), _as_arrays)


def _rms_gradients(arrays: Arrays) -> Callable[[], tuple[torch.Tensor, ...]]:
    with torch.inference_mode(False):
        x, weight, dy = (tensor.clone() for tensor in _tensors(arrays.x, arrays.weight, arrays.dy))
        inputs = (x.requires_grad_(), weight.requires_grad_())
        with torch.enable_grad():
            y = _rms_norm(x, weight)
    return partial(torch.autograd.grad, y, inputs, dy, retain_graph=True)


def add_layer_norm(arrays: Arrays) -> Prepared:
    """The sum, then torch.nn.functional.layer_norm, in inference mode."""
    tensors = _tensors(arrays.x, arrays.residual, arrays.weight, arrays.bias)
    return Prepared(partial(_add_layer_norm, *tensors), _as_arrays)


def add_layer_norm_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    tensors = _tensors(arrays.x, arrays.residual, arrays.weight, arrays.bias)
    return Prepared(partial(_compile(_add_layer_norm), *tensors), _as_arrays)


def add_layer_norm_backward(arrays: Arrays) -> Prepared:
    """What autograd does: the gradients of layer norm, then dx += ds."""
    return Prepared(partial(_add_layer_norm_backward, *_tensors(arrays.ds), *_saved(arrays)), _as_arrays)


def add_layer_norm_backward_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    call = partial(_compile(_add_layer_norm_backward), *_tensors(arrays.ds), *_saved(arrays))
    return Prepared(call, _as_arrays)


def add_rms_norm(arrays: Arrays) -> Prepared:
    """The sum, then torch.nn.functional.rms_norm, in inference mode."""
    return Prepared(partial(_add_rms_norm, *_tensors(arrays.x, arrays.residual, arrays.weight)), _as_arrays)


def add_rms_norm_compiled(arrays: Arrays) -> Prepared:
    """The same under torch.compile."""
    tensors = _tensors(arrays.x, arrays.residual, arrays.weight)
    return Prepared(partial(_compile(_add_rms_norm), *tensors), _as_arrays)


def add_rms_norm_backward(arrays: Arrays) -> Prepared:
    """What autograd does: the gradients of rms_norm, then dx += ds."""
    (ds,), gradients = _tensors(arrays.ds), _rms_gradients(arrays)

    def call() -> tuple[torch.Tensor, ...]:
        dx, dweight = gradients()
        return dx.add_(ds), dweight

    return Prepared(call, _as_arrays)
