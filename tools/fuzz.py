"""A seeded fuzzer of the public functions: calls that nobody would write, and what is promised of every call.

    python tools/fuzz.py --seconds 30 [--seed N]
    python tools/fuzz.py --seed N --case K

A case is one call, made from the seed and its number alone: an operation, an ISA, shapes, values, the memory of each
array, how `out` overlaps the others, threads, and the thresholds that choose threads and streaming stores. Checked are

- the documented bounds of the errors, against long double (docs/accuracy.md), for ordinary contiguous copies on one
  thread, and that rows alone have the same bits;
- that the call itself gives the bits of those copies, whatever the memory, the overlap, the threads and the thresholds;
- that no byte of any memory has changed but those of `out`'s elements;
- that a wrong argument is a TypeError or a ValueError with the words `NAME must ..., got ...`, and changes no byte.

Half of the arrays have bytes around them that are compared afterwards; the others lie against a page without access,
or, in a build with the address sanitizer, in blocks of their own.

The cases run in a process of their own, so that one that ends it, or hangs, is named as well.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fences import Room
from reference import BACKWARD_REGIMES, DY, PROMISED, REGIMES

import fastln
from fastln import _reference as exact
from fastln._core import effort, stores
from fastln._core.facts import config

# All that is private of fastln and used here, but the formulas.
set_min_parallel_bytes = effort.set_min_parallel_bytes
set_stream_bytes = stores.set_stream_bytes
forget_streaming = stores.forget

Rng = np.random.Generator
Array = np.ndarray

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# Arrays of these are refused.
OTHER_DTYPES = ("i4", "i8", "?", "c8", "O", "U3", "S3", "M8[s]")

PATIENCE = 120  # seconds after which a case that has not ended counts as hanging


class Finding(Exception):
    """What a case showed to be wrong."""


# Operations
#
# An operation is an entry of OPERATIONS, and whoever adds one adds an entry: its arguments by kind, the values that
# they get, and a judge of the results.

ROWS, STATS, PARAMETER = "rows", "stats", "parameter"  # of the shape of x; one number a row; of normalized_shape


class Problem(NamedTuple):
    """The values of a call, before they get their places in memory: contiguous arrays in x's dtype."""

    arrays: dict[str, Array | None]  # rows as (rows, cols), stats as (rows, 1), parameters as (cols,)
    eps: float


@dataclass(frozen=True)
class Operation:
    """A function of fastln, by kinds of arguments and results."""

    call: Callable[..., Any]  # everything by name
    plain: Callable[..., Any]  # what must give the same bits
    arrays: Mapping[str, str]  # {argument: kind}; x is one of them
    optional: tuple[str, ...]
    results: tuple[str, ...]  # kinds; the first can go to `out`
    options: tuple[str, ...]  # of eps, output_mask, out
    judge: Callable[[Problem, tuple[Array | None, ...]], Iterator[tuple[str, float]]]
    regimes: tuple[str, ...]


def make_parameter(rng: Rng, cols: int) -> Array:
    """Of ordinary size, both signs; some with zeros, or of another size."""
    values = rng.standard_normal(cols)
    if rng.random() < 0.2:
        values *= 10.0 ** rng.integers(-3, 4)
    if rng.random() < 0.2:
        values[rng.random(cols) < 0.5] = 0
    return values


def excess(result: str, found: Array, value: Array, size: Array) -> float:
    """The largest error, in units of what is promised of the result; what is not finite is none of it."""
    info = np.finfo(found.dtype)
    bound = PROMISED[found.dtype.name][result] * np.longdouble(info.eps) * size
    error = np.where(np.isfinite(found), np.abs(found.astype(np.longdouble) - value), np.inf)
    # What it costs to round a subnormal result, whatever was computed before.
    error = np.maximum(error - np.longdouble(info.smallest_subnormal) / 2, 0)
    judged = np.isfinite(value) & np.isfinite(bound)
    return float(np.where(error == 0, 0, error / bound)[judged].max(initial=0))


def judge_forward(problem: Problem, found: tuple[Array | None, ...]) -> Iterator[tuple[str, float]]:
    """The errors of y, and of mean and rstd where they are there."""
    x, weight, bias = (problem.arrays[name] for name in ("x", "weight", "bias"))
    finite = np.isfinite(x).all(axis=1)
    y = found[0]
    if not np.isnan(y[~finite]).all():
        raise Finding("a row with NaN or Inf is not all NaN")
    rows = x[finite]
    if not len(rows):
        return
    normalized = exact.normalize(rows, problem.eps)
    value = exact.scale_and_shift(normalized.x_hat, weight, bias)
    # Where eps and the variance are 0, the result is NaN.
    if not np.isnan(y[finite][np.isnan(value)]).all():
        raise Finding("a row of 0 / 0 is not NaN")
    size = np.broadcast_to(exact.output_size(normalized.x_hat, weight, bias), rows.shape)
    # Parameters may carry the result out of the range of the dtype; then nothing is promised.
    value = np.where(np.abs(value) + size < np.finfo(y.dtype).max / 4, value, np.nan)
    yield "y", excess("y", y[finite], value, size)
    if len(found) == 1:
        return
    spread = np.abs(rows.astype(np.longdouble) - normalized.mean).max(axis=1, keepdims=True)
    yield "mean", excess("mean", found[1][finite], normalized.mean, np.abs(normalized.mean) + spread)
    rstd = np.where(normalized.rstd > np.finfo(y.dtype).max, np.inf, normalized.rstd)
    yield "rstd", excess("rstd", found[2][finite], rstd, rstd)


