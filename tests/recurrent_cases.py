"""The functions over sequences by kind of cell: arguments, calls, exact results, and what errors are judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import fastln
from fastln import _reference_recurrent as exact

# {what tests call it: (the cell, options of the function)}
CELLS = {
    "rnn": ("rnn", {}),
    "rnn relu": ("rnn", {"nonlinearity": "relu"}),
    "lstm": ("lstm", {}),
    "lstm normalized": ("lstm", {"carry": "normalized"}),
    "gru": ("gru", {}),
}
EPS = 1e-5

FUNCTIONS = {"rnn": fastln.layer_norm_rnn, "lstm": fastln.layer_norm_lstm, "gru": fastln.layer_norm_gru}
OBJECTS = {"rnn": fastln.LayerNormRNN, "lstm": fastln.LayerNormLSTM, "gru": fastln.LayerNormGRU}

# {norm of the reference: the argument that has its parameters}
ARGUMENTS = {"ln": "norm", "ln_ih": "ih_norm", "ln_hh": "hh_norm", "ln_c": "c_norm"}


class Case(NamedTuple):
    """Arguments of a call: x (T, B, I), the state as a tuple of (B, H), parameters by the reference's names."""

    cell: str
    options: dict
    x: np.ndarray
    state: tuple
    parameters: dict

    @property
    def kind(self):
        return CELLS[self.cell][0]

    def __call__(self, **options):
        """Y and the tuple of last states of the function; options may replace x, state and parameters."""
        x, state, parameters = (options.pop(name, getattr(self, name)) for name in ("x", "state", "parameters"))
        given = arguments_of(self.kind, parameters)
        state = None if state is None else state[0] if len(state) == 1 else state
        y, after = FUNCTIONS[self.kind](x, state, **given, **(self.options | options))
        return y, after if isinstance(after, tuple) else (after,)

    def exact(self, eps=EPS, lengths=None, reverse=False):
        """y, the last state and what the way back needs, in long double."""
        options = reference_options(self.options | {"eps": eps})
        return exact.forward(self.kind, self.x, self.state, self.parameters, options, lengths, reverse)


def reference_options(options):
    return exact.Options(options.get("eps", EPS), options.get("nonlinearity", "tanh"), options.get("carry", "cell"))


def arguments_of(kind, parameters):
    """The parameters as the function of a kind takes them."""
    given = {name: parameters.get(name) for name in ("weight_ih", "weight_hh", "bias")}
    for norm in exact.CELLS[kind].norms:
        pair = parameters.get(f"{norm}.weight"), parameters.get(f"{norm}.bias")
        given[ARGUMENTS[norm]] = None if all(one is None for one in pair) else pair
    return given


def make_case(cell, steps, batch, inputs, hidden, dtype=np.float32, seed=0, absent=()):
    """Ordinary numbers: x and states of N(0, 1), matrices of PyTorch's size, weights of norms around 1."""
    rng = np.random.default_rng((seed, steps, batch, inputs, hidden))
    kind, options = CELLS[cell]
    shapes = exact.parameter_shapes(kind, inputs, hidden)
    parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name, value in parameters.items():
        if name.startswith("weight"):
            value /= np.sqrt(value.shape[1])
        elif name.endswith(".weight"):
            value *= 0.2
            value += 1
        else:
            value *= 0.3
    parameters = {name: value.astype(dtype) for name, value in parameters.items() if name not in absent}
    x = rng.standard_normal((steps, batch, inputs)).astype(dtype)
    state = tuple(rng.standard_normal((batch, hidden)).astype(dtype) for _ in range(exact.CELLS[kind].states))
    return Case(cell, dict(options), x, state, parameters)


# What errors of one step are judged by: to first order, what each rounding may come to in the result if it is an eps of
# the number that was rounded. A product errs by eps times the sum of its terms' sizes.


def _products_size(a, weight):
    return (np.abs(a) @ np.abs(weight).T).max(axis=1, keepdims=True)


