"""What a call over a sequence is given: objects as arrays, what these must be, and what the kernels take of them.

The three steps of `arguments`, of arrays in which time is an axis. Objects become arrays and numbers first (`as_...`),
which may run anybody's code; then all of them are checked (`check_...`) before anything is written; at last they are
laid out as `sequences` takes them (`usable_...`). G is the number of gates of a cell, H its hidden_size.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastln._core.arguments import as_any_floats, as_array, as_floats, check_buffer, converted, reshaping
from fastln._core.describe import describe

Array = NDArray[np.floating[Any]]
Lengths = NDArray[np.int64]
Pair = tuple[Array | None, Array | None]
_Word = TypeVar("_Word", bound=str)

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Norm(NamedTuple):
    """A norm of a cell: the argument that is its parameters, what a state dict calls it, and its size in H."""

    argument: str
    key: str
    size: int


class Kind(NamedTuple):
    """A cell: the kernels' name for it, G, the names of what it carries from step to step, and its norms."""

    name: str
    gates: int
    states: tuple[str, ...]
    norms: tuple[Norm, ...]


RNN = Kind("rnn", 1, ("h0",), (Norm("norm", "ln", 1),))
LSTM = Kind(
    "lstm", 4, ("h0", "c0"), (Norm("ih_norm", "ln_ih", 4), Norm("hh_norm", "ln_hh", 4), Norm("c_norm", "ln_c", 1))
)
GRU = Kind("gru", 3, ("h0",), (Norm("ih_norm", "ln_ih", 3), Norm("hh_norm", "ln_hh", 3)))


class Layer(NamedTuple):
    """The parameters of a cell: (G H, I), (G H, H), (G H,), and of each norm a pair; or both matrices packed."""

    weight_ih: Array | None
    weight_hh: Array | None
    bias: Array | None
    norms: tuple[Pair, ...]
    packed: tuple[NDArray[Any], ...] | None = None
    reverse: bool = False


class Settings(NamedTuple):
    """What a cell does beside its parameters."""

    eps: float
    carry_normalized: bool = False
    relu: bool = False


class Rows(NamedTuple):
    """x, and where its axes are: (T, B, I), (B, T, I), or (T, I) without a batch."""

    x: Array
    batch_first: bool

    @property
    def has_batch(self) -> bool:
        """Whether there is an axis of rows beside each other."""
        return self.x.ndim == 3

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is computed in."""
        return self.x.dtype.newbyteorder("=")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """T, B and I."""
        steps, batch, features = self.by_time(self.x).shape
        return steps, batch, features

    def by_time(self, array: Array) -> Array:
        """A view (T, B, ...) of an array whose axes are where those of x are."""
        if not self.has_batch:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def shape_of(self, features: int) -> tuple[int, ...]:
        """Of a result with so many features."""
        return (*self.x.shape[:-1], features)


# Objects to arrays and numbers


def exact(array: NDArray[Any]) -> NDArray[Any]:
    """An array that does not lie about itself: a copy of what is of a subclass."""
    return array if type(array) is np.ndarray else np.array(array, subok=False)


def as_float32_or_64(name: str, value: Any) -> Array:
    """An exact ndarray of one of the types that sequences are computed in."""
    array = exact(as_floats(name, value))
    if array.dtype.newbyteorder("=") not in FLOATS:
        raise TypeError(
            f"{name} must be an array of float32 or float64, got {describe(value)}: {name}.astype(np.float32)"
        )
    return array


def as_rows(x: Any, batch_first: bool) -> Rows:
    """An array of floats and where its axes are."""
    return Rows(as_float32_or_64("x", x), batch_first)


def as_layer(kind: Kind, weight_ih: Any, weight_hh: Any, bias: Any, norms: tuple[Any, ...]) -> Layer:
    """The parameters, of any floats yet."""
    return Layer(
        exact(as_any_floats("weight_ih", weight_ih)),
        exact(as_any_floats("weight_hh", weight_hh)),
        None if bias is None else exact(as_any_floats("bias", bias)),
        tuple(_as_pair(norm.argument, pair) for norm, pair in zip(kind.norms, norms, strict=True)),
    )


def _as_pair(name: str, norm: Any) -> Pair:
    if norm is None:
        return None, None
    if not isinstance(norm, (tuple, list)) or len(norm) != 2:
        raise TypeError(f"{name} must be None or a pair (weight, bias), got {describe(norm)}")
    weight, bias = (
        None if value is None else exact(as_any_floats(f"{name}[{i}]", value)) for i, value in enumerate(norm)
    )
    return weight, bias


def as_state(names: tuple[str, ...], state: Any, whole: str = "state") -> tuple[Array, ...] | None:
    """What a cell begins with: an array of each of these names, or None for zeros."""
    if state is None:
        return None
    if len(names) == 1:
        return (exact(as_any_floats(names[0], state)),)
    if not isinstance(state, (tuple, list)) or len(state) != len(names):
        raise TypeError(f"{whole} must be None or a pair ({', '.join(names)}), got {describe(state)}")
    return tuple(exact(as_any_floats(name, value)) for name, value in zip(names, state, strict=True))


def as_lengths(lengths: Any) -> NDArray[np.integer[Any]] | None:
    """An array of integers of any type yet."""
    if lengths is None:
        return None
    array = exact(as_array("lengths", lengths))
    if array.dtype.kind not in "iu":
        raise TypeError(f"lengths must be an array of integers, got {describe(lengths)}")
    return array


def as_word(name: str, value: Any, words: tuple[_Word, ...]) -> _Word:
    """One of these words."""
    if isinstance(value, str):
        for word in words:
            if value == word:
                return word
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{name} must be {' or '.join(map(repr, words))}, got {describe(value)}")


# Checks


def check_rows(rows: Rows) -> None:
    """Whether x has steps, each of at least one number."""
    if rows.x.ndim not in (2, 3):
        raise ValueError(f"x must have 3 dimensions, or 2 without a batch, got {rows.x.ndim}")
    if rows.x.shape[-1] == 0:
        raise ValueError(f"x must have a last dimension of at least 1, got shape {rows.x.shape}")


def check_layer(kind: Kind, layer: Layer, input_size: int) -> int:
    """Whether the parameters go with x and with each other; H."""
    assert layer.weight_ih is not None
    assert layer.weight_hh is not None
    got = layer.weight_hh.shape
    if len(got) != 2 or got[1] == 0 or got[0] != kind.gates * got[1]:
        rows = "hidden_size" if kind.gates == 1 else f"{kind.gates} * hidden_size"
        raise ValueError(f"weight_hh must have shape ({rows}, hidden_size), got {got}")
    rows_of_gates, hidden_size = got
    check_shape("weight_ih", layer.weight_ih, (rows_of_gates, input_size), "x and weight_hh")
    if layer.bias is not None:
        check_shape("bias", layer.bias, (rows_of_gates,), "weight_hh")
    for norm, pair in zip(kind.norms, layer.norms, strict=True):
        for i, parameter in enumerate(pair):
            if parameter is not None:
                check_shape(f"{norm.argument}[{i}]", parameter, (norm.size * hidden_size,), "weight_hh")
    return int(hidden_size)


def check_state(names: tuple[str, ...], state: tuple[Array, ...] | None, shape: tuple[int, ...], to_match: str) -> None:
    """Whether what a cell begins with, if it is there, has this shape."""
    for name, array in zip(names, state or (), strict=False):
        check_shape(name, array, shape, to_match)


def check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...], to_match: str) -> None:
    """Whether it has this shape, which is that of what `to_match` names."""
    if array.shape != shape:
        advice = reshaping(name, shape, array.shape)
        raise ValueError(f"{name} must have shape {shape} to match {to_match}, got {array.shape}{advice}")


def check_lengths(lengths: NDArray[np.integer[Any]] | None, rows: Rows) -> Lengths | None:
    """A copy of the lengths, if each row has one that it can have."""
    if lengths is None:
        return None
    steps, batch, _ = rows.sizes
    if not rows.has_batch:
        raise ValueError(f"lengths must be None where x has no batch, got {describe(lengths)}: x[:length]")
    check_shape("lengths", lengths, (batch,), "x")
    wrong = (lengths < 0) | (lengths > steps)
    if wrong.any():
        raise ValueError(f"lengths must be from 0 to {steps}, the steps of x, got {lengths[wrong][0]}")
    return np.array(lengths, np.int64)


def check_out(out: NDArray[Any] | None, rows: Rows, features: int) -> None:
    """Whether the result, if there is a place for it, fits in."""
    if out is not None:
        check_buffer("out", out, rows.x.dtype.num, rows.shape_of(features))


# What the kernels can use


def usable(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """The array itself if it is native, aligned, C-contiguous and of this type; or else a copy that is."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(converted(name, array, dtype.num), dtype, order="C")


