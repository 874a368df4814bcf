"""PyTorch: the cell in eager mode and scripted, as its own example custom_lstms.py is, and as a floor nn.LSTM."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...grid.arrays import EPS, Prepared
from ..cells import Arrays

set_threads = torch.set_num_threads


class Steps(torch.nn.Module):
    """The cell over a sequence, its parameters as attributes: of what can be scripted."""

    def __init__(self, arrays: Arrays):
        super().__init__()
        for name, value in arrays.parameters.items():
            parameter = torch.nn.Parameter(torch.from_numpy(value))
            self.register_parameter(name.replace(".", "_"), parameter)
        self.hidden = arrays.h0.shape[1]
        self.eps = EPS

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """The outputs of all steps."""
        wide, narrow = [4 * self.hidden], [self.hidden]
        products = torch.matmul(x, self.weight_ih.t())
        from_x = functional.layer_norm(products, wide, self.ln_ih_weight, self.ln_ih_bias, self.eps)
        outputs: list[torch.Tensor] = []
        for t in range(x.shape[0]):
            product = torch.mm(h, self.weight_hh.t())
            from_h = functional.layer_norm(product, wide, self.ln_hh_weight, self.ln_hh_bias, self.eps)
            i, f, g, o = (from_x[t] + from_h).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            normed = functional.layer_norm(c, narrow, self.ln_c_weight, self.ln_c_bias, self.eps)
            h = torch.sigmoid(o) * torch.tanh(normed)
            outputs.append(h)
        return torch.stack(outputs)


def sequence(arrays: Arrays) -> Prepared:
    """Eager, in inference mode."""
    return _without_gradients(Steps(arrays), _tensors(arrays))


def sequence_scripted(arrays: Arrays) -> Prepared:
    """The same through torch.jit.script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        module = torch.jit.script(Steps(arrays))
    return _without_gradients(module, _tensors(arrays))


def sequence_without_norms(arrays: Arrays) -> Prepared:
    """nn.LSTM with the same matrices."""
    lstm, (x, h, c) = _lstm(arrays), _tensors(arrays)
    return _without_gradients(lambda *_: lstm(x, (h[None], c[None]))[0], ())


def training(arrays: Arrays) -> Prepared:
    """Eager, forward and backward by autograd."""
    steps = Steps(arrays)
    return _with_gradients(arrays, steps, steps.weight_hh, list(steps.parameters()))


def training_without_norms(arrays: Arrays) -> Prepared:
    """The same of nn.LSTM."""
    lstm = _lstm(arrays)
    parameters = [lstm.weight_hh_l0, lstm.weight_ih_l0]
    return _with_gradients(arrays, lambda x, h, c: lstm(x, (h[None], c[None]))[0], lstm.weight_hh_l0, parameters)


def _tensors(arrays: Arrays) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.from_numpy, (arrays.x, arrays.h0, arrays.c0)))


def _lstm(arrays: Arrays) -> torch.nn.LSTM:
    lstm = torch.nn.LSTM(arrays.x.shape[2], arrays.h0.shape[1], bias=False)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.from_numpy(arrays.parameters["weight_ih"]))
        lstm.weight_hh_l0.copy_(torch.from_numpy(arrays.parameters["weight_hh"]))
    return lstm


def _without_gradients(function: Callable[..., torch.Tensor], tensors: tuple[torch.Tensor, ...]) -> Prepared:
    def call() -> torch.Tensor:
        with torch.inference_mode():
            return function(*tensors)

    return Prepared(call, lambda y: (y.numpy(),))


def _with_gradients(
    arrays: Arrays, function: Callable[..., torch.Tensor], of: torch.Tensor, parameters: list[torch.Tensor]
) -> Prepared:
    """The gradients of x and of all parameters; that of W_hh is compared."""
    x, h, c = _tensors(arrays)
    dy = torch.from_numpy(arrays.dy)
    x.requires_grad_()
    at = next(index for index, parameter in enumerate(parameters) if parameter is of)

    def call() -> tuple[torch.Tensor, Any]:
        with torch.inference_mode(False), torch.enable_grad():
            y = function(x, h, c)
            return y, torch.autograd.grad(y, [x, *parameters], dy)

    def outputs(found: tuple[torch.Tensor, Any]) -> tuple[np.ndarray, ...]:
        return found[0].detach().numpy(), found[1][1 + at].numpy()

    return Prepared(call, outputs)