def judge_backward(problem: Problem, found: tuple[Array | None, ...]) -> Iterator[tuple[str, float]]:
    """The errors of dx, dweight and dbias, those that are there; nothing where nothing is promised.

    That is where mean and rstd are not those of x, or a product of two numbers might be out of range.
    """
    dy, x, mean, rstd, weight = (problem.arrays[name] for name in ("dy", "x", "mean", "rstd", "weight"))
    if not len(x) or not all(np.isfinite(a).all() for a in (dy, x, mean, rstd)):
        return
    _, *stats = fastln.layer_norm_forward(x, eps=problem.eps, num_threads=1)
    g = np.abs(dy if weight is None else dy * weight)
    if stats[0].tobytes() != mean.tobytes() or stats[1].tobytes() != rstd.tobytes():
        return
    if max(g.max(), np.abs(dy).max(), rstd.max(), 1 / rstd.min()) > 1e13 or np.abs(x).max() > 1e15:
        return
    normalized = exact.normalize(x, problem.eps)
    value = exact.gradients(dy, normalized, weight)
    wide = np.abs(dy).astype(np.longdouble)
    g = exact.scale_and_shift(wide, None if weight is None else np.abs(weight), None)
    largest = np.abs(normalized.x_hat).max(axis=1, keepdims=True)
    root = np.sqrt(np.square(g).mean(axis=1, keepdims=True))
    sizes = {
        "dx": normalized.rstd * (g.max(axis=1, keepdims=True) + largest * root),
        "dweight": exact.sum_rows(wide * largest),
        "dbias": exact.sum_rows(wide),
    }
    for (result, size), one, right in zip(sizes.items(), found, value, strict=True):
        if one is not None:
            yield result, excess(result, one, right, size)


def layer_norm_object(x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any) -> fastln.LayerNorm:
    """A LayerNorm that has been given these parameters."""
    shape = np.shape(x)[-1:] if normalized_shape is None else normalized_shape
    norm = fastln.LayerNorm(shape, eps, dtype=getattr(weight, "dtype", np.dtype("f4")).newbyteorder("="))
    norm.weight, norm.bias = weight, bias
    return norm


def limit(num_threads: Any) -> Any:
    """So many threads for what has no such argument."""
    return nullcontext() if num_threads is None else fastln.threads(num_threads)


def object_call(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """LayerNorm.__call__ as a function."""
    with limit(num_threads):
        return layer_norm_object(x, normalized_shape, weight, bias, eps)(x, out)


def object_forward(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, num_threads=None):
    """LayerNorm.forward as a function."""
    with limit(num_threads):
        y, saved = layer_norm_object(x, normalized_shape, weight, bias, eps).forward(x)
        return y, saved.mean, saved.rstd


def object_backward(dy, x, mean, rstd, weight=None, *, normalized_shape=None, num_threads=None):
    """LayerNorm.backward as a function; without a weight it gives no dweight."""
    with limit(num_threads):
        norm = layer_norm_object(x, normalized_shape, weight, weight, 1e-5)
        return norm.backward(dy, (x, mean, rstd))


def object_backward_plain(weight=None, **others):
    """What `object_backward` must give."""
    mask = (True, weight is not None, weight is not None)
    return fastln.layer_norm_backward(weight=weight, output_mask=mask, **others)


FORWARD = {"x": ROWS, "weight": PARAMETER, "bias": PARAMETER}
BACKWARD = {"dy": ROWS, "x": ROWS, "mean": STATS, "rstd": STATS, "weight": PARAMETER}
ANY_ROWS, BACKWARD_ROWS = tuple(REGIMES), tuple(BACKWARD_REGIMES)


def _forward(call, plain, results, options):
    return Operation(call, plain, FORWARD, ("weight", "bias"), results, options, judge_forward, ANY_ROWS)


def _backward(call, plain, options):
    results = (ROWS, PARAMETER, PARAMETER)
    return Operation(call, plain, BACKWARD, ("weight",), results, options, judge_backward, BACKWARD_ROWS)


OPERATIONS = {
    "layer_norm": _forward(fastln.layer_norm, fastln.layer_norm, (ROWS,), ("eps", "out")),
    "layer_norm_forward": _forward(
        fastln.layer_norm_forward, fastln.layer_norm_forward, (ROWS, STATS, STATS), ("eps", "out")
    ),
    "layer_norm_backward": _backward(fastln.layer_norm_backward, fastln.layer_norm_backward, ("output_mask", "out")),
    "LayerNorm": _forward(object_call, fastln.layer_norm, (ROWS,), ("eps", "out")),
    "LayerNorm.forward": _forward(object_forward, fastln.layer_norm_forward, (ROWS, STATS, STATS), ("eps",)),
    "LayerNorm.backward": _backward(object_backward, object_backward_plain, ()),
}
SHARES = {"layer_norm": 4, "layer_norm_forward": 4, "layer_norm_backward": 8}  # of the cases; others have 1


# Shapes and values


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
    return max(
        1,
        int(
            rng.choice(
                [
                    rng.integers(1, 40),
                    rng.integers(1, 300),
                    16 * rng.integers(1, 40) + near,
                    rng.choice([384, 768, 1024, 4096]) + near,
                    rng.integers(300, 6000),
                    16384 * rng.integers(1, 4) + near,
                ],
                p=[0.3, 0.3, 0.2, 0.12, 0.06, 0.02],
            )
        ),
    )


def make_rows(rng: Rng, cols: int) -> int:
    """None, few, those around the blocks of backward, or several chunks of narrow ones."""
    most = max(1, 60_000 // cols)
    rows = rng.choice(
        [0, 1, rng.integers(1, 10), rng.integers(1, 80), rng.integers(60, 700)], p=[0.03, 0.1, 0.5, 0.3, 0.07]
    )
    return min(int(rows), most)


def split(rng: Rng, size: int, dimensions: int) -> tuple[int, ...]:
    """A shape of about so many elements; its dimensions may be 1."""
    shape: list[int] = []
    for _ in range(dimensions - 1):
        shape.append(int(rng.choice([1, 2, 3])) if size > 2 else 1)
        size //= shape[-1]
    return tuple(int(one) for one in rng.permutation([*shape, size]))


def make_shape(rng: Rng) -> Shape:
    """Of one to five dimensions."""
    cols = make_cols(rng)
    block = split(rng, cols, int(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05])))
    rows = make_rows(rng, cols)
    lead = () if rows == 1 and rng.random() < 0.5 else split(rng, rows, int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])))
    return Shape(lead, block)


