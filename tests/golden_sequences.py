"""The stored bits of sequences: 8 calls of each cell and dtype, with their checksums in golden.json too."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from golden import uniform
from recurrent_cases import CELLS, FUNCTIONS, OBJECTS, arguments_of


class SequenceCall(NamedTuple):
    """A call over a sequence and the way back: what the cell is, sizes, on how many threads."""

    cell: str
    dtype: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    has_lengths: bool
    reverse: bool
    threads: int

    @property
    def name(self):
        """What the file calls it."""
        sizes = f"{self.steps}x{self.batch}x{self.inputs} to {self.hidden}"
        lengths = ", lengths" if self.has_lengths else ""
        turned = ", reverse" if self.reverse else ""
        return f"sequence {self.cell} {self.dtype} {sizes}{lengths}{turned}, threads {self.threads}"

    @property
    def rows(self):
        """For `uniform`, with `cols`: what makes the numbers of this call its own."""
        return self.steps * self.batch

    @property
    def cols(self):
        """See `rows`."""
        return 1000 * self.inputs + self.hidden


# Steps, rows, inputs, units: around registers, panels, tiles of rows and blocks of inputs.
SEQUENCES = (
    (3, 2, 5, 7), (1, 1, 1, 1), (4, 9, 33, 48), (2, 17, 16, 16), (2, 3, 300, 20), (2, 70, 9, 33), (5, 1, 64, 130),
    (2, 6, 513, 64),
)  # fmt: skip


def make_calls():
    """All of them; what is not a size takes turns."""
    turns = zip(
        *map(itertools.cycle, ((False, True, False, False, True), (False, False, True), (1, 2, 3, 7))), strict=False
    )
    kinds = itertools.product(CELLS, ("float32", "float64"), SEQUENCES)
    return [SequenceCall(cell, dtype, *sizes, *turn) for (cell, dtype, sizes), turn in zip(kinds, turns, strict=False)]


def find_results(call):
    """The results, and all gradients of an object, which is given its own results as what flows back."""
    kind, options = CELLS[call.cell]

    def numbers(what, *shape):
        return (2 * uniform(call, math.prod(shape), what) - 1).reshape(shape).astype(call.dtype)

    network = OBJECTS[kind](call.inputs, call.hidden, dtype=call.dtype, **options)
    for name, value in network.parameters.items():
        value[...] = numbers(name, *value.shape) + (1.25 if name.endswith(".weight") else 0)
    x = numbers("x", call.steps, call.batch, call.inputs)
    first = tuple(numbers(f"state {i}", 1, call.batch, call.hidden) for i in range(2 if kind == "lstm" else 1))
    lengths = np.arange(call.batch) % (call.steps + 1) if call.has_lengths else None
    if call.reverse:  # as one direction of a layer, of which the other one has the same parameters
        given = {"reverse": True, "lengths": lengths, "num_threads": call.threads, **options}
        parameters = {name.replace("_l0", ""): value for name, value in network.parameters.items()}
        state = tuple(one[0] for one in first)
        y, last = FUNCTIONS[kind](x, state if kind == "lstm" else state[0], **arguments_of(kind, parameters), **given)
        return [y, *(last if kind == "lstm" else [last])]
    given = {"num_threads": call.threads}
    (y, last), saved = network.forward(x, first if kind == "lstm" else first[0], lengths=lengths, **given)
    found = network.backward(y, last, saved, **given)
    states = [one for state in (last, found.dstate) for one in (state if kind == "lstm" else [state])]
    return [y, *states, found.dx, *found.dparameters.values()]