def usable_layer(kind: Kind, layer: Layer, dtype: np.dtype[Any]) -> Layer:
    """The parameters in this type."""

    def one(name: str, array: Array | None) -> Array | None:
        return None if array is None else usable(name, array, dtype)

    pairs = []
    for norm, (weight, bias) in zip(kind.norms, layer.norms, strict=True):
        if weight is None and bias is not None:  # which the kernels do not take
            weight = np.ones(bias.shape, dtype)
        pairs.append((one(f"{norm.argument}[0]", weight), one(f"{norm.argument}[1]", bias)))
    matrices = one("weight_ih", layer.weight_ih), one("weight_hh", layer.weight_hh)
    return Layer(*matrices, one("bias", layer.bias), tuple(pairs))


def arrays_of(layer: Layer) -> list[Array]:
    """Those of its parameters that are there."""
    matrices_and_bias = layer.weight_ih, layer.weight_hh, layer.bias
    return [array for array in (*matrices_and_bias, *itertools.chain(*layer.norms)) if array is not None]


def usable_state(
    names: tuple[str, ...], state: tuple[Array, ...] | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[Array, ...]:
    """New arrays with what the cell begins with, which become what it ends with."""
    if state is None:
        return tuple(np.zeros(shape, dtype) for _ in names)
    named = zip(names, state, strict=True)
    return tuple(np.array(converted(name, array, dtype.num), dtype, order="C") for name, array in named)


def has_plain_rows(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether the kernels take it as it is: each row in one piece, wherever the rows are."""
    in_one_piece = array.size == 0 or array.shape[-1] == 1 or array.strides[-1] == array.itemsize
    return array.dtype == dtype and array.flags.aligned and in_one_piece


def usable_rows(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array itself, or a copy with rows in one piece."""
    return array if has_plain_rows(array, dtype) else np.array(array, dtype, order="C")


def usable_out(out: Array | None, rows: Rows, features: int, inputs: list[Array]) -> Array:
    """The place of the result, if the kernels can write to it without changing what they still read; or a new array."""
    if out is None or type(out) is not np.ndarray or not has_plain_rows(out, rows.dtype):
        return np.empty(rows.shape_of(features), rows.dtype)
    may_overlap = any(np.may_share_memory(out, array) for array in inputs)
    return np.empty(out.shape, rows.dtype) if may_overlap else out


def given_back(out: Array | None, y: Array) -> Array:
    """The result, where the caller wants it."""
    if out is None or y is out:
        return y
    np.copyto(out, y)
    return out
