"""Norms of tensors, called directly: for tiny work and for results in tensors that exist.

Each function is PyTorch's of that name, or `x + residual` and then that, and gives what these give, gradients too. A
call that wants nothing of PyTorch but numbers is fastln's, without the dispatcher: `_direct` decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fastln._core.describe import describe
from fastln.torch import _direct

# NumPy's work to find out whether two strided arrays have a byte in common. What takes more is said to have one.
MOST_WORK_ON_OVERLAPS = 100_000

# What NumPy calls numbers as wide as a tensor's: it has no bfloat16.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Normalize the rows of a tensor: y = (x - mean) / sqrt(var + eps) * weight + bias.

    `torch.nn.functional.layer_norm` that costs less: for a row of 768 float32, 0.6 of the time, 0.45 with `out`. fastln
    does the work if nothing needs a gradient and nothing of PyTorch watches the call (a mode, a transform, a tracer, a
    compiler); else PyTorch does it, with its results, gradients and errors.

    Parameters
    ----------
    x : Tensor of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        Rows may lie at any constant stride. What else PyTorch takes is PyTorch's work.
    normalized_shape : int or sequence of int
        Trailing dimensions to normalize over.
    weight, bias : Tensor, shape normalized_shape, optional
        Scale and offset per element, both of x's dtype, or beside x of 16 bits both of float32.
    eps : float
        Added to the variance, in squared units of x.
    out : Tensor, optional
        Where to put the result: x's shape and dtype. It may be x itself; any other overlap with an input gives the same
        result as if there were none. Its version counter says that it has changed, as after PyTorch's own functions.

    Returns
    -------
    Tensor
        `out`, or a new tensor with x's shape and dtype. That one's storage cannot be resized; nor do such calls show up
        in PyTorch's profiler.

    Raises
    ------
    TypeError, ValueError
        If out has the wrong type, dtype, shape or device, overlaps itself, or is a leaf that requires a gradient.
    RuntimeError
        PyTorch's own, about all other arguments. Nothing has been written when any of these is raised.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> fastln.torch.layer_norm(x, 4)
    tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """
    if not is_dynamo_compiling():
        y = _direct.layer_norm(x, normalized_shape, weight, bias, eps, out)
        if y is not None:
            return y
    return _given_back(out, F.layer_norm(x, _sizes(normalized_shape), weight, bias, eps))


