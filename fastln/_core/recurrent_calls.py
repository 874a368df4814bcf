"""A call of a recurrent object: its arguments, their checks, and its layers over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastln._core.arguments import as_out
from fastln._core.forms import Form
from fastln._core.layers import Kept, run_layers
from fastln._core.sequence_arguments import (
    Array,
    Layer,
    Lengths,
    Rows,
    Settings,
    arrays_of,
    as_lengths,
    as_rows,
    as_state,
    check_lengths,
    check_out,
    check_rows,
    check_state,
    given_back,
    usable_out,
    usable_rows,
    usable_state,
)


class Given(NamedTuple):
    """The arguments of a call as arrays."""

    rows: Rows
    state: tuple[Array, ...] | None
    lengths: NDArray[np.integer[Any]] | None
    out: Array | None


def as_given(form: Form, x: Any, state: Any, lengths: Any, out: Any) -> Given:
    """These may run anybody's code."""
    return Given(as_rows(x, form.batch_first), as_state(form.states, state), as_lengths(lengths), as_out(out))


class Run(NamedTuple):
    """What a call came to: y and the last state; the arrays that it was given, and what it kept."""

    y: Array
    state: Array | tuple[Array, ...]
    x: Array
    lengths: Lengths | None
    kept: list[list[Kept]]


def run(
    form: Form, layers: list[list[Layer]], settings: Settings, given: Given, asked: int, keeps: bool = False
) -> Run:
    """Check what is given and run the layers over it; what the way back needs is kept if it `keeps` anything."""
    rows, dtype = given.rows, given.rows.dtype
    check_rows(rows)
    check_features("x", rows.x, form)
    shape = form.state_shape(rows)
    check_state(form.states, given.state, shape, "x and the sizes of the object")
    lengths = check_lengths(given.lengths, rows)
    check_out(given.out, rows, form.features)

    states = usable_state(form.states, given.state, shape, dtype)
    taken = usable_rows(rows.by_time(rows.x), dtype)
    inputs = [taken, *(array for layer in layers for one in layer for array in arrays_of(one))]
    y = usable_out(given.out, rows, form.features, inputs)
    kept = run_layers(
        form.kind, layers, settings, taken, rows.by_time(y), by_layer(states, rows), lengths, asked, keeps
    )
    return Run(given_back(given.out, y), alone(states), rows.x, lengths, kept)


def alone(states: tuple[Array, ...]) -> Array | tuple[Array, ...]:
    """The state as callers have it: an array, or of an LSTM a pair."""
    return states[0] if len(states) == 1 else states


def by_layer(states: tuple[Array, ...], rows: Rows) -> tuple[Array, ...]:
    """The same memory with an axis for the batch, whether x has one or not."""
    return states if rows.has_batch else tuple(one[:, None] for one in states)


def check_features(name: str, x: Array, form: Form) -> None:
    """Whether each step has as many numbers as the object takes."""
    if x.shape[-1] != form.input_size:
        raise ValueError(f"{name} must have {form.input_size} as its last dimension, the input_size, got {x.shape[-1]}")
