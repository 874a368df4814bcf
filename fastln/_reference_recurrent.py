"""Exact results of layer-normalized recurrence: the paper's cells, forward and backward, each formula once.

As `_reference`, whose norms these are: written to be right and to be read, in long double unless told otherwise.
Equations are numbered as in Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450, and its supplement.
Names, shapes and the order of the gates are PyTorch's: i f g o of an LSTM, r z n of a GRU.

Parameters are a dict by PyTorch's names without the layer: weight_ih (G H, I) and weight_hh (G H, H); bias (G H,),
which may be absent; and of each norm "ln_ih.weight", "ln_ih.bias" and so on, which may be absent too. Gradients have
the same names. x is (T, B, I), a state (B, H) or a pair of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastln._reference import Floats, Normalized, gradients, normalize, scale_and_shift

Parameters = Mapping[str, Floats]
State = tuple[Floats, ...]


class Cell(NamedTuple):
    """A cell: step(x, state, p) -> state, saved and step_back(dstate, saved, p, found) -> dx, dstate before.

    `found` is a dict of gradients, which the step adds its own to. The output is the first of the state.
    """

    gates: int
    states: int
    norms: tuple[str, ...]
    step: Callable[..., tuple[State, Any]]
    step_back: Callable[..., tuple[Floats, State]]


class Options(NamedTuple):
    """What a cell does apart from its parameters: eps of each norm, an RNN's function, what an LSTM carries on."""

    eps: float = 1e-5
    nonlinearity: str = "tanh"
    carry: str = "cell"


USUAL = Options()

