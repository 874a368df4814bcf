"""Layers of cells over a sequence, forward and backward: what each reads, and where it writes.

A direction is one cell over all steps; a layer has one, or two whose outputs lie beside each other; a layer reads the
outputs of the one before. Everything has been checked: arrays are as `sequences` takes them, steps are the first axis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastln._core.sequence_arguments import Array, Kind, Layer, Lengths, Settings
from fastln._core.sequence_gradients import run_backward_sequence
from fastln._core.sequences import run_sequence
from fastln._core.steps import make_saved


class Kept(NamedTuple):
    """What one direction leaves for the way back: what it read, wrote and began with, and what its steps were."""

    x: Array
    y: Array
    first: tuple[Array, ...]
    steps: tuple[NDArray[Any], ...]


class Found(NamedTuple):
    """The gradients of one direction's parameters; those that are not there have some too."""

    weight_ih: Array
    weight_hh: Array
    bias: Array
    norms: tuple[tuple[Array, Array], ...]


def run_layers(
    kind: Kind,
    layers: list[list[Layer]],
    settings: Settings,
    x: Array,
    y: Array,
    state: tuple[Array, ...],
    lengths: Lengths | None,
    asked: int,
    keeps: bool = False,
) -> list[list[Kept]]:
    """Write y (T, B, directions * H) and, over what it was, the state: arrays (layers * directions, B, H).

    What is kept is empty unless it is asked for.
    """
    kept: list[list[Kept]] = []
    for number, layer in enumerate(layers):
        written = y if number == len(layers) - 1 else np.empty(y.shape, y.dtype)
        kept.append([])
        for place, direction in enumerate(layer):
            part = _part(written, place, len(layer))
            own = _of(state, number * len(layer) + place)
            steps = None
            if keeps:
                rows = len(x) * x.shape[1] if lengths is None else int(lengths.sum())
                steps = make_saved(kind.name, rows, part.shape[2], y.dtype)
                kept[-1].append(Kept(x, part, tuple(one.copy() for one in own), steps))
            run_sequence(
                kind.name, x, part, *_both(own), direction.weight_ih, direction.weight_hh, direction.packed,
                direction.bias, direction.norms, settings.eps, lengths, direction.reverse, settings.carry_normalized,
                settings.relu, steps, asked,
            )  # fmt: skip
        x = written
    return kept


def run_layers_back(
    kind: Kind,
    layers: list[list[Layer]],
    settings: Settings,
    dy: Array | None,
    dstate: tuple[Array, ...],
    kept: list[list[Kept]],
    lengths: Lengths | None,
    dx: Array,
    asked: int,
) -> list[list[Found]]:
    """Write dx (T, B, I) and, over the gradient of the last state, that of the first; those of all parameters."""
    found: list[list[Found]] = []
    for number in reversed(range(len(layers))):
        layer = layers[number]
        sums = dx if number == 0 else np.empty(kept[number][0].x.shape, dx.dtype)
        found.insert(0, [])
        for place, direction in enumerate(layer):
            # The second direction read the same: its gradient is added.
            into = sums if place == 0 else np.empty(sums.shape, sums.dtype)
            own = kept[number][place]
            gradients = run_backward_sequence(
                kind.name, None if dy is None else _part(dy, place, len(layer)),
                *_both(_of(dstate, number * len(layer) + place)), own.x, own.y, *_both(own.first), direction.weight_ih,
                direction.weight_hh, direction.bias, direction.norms, settings.eps, lengths, direction.reverse,
                settings.carry_normalized, settings.relu, own.steps, into, asked,
            )  # fmt: skip
            found[0].append(Found(*gradients))
            if into is not sums:
                sums += into
        dy = sums
    return found


def _part(array: Array, place: int, directions: int) -> Array:
    """What a direction writes of its layer's outputs."""
    size = array.shape[2] // directions
    return array[:, :, place * size : (place + 1) * size]


def _of(state: tuple[Array, ...], index: int) -> tuple[Array, ...]:
    return tuple(one[index] for one in state)


def _both(state: tuple[Array, ...]) -> tuple[Array, Array | None]:
    """An array h and, of an LSTM, an array c."""
    return state[0], state[1] if len(state) > 1 else None
