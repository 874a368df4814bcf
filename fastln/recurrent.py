"""Layer-normalized recurrence over whole sequences: RNN, LSTM and GRU as functions."""

from __future__ import annotations

from typing import Any

from fastln._core.arguments import as_eps, as_out
from fastln._core.layers import run_layers
from fastln._core.names import explains_keywords
from fastln._core.parameters import as_bool
from fastln._core.sequence_arguments import (
    GRU,
    LSTM,
    RNN,
    Array,
    Kind,
    Settings,
    arrays_of,
    as_layer,
    as_lengths,
    as_rows,
    as_state,
    as_word,
    check_layer,
    check_lengths,
    check_out,
    check_rows,
    check_state,
    given_back,
    usable_layer,
    usable_out,
    usable_rows,
    usable_state,
)
from fastln._core.threads import asked_threads


@explains_keywords
def layer_norm_rnn(
    x: Any,
    h0: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias: Any = None,
    norm: Any = None,
    *,
    nonlinearity: str = "tanh",
    eps: float = 1e-5,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: Any = None,
    num_threads: Any = None,
) -> Any:
    """Run a layer-normalized RNN over sequences: h = f(LN(W_ih x + W_hh h) + bias).

    One norm over the H summed inputs of a step, H being hidden_size.

    Parameters
    ----------
    x : array of float32 or float64, shape (T, B, I), (B, T, I) if batch_first, or (T, I)
        B sequences of T steps, or one. Every row of I numbers may lie anywhere; other layouts are copied once.
    h0 : array of floats, shape (B, H) or (H,), or None
        The state before the first step; None stands for zeros. It is not written to.
    weight_ih, weight_hh : array of floats, shapes (H, I) and (H, H)
        The matrices of the input and of the state.
    bias : array of floats, shape (H,), optional
        Added to the normalized sums. The norm's own bias does the same.
    norm : pair of arrays of floats, shapes (H,) and (H,), optional
        Weight and bias of the norm; either may be None.
    nonlinearity : {"tanh", "relu"}
        The function f.
    eps : float
        Added to the variance of the sums, in their squared units.
    lengths : array of ints, shape (B,), optional
        The steps of each sequence, 0 to T, in any order: a sequence that is over keeps its state, and its outputs are
        0. What x holds there is not read.
    reverse : bool
        Go from the last step of each sequence to its first.
    batch_first : bool
        Whether the first axis of x and of the result is B.
    out : ndarray, optional
        Where to put y: its shape, and x's dtype. It may overlap anything.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The result has the same bits for any.

    Returns
    -------
    y : ndarray
        The state h after each step: x's shape with H for I, and its dtype. `out`, if it was given.
    h : ndarray
        The last state of each sequence, (B, H) or (H,).

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, a length is not 0 to T, eps is negative or not finite, a value is too large for x's
        dtype, out is read-only or overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    The bits of a sequence's results depend on that sequence, its state and the parameters alone: not on the others
    beside it, the steps after its length, or the threads. One call is step after step of calls with T = 1, bit for bit.
    A NaN or Inf stays in its own sequence. x decides the dtype, to which other arguments are converted.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450: section 3.1, equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x = np.array([[1, 0], [0, 1]], np.float32)  # 2 steps of one sequence
    >>> weight_ih, weight_hh = np.array([[1, -1], [0, 1]], np.float32), np.zeros((2, 2), np.float32)
    >>> y, h = fastln.layer_norm_rnn(x, None, weight_ih, weight_hh)
    >>> y.round(4)
    array([[ 0.7616, -0.7616],
           [-0.7616,  0.7616]], dtype=float32)
    >>> h.round(4)
    array([-0.7616,  0.7616], dtype=float32)
    """
    relu = as_word("nonlinearity", nonlinearity, ("tanh", "relu")) == "relu"
    given = x, h0, weight_ih, weight_hh, bias, (norm,)
    return _run(RNN, given, Settings(eps, relu=relu), lengths, reverse, batch_first, out, num_threads)


