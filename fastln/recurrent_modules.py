"""Layer-normalized recurrent networks as objects, used from NumPy as those of torch.nn are used from PyTorch."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastln._core.arguments import as_eps, as_floats, converted
from fastln._core.describe import cut, describe
from fastln._core.forms import Form, Sized
from fastln._core.layers import Kept, run_layers_back
from fastln._core.names import explains_keywords, name_here
from fastln._core.parameters import (
    Array,
    StateError,
    as_bool,
    as_float_dtype,
    as_parameter,
    check_keys,
    load_parameters,
    may_be_parameter,
    new_parameter,
    without_gradient,
)
from fastln._core.recurrent_calls import alone, as_given, by_layer, run
from fastln._core.sequence_arguments import (
    FLOATS,
    GRU,
    LSTM,
    RNN,
    Kind,
    Layer,
    Lengths,
    Rows,
    Settings,
    as_state,
    as_word,
    check_shape,
    check_state,
    exact,
    usable,
    usable_rows,
    usable_state,
)
from fastln._core.threads import asked_threads
from fastln.frozen import FrozenRecurrent

# Of float64, in the largest array that can be.
MOST_ELEMENTS = sys.maxsize // 8

# What messages call that which decides the shape of a parameter.
SIZES = "the sizes of the object"

State = Array | tuple[Array, ...]
Rng = np.random.Generator | SupportsIndex | None


class RecurrentSaved(NamedTuple):
    """What the forward pass leaves for the backward pass; x and y are references, not copies.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> (y, state), saved = fastln.LayerNormGRU(3, 4).forward(np.ones((5, 2, 3), np.float32))
    >>> saved.y is y
    True
    """

    x: Array
    y: Array
    lengths: Lengths | None
    form: Form
    kept: list[list[Kept]]


class RecurrentGradients(NamedTuple):
    """Gradients: of x, of the state before the first step, and of the parameters by their names.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> gru = fastln.LayerNormGRU(3, 4, bias=False)
    >>> (y, state), saved = gru.forward(np.ones((5, 2, 3), np.float32))
    >>> list(gru.backward(y, state, saved).dparameters)
    ['weight_ih_l0', 'weight_hh_l0', 'ln_ih_l0.weight', 'ln_hh_l0.weight']
    """

    dx: Array
    dstate: State
    dparameters: dict[str, Array]


class Parameters(MutableMapping[str, Array]):
    """The arrays of an object by their names, each of which keeps its shape and dtype."""

    __slots__ = ("_arrays", "_dtype")

    def __init__(self, arrays: dict[str, Array], dtype: np.dtype[Any]) -> None:
        self._arrays = arrays
        self._dtype = dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameters, (self._arrays, self._dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of all of them."""
        return self._dtype

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            raise StateError(self._explain(name))
        return self._arrays[name]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        shape = self[name].shape
        self._arrays[name] = as_parameter(name, value, shape, self.dtype, SIZES)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"parameters must stay what they are, got a deletion of {cut(str(name))!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name!r}: {array.shape}" for name, array in self._arrays.items())
        return f"Parameters({{{shapes}}}, {self._dtype})"

    def _explain(self, name: Any) -> str:
        here = name_here(name, list(self._arrays)) if isinstance(name, str) else None
        return f"names must be those of parameters, got {describe(name)}{f': {here} is one' if here else ''}"