def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Normalize the rows of a tensor by their root mean square: y = x / sqrt(mean(x * x) + eps) * weight.

    `torch.nn.functional.rms_norm` that costs less: fastln's work, or PyTorch's, as in `layer_norm`. Of x of 16 bits y
    alone is rounded.

    Parameters
    ----------
    x, normalized_shape, weight, out
        As in `layer_norm`.
    eps : float, optional
        Added to the mean square, in squared units of x. None stands for `finfo(x.dtype).eps`, for x of 16 bits for that
        of float32, as in PyTorch.

    Returns
    -------
    Tensor
        As from `layer_norm`. A NaN or Inf makes its own row NaN where the work is fastln's; PyTorch gives 0 for the
        finite numbers beside an Inf.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `layer_norm`.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> fastln.torch.rms_norm(torch.tensor([[3.0, 4.0]]), 2, eps=1e-6)
    tensor([[0.8485, 1.1314]])
    """
    if not is_dynamo_compiling():
        y = _direct.rms_norm(x, normalized_shape, weight, eps, out)
        if y is not None:
            return y
    return _given_back(out, F.rms_norm(x, _sizes(normalized_shape), weight, eps))


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    out: Tensor | None = None,
    residual_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add a residual and normalize the rows of the sum: s = x + residual and y = layer_norm(s).

    One call of fastln's, which goes through memory once, or PyTorch's two, as in `layer_norm`.

    Parameters
    ----------
    x, normalized_shape, weight, bias, eps
        As in `layer_norm`.
    residual : Tensor of x's dtype, shape of x
        What is added to x. What else PyTorch adds is PyTorch's work.
    out, residual_out : Tensor, optional
        Where to put y and s. Each may be x or residual itself, so `residual_out=residual` updates the stream in place.
        They must not overlap each other.

    Returns
    -------
    y, s : Tensor
        `out` and `residual_out`, or new tensors. s has the bits of `x + residual`, y those of the norm of s.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `layer_norm`; ValueError also if out and residual_out overlap.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> stream = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> y, s = fastln.torch.add_layer_norm(torch.ones(1, 4), stream, 4, residual_out=stream)
    >>> y, s is stream, stream
    (tensor([[-1.3416, -0.4472,  0.4472,  1.3416]]), True, tensor([[2., 3., 4., 5.]]))
    """
    if not is_dynamo_compiling():
        found = _direct.add_layer_norm(x, residual, normalized_shape, weight, bias, eps, out, residual_out)
        if found is not None:
            return found
    s = x + residual
    return _both_given_back(out, F.layer_norm(s, _sizes(normalized_shape), weight, bias, eps), residual_out, s)


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    out: Tensor | None = None,
    residual_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add a residual and normalize the rows of the sum: s = x + residual and y = rms_norm(s).

    One call of fastln's, which goes through memory once, or PyTorch's two, as in `layer_norm`.

    Parameters
    ----------
    x, residual, normalized_shape, weight, out, residual_out
        As in `add_layer_norm`.
    eps : float, optional
        As in `rms_norm`.

    Returns
    -------
    y, s : Tensor
        `out` and `residual_out`, or new tensors. s has the bits of `x + residual`, y those of the norm of s.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `add_layer_norm`.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> y, s = fastln.torch.add_rms_norm(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]]), 2, eps=1e-6)
    >>> y, s
    (tensor([[0.8485, 1.1314]]), tensor([[3., 4.]]))
    """
    if not is_dynamo_compiling():
        found = _direct.add_rms_norm(x, residual, normalized_shape, weight, eps, out, residual_out)
        if found is not None:
            return found
    s = x + residual
    return _both_given_back(out, F.rms_norm(s, _sizes(normalized_shape), weight, eps), residual_out, s)


# Results of PyTorch in the caller's tensors


def _sizes(normalized_shape: int | Sequence[int]) -> Sequence[int]:
    """As PyTorch takes it."""
    return (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape


def _given_back(out: Tensor | None, y: Tensor) -> Tensor:
    """What was found, where the caller wants it."""
    if out is None:
        return y
    _check_result("out", out, y)
    return out.copy_(y)


def _both_given_back(out: Tensor | None, y: Tensor, residual_out: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor]:
    """The same of both results, after checks of both."""
    if out is not None:
        _check_result("out", out, y)
    if residual_out is not None:
        _check_result("residual_out", residual_out, s)
        if out is not None and _share_memory(out, residual_out):
            raise ValueError("residual_out must share no memory with out, got a tensor that does")
    # y may be written to where x or residual was: s is a tensor of its own, and found by then.
    return (y if out is None else out.copy_(y)), (s if residual_out is None else residual_out.copy_(s))


def _check_result(name: str, out: Tensor, y: Tensor) -> None:
    """Whether it can take y as it is: PyTorch would broadcast and convert it, or stop half way."""
    if not isinstance(out, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {describe(out)}")
    if out.dtype != y.dtype:
        raise TypeError(f"{name} must have dtype {y.dtype}, got {out.dtype}")
    if out.shape != y.shape:
        raise ValueError(f"{name} must have shape {tuple(y.shape)}, got {tuple(out.shape)}")
    if out.device != y.device:
        raise ValueError(f"{name} must be on the device {y.device}, got {out.device}")
    if any(stride == 0 and size > 1 for stride, size in zip(out.stride(), out.shape, strict=True)):
        raise ValueError(f"{name} must not overlap itself, got strides {out.stride()} for shape {tuple(out.shape)}")
    if out.requires_grad and out.is_leaf and torch.is_grad_enabled():
        raise ValueError(f"{name} must not be a leaf that requires a gradient, got one")


def _share_memory(out: Tensor, other: Tensor) -> bool:
    """Whether two results have a byte in common, as far as they are in memory."""
    if out is other:
        return True
    if is_dynamo_compiling() or not all(type(t) is Tensor and t.device.type == "cpu" for t in (out, other)):
        return False
    first, second = (t.detach().view(INTEGERS[t.itemsize]).numpy() for t in (out, other))
    return np.may_share_memory(first, second, MOST_WORK_ON_OVERLAPS)  # type: ignore[arg-type]  # NumPy's stub knows two
