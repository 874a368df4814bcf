"""Objects that hold parameters, used from NumPy as those of torch.nn are used from PyTorch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastln._core.arguments import as_eps, as_floats, as_numbers, as_offset, as_sizes, check_cast, converted
from fastln._core.describe import cut, describe
from fastln._core.names import explains_keywords
from fastln._core.parameters import (
    KnownAttributes,
    as_bool,
    as_float_dtype,
    as_parameter,
    check_keys,
    load_parameters,
    new_parameter,
    without_gradient,
)
from fastln._core.parameters import (
    StateError as StateError,
)
from fastln.gradients import layer_norm_backward, rms_norm_backward
from fastln.norms import layer_norm, layer_norm_forward, rms_norm, rms_norm_forward

# Of float64, in the largest array that can be.
MOST_ELEMENTS = sys.maxsize // 8

Array = NDArray[np.floating[Any]]
Initializer = float | ArrayLike | Callable[[tuple[int, ...]], ArrayLike]


class LayerNormSaved(NamedTuple):
    """What the forward pass leaves for the backward pass; x is a reference, not a copy.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x = np.array([[10, 10, 30, 30]], np.float32)
    >>> y, saved = fastln.LayerNorm(4).forward(x)
    >>> saved.x is x
    True
    """

    x: Array
    mean: Array
    rstd: Array


class RMSNormSaved(NamedTuple):
    """What the forward pass leaves for the backward pass; x is a reference, not a copy.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> y, saved = fastln.RMSNorm(2, eps=0).forward(np.array([[7, 1]], np.float32))
    >>> saved.rstd
    array([[0.2]], dtype=float32)
    """

    x: Array
    rstd: Array


class LayerNormGradients(NamedTuple):
    """Gradients by name; None for a parameter that the object does not have.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> norm = fastln.LayerNorm(4, bias=False)
    >>> y, saved = norm.forward(np.array([[1, 2, 3, 4]], np.float32))
    >>> dx, dweight, dbias = norm.backward(y, saved)
    >>> dbias is None
    True
    """

    dx: Array
    dweight: Array | None
    dbias: Array | None


class RMSNormGradients(NamedTuple):
    """Gradients by name; None for the weight if the object has none.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> norm = fastln.RMSNorm(2, elementwise_affine=False)
    >>> y, saved = norm.forward(np.array([[7, 1]], np.float32))
    >>> norm.backward(y, saved).dweight is None
    True
    """

    dx: Array
    dweight: Array | None


class _Parameters(KnownAttributes):
    """The parameters of an object: what they may be, and their state."""

    # Types may say which parameters there are: see the stub.
    __class_getitem__: Any = classmethod(GenericAlias)

    __slots__ = ("_dtype", "_eps", "_shape", "_weight")

    _KIND: str  # its name, of which a subclass has another
    _NAMES: tuple[str, ...] = ("weight",)
    _SETTABLE: tuple[str, ...] = ("weight", "eps")

    _dtype: np.dtype[Any]
    _eps: float | None
    _shape: tuple[int, ...]
    _weight: Array | None

    def _begin(self, normalized_shape: Any, elementwise_affine: Any, dtype: DTypeLike) -> bool:
        """What all parameters have in common; whether there are any."""
        self._shape = _as_shape(normalized_shape, self._KIND)
        self._dtype = as_float_dtype(dtype)
        return as_bool("elementwise_affine", elementwise_affine)

    @property
    def normalized_shape(self) -> tuple[int, ...]:
        """The trailing dimensions that are normalized over."""
        return self._shape

    @property
    def elementwise_affine(self) -> bool:
        """Whether there is any parameter."""
        return bool(self._parameters())

    def _initial(self, name: str, initializer: Initializer) -> Array:
        value = initializer(self._shape) if callable(initializer) else initializer
        array = as_numbers(name, value)
        if array.shape not in ((), self._shape):
            raise ValueError(f"{name} must have shape {self._shape}, got {array.shape}")
        return np.full(self._shape, converted(name, array, self._dtype.num), self._dtype)

    @property
    def weight(self) -> Array | None:
        """What the normalized row is multiplied by."""
        return self._weight

    @weight.setter
    def weight(self, value: ArrayLike | None) -> None:
        self._weight = None if value is None else self._as_parameter("weight", value)

    def _as_parameter(self, name: str, value: ArrayLike) -> Array:
        return as_parameter(name, value, self._shape, self._dtype, "normalized_shape")

    def _parameters(self) -> dict[str, Array]:
        named = {name: getattr(self, f"_{name}") for name in self._NAMES}
        return {name: value for name, value in named.items() if value is not None}

    def _shown_dtype(self) -> str:
        return "" if self._dtype == np.float32 else f", dtype={self._dtype}"

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names: "weight" and "bias", as far as they exist.

        Examples
        --------
        >>> import fastln
        >>> fastln.LayerNorm(3, bias=False).state_dict()
        {'weight': array([1., 1., 1.], dtype=float32)}
        """
        return {name: value.copy() for name, value in self._parameters().items()}

    @explains_keywords
    def load_state_dict(self, state: Mapping[str, ArrayLike], prefix: str = "") -> None:
        """Copy the parameters from `state`, converted to this object's dtype.

        They are copied into the arrays that are there, which others may share; where that cannot be (one was made
        read-only, say, or both share memory), into new ones.

        Parameters
        ----------
        state : mapping of str to array
            As `state_dict` gives it, or a whole checkpoint. The arrays may be of any floats, bfloat16 too, and tensors
            of PyTorch, with gradients or without: `dict(model.named_parameters())` is a state as well.
        prefix : str
            What the names begin with in a checkpoint ("encoder.layer.0.norm."); other names are left alone.

        Raises
        ------
        KeyError
            If a parameter is missing, or a name with this prefix is unexpected. Nothing has been changed then.
        TypeError, ValueError
            If state is not a mapping, or a parameter is not of floats or has the wrong shape. Nothing has been changed
            then.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> checkpoint = {"encoder.norm.weight": np.full(3, 2.0), "encoder.norm.bias": np.zeros(3), "head": np.ones(9)}
        >>> norm = fastln.LayerNorm(3)
        >>> norm.load_state_dict(checkpoint, prefix="encoder.norm.")
        >>> norm.weight
        array([2., 2., 2.], dtype=float32)
        """
        parameters = self._parameters()
        check_keys(state, prefix, tuple(parameters), self._KIND)
        given = {name: without_gradient(state[prefix + name]) for name in parameters}
        loaded = {
            name: new_parameter(cut(prefix + name), value, self._shape, self._dtype, "normalized_shape")
            for name, value in given.items()
        }
        for name, array in load_parameters(parameters, loaded).items():
            setattr(self, f"_{name}", array)