class _Recurrent(Sized):
    """Layers of one kind of cell, with their parameters."""

    __slots__ = ("_bias", "_eps", "_norm_bias", "_parameters")

    _SETTABLE: tuple[str, ...] = ("eps",)
    _OPTIONS: tuple[tuple[str, str], ...] = ()  # what only one kind has, with what is usual

    _bias: bool
    _eps: float
    _norm_bias: bool
    _parameters: Parameters

    def _begin(
        self,
        kind: Kind,
        sizes: tuple[SupportsIndex, SupportsIndex, SupportsIndex],
        batch_first: bool,
        bidirectional: bool,
        bias: bool,
        norm_bias: bool,
        eps: float,
        dtype: DTypeLike,
        rng: Rng,
    ) -> None:
        """What all kinds have in common: check it, then make the parameters."""
        input_size, hidden_size, num_layers = (
            _as_size(name, size) for name, size in zip(("input_size", "hidden_size", "num_layers"), sizes, strict=True)
        )
        batch_first, bidirectional = as_bool("batch_first", batch_first), as_bool("bidirectional", bidirectional)
        self._form = Form(kind, input_size, hidden_size, num_layers, batch_first, bidirectional)
        self._bias, self._norm_bias = as_bool("bias", bias), as_bool("norm_bias", norm_bias)
        self.eps = eps
        made_of, generator = _as_dtype(dtype), _as_generator(rng)
        shapes = self._shapes()
        if max(map(math.prod, shapes.values())) > MOST_ELEMENTS:
            raise ValueError(f"hidden_size must leave matrices of at most {MOST_ELEMENTS} elements, got more")
        self._parameters = Parameters(_initial(shapes, hidden_size, made_of, generator), made_of)

    @property
    def bidirectional(self) -> bool:
        """Whether each layer goes through the sequences from both ends."""
        return self._form.bidirectional

    @property
    def bias(self) -> bool:
        """Whether anything is added to what is normalized."""
        return self._bias

    @property
    def norm_bias(self) -> bool:
        """Whether the norms add it, and not one bias after them."""
        return self._norm_bias

    @property
    def eps(self) -> float:
        """What is added to each variance."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        as_eps(value)
        self._eps = value

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the parameters."""
        return self._parameters.dtype

    @property
    def parameters(self) -> Parameters:
        """The arrays by their names, yours to change."""
        return self._parameters

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        out: Array | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[Array, Any]:
        """Run the layers over sequences: y, and the state after the last step.

        x is (T, B, input_size), (B, T, input_size) if batch_first, or (T, input_size). y has the outputs of the last
        layer: hidden_size, or 2 * hidden_size of both directions, for input_size. A state is (layers * directions, B,
        hidden_size), without B where x has none, and of an LSTM a pair of these, (h, c); None stands for zeros. Layers
        come first, and of each its directions. `lengths` and `out` are those of the functions.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> lstm = fastln.LayerNormLSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)
        >>> y, (h, c) = lstm(np.ones((2, 7, 3), np.float32), lengths=[7, 5])
        >>> y.shape, h.shape
        ((2, 7, 8), (4, 2, 4))
        """
        asked = asked_threads(num_threads)
        given = as_given(self._form, x, state, lengths, out)
        done = run(self._form, self._layers(given.rows.dtype), self._settings(), given, asked)
        return done.y, done.state

    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[Array, Any], RecurrentSaved]:
        """Run the layers over sequences and return with that what `backward` needs.

        Some 14 * hidden_size numbers for each step of a sequence in each layer and direction of an LSTM; x and y are
        among it, so write to neither in between, and change no parameter.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> rnn = fastln.LayerNormRNN(3, 4)
        >>> (y, h), saved = rnn.forward(np.ones((5, 2, 3), np.float32))
        >>> y.shape, h.shape
        ((5, 2, 4), (1, 2, 4))
        """
        asked = asked_threads(num_threads)
        given = as_given(self._form, x, state, lengths, None)
        done = run(self._form, self._layers(given.rows.dtype), self._settings(), given, asked, keeps=True)
        return (done.y, done.state), RecurrentSaved(done.x, done.y, done.lengths, self._form, done.kept)

    def backward(
        self,
        dy: ArrayLike | None,
        dstate: Any,
        saved: RecurrentSaved,
        *,
        num_threads: SupportsIndex | None = None,
    ) -> RecurrentGradients:
        """Gradients of a loss, for the forward pass that gave `saved`.

        dy and dstate are its gradients with respect to y and to the state after the last step, in their shapes; None
        stands for zeros. `dstate` of the result, that of the state before the first step, is what the backward pass of
        an earlier slice of the sequences is given.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> lstm = fastln.LayerNormLSTM(3, 4)
        >>> (y, state), saved = lstm.forward(np.ones((5, 2, 3), np.float32))
        >>> gradients = lstm.backward(y, None, saved)
        >>> gradients.dx.shape, gradients.dparameters["ln_c_l0.weight"].shape
        ((5, 2, 3), (4,))
        >>> for name, gradient in gradients.dparameters.items():
        ...     lstm.parameters[name] -= 0.1 * gradient
        """
        asked = asked_threads(num_threads)
        if not isinstance(saved, RecurrentSaved):
            raise TypeError(f"saved must be what forward returned with y, got {describe(saved)}")
        if saved.form != self._form:
            raise ValueError(f"saved must be of an object of these sizes, got {saved.form}")
        # These may run anybody's code.
        dy = None if dy is None else exact(as_floats("dy", dy))
        names = tuple(f"d{name}" for name in self._form.states)
        given = as_state(names, dstate, "dstate")

        rows = Rows(saved.x, self._form.batch_first)
        shape = self._form.state_shape(rows)
        if dy is not None:
            check_shape("dy", dy, saved.y.shape, "y")
        check_state(names, given, shape, "the state")
        layers = self._layers(rows.dtype)
        dstates = usable_state(names, given, shape, rows.dtype)
        if dy is not None:
            dy = usable_rows(rows.by_time(converted("dy", dy, rows.dtype.num)), rows.dtype)
        dx = np.empty(rows.x.shape, rows.dtype)
        found = run_layers_back(
            self._form.kind, layers, self._settings(), dy, by_layer(dstates, rows), saved.kept, saved.lengths,
            rows.by_time(dx), asked,
        )  # fmt: skip
        named = self._form.gradients_of(found)
        dparameters = {name: gradient for name, gradient in named.items() if name in self._parameters}
        return RecurrentGradients(dx, alone(dstates), dparameters)

    def freeze(self) -> FrozenRecurrent:
        """What these parameters are now, packed for many calls of few steps.

        It holds copies, as large as the parameters, and does not see what is changed later.

        Raises
        ------
        ValueError
            If the object is bidirectional: the other direction begins at the end.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> gru = fastln.LayerNormGRU(3, 4)
        >>> frozen = gru.freeze()
        >>> x = np.ones((5, 2, 3), np.float32)
        >>> h = None
        >>> for x_t in x:
        ...     h = frozen.step(x_t, h)
        >>> np.array_equal(h, gru(x)[1])
        True
        """
        return FrozenRecurrent(self._form, self._settings(), self._layers(self.dtype), self.dtype)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names, those of the norms among them.

        Examples
        --------
        >>> import fastln
        >>> lstm = fastln.LayerNormLSTM(3, 4)
        >>> list(lstm.state_dict())[:4]
        ['weight_ih_l0', 'weight_hh_l0', 'ln_ih_l0.weight', 'ln_ih_l0.bias']
        """
        return {name: array.copy() for name, array in self._parameters.items()}

    @explains_keywords
    def load_state_dict(self, state: Mapping[str, ArrayLike], prefix: str = "") -> None:
        """Copy the parameters from `state`, converted to this object's dtype.

        They are copied into the arrays that are there, as those of a norm are: see `LayerNorm.load_state_dict`.

        Parameters
        ----------
        state : mapping of str to array
            As `state_dict` gives it, or a whole checkpoint, of any floats.
        prefix : str
            What the names begin with in a checkpoint ("decoder."); other names are left alone.

        Raises
        ------
        KeyError
            If a parameter is missing, or a name with this prefix is unexpected. Nothing has been changed then.
        TypeError, ValueError
            If state is not a mapping, or a parameter is not of floats or has the wrong shape. Nothing has been changed
            then.

        Examples
        --------
        >>> import fastln
        >>> first, second = fastln.LayerNormGRU(3, 4), fastln.LayerNormGRU(3, 4)
        >>> second.load_state_dict(first.state_dict())
        >>> (first.parameters["weight_ih_l0"] == second.parameters["weight_ih_l0"]).all()
        np.True_
        """
        shapes = self._shapes()
        check_keys(state, prefix, tuple(shapes), type(self).__name__)
        given = {name: without_gradient(state[prefix + name]) for name in shapes}
        loaded = {
            name: new_parameter(cut(prefix + name), given[name], shape, self.dtype, SIZES)
            for name, shape in shapes.items()
        }
        for name, array in load_parameters(self._parameters, loaded).items():
            self._parameters[name] = array

    def _settings(self) -> Settings:
        return Settings(self._eps)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self._form.parameter_shapes(self._bias, self._norm_bias)

    def _layers(self, dtype: np.dtype[Any]) -> list[list[Layer]]:
        """The parameters in this type, as they are now."""
        arrays: dict[str, Array] = {}
        for name, shape in self._shapes().items():
            array = self._parameters[name]
            if not may_be_parameter(array, shape, dtype):  # it is read-only, or somebody has changed it in place
                check_shape(name, array, shape, SIZES)
                array = usable(name, array, dtype)
            arrays[name] = array
        return self._form.layers_of(arrays)

    def __repr__(self) -> str:
        form = self._form
        options = [f"{form.input_size}, {form.hidden_size}"]
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "bidirectional": False, "norm_bias": True}
        for name, value in {**usual, **dict(self._OPTIONS)}.items():
            if getattr(self, name) != value:
                options.append(f"{name}={getattr(self, name)!r}")
        return f"{type(self).__name__}({', '.join(options)}, eps={self._eps}, dtype={self.dtype})"


class LayerNormRNN(_Recurrent):
    """Layers of layer-normalized RNN cells with their parameters: h = f(LN(W_ih x + W_hh h)).

    Parameters
    ----------
    input_size : int
        The numbers of each step of x.
    hidden_size : int
        The numbers of a state, H.
    num_layers : int
        Each layer reads the outputs of the one before.
    bias : bool
        False: nothing is added to what is normalized.
    batch_first : bool
        Whether the first axis of x and y is the batch, and the second one time. States are the same for both.
    bidirectional : bool
        Whether each layer has a second cell that goes from the end of each sequence to its beginning.
    eps : float
        Added to the variance of the sums, in their squared units.
    nonlinearity : {"tanh", "relu"}
        The function f.
    norm_bias : bool
        Whether what is added is the bias of the norm, `ln_l0.bias`; False: `bias_l0`, which does the same.
    dtype : dtype
        Of the parameters: float32 or float64. x may be of the other one, which decides what is computed in.
    rng : numpy.random.Generator or int, optional
        What the matrices are drawn from, or its seed: uniformly within 1 / sqrt(hidden_size), as PyTorch's are. Weights
        of norms are 1 and all biases 0.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        `weight_ih_l0`, (H, input_size), `weight_hh_l0`, (H, H), `ln_l0.weight` and `ln_l0.bias`, (H,); of other layers
        `_l1`, of the other direction `_l0_reverse`. They are yours to change, in place or by assignment: an array of
        this object's dtype that is writable and C-contiguous is kept and not copied. The next call sees the change.
    input_size, hidden_size, num_layers : int
    bias, batch_first, bidirectional, norm_bias : bool
    eps : float
    nonlinearity : str
    dtype : dtype

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450: section 3.1, equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> rnn = fastln.LayerNormRNN(3, 4, nonlinearity="relu", rng=0)
    >>> y, h = rnn(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    """

    __slots__ = ("_nonlinearity",)

    _OPTIONS = (("nonlinearity", "tanh"),)

    _nonlinearity: Literal["tanh", "relu"]

    @explains_keywords
    def __init__(
        self,
        input_size: SupportsIndex,
        hidden_size: SupportsIndex,
        num_layers: SupportsIndex = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        eps: float = 1e-5,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        norm_bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        self._nonlinearity = as_word("nonlinearity", nonlinearity, ("tanh", "relu"))
        sizes = input_size, hidden_size, num_layers
        self._begin(RNN, sizes, batch_first, bidirectional, bias, norm_bias, eps, dtype, rng)

    @property
    def nonlinearity(self) -> Literal["tanh", "relu"]:
        """The function of the cell."""
        return self._nonlinearity

    def _settings(self) -> Settings:
        return Settings(self._eps, relu=self._nonlinearity == "relu")


class LayerNormLSTM(_Recurrent):
    """Layers of layer-normalized LSTM cells with their parameters: those of `layer_norm_lstm`.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional
        As in `LayerNormRNN`.
    eps : float
        Added to each variance, in squared units of what is normalized.
    carry : {"cell", "normalized"}
        What goes on to the next step as c, as in `layer_norm_lstm`.
    norm_bias : bool
        Whether the norms of the input and of the state have biases, `ln_ih_l0.bias` and `ln_hh_l0.bias`; False: one
        bias is added to their sum, `bias_l0`. That of c has its own, `ln_c_l0.bias`, either way, where bias is True.
    dtype, rng
        As in `LayerNormRNN`.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        `weight_ih_l0`, (4 * H, input_size), `weight_hh_l0`, (4 * H, H), the weights and biases of `ln_ih_l0` and
        `ln_hh_l0`, (4 * H,), and of `ln_c_l0`, (H,), gates in the order i, f, g, o; else as in `LayerNormRNN`.
    input_size, hidden_size, num_layers : int
    bias, batch_first, bidirectional, norm_bias : bool
    eps : float
    carry : str
    dtype : dtype

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450: the supplement, equations 20 to 22.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> lstm = fastln.LayerNormLSTM(3, 4, rng=0)
    >>> y, (h, c) = lstm(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h.shape, c.shape
    ((5, 2, 4), (1, 2, 4), (1, 2, 4))

    A step of training, of the loss (y * y).sum() / 2:

    >>> (y, state), saved = lstm.forward(np.ones((5, 2, 3), np.float32))
    >>> gradients = lstm.backward(y, None, saved)
    >>> for name, gradient in gradients.dparameters.items():
    ...     lstm.parameters[name] -= 0.1 * gradient
    """

    __slots__ = ("_carry",)

    _OPTIONS = (("carry", "cell"),)

    _carry: Literal["cell", "normalized"]

    @explains_keywords
    def __init__(
        self,
        input_size: SupportsIndex,
        hidden_size: SupportsIndex,
        num_layers: SupportsIndex = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        eps: float = 1e-5,
        *,
        carry: Literal["cell", "normalized"] = "cell",
        norm_bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        self._carry = as_word("carry", carry, ("cell", "normalized"))
        sizes = input_size, hidden_size, num_layers
        self._begin(LSTM, sizes, batch_first, bidirectional, bias, norm_bias, eps, dtype, rng)

    @property
    def carry(self) -> Literal["cell", "normalized"]:
        """What goes on to the next step as c."""
        return self._carry

    def _settings(self) -> Settings:
        return Settings(self._eps, carry_normalized=self._carry == "normalized")


class LayerNormGRU(_Recurrent):
    """Layers of layer-normalized GRU cells with their parameters: those of `layer_norm_gru`.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional
        As in `LayerNormRNN`.
    eps : float
        Added to each variance, in squared units of what is normalized.
    norm_bias : bool
        Whether the norms have biases, `ln_ih_l0.bias` and `ln_hh_l0.bias`; False: one bias is added to the normalized
        sums of the input, `bias_l0`.
    dtype, rng
        As in `LayerNormRNN`.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        `weight_ih_l0`, (3 * H, input_size), `weight_hh_l0`, (3 * H, H), the weights and biases of `ln_ih_l0` and
        `ln_hh_l0`, (3 * H,), gates in the order r, z, n; else as in `LayerNormRNN`.
    input_size, hidden_size, num_layers : int
    bias, batch_first, bidirectional, norm_bias : bool
    eps : float
    dtype : dtype

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450: the supplement, the GRU of skip-thoughts.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> gru = fastln.LayerNormGRU(3, 4, num_layers=2, rng=0)
    >>> y, h = gru(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((5, 2, 4), (2, 2, 4))
    """

    __slots__ = ()

    @explains_keywords
    def __init__(
        self,
        input_size: SupportsIndex,
        hidden_size: SupportsIndex,
        num_layers: SupportsIndex = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        eps: float = 1e-5,
        *,
        norm_bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        sizes = input_size, hidden_size, num_layers
        self._begin(GRU, sizes, batch_first, bidirectional, bias, norm_bias, eps, dtype, rng)


# What objects are made of


def _initial(
    shapes: dict[str, tuple[int, ...]], hidden_size: int, dtype: np.dtype[Any], rng: np.random.Generator
) -> dict[str, Array]:
    """Matrices within 1 / sqrt(hidden_size), as PyTorch's; weights of norms 1, biases 0."""
    bound = 1 / math.sqrt(hidden_size)
    return {
        name: rng.uniform(-bound, bound, shape).astype(dtype)
        if len(shape) == 2
        else np.full(shape, name.endswith(".weight"), dtype)
        for name, shape in shapes.items()
    }


def _as_size(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        size = int.__index__(operator.index(value))
    except TypeError:
        raise TypeError(f"{name} must be an int >= 1, got {describe(value)}") from None
    if size < 1:
        raise ValueError(f"{name} must be an int >= 1, got {describe(value)}")
    return size


def _as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    found = as_float_dtype(dtype)
    if found not in FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {describe(dtype)}")
    return found


def _as_generator(rng: Any) -> np.random.Generator:
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    try:
        if isinstance(rng, (bool, np.bool_)) or (seed := operator.index(rng)) < 0:
            raise TypeError
    except TypeError:
        raise TypeError(f"rng must be a numpy.random.Generator or a seed >= 0, got {describe(rng)}") from None
    return np.random.default_rng(seed)
