"""Objects that hold parameters, used from NumPy as those of torch.nn are used from PyTorch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastln._core.arguments import as_eps, as_floats, as_sizes
from fastln.gradients import layer_norm_backward
from fastln.norms import layer_norm, layer_norm_forward

# Of float64, in the largest array that can be.
MOST_ELEMENTS = sys.maxsize // 8

Array = NDArray[np.floating[Any]]
Initializer = float | ArrayLike | Callable[[tuple[int, ...]], ArrayLike]


class LayerNormSaved(NamedTuple):
    """What the forward pass leaves for the backward pass; x is a reference, not a copy."""

    x: Array
    mean: Array
    rstd: Array


class LayerNormGradients(NamedTuple):
    """Gradients by name; None for a parameter that the object does not have."""

    dx: Array
    dweight: Array | None
    dbias: Array | None


class LayerNorm:
    """Layer normalization with its parameters: y = (x - mean) / sqrt(var + eps) * weight + bias.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Trailing dimensions of the input to normalize over.
    eps : float
        Added to the variance, in squared units of x.
    elementwise_affine : bool
        False: neither weight nor bias.
    bias : bool
        False: no bias.
    weight_init, bias_init : float, array or callable
        The initial weight and bias: a number, an array of normalized_shape, or a function of normalized_shape that
        returns either.
    dtype : dtype
        Of the parameters: float32 or float64.

    Attributes
    ----------
    weight, bias : ndarray or None
        Of normalized_shape. They are yours to change, in place or by assignment.
    normalized_shape : tuple of int
    eps : float
    elementwise_affine : bool

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    """

    weight: Array | None
    bias: Array | None

    def __init__(
        self,
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        weight_init: Initializer = 1.0,
        bias_init: Initializer = 0.0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = bool(elementwise_affine)
        as_eps(eps)
        dtype = _as_float_dtype(dtype)
        affine = self.elementwise_affine
        self.weight = self._initial("weight_init", weight_init, dtype) if affine else None
        self.bias = self._initial("bias_init", bias_init, dtype) if affine and bias else None

    def _initial(self, name: str, initializer: Initializer, dtype: np.dtype[Any]) -> Array:
        value = np.asarray(initializer(self.normalized_shape) if callable(initializer) else initializer)
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{name} must be a number, an array or a callable that gives one, got {value.dtype}")
        if value.shape not in ((), self.normalized_shape):
            raise ValueError(f"{name} must have shape {self.normalized_shape}, got {value.shape}")
        return np.full(self.normalized_shape, value, dtype)

    def __call__(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Normalize x, shape (..., *normalized_shape), into `out` or a new array."""
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps, out=out)

    def forward(self, x: ArrayLike) -> tuple[Array, LayerNormSaved]:
        """Normalize x and return with y what `backward` needs. Do not write to x in between."""
        rows = x if type(x) is np.ndarray else as_floats("x", x)
        y, mean, rstd = layer_norm_forward(rows, self.normalized_shape, self.weight, self.bias, self.eps)
        return y, LayerNormSaved(np.asarray(rows), mean, rstd)

    def backward(self, dy: ArrayLike, saved: LayerNormSaved) -> LayerNormGradients:
        """Gradients of a loss whose gradient with respect to y is dy, for the forward pass that gave `saved`."""
        dx, dweight, dbias = layer_norm_backward(
            dy,
            *saved,
            self.weight,
            normalized_shape=self.normalized_shape,
            output_mask=(True, self.weight is not None, self.bias is not None),
        )
        assert dx is not None
        return LayerNormGradients(dx, dweight, dbias)

    def _parameters(self) -> dict[str, Array]:
        named = {"weight": self.weight, "bias": self.bias}
        return {name: value for name, value in named.items() if value is not None}

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names: "weight" and "bias", as far as they exist."""
        return {name: value.copy() for name, value in self._parameters().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], prefix: str = "") -> None:
        """Copy the parameters from `state`, converted to this object's dtype.

        Parameters
        ----------
        state : mapping of str to array
            As `state_dict` gives it, or a whole checkpoint.
        prefix : str
            What the names begin with in a checkpoint ("encoder.layer.0.norm."); other names are left alone.

        Raises
        ------
        KeyError
            If a parameter is missing, or a name with this prefix is unexpected. Nothing has been changed then.
        TypeError, ValueError
            If state is not a mapping, or a parameter is not of floats or has the wrong shape. Nothing has been changed
            then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
        parameters = self._parameters()
        names = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
        for name in parameters:
            if name not in names:
                raise KeyError(f"state must have the key {prefix + name!r}, got {sorted(state)}")
        for name in sorted(names - set(parameters)):
            raise KeyError(f"state must have no key but those of {sorted(parameters)}, got {prefix + name!r}")
        loaded = {name: np.asarray(state[prefix + name]) for name in parameters}
        for name, value in loaded.items():
            if value.dtype.kind != "f":
                raise TypeError(f"{prefix + name} must be an array of floats, got {value.dtype}")
            if value.shape != self.normalized_shape:
                raise ValueError(f"{prefix + name} must have shape {self.normalized_shape}, got {value.shape}")
        for name, parameter in parameters.items():
            parameter[...] = loaded[name]

    def __repr__(self) -> str:
        return (
            f"LayerNorm({self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None})"
        )


def _as_float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found not in (np.dtype(np.float32), np.dtype(np.float64)) or found is None:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return found


def _as_shape(normalized_shape: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, ...]:
    shape = as_sizes(normalized_shape)
    if shape is None:
        raise TypeError("normalized_shape must be an int or a tuple of ints, got None")
    if not shape or min(shape) < 1:
        raise ValueError(f"normalized_shape must have sizes of at least 1, got {normalized_shape!r}")
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"normalized_shape must have at most {MOST_ELEMENTS} elements, got {normalized_shape!r}")
    return shape