def _norm_size(normalized, size, weight, bias):
    """Of a norm's result, where its input errs by `size`, (rows, 1)."""
    largest = np.abs(normalized.x_hat).max(axis=1, keepdims=True)
    total = largest + normalized.rstd * size * (2 + largest)
    total = np.broadcast_to(total, normalized.x_hat.shape)
    return np.abs(weight) * total + np.abs(bias)


def _rnn_sizes(saved, p, options):
    x, h, normalized, after = saved
    sums = _products_size(x, p["weight_ih"]) + _products_size(h, p["weight_hh"])
    normed = _norm_size(normalized, sums, p["ln.weight"], p["ln.bias"]) + np.abs(p["bias"])
    slope = 1 - after * after if options.nonlinearity == "tanh" else 1
    return (slope * normed + np.abs(after),)


def _lstm_sizes(saved, p, options):
    x, h, c, (i, f, g, o), t, normalized_x, normalized_h, normalized_c = saved
    sums = _norm_size(normalized_x, _products_size(x, p["weight_ih"]), p["ln_ih.weight"], p["ln_ih.bias"])
    sums = sums + _norm_size(normalized_h, _products_size(h, p["weight_hh"]), p["ln_hh.weight"], p["ln_hh.bias"])
    si, sf, sg, so = np.split(sums + np.abs(p["bias"]), 4, axis=1)
    i_size, f_size, o_size = (gate * (1 - gate) * size + gate for gate, size in ((i, si), (f, sf), (o, so)))
    g_size = (1 - g * g) * sg + np.abs(g)
    raw = f_size * np.abs(c) + i_size * np.abs(g) + i * g_size
    normed = _norm_size(normalized_c, raw.max(axis=1, keepdims=True), p["ln_c.weight"], p["ln_c.bias"])
    t_size = (1 - t * t) * normed + np.abs(t)
    return o_size * np.abs(t) + o * t_size, raw if options.carry == "cell" else normed


def _gru_sizes(saved, p, options):
    x, h, r, z, n, hn, normalized_x, normalized_h = saved
    from_x, from_h = _gru_norm_sizes(x, "ih", normalized_x, p), _gru_norm_sizes(h, "hh", normalized_h, p)
    xr, xz, xn = np.split(from_x + np.abs(p["bias"]), 3, axis=1)
    hr, hz, hn_size = np.split(from_h, 3, axis=1)
    r_size, z_size = r * (1 - r) * (xr + hr) + r, z * (1 - z) * (xz + hz) + z
    n_size = (1 - n * n) * (xn + r_size * np.abs(hn) + r * hn_size) + np.abs(n)
    return ((1 - z) * n_size + z_size * (np.abs(n) + np.abs(h)),)


def _gru_norm_sizes(a, name, normalized, p):
    """Of the norms of a product over r and z, and over n."""
    hidden = normalized[1].x_hat.shape[1]
    sizes = []
    for one, columns in zip(normalized, (slice(0, 2 * hidden), slice(2 * hidden, None)), strict=True):
        weight, bias = p[f"ln_{name}.weight"][columns], p[f"ln_{name}.bias"][columns]
        sizes.append(_norm_size(one, _products_size(a, p[f"weight_{name}"][columns]), weight, bias))
    return np.concatenate(sizes, axis=1)


SIZES = {"rnn": _rnn_sizes, "lstm": _lstm_sizes, "gru": _gru_sizes}


def step_sizes(case, saved):
    """Of the state after each step of the sequence of which the reference has saved this; (B, H) each."""
    kind, p, options, tape = saved
    shapes = exact.parameter_shapes(kind, *exact.sizes_of(p))
    neutral = {name: np.full(shape, name.endswith(".weight"), np.longdouble) for name, shape in shapes.items()}
    return [SIZES[kind](step_saved, neutral | p, options) for _, _, step_saved in tape]