@explains_keywords
def layer_norm_lstm(
    x: Any,
    state: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias: Any = None,
    ih_norm: Any = None,
    hh_norm: Any = None,
    c_norm: Any = None,
    *,
    carry: str = "cell",
    eps: float = 1e-5,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: Any = None,
    num_threads: Any = None,
) -> Any:
    """Run a layer-normalized LSTM over sequences.

    Of each step, with the gates in PyTorch's order and H the hidden_size:
    i, f, g, o = LN(W_ih x) + LN(W_hh h) + bias, each norm over all 4 H sums;
    c = sigmoid(f) * c + sigmoid(i) * tanh(g) and h = sigmoid(o) * tanh(LN(c)).

    Parameters
    ----------
    x : array of float32 or float64, shape (T, B, I), (B, T, I) if batch_first, or (T, I)
        As in `layer_norm_rnn`.
    state : pair of arrays of floats, shapes (B, H) or (H,), or None
        The states h and c before the first step; None stands for zeros. They are not written to.
    weight_ih, weight_hh : array of floats, shapes (4 * H, I) and (4 * H, H)
        The matrices of the input and of the state, the rows of each gate together: i, f, g, o.
    bias : array of floats, shape (4 * H,), optional
        Added to the sum of the norms. The biases of ih_norm and hh_norm do the same.
    ih_norm, hh_norm, c_norm : pair of arrays of floats, shapes (4 * H,), (4 * H,) and (H,), optional
        Weight and bias of the norms of W_ih x, of W_hh h and of c; either may be None.
    carry : {"cell", "normalized"}
        What goes on to the next step as c: c itself, as in the paper, or LN(c), as in PyTorch's example custom_lstms.py
        and in TensorFlow Addons.
    eps : float
        Added to each variance, in squared units of what is normalized.
    lengths, reverse, batch_first, out, num_threads
        As in `layer_norm_rnn`.

    Returns
    -------
    y : ndarray
        The state h after each step: x's shape with H for I, and its dtype. `out`, if it was given.
    state : tuple of ndarray
        The last h and c of each sequence, (B, H) or (H,).

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_rnn`.

    Notes
    -----
    The promises are those of `layer_norm_rnn`.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450: the supplement, equations 20 to 22.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> rng = np.random.default_rng(0)
    >>> x, hidden_size = rng.standard_normal((50, 8, 30)), 4  # 50 steps of 8 sequences
    >>> weight_ih, weight_hh = rng.standard_normal((16, 30)), rng.standard_normal((16, 4))
    >>> y, (h, c) = fastln.layer_norm_lstm(x, None, weight_ih, weight_hh)
    >>> y.shape, h.shape, np.array_equal(y[-1], h)
    ((50, 8, 4), (8, 4), True)

    Going on from a state gives the bits of one call:

    >>> first, state = fastln.layer_norm_lstm(x[:20], None, weight_ih, weight_hh)
    >>> second, state = fastln.layer_norm_lstm(x[20:], state, weight_ih, weight_hh)
    >>> np.array_equal(np.concatenate([first, second]), y)
    True
    """
    normalized = as_word("carry", carry, ("cell", "normalized")) == "normalized"
    given = x, state, weight_ih, weight_hh, bias, (ih_norm, hh_norm, c_norm)
    settings = Settings(eps, carry_normalized=normalized)
    return _run(LSTM, given, settings, lengths, reverse, batch_first, out, num_threads)


