"""fastln itself: the function, which packs its matrices in each call, and an object that has packed them before."""

from __future__ import annotations

from functools import partial

import numpy as np

import fastln

from ...grid.arrays import EPS, Prepared
from ..cells import Arrays

set_threads = fastln.set_num_threads


def sequence(arrays: Arrays) -> Prepared:
    """The function with `out=`."""
    a, p = arrays, arrays.parameters
    norms = {f"{key}_norm": (p[f"ln_{key}.weight"], p[f"ln_{key}.bias"]) for key in ("ih", "hh", "c")}
    given = a.x, (a.h0, a.c0), p["weight_ih"], p["weight_hh"]
    return Prepared(partial(fastln.layer_norm_lstm, *given, eps=EPS, out=a.out, **norms), _y_of)


def sequence_frozen(arrays: Arrays) -> Prepared:
    """A frozen object with `out=`."""
    frozen, state = _lstm(arrays).freeze(), (arrays.h0[None], arrays.c0[None])
    return Prepared(partial(frozen, arrays.x, state, out=arrays.out), _y_of)


def training(arrays: Arrays) -> Prepared:
    """Forward and backward of an object."""
    lstm, state = _lstm(arrays), (arrays.h0[None], arrays.c0[None])

    def call() -> tuple[np.ndarray, np.ndarray]:
        (y, _), saved = lstm.forward(arrays.x, state)
        return y, lstm.backward(arrays.dy, None, saved).dparameters["weight_hh_l0"]

    return Prepared(call, lambda found: found)


def _lstm(arrays: Arrays) -> fastln.LayerNormLSTM:
    hidden = arrays.h0.shape[1]
    lstm = fastln.LayerNormLSTM(arrays.x.shape[2], hidden, eps=EPS)
    for name, value in arrays.parameters.items():
        first, dot, last = name.partition(".")
        lstm.parameters[f"{first}_l0{dot}{last}"] = value
    return lstm


def _y_of(result: tuple[np.ndarray, object]) -> tuple[np.ndarray, ...]:
    return (result[0],)