def make_values(rng: Rng, operation: Operation, shape: Shape, dtype: np.dtype) -> Problem:
    """Rows of one to three regimes, some with numbers that are not finite; statistics come later."""
    rows, cols = shape.rows, shape.cols
    table = REGIMES | BACKWARD_REGIMES
    names = rng.choice(operation.regimes if rng.random() < 0.9 else ANY_ROWS, int(rng.integers(1, 4)))
    kinds = [table[name].make(rng, max(rows, 1), cols, dtype)[:rows] for name in names]
    turn = rng.integers(0, len(kinds), rows)
    x = np.zeros((rows, cols), dtype)
    for i, kind in enumerate(kinds):
        x[turn == i] = kind[turn == i]
    eps = float(rng.choice([table[names[0]].eps, 1e-5, 1e-12, 1e-2, 3.0, 0.0]))
    arrays: dict[str, Array | None] = {}
    for name, kind in operation.arrays.items():
        if name == "x":
            arrays[name] = x
        elif name in operation.optional and rng.random() < 0.3:
            arrays[name] = None
        elif kind == ROWS:
            make_dy = DY[str(rng.choice(list(DY)))]
            with np.errstate(all="ignore"):
                arrays[name] = np.array(make_dy(rng, x.astype(np.float64)), dtype).reshape(rows, cols)
        elif kind == PARAMETER:
            arrays[name] = make_parameter(rng, cols).astype(dtype)
        else:
            arrays[name] = np.zeros((rows, 1), dtype)
    if rng.random() < 0.15:
        spoil(rng, arrays)
    return Problem(arrays, eps)


def spoil(rng: Rng, arrays: dict[str, Array | None]) -> None:
    """Some numbers that are not finite, in one of the arrays."""
    names = [name for name, a in arrays.items() if a is not None and a.size]
    if names:
        flat = arrays[str(rng.choice(names))].reshape(-1)
        flat[rng.integers(0, flat.size, int(rng.integers(1, 4)))] = rng.choice([np.nan, np.inf, -np.inf])


# Memory


