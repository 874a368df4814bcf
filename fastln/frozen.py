"""Recurrent networks whose parameters are packed once, for streams."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from fastln._core.describe import describe
from fastln._core.forms import Form, Sized
from fastln._core.recurrent_calls import alone, as_given, check_features, run
from fastln._core.sequence_arguments import (
    Array,
    Layer,
    Rows,
    Settings,
    as_float32_or_64,
    as_state,
    check_state,
    usable,
    usable_state,
)
from fastln._core.sequences import pack, run_sequence
from fastln._core.threads import asked_threads


class FrozenRecurrent(Sized):
    """The layers of an object as they were, packed: what its `freeze` returns, for streams and for many short calls.

    It holds a copy of the parameters, and nothing of a call, so that it may serve several streams and threads at once.
    The bits of its results are those of the object.

    Attributes
    ----------
    input_size, hidden_size, num_layers : int
    batch_first : bool
    dtype : dtype
        Of the parameters, and of the x that goes with them.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> frozen = fastln.LayerNormLSTM(3, 4).freeze()
    >>> h, c = frozen.step(np.ones((2, 3), np.float32))
    >>> h.shape, c.shape
    ((1, 2, 4), (1, 2, 4))
    """

    __slots__ = ("_dtype", "_layers", "_settings")

    _dtype: np.dtype[Any]
    _layers: list[Layer]
    _settings: Settings

    def __init__(self, form: Form, settings: Settings, layers: list[list[Layer]], dtype: np.dtype[Any]) -> None:
        if form.bidirectional:
            raise ValueError("bidirectional must be False where steps come one by one, got True")
        self._form, self._settings, self._dtype = form, settings, dtype
        self._layers = [_packed(layer) for (layer,) in layers]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the parameters, and of the x that goes with them."""
        return self._dtype

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        out: Array | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[Array, Any]:
        """Run the layers over sequences, as the object does: y, and the state after the last step.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> rnn = fastln.LayerNormRNN(3, 4)
        >>> x = np.ones((5, 2, 3), np.float32)
        >>> np.array_equal(rnn.freeze()(x)[0], rnn(x)[0])
        True
        """
        asked = asked_threads(num_threads)
        given = as_given(self._form, x, state, lengths, out)
        self._check_dtype("x", given.rows.x)
        done = run(self._form, [[layer] for layer in self._layers], self._settings, given, asked)
        return done.y, done.state

    def step(self, x_t: ArrayLike, state: Any = None, *, num_threads: SupportsIndex | None = None) -> Any:
        """One step of all layers: the state after it. The last layer's h, `h[-1]`, is the output.

        x_t is (B, input_size), or (input_size,) for one stream; the state is as in a call of the object, and is not
        written to. The bits are those that one call over all steps gives.

        Examples
        --------
        >>> import numpy as np
        >>> import fastln
        >>> gru = fastln.LayerNormGRU(3, 4)
        >>> frozen, h = gru.freeze(), None
        >>> for x_t in np.ones((5, 3), np.float32):  # one stream
        ...     h = frozen.step(x_t, h)
        >>> h.shape, np.array_equal(h[-1], gru(np.ones((5, 3), np.float32))[0][-1])
        ((1, 4), True)
        """
        asked = asked_threads(num_threads)
        read: Any = x_t
        states = self._usual_states(x_t, state)
        if states is None:
            read, states = self._other_step(x_t, state)
        kind, settings, number = self._form.kind.name, self._settings, 0
        # With axes for time and, where there is none, for the batch.
        read = read[None] if read.ndim == 2 else read[None, None]
        h, c = states if len(states) == 2 else (states[0], None)
        for layer in self._layers:
            own = h[number : number + 1] if h.ndim == 2 else h[number]
            own_c = None if c is None else c[number : number + 1] if c.ndim == 2 else c[number]
            run_sequence(
                kind, read, None, own, own_c, None, None, layer.packed, layer.bias, layer.norms, settings.eps, None,
                False, settings.carry_normalized, settings.relu, None, asked,
            )  # fmt: skip
            read, number = own[None], number + 1
        return alone(states)

    def _usual_states(self, x_t: Any, state: Any) -> tuple[Array, ...] | None:
        """Copies of the states of the usual step, which takes some microseconds: exact arrays that fit; else None."""
        dtype, form = self._dtype, self._form
        if type(x_t) is not np.ndarray or x_t.dtype != dtype or not (x_t.flags.c_contiguous and x_t.flags.aligned):
            return None
        if x_t.ndim not in (1, 2) or x_t.shape[-1] != form.input_size:
            return None
        given = (state,) if len(form.kind.states) == 1 else state
        if type(given) is not tuple or len(given) != len(form.kind.states):
            return None
        shape = (form.num_layers, *x_t.shape[:-1], form.hidden_size)
        for one in given:
            if type(one) is not np.ndarray or one.dtype != dtype or one.shape != shape:
                return None
        return tuple([one.copy() for one in given])

    def _other_step(self, x_t: Any, state: Any) -> tuple[Array, tuple[Array, ...]]:
        """What any other step reads, and copies of its states; or what is wrong with it."""
        names = self._form.states
        # These may run anybody's code.
        read = as_float32_or_64("x_t", x_t)
        given = as_state(names, state)

        self._check_dtype("x_t", read)
        if read.ndim not in (1, 2):
            raise ValueError(f"x_t must have 2 dimensions, or 1 without a batch, got {read.ndim}")
        check_features("x_t", read, self._form)
        shape = self._form.state_shape(Rows(read[None], batch_first=False))
        check_state(names, given, shape, "x_t and the sizes of the object")
        return usable("x_t", read, self._dtype), usable_state(names, given, shape, self._dtype)

    def _check_dtype(self, name: str, x: Array) -> None:
        if x.dtype.newbyteorder("=") != self._dtype:
            raise TypeError(f"{name} must have dtype {self._dtype} to match the parameters, got {describe(x.dtype)}")

    def __repr__(self) -> str:
        return f"FrozenRecurrent(of {self._form}, dtype={self._dtype})"


def _packed(layer: Layer) -> Layer:
    """A copy of it, its matrices packed."""

    def copied(array: Array | None) -> Array | None:
        return None if array is None else array.copy()

    norms = tuple((copied(weight), copied(bias)) for weight, bias in layer.norms)
    return Layer(None, None, copied(layer.bias), norms, pack(layer.weight_ih, layer.weight_hh))