@explains_keywords
def layer_norm_gru(
    x: Any,
    h0: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias: Any = None,
    ih_norm: Any = None,
    hh_norm: Any = None,
    *,
    eps: float = 1e-5,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: Any = None,
    num_threads: Any = None,
) -> Any:
    """Run a layer-normalized GRU over sequences.

    Of each step, with the gates in PyTorch's order, H the hidden_size, a = LN(W_ih x) + bias and b = LN(W_hh h):
    r = sigmoid(a_r + b_r), z = sigmoid(a_z + b_z), n = tanh(a_n + r * b_n) and h = (1 - z) * n + z * h.
    Of each product the 2 H sums of r and z are normalized together, and the H sums of n by themselves.

    Parameters
    ----------
    x : array of float32 or float64, shape (T, B, I), (B, T, I) if batch_first, or (T, I)
        As in `layer_norm_rnn`.
    h0 : array of floats, shape (B, H) or (H,), or None
        The state before the first step; None stands for zeros. It is not written to.
    weight_ih, weight_hh : array of floats, shapes (3 * H, I) and (3 * H, H)
        The matrices of the input and of the state, the rows of each gate together: r, z, n.
    bias : array of floats, shape (3 * H,), optional
        Added to the normalized sums of the input. The bias of ih_norm does the same.
    ih_norm, hh_norm : pair of arrays of floats, shapes (3 * H,) and (3 * H,), optional
        Weight and bias of the norms of W_ih x and of W_hh h: 2 H numbers for r and z, then H for n; either may be None.
    eps : float
        Added to each variance, in squared units of what is normalized.
    lengths, reverse, batch_first, out, num_threads
        As in `layer_norm_rnn`.

    Returns
    -------
    y : ndarray
        The state h after each step: x's shape with H for I, and its dtype. `out`, if it was given.
    h : ndarray
        The last state of each sequence, (B, H) or (H,).

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_rnn`.

    Notes
    -----
    The promises are those of `layer_norm_rnn`. The paper's z is 1 - z here, as its update is h = (1 - z) * h + z * n.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450: the supplement, the GRU of skip-thoughts.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((2, 5, 3))  # 2 sequences of 5 steps at most
    >>> weight_ih, weight_hh = rng.standard_normal((12, 3)), rng.standard_normal((12, 4))
    >>> y, h = fastln.layer_norm_gru(x, None, weight_ih, weight_hh, lengths=[5, 2], batch_first=True)
    >>> y.shape, bool(y[1, 2:].any()), np.array_equal(y[1, 1], h[1])
    ((2, 5, 4), False, True)
    """
    given = x, h0, weight_ih, weight_hh, bias, (ih_norm, hh_norm)
    return _run(GRU, given, Settings(eps), lengths, reverse, batch_first, out, num_threads)


def _run(
    kind: Kind,
    given: tuple[Any, Any, Any, Any, Any, tuple[Any, ...]],
    settings: Settings,
    lengths: Any,
    reverse: Any,
    batch_first: Any,
    out: Any,
    num_threads: Any,
) -> tuple[Array, Array | tuple[Array, ...]]:
    """A cell over sequences, once it is known which."""
    asked = asked_threads(num_threads)
    reverse = as_bool("reverse", reverse)
    # These may run anybody's code.
    x, first, weight_ih, weight_hh, bias, norms = given
    rows = as_rows(x, as_bool("batch_first", batch_first))
    layer = as_layer(kind, weight_ih, weight_hh, bias, norms)
    first = as_state(kind.states, first)
    lengths = as_lengths(lengths)
    settings = settings._replace(eps=as_eps(settings.eps))
    out = as_out(out)

    check_rows(rows)
    _, batch, input_size = rows.sizes
    hidden_size = check_layer(kind, layer, input_size)
    shape = (batch, hidden_size) if rows.has_batch else (hidden_size,)
    check_state(kind.states, first, shape, "x and weight_hh")
    lengths = check_lengths(lengths, rows)
    check_out(out, rows, hidden_size)

    layer = usable_layer(kind, layer, rows.dtype)._replace(reverse=reverse)
    state = usable_state(kind.states, first, shape, rows.dtype)
    taken = usable_rows(rows.by_time(rows.x), rows.dtype)
    y = usable_out(out, rows, hidden_size, [taken, *arrays_of(layer)])
    by_layer = tuple(one.reshape(1, batch, hidden_size) for one in state)
    run_layers(kind, [[layer]], settings, taken, rows.by_time(y), by_layer, lengths, asked)
    return given_back(out, y), state[0] if len(state) == 1 else state