class Layout(NamedTuple):
    """How an array lies around its first element."""

    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]  # in bytes

    @property
    def before(self) -> int:
        """Bytes of it before its first element."""
        if 0 in self.shape:
            return 0
        return -sum(min(0, stride * (size - 1)) for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def size(self) -> int:
        """Bytes from the lowest to the highest one."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return sum(abs(stride) * (size - 1) for size, stride in steps) + self.dtype.itemsize


def contiguous(shape: tuple[int, ...], dtype: np.dtype, order: tuple[int, ...] = (), item: int = 0, gaps=()) -> Layout:
    """A layout whose axes lie in this order, the last one innermost: item bytes apart, gaps between the others."""
    order = order or tuple(range(len(shape)))
    strides = [0] * len(shape)
    step = item or dtype.itemsize
    for axis, gap in zip(reversed(order), (*gaps, *(0,) * len(shape)), strict=False):
        step += gap
        strides[axis] = step
        step *= max(shape[axis], 1)
    return Layout(shape, dtype, tuple(strides))


def make_layout(rng: Rng, shape: tuple[int, ...], block: int, dtype: np.dtype, repeats: bool) -> Layout:
    """Contiguous; rows at some stride, their last `block` dimensions contiguous; or any strides at all.

    With `repeats`, elements may lie at the same place.
    """
    kind = rng.choice(["contiguous", "rows", "any"], p=[0.4, 0.3, 0.3])
    itemsize = dtype.itemsize
    if kind == "contiguous" or not shape:
        return contiguous(shape, dtype)
    if kind == "rows":
        lead = len(shape) - block
        gap = itemsize * int(rng.choice([0, 1, 3, 16, rng.integers(1, 100)]))
        layout = contiguous(shape, dtype, gaps=(0,) * block + (gap,))
        signs = [int(rng.choice([1, 1, -1] + [0] * repeats)) if axis < lead else 1 for axis in range(len(shape))]
    else:
        item = itemsize * int(rng.choice([1, 1, 2, 3])) + int(rng.choice([0, 0, 0, 1, itemsize // 2]))
        order = list(range(len(shape)))
        if rng.random() < 0.5:
            order = order[::-1] if rng.random() < 0.5 else [int(axis) for axis in rng.permutation(order)]
        gaps = (0, *(int(rng.choice([0, 0, itemsize, 3 * itemsize, 1])) for _ in shape[1:]))
        layout = contiguous(shape, dtype, tuple(order), item, gaps)
        signs = [int(rng.choice([1, 1, -1] + [0] * (repeats and rng.random() < 0.2))) for _ in shape]
    return layout._replace(strides=tuple(sign * stride for sign, stride in zip(signs, layout.strides, strict=True)))


class Memory:
    """Bytes with what stood in them before the call."""

    def __init__(self, data: Array) -> None:
        self.bytes = data
        self.before = data.copy()

    def view(self, layout: Layout, offset: int) -> Array:
        """An array in it whose lowest byte has this offset."""
        return np.ndarray(layout.shape, layout.dtype, self.bytes, offset + layout.before, layout.strides)


IS_SANITIZED = "-fsanitize=" in str(config()["build"])
ROOM_BYTES = 1 << 20
ROOMS: list[Room] = []


def make_bytes(rng: Rng, size: int, room: int) -> Array:
    """So many bytes of anything: between fences if they can be, else a block of their own.

    Room number `room` is used; each has its fences set up once.
    """
    if IS_SANITIZED or size > ROOM_BYTES or os.name == "nt":
        data = np.empty(size, np.uint8)  # not a slice: just behind it is what the sanitizer guards
    else:
        while len(ROOMS) <= room:
            ROOMS.append(Room(ROOM_BYTES))
        whole = ROOMS[room].bytes
        data = whole[whole.size - size :] if rng.random() < 0.7 else whole[:size]
    data[...] = rng.integers(0, 256, size, np.uint8) if rng.random() < 0.5 else 0xFF
    return data


def edge(rng: Rng, itemsize: int) -> int:
    """Bytes before or after an array in its memory."""
    steps = int(rng.choice([0, 0, 1, rng.integers(1, 20), 64 // itemsize]))
    return itemsize * steps + int(rng.choice([0, 0, 0, 1, itemsize // 2]))


OVERLAPS = ("none", "same", "reversed", "shifted", "beside", "anywhere", "all")


@dataclass
class Places:
    """The arrays of a call in memory."""

    views: dict[str, Array] = field(default_factory=dict)
    memories: list[Memory] = field(default_factory=list)
    overlap: str = "none"


def place(rng: Rng, operation: Operation, shape: Shape, problem: Problem, with_out: bool) -> Places:
    """Layouts of the arrays and of `out`, and memory for them."""
    places = Places()
    dtype = problem.arrays["x"].dtype
    block = len(shape.block)
    layouts: dict[str, Layout] = {}
    for name, kind in operation.arrays.items():
        if problem.arrays[name] is None:
            continue
        own = FLOATS[dtype == FLOATS[0]] if name != "x" and rng.random() < 0.07 else dtype
        own = own.newbyteorder() if rng.random() < 0.1 else own
        layouts[name] = make_layout(rng, shape.of(kind), 0 if kind == PARAMETER else block, own, True)
    together: dict[str, int] = {}  # in one memory: {name: offset}
    if with_out:
        places.overlap = str(rng.choice(OVERLAPS, p=[0.4, 0.15, 0.05, 0.1, 0.1, 0.15, 0.05]))
        places.overlap, together = overlap(rng, places.overlap, operation, shape, layouts, dtype)
    for name, layout in layouts.items():
        if name not in together:
            low = edge(rng, dtype.itemsize)
            memory = Memory(make_bytes(rng, low + layout.size + edge(rng, dtype.itemsize), len(places.memories)))
            places.memories.append(memory)
            places.views[name] = memory.view(layout, low)
    if together:
        low = edge(rng, dtype.itemsize) - min(together.values())
        size = max(low + offset + layouts[name].size for name, offset in together.items()) + edge(rng, dtype.itemsize)
        memory = Memory(make_bytes(rng, size, len(places.memories)))
        places.memories.append(memory)
        places.views |= {name: memory.view(layouts[name], low + offset) for name, offset in together.items()}
    return places


def overlap(
    rng: Rng, kind: str, operation: Operation, shape: Shape, layouts: dict[str, Layout], dtype: np.dtype
) -> tuple[str, dict[str, int]]:
    """Adds the layout of `out`; which arrays are in one memory with it, and where. Kinds without sense become none."""
    block = len(shape.block)
    alike = [name for name in layouts if operation.arrays[name] == ROWS and layouts[name].dtype == dtype]
    target = str(rng.choice(alike)) if alike else ""
    if kind in ("same", "reversed", "shifted", "beside") and target:
        layout = layouts[target]
        if kind == "beside":
            # Two ranges of columns of a wider array; some of them just do overlap.
            gap = layout.dtype.itemsize * (shape.cols + int(rng.integers(0, 9)))
            layout = contiguous(layout.shape, dtype, gaps=(0,) * block + (gap,))
        elif 0 in layout.strides:  # nothing that out can have
            layout = contiguous(layout.shape, dtype)
        layouts[target] = layouts["out"] = layout
        if kind == "same":
            return kind, {target: 0, "out": 0}
        if kind == "reversed":
            layouts["out"] = layout._replace(strides=tuple(-stride for stride in layout.strides))
            return kind, {target: 0, "out": 0}
        if kind == "beside":
            shift = dtype.itemsize * (shape.cols + int(rng.integers(-1, 5)))
        else:
            shift = dtype.itemsize * int(rng.integers(1, max(2, min(layout.size // dtype.itemsize, 100))))
            shift += int(rng.choice([0, 0, 0, 1]))
        return kind, {target: 0, "out": shift * int(rng.choice([1, -1]))}
    layouts["out"] = make_layout(
        rng, shape.of(ROWS), block, dtype.newbyteorder() if rng.random() < 0.1 else dtype, False
    )
    if kind not in ("anywhere", "all"):
        return "none", {}
    names = [name for name in layouts if kind == "all" or name == "out" or rng.random() < 0.5]
    room = max(layouts[name].size for name in names)
    step = dtype.itemsize if rng.random() < 0.8 else 1
    return kind, {name: step * int(rng.integers(0, room // step + 2)) for name in names}


# Spellings of arguments


class WithArray:
    """Not an array, but convertible to one."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype=None, copy=None):
        """The array."""
        return self.array if dtype is None else self.array.astype(dtype)


class Subclass(np.ndarray):
    """An array that would notice being computed with."""

    def __array_ufunc__(self, *inputs, **options):
        """Nothing calls it."""
        raise AssertionError("a ufunc was called")


def spell(rng: Rng, name: str, view: Array, alone: bool) -> Any:
    """The array itself, or something that stands for it."""
    kind = rng.choice(["itself", "subclass", "read-only", "__array__", "list"], p=[0.85, 0.05, 0.04, 0.03, 0.03])
    if kind == "subclass":
        return view.view(Subclass)
    if kind == "read-only" and alone:
        frozen = view.view()
        frozen.flags.writeable = False
        return frozen
    if kind == "__array__":
        return WithArray(view)
    # Lists are of float64.
    if kind == "list" and view.size and view.size < 1000 and (name != "x" or view.dtype == np.float64):
        return view.tolist()
    return view


def spell_shape(rng: Rng, block: tuple[int, ...]) -> Any:
    """normalized_shape in one of its spellings."""
    spellings: list[Any] = [block, list(block), tuple(np.int64(size) for size in block)]
    if len(block) == 1:
        spellings += [None, None, block[0], np.int32(block[0])]
    return spellings[rng.integers(len(spellings))]


# Wrong arguments


def wrong_arrays(a: Array, required: bool, is_x: bool) -> list[Any]:
    """What cannot stand for an array of floats of this shape."""
    wrong: list[Any] = [np.zeros(a.shape, dtype) for dtype in OTHER_DTYPES]
    wrong += [np.ma.masked_array(np.zeros(a.shape, "f4")), "word", object(), {}, True, 3, [[1.0], [1.0, 2.0]]]
    wrong += [np.zeros((), "f4"), 1.0]
    if required:
        wrong.append(None)
    if not is_x:
        longer = tuple(size + (axis == 0) for axis, size in enumerate(a.shape))
        wrong += [np.zeros((*a.shape, 2), "f4"), np.zeros(longer, "f8"), np.zeros((1, *a.shape), "f4")]
    return wrong


def wrong_outs(x: Array) -> list[Any]:
    """What cannot take the result for x."""
    native = x.dtype.newbyteorder("=")
    frozen = np.zeros(x.shape, native)
    frozen.flags.writeable = False
    wrong: list[Any] = [np.zeros(x.shape, dtype) for dtype in OTHER_DTYPES]
    wrong += [np.zeros(x.shape, FLOATS[native == FLOATS[0]]), np.ma.masked_array(np.zeros(x.shape, native)), frozen]
    wrong += ["word", [[0.0]], True, WithArray(np.zeros(x.shape, native)), np.zeros((*x.shape, 1), native)]
    wrong.append(np.zeros(tuple(size + 1 for size in x.shape), native))
    if x.size > 1:
        wrong.append(np.lib.stride_tricks.as_strided(np.zeros(1, native), x.shape, (0,) * x.ndim))
    return wrong


WRONG = {
    "eps": [
        -1e-5,
        -1,
        float("nan"),
        float("inf"),
        10**400,
        "1e-5",
        None,
        1e-5j,
        [1e-5],
        np.array([1e-5]),
        object(),
        True,
    ],
    "num_threads": [0, -1, -(2**70), 1.0, "2", True, [2], object()],
    "output_mask": [None, True, (True, True), (True,) * 4, "abc", (1, 1, 1), (True, None, True), {}, object()],
    "normalized_shape": [(), 0, -8, 2**64 + 8, 8.0, "8", (8.0,), ("8",), (None,), ((8,),), {8: 8}, 8j, True, object()],
}


def spoil_call(rng: Rng, operation: Operation, arguments: dict[str, Any], views: dict[str, Array]) -> str:
    """Replaces one of the arguments by a wrong one; its name."""
    names = [*operation.arrays, "num_threads", "normalized_shape", *operation.options]
    name = str(rng.choice(names))
    if name in operation.arrays:
        view = views.get(name)
        like = view if view is not None else np.zeros(views["x"].shape[-1:])
        wrong = wrong_arrays(like, name not in operation.optional, name == "x")
    elif name == "out":
        wrong = wrong_outs(views["x"])
    else:
        wrong = WRONG[name]
    arguments[name] = wrong[rng.integers(len(wrong))]
    return name


# A case


@dataclass
class Case:
    """A call of everything, and the settings it is made under."""

    number: int
    name: str
    isa: str
    shape: Shape
    problem: Problem
    places: Places
    arguments: dict[str, Any]
    min_parallel_bytes: int
    stream_bytes: int | None
    callers: int  # Python threads that call at the same time
    wrong: str = ""

    def __str__(self) -> str:
        """All that decides what happens, but the values."""
        lines = [
            f"{self.name} on {self.isa}, x of {self.shape.lead} rows of {self.shape.block}, eps {self.problem.eps}"
        ]
        for name, view in self.places.views.items():
            place_ = f"at {view.ctypes.data % 64} of a cache line"
            lines.append(f"  {name}: {view.dtype.str} {view.shape}, strides {view.strides}, {place_}")
        lines.append(f"  overlap of out: {self.places.overlap}")
        others = {k: v for k, v in self.arguments.items() if k not in self.places.views}
        lines.append(f"  {others}")
        lines.append(f"  threads from {self.min_parallel_bytes} bytes on, streaming from {self.stream_bytes}")
        if self.wrong:
            lines.append(f"  wrong on purpose: {self.wrong} = {self.arguments[self.wrong]!r:.200}")
        return "\n".join(lines)


def make_case(seed: int, number: int) -> Case:
    """The case of a seed and a number."""
    rng = np.random.default_rng([seed, number])
    share = np.array([SHARES.get(name, 1) for name in OPERATIONS], float)
    name = str(rng.choice(list(OPERATIONS), p=share / share.sum()))
    operation = OPERATIONS[name]
    shape, dtype = make_shape(rng), FLOATS[rng.integers(2)]
    problem = make_values(rng, operation, shape, dtype)
    mask = tuple(bool(one) for one in rng.random(3) < 0.75)
    with_out = "out" in operation.options and rng.random() < 0.7 and (mask[0] or "output_mask" not in operation.options)
    places = place(rng, operation, shape, problem, with_out)
    fill(operation, shape, problem, places)

    alone = places.overlap == "none"
    arguments: dict[str, Any] = {
        name: spell(rng, name, places.views[name], alone) if name in places.views else None for name in operation.arrays
    }
    arguments["normalized_shape"] = spell_shape(rng, shape.block)
    threads = [None, 1, 2, 3, 7, np.int64(2)]
    arguments["num_threads"] = threads[rng.integers(len(threads))]
    if "eps" in operation.options:
        arguments["eps"] = problem.eps
    if "output_mask" in operation.options:
        arguments["output_mask"] = mask
    if with_out:
        is_input = places.overlap == "same" and rng.random() < 0.5
        twins = [name for name, view in places.views.items() if name != "out" and is_same(view, places.views["out"])]
        out = places.views[twins[0]] if is_input and twins else places.views["out"]
        if is_input and twins:
            arguments[twins[0]] = out
        arguments["out"] = out.view(Subclass) if rng.random() < 0.03 else out
    isas = fastln.available_isas()
    case = Case(
        number,
        name,
        isas[rng.integers(len(isas))],
        shape,
        problem,
        places,
        arguments,
        int(rng.choice([0, 0, 1000, 1 << 20])),
        [0, 0, 1000, None][rng.integers(4)],
        3 if not with_out and rng.random() < 0.05 else 1,
    )
    if rng.random() < 0.1:
        case.wrong = spoil_call(rng, operation, arguments, places.views)
    return case


def is_same(a: Array, b: Array) -> bool:
    """The same elements of the same memory."""
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)