class LayerNorm(_Parameters):
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
        Of the parameters: float32, float64, float16 or ml_dtypes' bfloat16. x may be of another one; beside x of 16
        bits, parameters of float32 are used as they are.

    Attributes
    ----------
    weight, bias : ndarray or None
        Of normalized_shape. They are yours to change, in place or by assignment: an array of this object's dtype that
        is writable and C-contiguous is kept and not copied, and any other value that `layer_norm` takes is converted.
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

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> norm = fastln.LayerNorm(4, eps=1e-6)
    >>> x = np.array([[10, 10, 30, 30]], np.float32)
    >>> norm(x).round(4)
    array([[-1., -1.,  1.,  1.]], dtype=float32)

    A step of training:

    >>> y, saved = norm.forward(x)
    >>> gradients = norm.backward(y, saved)
    >>> norm.weight -= 0.5 * gradients.dweight
    >>> norm.weight.round(4)
    array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """

    __slots__ = ("_bias",)

    _KIND = "LayerNorm"
    _NAMES = ("weight", "bias")
    _SETTABLE = ("weight", "bias", "eps")

    _bias: Array | None
    _eps: float

    @explains_keywords
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
        self._eps = _as_eps(eps, "weight_init and bias_init give the parameters")
        affine, has_bias = self._begin(normalized_shape, elementwise_affine, dtype), as_bool("bias", bias)
        self._weight = self._initial("weight_init", weight_init) if affine else None
        self._bias = self._initial("bias_init", bias_init) if affine and has_bias else None

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        self._eps = _as_eps(value)

    @property
    def bias(self) -> Array | None:
        """What is added to it then."""
        return self._bias

    @bias.setter
    def bias(self, value: ArrayLike | None) -> None:
        self._bias = None if value is None else self._as_parameter("bias", value)

    def __call__(self, x: ArrayLike, *, out: Array | None = None, num_threads: SupportsIndex | None = None) -> Array:
        """Normalize x, shape `(..., *normalized_shape)`, into `out` or a new array.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> norm = fastln.LayerNorm(4, weight_init=2)
        >>> x = np.array([[10, 10, 30, 30]], np.float32)
        >>> norm(x, out=x) is x
        True
        >>> x.round(4)
        array([[-2., -2.,  2.,  2.]], dtype=float32)
        """
        return layer_norm(x, self._shape, self._weight, self._bias, self._eps, out=out, num_threads=num_threads)

    def forward(
        self, x: ArrayLike, *, out: Array | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[Array, LayerNormSaved]:
        """Normalize x and return with y what `backward` needs: x among it, so `out` must not be in its place.

        Do not write to x in between.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> norm = fastln.LayerNorm(4)
        >>> y, saved = norm.forward(np.array([[10, 10, 30, 30]], np.float32))
        >>> saved.mean
        array([[20.]], dtype=float32)
        """
        rows = _rows_to_save(x, out)
        y, mean, rstd = layer_norm_forward(
            rows, self._shape, self._weight, self._bias, self._eps, out=out, num_threads=num_threads
        )
        return y, LayerNormSaved(np.asarray(rows), mean, rstd)

    def backward(
        self,
        dy: ArrayLike,
        saved: LayerNormSaved,
        *,
        out: Array | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> LayerNormGradients:
        """Gradients of a loss whose gradient with respect to y is dy, for the forward pass that gave `saved`.

        `out` is where dx goes; it may be dy.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> norm = fastln.LayerNorm(4)
        >>> y, saved = norm.forward(np.array([[10, 10, 30, 30]], np.float32))
        >>> gradients = norm.backward(np.ones_like(y), saved)
        >>> gradients.dbias
        array([1., 1., 1., 1.], dtype=float32)
        >>> gradients.dx  # all of y moves together, which no x can do
        array([[0., 0., 0., 0.]], dtype=float32)
        """
        _check_saved(saved, LayerNormSaved)
        dx, dweight, dbias = layer_norm_backward(
            dy,
            *saved,
            self._weight,
            normalized_shape=self._shape,
            output_mask=(True, self._weight is not None, self._bias is not None),
            out=out,
            num_threads=num_threads,
        )
        assert dx is not None
        return LayerNormGradients(dx, dweight, dbias)

    def __repr__(self) -> str:
        # Of a bias alone, which no argument of LayerNorm makes, it says so.
        alone = ", weight=None" if self._weight is None and self._bias is not None else ""
        return (
            f"LayerNorm({self._shape}, eps={self._eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self._bias is not None}{alone}{self._shown_dtype()})"
        )


class RMSNorm(_Parameters):
    """RMS normalization with its parameter: y = x / sqrt(mean(x * x) + eps) * (weight_offset + weight).

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Trailing dimensions of the input to normalize over.
    eps : float or None
        Added to the mean square, in squared units of x. None stands for `finfo(x.dtype).eps`, for x of 16 bits for that
        of float32, as in PyTorch; most checkpoints were trained with 1e-5 or 1e-6.
    elementwise_affine : bool
        False: no weight.
    weight_offset : float
        Added to weight in each call. 1 for checkpoints that store weight - 1, as Gemma's do.
    cast : {None, "llama", "gemma"}
        As in `rms_norm`.
    weight_init : float, array or callable, optional
        The initial weight: a number, an array of normalized_shape, or a function of normalized_shape that returns
        either. None: so that weight_offset + weight is 1.
    dtype : dtype
        Of the parameter: float32, float64, float16 or ml_dtypes' bfloat16. x may be of another one; beside x of 16
        bits, a weight of float32 is used as it is.

    Attributes
    ----------
    weight : ndarray or None
        Of normalized_shape. It is yours to change, in place or by assignment: an array of this object's dtype that is
        writable and C-contiguous is kept and not copied, and any other value that `rms_norm` takes is converted.
    normalized_shape : tuple of int
    eps : float or None
    elementwise_affine : bool
    weight_offset : float
    cast : str or None

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> norm = fastln.RMSNorm(2, eps=1e-6)
    >>> norm(np.array([[3.0, 4.0]])).round(3)
    array([[0.849, 1.131]])
    """

    __slots__ = ("_cast", "_weight_offset")

    _KIND = "RMSNorm"
    _SETTABLE = ("weight", "eps", "weight_offset", "cast")

    _cast: Literal["llama", "gemma"] | None
    _weight_offset: float

    @explains_keywords
    def __init__(
        self,
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        weight_offset: float = 0.0,
        cast: Literal["llama", "gemma"] | None = None,
        weight_init: Initializer | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self._eps = None if eps is None else _as_eps(eps, "weight_init gives the weight")
        self.cast = cast
        affine = self._begin(normalized_shape, elementwise_affine, dtype)
        self._weight_offset = as_offset(weight_offset, affine)
        initial = 1 - self._weight_offset if weight_init is None else weight_init
        self._weight = self._initial("weight_init", initial) if affine else None

    @property
    def eps(self) -> float | None:
        """What is added to the mean square; None stands for `finfo(x.dtype).eps`, or float32's for x of 16 bits."""
        return self._eps

    @eps.setter
    def eps(self, value: float | None) -> None:
        self._eps = None if value is None else _as_eps(value)

    @property
    def weight_offset(self) -> float:
        """What is added to weight in each call."""
        return self._weight_offset

    @weight_offset.setter
    def weight_offset(self, value: float) -> None:
        self._weight_offset = as_offset(value, self._weight is not None)

    @property
    def cast(self) -> Literal["llama", "gemma"] | None:
        """Where a model rounds."""
        return self._cast

    @cast.setter
    def cast(self, value: Literal["llama", "gemma"] | None) -> None:
        check_cast(value)
        self._cast = value

    def __call__(self, x: ArrayLike, *, out: Array | None = None, num_threads: SupportsIndex | None = None) -> Array:
        """Normalize x, shape `(..., *normalized_shape)`, into `out` or a new array.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> norm = fastln.RMSNorm(2, eps=1e-6, weight_init=[1, 10])
        >>> norm(np.array([[7, 1]], np.float32)).round(4)
        array([[1.4, 2. ]], dtype=float32)
        """
        return rms_norm(
            x,
            self._shape,
            self._weight,
            self._eps,
            weight_offset=self._weight_offset,
            cast=self._cast,
            out=out,
            num_threads=num_threads,
        )

    def forward(
        self, x: ArrayLike, *, out: Array | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[Array, RMSNormSaved]:
        """Normalize x and return with y what `backward` needs: x among it, so `out` must not be in its place.

        Do not write to x in between.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> y, saved = fastln.RMSNorm(2, eps=1e-6).forward(np.array([[7, 1]], np.float32))
        >>> y.round(4)
        array([[1.4, 0.2]], dtype=float32)
        """
        rows = _rows_to_save(x, out)
        y, rstd = rms_norm_forward(
            rows,
            self._shape,
            self._weight,
            self._eps,
            weight_offset=self._weight_offset,
            cast=self._cast,
            out=out,
            num_threads=num_threads,
        )
        return y, RMSNormSaved(np.asarray(rows), rstd)

    def backward(
        self,
        dy: ArrayLike,
        saved: RMSNormSaved,
        *,
        out: Array | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> RMSNormGradients:
        """Gradients of a loss whose gradient with respect to y is dy, for the forward pass that gave `saved`.

        `out` is where dx goes; it may be dy.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> norm = fastln.RMSNorm(2, eps=1e-6)
        >>> y, saved = norm.forward(np.array([[7, 1]], np.float32))
        >>> gradients = norm.backward(np.ones_like(y), saved)
        >>> gradients.dweight.round(4)
        array([1.4, 0.2], dtype=float32)
        """
        _check_saved(saved, RMSNormSaved)
        dx, dweight = rms_norm_backward(
            dy,
            *saved,
            self._weight,
            normalized_shape=self._shape,
            output_mask=(True, self._weight is not None),
            weight_offset=self._weight_offset,
            out=out,
            num_threads=num_threads,
        )
        assert dx is not None
        return RMSNormGradients(dx, dweight)

    def __repr__(self) -> str:
        offset = f", weight_offset={self._weight_offset}" if self._weight_offset else ""
        cast = f", cast={self._cast!r}" if self._cast else ""
        return (
            f"RMSNorm({self._shape}, eps={self._eps}, elementwise_affine={self.elementwise_affine}"
            f"{offset}{cast}{self._shown_dtype()})"
        )


def _rows_to_save(x: ArrayLike, out: Array | None) -> Any:
    """The rows of x as an array, which `out` must leave as it is."""
    rows = x if type(x) is np.ndarray else as_floats("x", x)
    if isinstance(out, np.ndarray) and np.shares_memory(rows, out):
        raise ValueError(f"out must share no memory with x, which backward needs, got {describe(out)} that does")
    return rows


def _check_saved(saved: Any, kind: Any) -> None:
    """Whether it is as long as what forward returns, of which a plain tuple will do."""
    if not isinstance(saved, tuple) or len(saved) != len(kind._fields):
        raise TypeError(f"saved must be what forward returned with y, got {describe(saved)}")


def _as_eps(eps: float, advice: str = "") -> float:
    """What was given, if it will do; `advice` is for an array in its place."""
    if advice and hasattr(type(eps), "__array__") and np.ndim(eps) > 0:
        raise TypeError(f"eps must be a real number >= 0, got {describe(eps)}: {advice}")
    as_eps(eps)
    return eps


def _as_shape(normalized_shape: SupportsIndex | Sequence[SupportsIndex], kind: str) -> tuple[int, ...]:
    sizes: Any = normalized_shape
    if hasattr(type(sizes), "__array__") and np.ndim(sizes) > 0:
        call = f"{kind}({np.shape(sizes)[-1]})(x)"
        function = "rms_norm" if kind == "RMSNorm" else "layer_norm"
        raise TypeError(
            f"normalized_shape must be an int or a tuple of ints, got {describe(normalized_shape)}: "
            f"{call} or fastln.{function}(x) normalizes an array x"
        )
    shape = as_sizes(normalized_shape)
    if shape is None:
        raise TypeError("normalized_shape must be an int or a tuple of ints, got None")
    if not shape or min(shape) < 1:
        raise ValueError(f"normalized_shape must have sizes of at least 1 (no axes), got {describe(normalized_shape)}")
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(
            f"normalized_shape must have at most {MOST_ELEMENTS} elements, got {describe(normalized_shape)}"
        )
    return shape