# What all cells are made of


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), by whichever of exp(x) and exp(-x) is at most 1."""
    small = np.exp(-np.abs(x))
    positive: Floats = np.where(x >= 0, 1, small) / (1 + small)
    return positive


def _norm(a: Floats, p: Parameters, name: str, eps: float, columns: slice = slice(None)) -> tuple[Floats, Normalized]:
    """The norm of this name over these columns of a, which are also those of its parameters."""
    normalized = normalize(a[:, columns], eps, a.dtype)
    weight, bias = (_of(p, f"{name}.{which}", columns) for which in ("weight", "bias"))
    return scale_and_shift(normalized.x_hat, weight, bias), normalized


def _norm_back(
    dy: Floats, normalized: Normalized, p: Parameters, name: str, found: dict[str, Floats], columns: slice = slice(None)
) -> Floats:
    """The gradient of a, those of the parameters being added to what has been found."""
    da, dweight, dbias = gradients(dy, normalized, _of(p, f"{name}.weight", columns))
    found[f"{name}.weight"][columns] += dweight
    found[f"{name}.bias"][columns] += dbias
    return da


def _of(p: Parameters, name: str, columns: slice) -> Floats | None:
    return p[name][columns] if name in p else None


def _add_products(da_x: Floats, da_h: Floats, x: Floats, h: Floats, found: dict[str, Floats]) -> None:
    """The gradients of both matrices, from those of W_ih x and W_hh h."""
    found["weight_ih"] += da_x.T @ x
    found["weight_hh"] += da_h.T @ h


# LN-RNN, equation 4: one norm, of the sum of both products


def _rnn_step(x: Floats, state: State, p: Parameters, options: Options) -> tuple[State, Any]:
    (h,) = state
    normed, normalized = _norm(x @ p["weight_ih"].T + h @ p["weight_hh"].T, p, "ln", options.eps)
    normed = scale_and_shift(normed, None, _of(p, "bias", slice(None)))
    after: Floats = np.tanh(normed) if options.nonlinearity == "tanh" else np.maximum(normed, 0)
    return (after,), (x, h, normalized, after)


def _rnn_step_back(
    dstate: State, saved: Any, p: Parameters, options: Options, found: dict[str, Floats]
) -> tuple[Floats, State]:
    (dh,), (x, h, normalized, after) = dstate, saved
    slope: Floats = 1 - after * after if options.nonlinearity == "tanh" else (after > 0).astype(after.dtype)
    found["bias"] += (dh * slope).sum(axis=0)
    da = _norm_back(dh * slope, normalized, p, "ln", found)
    _add_products(da, da, x, h, found)
    return da @ p["weight_ih"], (da @ p["weight_hh"],)


# LN-LSTM, equations 20 to 22: a norm of each product over all gates, and one of the new cell


def _lstm_step(x: Floats, state: State, p: Parameters, options: Options) -> tuple[State, Any]:
    h, c = state
    from_x, normalized_x = _norm(x @ p["weight_ih"].T, p, "ln_ih", options.eps)
    from_h, normalized_h = _norm(h @ p["weight_hh"].T, p, "ln_hh", options.eps)
    sums = scale_and_shift(from_x + from_h, None, _of(p, "bias", slice(None)))
    si, sf, sg, so = np.split(sums, 4, axis=1)
    i, f, g, o = sigmoid(si), sigmoid(sf), np.tanh(sg), sigmoid(so)
    raw = f * c + i * g
    normed, normalized_c = _norm(raw, p, "ln_c", options.eps)
    t = np.tanh(normed)
    after = o * t, raw if options.carry == "cell" else normed
    return after, (x, h, c, (i, f, g, o), t, normalized_x, normalized_h, normalized_c)


def _lstm_step_back(
    dstate: State, saved: Any, p: Parameters, options: Options, found: dict[str, Floats]
) -> tuple[Floats, State]:
    (dh, dc), (x, h, c, (i, f, g, o), t, normalized_x, normalized_h, normalized_c) = dstate, saved
    dnormed = dh * o * (1 - t * t)
    is_raw = options.carry == "cell"
    through_norm = _norm_back(dnormed if is_raw else dnormed + dc, normalized_c, p, "ln_c", found)
    draw: Floats = dc + through_norm if is_raw else through_norm
    dsums = (draw * g * i * (1 - i), draw * c * f * (1 - f), draw * i * (1 - g * g), dh * t * o * (1 - o))
    ds = np.concatenate(dsums, axis=1)
    found["bias"] += ds.sum(axis=0)
    da_x = _norm_back(ds, normalized_x, p, "ln_ih", found)
    da_h = _norm_back(ds, normalized_h, p, "ln_hh", found)
    _add_products(da_x, da_h, x, h, found)
    return da_x @ p["weight_ih"], (da_h @ p["weight_hh"], draw * f)


# LN-GRU, the supplement's equations for the skip-thoughts GRU: of each product one norm over r and z, and one over n


def _gru_norm(a: Floats, p: Parameters, name: str, eps: float) -> tuple[Floats, tuple[Normalized, Normalized]]:
    """Both norms of a product, side by side, with what gradients need of each."""
    gates, candidate = (_norm(a, p, name, eps, columns) for columns in _gru_columns(a))
    return np.concatenate((gates[0], candidate[0]), axis=1), (gates[1], candidate[1])


def _gru_norm_back(
    dy: Floats, normalized: tuple[Normalized, Normalized], p: Parameters, name: str, found: dict[str, Floats]
) -> Floats:
    both = zip(normalized, _gru_columns(dy), strict=True)
    return np.concatenate([_norm_back(dy[:, c], one, p, name, found, c) for one, c in both], axis=1)


def _gru_columns(a: Floats) -> tuple[slice, slice]:
    """Those of the gates r and z, and those of the candidate n."""
    hidden = a.shape[1] // 3
    return slice(0, 2 * hidden), slice(2 * hidden, None)


def _gru_step(x: Floats, state: State, p: Parameters, options: Options) -> tuple[State, Any]:
    (h,) = state
    from_x, normalized_x = _gru_norm(x @ p["weight_ih"].T, p, "ln_ih", options.eps)
    from_h, normalized_h = _gru_norm(h @ p["weight_hh"].T, p, "ln_hh", options.eps)
    from_x = scale_and_shift(from_x, None, _of(p, "bias", slice(None)))
    xr, xz, xn = np.split(from_x, 3, axis=1)
    hr, hz, hn = np.split(from_h, 3, axis=1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = np.tanh(xn + r * hn)
    return ((1 - z) * n + z * h,), (x, h, r, z, n, hn, normalized_x, normalized_h)


def _gru_step_back(
    dstate: State, saved: Any, p: Parameters, options: Options, found: dict[str, Floats]
) -> tuple[Floats, State]:
    (dh,), (x, h, r, z, n, hn, normalized_x, normalized_h) = dstate, saved
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    dfrom_x = np.concatenate((dr, dz, dn), axis=1)
    dfrom_h = np.concatenate((dr, dz, dn * r), axis=1)
    found["bias"] += dfrom_x.sum(axis=0)
    da_x = _gru_norm_back(dfrom_x, normalized_x, p, "ln_ih", found)
    da_h = _gru_norm_back(dfrom_h, normalized_h, p, "ln_hh", found)
    _add_products(da_x, da_h, x, h, found)
    return da_x @ p["weight_ih"], (da_h @ p["weight_hh"] + dh * z,)


CELLS = {
    "rnn": Cell(1, 1, ("ln",), _rnn_step, _rnn_step_back),
    "lstm": Cell(4, 2, ("ln_ih", "ln_hh", "ln_c"), _lstm_step, _lstm_step_back),
    "gru": Cell(3, 1, ("ln_ih", "ln_hh"), _gru_step, _gru_step_back),
}


# Sequences


def forward(
    kind: str,
    x: Floats,
    state: State,
    parameters: Parameters,
    options: Options = USUAL,
    lengths: NDArray[np.integer[Any]] | None = None,
    reverse: bool = False,
    precision: DTypeLike = np.longdouble,
) -> tuple[Floats, State, Any]:
    """A cell over a sequence: y (T, B, H), the state after it, and what `backward` needs.

    A row whose sequence is over, or has not begun when it is read from its end, keeps its state, and its output is 0.
    """
    cell, steps = CELLS[kind], len(x)
    p = {name: value.astype(precision) for name, value in parameters.items()}
    x, state = x.astype(precision), tuple(one.astype(precision) for one in state)
    lengths = np.full(x.shape[1], steps) if lengths is None else np.asarray(lengths)
    y = np.zeros((*x.shape[:2], state[0].shape[1]), precision)
    tape = []
    for t in _times(steps, reverse):
        runs = (t < lengths)[:, None]
        after, saved = cell.step(x[t], state, p, options)
        tape.append((t, runs, saved))
        state = tuple(np.where(runs, new, old) for new, old in zip(after, state, strict=True))
        y[t] = np.where(runs, state[0], 0)
    return y, state, (kind, p, options, tape)


def backward(dy: Floats, dstate: State, saved: Any) -> tuple[Floats, State, dict[str, Floats]]:
    """The gradients of sum(dy * y) + sum(dstate * state): dx, that of the state before, and those of parameters.

    A name is among these for each parameter that the cell may have, whether it was there or stood for ones or zeros.
    """
    kind, p, options, tape = saved
    cell, precision = CELLS[kind], p["weight_ih"].dtype
    dy, dstate = dy.astype(precision), tuple(one.astype(precision) for one in dstate)
    found = {name: np.zeros(shape, precision) for name, shape in parameter_shapes(kind, *sizes_of(p)).items()}
    dx = np.zeros((*dy.shape[:2], p["weight_ih"].shape[1]), precision)
    for t, runs, step_saved in reversed(tape):
        flowing = (dstate[0] + dy[t], *dstate[1:])
        taken = tuple(np.where(runs, one, 0) for one in flowing)
        dx[t], before = cell.step_back(taken, step_saved, p, options, found)
        dstate = tuple(np.where(runs, new, old) for new, old in zip(before, dstate, strict=True))
    return dx, dstate, found


def parameter_shapes(kind: str, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Of each parameter that the cell may have."""
    cell = CELLS[kind]
    rows = cell.gates * hidden_size
    shapes: dict[str, tuple[int, ...]]
    shapes = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}
    for name in cell.norms:
        size = hidden_size if name == "ln_c" else rows
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return shapes


def sizes_of(parameters: Parameters) -> tuple[int, int]:
    """The sizes of the input and of the state."""
    return parameters["weight_ih"].shape[1], parameters["weight_hh"].shape[1]


def _times(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)