def fill(operation: Operation, shape: Shape, problem: Problem, places: Places) -> None:
    """Writes the values into their places, and takes back what stands there then: places may repeat or overlap.

    The statistics are those of x, unless something else lies over them.
    """
    dtype = problem.arrays["x"].dtype
    flat = {ROWS: (shape.rows, shape.cols), STATS: (shape.rows, 1), PARAMETER: (shape.cols,)}

    def values_of(name: str) -> Array:
        with np.errstate(all="ignore"):
            return np.array(places.views[name], dtype, order="C").reshape(flat[operation.arrays[name]])

    with np.errstate(all="ignore"):
        for is_later in (False, True):
            if is_later and STATS in operation.arrays.values():
                _, problem.arrays["mean"], problem.arrays["rstd"] = fastln.layer_norm_forward(
                    values_of("x"), eps=problem.eps, num_threads=1
                )
            for name, kind in operation.arrays.items():
                if name in places.views and (kind == STATS) == is_later:
                    places.views[name][...] = problem.arrays[name].reshape(shape.of(kind))
    for name in operation.arrays:
        if name in places.views:
            problem.arrays[name] = values_of(name)
    for memory in places.memories:
        memory.before = memory.bytes.copy()


# Checks


@contextmanager
def settings(min_parallel_bytes: int, stream_bytes: int | None) -> Iterator[None]:
    """The thresholds, for a while; whatever was found out about streaming is forgotten."""
    before = set_min_parallel_bytes(min_parallel_bytes), set_stream_bytes(stream_bytes)
    forget_streaming()
    try:
        yield
    finally:
        set_min_parallel_bytes(before[0])
        set_stream_bytes(before[1])


