"""PyTorch's own kernels, kept from before fastln's stood in front of them.

A kernel of PyTorch's stable interface reaches them by a private operator each, `fastln::NAME_of_torch`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastln.torch._kernels import OPERATOR_NAMES, note_error

# What the kernels read from their stack of arguments, and leave on it. Whether sizes may be symbolic is all the same:
# on the CPU they are numbers.
SCHEMAS = {
    "native_layer_norm": (
        "(Tensor input, int[] normalized_shape, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)"
    ),
    "native_layer_norm_backward": (
        "(Tensor grad_out, Tensor input, int[] normalized_shape, Tensor mean, Tensor rstd, Tensor? weight, "
        "Tensor? bias, bool[3] output_mask) -> (Tensor, Tensor, Tensor)"
    ),
    "_fused_rms_norm": "(Tensor input, int[] normalized_shape, Tensor? weight, float? eps) -> (Tensor, Tensor)",
    "_fused_rms_norm_backward": (
        "(Tensor grad_out, Tensor input, int[] normalized_shape, Tensor rstd, Tensor? weight, bool[2] output_mask) "
        "-> (Tensor, Tensor)"
    ),
}

Kernel = Callable[..., Any]

_kept: dict[str, Kernel] = {}
_library: torch.library.Library | None = None


def unknown_schema() -> str | None:
    """The first operator that this PyTorch declares otherwise than the kernels expect, None where there is none."""
    for name in OPERATOR_NAMES:
        operator = getattr(torch.ops.aten, name, None)
        schema = "" if operator is None else str(operator.default._schema).replace("SymInt", "int")
        if schema != f"aten::{name}{SCHEMAS[name]}":
            return name
    return None


def keep_kernels() -> None:
    """Keep the kernels that the operators have now on the CPU. To be called before others are registered."""
    for name in OPERATOR_NAMES:
        if name == "_fused_rms_norm_backward":  # on the CPU PyTorch has none; ours, once registered, stays
            _kept[name] = rms_norm_gradients
        else:
            _kept[name] = torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed
    _define_operators()


def _define_operators() -> None:
    """The private operators, once."""
    global _library
    if _library is not None:
        return
    library = torch.library.Library("fastln", "FRAGMENT")
    for name in OPERATOR_NAMES:
        library.define(f"{name}_of_torch{SCHEMAS[name]}")
        library.impl(f"{name}_of_torch", _caller_of(name), "CPU", with_keyset=True)
    # PyTorch warns of the first kernel of the process that is put in front of another one, on stderr where it is told
    # from C. That is this one, which nobody sees: the last private operator once more.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.m.impl(f"{name}_of_torch", "CPU", _caller_of(name), True)
    _library = library


def _caller_of(name: str) -> Kernel:
    """What the private operator does: an error is noted, and raised by the kernel that passed the call on."""
    results = len(torch._C.parse_schema(f"{name}{SCHEMAS[name]}").returns)

    def call(keyset: Any, *args: Any) -> Any:
        try:
            return _kept[name](keyset, *args)
        except BaseException as error:
            note_error(error)
            return (torch.empty(0),) * results

    return call


def rms_norm_gradients(
    keyset: Any,
    dy: torch.Tensor,
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of RMS norm in PyTorch's operators, for calls that fastln's kernel does not take."""
    lead = x.dim() - len(normalized_shape)
    x_hat, dy_computed = x.to(rstd.dtype) * rstd, dy.to(rstd.dtype)
    g = dy_computed if weight is None else dy_computed * weight
    dx = dweight = None
    if output_mask[0]:
        mean = (g * x_hat).mean(tuple(range(lead, x.dim())), keepdim=True)
        dx = (rstd * (g - x_hat * mean)).to(x.dtype)
    if output_mask[1] and weight is not None:
        dweight = (dy_computed * x_hat).sum_to_size(weight.shape).to(weight.dtype)
    return dx, dweight
