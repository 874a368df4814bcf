"""A cell of the grid: what is done, units, sequences, threads; its arrays, and what is right."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastln import _reference_recurrent as reference

from ..grid.arrays import EPS
from ..grid.cells import NUMPY_OFFSET, threads_in_words
from ..grid.errors import Exact, Judged

SEQUENCE, TRAINING = "sequence", "training"
HIDDEN, BATCHES, STEPS = (128, 512, 1024), (1, 8, 64), 50

# Of y these first steps are judged: rounding differs everywhere, and what it comes to grows from step to step.
JUDGED_STEPS = 3
# The same growth is in gradients, which are sums over all steps: in eps of the largest of them, times this.
GROWTH = 100


@dataclass(frozen=True)
class Work:
    """What is done: by the name of a function in each of `peers/` that can."""

    name: str


@dataclass(frozen=True)
class Cell:
    """One place of the grid. x has as many numbers a step as there are units."""

    work: str
    hidden: int
    batch: int
    threads: int
    steps: int = STEPS

    def __str__(self) -> str:
        """Every coordinate in words."""
        return f"{self.work}, {self.hidden} units, batch {self.batch}, {threads_in_words(self.threads)}"


class Arrays(NamedTuple):
    """What all contenders share, float32: x and dy (T, B, H), first states (B, H), parameters by PyTorch's names.

    `out` is the caller's buffer of y, for those who can write to it.
    """

    operation: Work
    x: np.ndarray
    dy: np.ndarray
    h0: np.ndarray
    c0: np.ndarray
    parameters: dict[str, np.ndarray]
    out: np.ndarray
    threads: int
    offset: int = NUMPY_OFFSET


def grid(works: Iterable[str], hidden: Iterable[int], batches: Iterable[int], threads: Iterable[int]) -> Iterator[Cell]:
    """All cells of these coordinates, by threads: a library's number of them is seldom changed then."""
    for count, work, units, batch in itertools.product(threads, works, hidden, batches):
        yield Cell(work, units, batch, count)


def make_arrays(cell: Cell, seed: int = 0) -> Arrays:
    """Numbers of N(0, 1), matrices of 1 / sqrt(H), weights of norms around 1, biases around 0."""
    rng = np.random.default_rng(seed)
    shapes = reference.parameter_shapes("lstm", cell.hidden, cell.hidden)
    del shapes["bias"]  # those of the norms do the same

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    parameters = {}
    for name, shape in shapes.items():
        scale, offset = (cell.hidden**-0.5, 0) if len(shape) == 2 else (0.1, name.endswith(".weight"))
        parameters[name] = normal(*shape) * np.float32(scale) + np.float32(offset)
    shape = cell.steps, cell.batch, cell.hidden
    return Arrays(
        Work(cell.work),
        x=normal(*shape),
        dy=normal(*shape),
        h0=normal(*shape[1:]),
        c0=normal(*shape[1:]),
        parameters=parameters,
        out=np.zeros(shape, np.float32),
        threads=cell.threads,
    )


def exact_outputs(arrays: Arrays) -> Exact:
    """What a contender must give, in float64: y; in training also the gradient of W_hh."""
    a, eps = arrays, float(np.finfo(np.float32).eps)
    trains = a.operation.name == TRAINING
    x = a.x if trains else a.x[:JUDGED_STEPS]
    y, _, saved = reference.forward("lstm", x, (a.h0, a.c0), a.parameters, reference.Options(EPS), precision=np.float64)
    part = slice(0, JUDGED_STEPS)
    outputs = [Judged("y", a.x.shape, part, y[part], np.full_like(y[part], eps))]
    if trains:
        zeros = np.zeros_like(a.h0)
        _, _, found = reference.backward(a.dy, (zeros, zeros), saved)
        gradient = found["weight_hh"]
        unit = np.full_like(gradient, GROWTH * eps * np.abs(gradient).max())
        outputs.append(Judged("dweight_hh", gradient.shape, ..., gradient, unit))
    return Exact(a.x.dtype, tuple(outputs))