def as_tuple(result: Any) -> tuple[Any, ...]:
    """One result or several as a tuple."""
    return tuple(result) if isinstance(result, tuple) else (result,)


def same_bits(a: Array, b: Array) -> bool:
    """Equal bits; a NaN is a NaN, whatever its payload."""
    if a.tobytes() == b.tobytes():
        return True
    differ = a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}")
    return bool((np.isnan(a) & np.isnan(b))[differ].all())


def check_results(what: str, found: tuple[Any, ...], expected: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> None:
    """Plain native arrays of the expected bits and shapes."""
    for place_, (one, right, shape) in enumerate(zip(found, expected, shapes, strict=True)):
        if (one is None) != (right is None):
            raise Finding(f"{what}: result {place_} is {one!r:.60}")
        if right is None:
            continue
        if type(one) is not np.ndarray or one.dtype != right.dtype or one.shape != shape:
            raise Finding(
                f"{what}: result {place_} is {type(one)} {one.dtype} {one.shape}, should be {right.dtype} {shape}"
            )
        if not same_bits(np.ascontiguousarray(one).reshape(-1), np.ascontiguousarray(right).reshape(-1)):
            differ = np.argwhere(
                ~np.equal(one.reshape(-1), right.reshape(-1))
                & ~(np.isnan(one) & np.isnan(right.reshape(one.shape))).reshape(-1)
            )
            at = int(differ[0, 0]) if len(differ) else -1
            raise Finding(
                f"{what}: result {place_} has other bits in {len(differ)} of {one.size} elements, "
                f"first {at}: {one.reshape(-1)[at]!r} instead of {right.reshape(-1)[at]!r}"
            )


def check_memory(case: Case, right: Array | None) -> None:
    """No byte differs from before, but those of out's elements, which are the expected result."""
    for number, memory in enumerate(case.places.memories):
        expected = Memory(memory.before)
        expected.bytes = memory.before.copy()
        out = case.places.views.get("out")
        if right is not None and out is not None and np.may_share_memory(out, memory.bytes):
            start = out.ctypes.data - memory.bytes.ctypes.data
            np.ndarray(out.shape, out.dtype, expected.bytes, start, out.strides)[...] = right.reshape(out.shape)
        differ = np.flatnonzero(expected.bytes != memory.bytes)
        if len(differ):
            who = [
                f"{name} at {view.ctypes.data - memory.bytes.ctypes.data}"
                for name, view in case.places.views.items()
                if np.may_share_memory(view, memory.bytes)
            ]
            raise Finding(
                f"memory {number} ({', '.join(who)}): {len(differ)} of {memory.bytes.size} bytes are not as they "
                f"should be, from {differ[0]} to {differ[-1]}"
            )


def check_alone(case: Case, operation: Operation, expected: tuple[Any, ...], row: int) -> None:
    """A row by itself has the bits that it has among the others."""
    arrays = case.problem.arrays
    one = {
        name: a if a is None or operation.arrays[name] == PARAMETER else a[row : row + 1] for name, a in arrays.items()
    }
    eps = {"eps": case.problem.eps} if "eps" in operation.options else {}
    found = as_tuple(operation.plain(**one, **eps, num_threads=1))
    for kind, alone, among in zip(operation.results, found, expected, strict=True):
        if kind != PARAMETER and among is not None and not same_bits(alone, np.ascontiguousarray(among[row : row + 1])):
            raise Finding(f"row {row} alone has other bits than among the others")


# The largest errors that were seen, in units of what is promised.
LARGEST: dict[tuple[str, str], tuple[float, int]] = {}


def run_plain(case: Case, operation: Operation) -> tuple[Any, ...]:
    """The call on contiguous copies, one row after the other on one thread, judged."""
    options = {name: case.arguments[name] for name in ("eps", "output_mask") if name in operation.options}
    expected = as_tuple(operation.plain(**case.problem.arrays, **options, num_threads=1))
    with np.errstate(all="ignore"):
        for result, error in operation.judge(case.problem, expected):
            key = result, case.problem.arrays["x"].dtype.name
            LARGEST[key] = max(LARGEST.get(key, (0.0, 0)), (error, case.number))
            if not error <= 1:
                raise Finding(f"the error of {result} is {error:.3g} times what is promised")
    if case.shape.rows > 1:
        check_alone(case, operation, expected, case.number % case.shape.rows)
    return expected


def run_wrong(case: Case, operation: Operation) -> None:
    """A call with a wrong argument says so and does nothing."""
    try:
        with settings(case.min_parallel_bytes, case.stream_bytes):
            operation.call(**case.arguments)
    except (TypeError, ValueError) as error:
        if not re.match(rf"{case.wrong} must [^\n]+, got [^\n]*$", str(error)):
            raise Finding(f"the message is {error}") from None
    else:
        raise Finding("no error")
    check_memory(case, None)


def run_right(case: Case, operation: Operation) -> None:
    """A call gives the bits of the plain one, and touches nothing else."""
    expected = run_plain(case, operation)
    shapes = [case.shape.of(kind) for kind in operation.results]
    with settings(case.min_parallel_bytes, case.stream_bytes):
        if case.callers > 1:
            with ThreadPoolExecutor(case.callers) as pool:
                jobs = [pool.submit(operation.call, **case.arguments) for _ in range(case.callers)]
                all_found = [as_tuple(job.result()) for job in jobs]
        else:
            all_found = [as_tuple(operation.call(**case.arguments))]
    out = case.arguments.get("out")
    for found in all_found:
        if out is not None:
            if found[0] is not out:
                raise Finding("the result is not out")
            check_results("a call", found[1:], expected[1:], shapes[1:])
        else:
            check_results("a call", found, expected, shapes)
    check_memory(case, None if out is None else with_nans_of(expected[0], case.places.views["out"]))


def with_nans_of(expected: Array, out: Array) -> Array:
    """The expected result, but with out's NaNs where both have one: their payload means nothing."""
    plain = np.array(out, expected.dtype, order="C").reshape(expected.shape)
    return np.where(np.isnan(expected) & np.isnan(plain), plain, expected)


def run_case(case: Case) -> None:
    """Everything about a case; a Finding if something is wrong."""
    operation = OPERATIONS[case.name]
    before = fastln.get_isa()
    fastln.set_isa(case.isa)
    try:
        if case.wrong:
            run_wrong(case, operation)
        else:
            run_right(case, operation)
    finally:
        fastln.set_isa(before)


# The loop


def report(seed: int, number: int, case: Case | None, what: str) -> None:
    """The finding and the line that repeats it."""
    print(f"FINDING: {what}\n{case or ''}\nagain: python tools/fuzz.py --seed {seed} --case {number}", flush=True)


def run_one(seed: int, number: int) -> bool:
    """Whether the case shows nothing wrong."""
    case = None
    try:
        case = make_case(seed, number)
        run_case(case)
    except Finding as finding:
        report(seed, number, case, str(finding))
        return False
    except Exception:
        report(seed, number, case, f"an exception\n{traceback.format_exc()}")
        return False
    return True


def run_cases(seed: int, seconds: float, progress: Path, keep_going: bool) -> int:
    """Cases until the time is over, each of which is written down before it begins."""
    started = np.memmap(progress, np.int64, "r+", shape=1)
    end = time.monotonic() + seconds
    number = findings = 0
    while time.monotonic() < end:
        started[0] = number
        if not run_one(seed, number):
            findings += 1
            if not keep_going:
                break
        number += 1
    largest = ", ".join(
        f"{result} {dtype} {error:.2f} (case {at})" for (result, dtype), (error, at) in sorted(LARGEST.items())
    )
    print(f"fuzz: seed {seed}: {number} cases, {findings} findings; largest errors of what is promised: {largest}")
    return min(findings, 1)


def supervise(seed: int, seconds: float, options: list[str]) -> int:
    """Cases in a process of their own; names the one that ended it, or that hangs."""
    environment = {"OMP_WAIT_POLICY": "passive"} | os.environ  # idle threads sleep: there are few CPUs and tiny calls
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "case"
        progress.write_bytes(bytes(8))
        command = [sys.executable, "-X", "faulthandler", __file__, "--seed", str(seed), "--seconds", str(seconds)]
        worker = subprocess.Popen([*command, "--progress", str(progress), *options], env=environment)
        last, since = -1, time.monotonic()
        while True:
            try:
                status = worker.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                number = int.from_bytes(progress.read_bytes(), sys.byteorder)
                if number != last:
                    last, since = number, time.monotonic()
                elif time.monotonic() > since + PATIENCE:
                    worker.kill()
        number = int.from_bytes(progress.read_bytes(), sys.byteorder)
    if status not in (0, 1):
        report(seed, number, None, f"the process ended with status {status}")
    return min(abs(status), 1)


def main() -> int:
    """Exit status 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Fuzz the public functions of fastln.")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="a case is made from the seed and its number (default: any)")
    parser.add_argument("--case", type=int, help="only this one, in this process")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first finding")
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4))
    if options.case is not None:
        print(make_case(seed, options.case))
        return 0 if run_one(seed, options.case) else 1
    if options.progress:
        return run_cases(seed, options.seconds, options.progress, options.keep_going)
    print(f"fuzz: seed {seed}, {options.seconds:g} s", flush=True)
    return supervise(seed, options.seconds, ["--keep-going"] if options.keep_going else [])


if __name__ == "__main__":
    sys.exit(main())
