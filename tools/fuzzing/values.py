"""Shapes and values of a case."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import BACKWARD_REGIMES, DY, REGIMES, Array, Rng, chance, computed, is_tried, pick, stored
from .operations import ANY_ROWS, PARAMETER, ROWS, STATS, Operation, Problem

# Of x. So a case takes a few milliseconds, most of them in the reference.
MOST_ELEMENTS = 60_000


class Shape(NamedTuple):
    """The leading dimensions of x, and those of a row."""

    lead: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Their number."""
        return int(np.prod(self.lead))

    @property
    def cols(self) -> int:
        """Elements of a row."""
        return int(np.prod(self.block))

    def of(self, kind: str) -> tuple[int, ...]:
        """The shape of an array of this kind."""
        return {ROWS: self.lead + self.block, STATS: self.lead + (1,) * len(self.block), PARAMETER: self.block}[kind]


def make_cols(rng: Rng) -> int:
    """Around every register, at model widths, around the segments of long rows."""
    near = int(rng.integers(-2, 3))
    kinds = (
        lambda: rng.integers(1, 40),
        lambda: rng.integers(1, 300),
        lambda: 16 * rng.integers(1, 40) + near,
        lambda: pick(rng, (384, 768, 1024, 4096)) + near,
        lambda: rng.integers(300, 6000),
        lambda: 16384 * rng.integers(1, 4) + near,
    )
    return max(1, int(pick(rng, kinds, [0.3, 0.3, 0.2, 0.12, 0.06, 0.02])()))


def make_rows(rng: Rng, cols: int) -> int:
    """None, few, those around the blocks of backward, or several chunks of narrow ones."""
    least, most = pick(rng, ((0, 1), (1, 2), (1, 10), (1, 80), (60, 700)), [0.03, 0.1, 0.5, 0.3, 0.07])
    return min(int(rng.integers(least, most)), max(1, MOST_ELEMENTS // cols))


def split(rng: Rng, size: int, dimensions: int) -> tuple[int, ...]:
    """A shape of about so many elements; its dimensions may be 1."""
    shape: list[int] = []
    for _ in range(dimensions - 1):
        shape.append(pick(rng, (1, 2, 3)) if size > 2 else 1)
        size //= shape[-1]
    return tuple(int(one) for one in rng.permutation([*shape, size]))


def make_shape(rng: Rng) -> Shape:
    """Of one to six dimensions."""
    cols = make_cols(rng)
    block = split(rng, cols, pick(rng, (1, 2, 3), [0.75, 0.2, 0.05]))
    rows = make_rows(rng, cols)
    lead = () if rows == 1 and chance(rng, 0.5) else split(rng, rows, pick(rng, (1, 2, 3), [0.6, 0.3, 0.1]))
    return Shape(lead, block)


def make_parameter(rng: Rng, cols: int) -> Array:
    """Of ordinary size, both signs; some with zeros, or of another size."""
    values = rng.standard_normal(cols)
    if chance(rng, 0.2):
        values *= 10.0 ** rng.integers(-3, 4)
    if chance(rng, 0.2):
        values[rng.random(cols) < 0.5] = 0
    return values


def make_x(rng: Rng, names: list[str], rows: int, cols: int, dtype: np.dtype) -> Array:
    """Rows of these regimes."""
    table = REGIMES | BACKWARD_REGIMES
    kinds = [stored(table[name].make(rng, max(rows, 1), cols, dtype)[:rows], dtype) for name in names]
    turn = rng.integers(0, len(kinds), rows)
    x = np.zeros((rows, cols), dtype)
    for i, kind in enumerate(kinds):
        x[turn == i] = kind[turn == i]
    return x


def make_values(rng: Rng, operation: Operation, shape: Shape, dtype: np.dtype) -> Problem:
    """Rows of one to three regimes, some with numbers that are not finite. Statistics are found later (`fill`)."""
    rows, cols = shape.rows, shape.cols
    regimes = operation.regimes if chance(rng, 0.9) else ANY_ROWS
    regimes = [name for name in regimes if is_tried(name, dtype)]
    names = [pick(rng, regimes) for _ in range(rng.integers(1, 4))]
    usual = (REGIMES | BACKWARD_REGIMES)[names[0]].eps
    eps = float(pick(rng, (usual, usual, 1e-5, 1e-12, 1e-2, 3.0, 0.0)))
    x = make_x(rng, names, rows, cols, dtype)
    arrays: dict[str, Array | None] = {operation.base: x}
    for name, kind in operation.arrays.items():
        if name in operation.optional and chance(rng, 0.3):
            arrays[name] = None
        elif name != operation.base and kind == ROWS:
            dy = DY[pick(rng, list(DY))](rng, x.astype(np.float64))
            arrays[name] = np.array(stored(dy, dtype)).reshape(rows, cols)
        elif kind == PARAMETER:
            arrays[name] = make_parameter(rng, cols).astype(pick(rng, (dtype, computed(dtype))))
        elif kind == STATS:
            arrays[name] = np.zeros((rows, 1), computed(dtype))
    if chance(rng, 0.15):
        spoil(rng, arrays)
    return Problem(arrays, eps)


def spoil(rng: Rng, arrays: dict[str, Array | None]) -> None:
    """Some numbers that are not finite, in one of the arrays."""
    names = [name for name, a in arrays.items() if a is not None and a.size]
    if names:
        flat = arrays[pick(rng, names)].reshape(-1)
        flat[rng.integers(0, flat.size, int(rng.integers(1, 4)))] = pick(rng, (np.nan, np.inf, -np.inf))
