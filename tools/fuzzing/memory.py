"""Where the arrays of a case lie: layouts, guards around them, and how `out` overlaps the others."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from . import IS_SANITIZED, Array, Rng, Room, chance, is_narrow, pick
from .operations import PARAMETER, ROWS, Operation, Problem
from .values import Shape


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
    kind = pick(rng, ("contiguous", "rows", "any"), [0.4, 0.3, 0.3])
    itemsize = dtype.itemsize
    if kind == "contiguous" or not shape:
        return contiguous(shape, dtype)
    if kind == "rows":
        lead = len(shape) - block
        gap = itemsize * int(pick(rng, (0, 1, 3, 16, rng.integers(1, 100))))
        layout = contiguous(shape, dtype, gaps=(0,) * block + (gap,))
        signs = [
            pick(rng, (1, 1, -1, 0) if repeats else (1, 1, -1)) if axis < lead else 1 for axis in range(len(shape))
        ]
    else:
        item = itemsize * pick(rng, (1, 1, 2, 3)) + pick(rng, (0, 0, 0, 1, itemsize // 2))
        order = list(range(len(shape)))
        if chance(rng, 0.5):
            order = order[::-1] if chance(rng, 0.5) else [int(axis) for axis in rng.permutation(order)]
        gaps = (0, *(pick(rng, (0, 0, itemsize, 3 * itemsize, 1)) for _ in shape[1:]))
        layout = contiguous(shape, dtype, tuple(order), item, gaps)
        signs = [0 if repeats and chance(rng, 0.07) else pick(rng, (1, 1, -1)) for _ in shape]
    return layout._replace(strides=tuple(sign * stride for sign, stride in zip(signs, layout.strides, strict=True)))


class Memory:
    """Bytes with what stood in them before the call."""

    def __init__(self, data: Array) -> None:
        self.bytes = data
        self.before = data.copy()

    def view(self, layout: Layout, offset: int) -> Array:
        """An array in it whose lowest byte has this offset."""
        return np.ndarray(layout.shape, layout.dtype, self.bytes, offset + layout.before, layout.strides)


# Most arrays fit; a larger one gets a block of its own.
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
        data = whole[whole.size - size :] if chance(rng, 0.7) else whole[:size]
    data[...] = rng.integers(0, 256, size, np.uint8) if chance(rng, 0.5) else 0xFF
    return data


def put(rng: Rng, memories: list[Memory], array: Array, block: int, repeats: bool = True) -> Array:
    """A view of these values somewhere in a memory of its own, which joins the others; see `make_layout`.

    With `repeats`, the array takes what stands there in the end.
    """
    layout = make_layout(rng, array.shape, block, array.dtype, repeats)
    low = edge(rng, array.itemsize)
    memory = Memory(make_bytes(rng, low + layout.size + edge(rng, array.itemsize), len(memories)))
    memories.append(memory)
    view = memory.view(layout, low)
    view[...] = array
    array[...] = view
    memory.before = memory.bytes.copy()
    return view


def edge(rng: Rng, itemsize: int) -> int:
    """Bytes before or after an array in its memory."""
    steps = int(pick(rng, (0, 0, 1, rng.integers(1, 20), 64 // itemsize)))
    return itemsize * steps + pick(rng, (0, 0, 0, 1, itemsize // 2))


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
    dtype = problem.arrays[operation.base].dtype
    block = len(shape.block)
    layouts: dict[str, Layout] = {}
    for name, kind in operation.arrays.items():
        if problem.arrays[name] is None:
            continue
        own = problem.arrays[name].dtype
        # Parameters of 16 bits say what their gradients are rounded to.
        is_free = name not in operation.of_base_dtype and not (is_narrow(dtype) and kind == PARAMETER)
        if is_free and chance(rng, 0.07):
            own = np.dtype(np.float32 if own == np.float64 else np.float64)
        own = own.newbyteorder() if chance(rng, 0.1) else own
        layouts[name] = make_layout(rng, shape.of(kind), 0 if kind == PARAMETER else block, own, True)
    together: dict[str, int] = {}  # in one memory: {name: offset}
    if with_out:
        places.overlap = pick(rng, OVERLAPS, [0.4, 0.15, 0.05, 0.1, 0.1, 0.15, 0.05])
        places.overlap, together = overlap(rng, places.overlap, operation, shape, layouts, dtype)
    if "residual_out" in operation.options and chance(rng, 0.7):
        twin = pick(rng, ("x", "residual", ""))  # it may be one of these, unless out is there too
        if twin and not together and 0 not in layouts[twin].strides and layouts[twin].dtype == dtype:
            layouts["residual_out"] = layouts[twin]
            together = {twin: 0, "residual_out": 0}
        else:
            layouts["residual_out"] = make_layout(rng, shape.of(ROWS), block, dtype, False)
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
    target = pick(rng, alike) if alike else ""
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
            shift += pick(rng, (0, 0, 0, 1))
        return kind, {target: 0, "out": shift * pick(rng, (1, -1))}
    layouts["out"] = make_layout(rng, shape.of(ROWS), block, dtype.newbyteorder() if chance(rng, 0.1) else dtype, False)
    if kind not in ("anywhere", "all"):
        return "none", {}
    # What is read as float64 where float32 was written may be more than float32 holds, and refused.
    kept = [name for name in layouts if layouts[name].dtype.itemsize <= dtype.itemsize]
    names = [name for name in kept if kind == "all" or name == "out" or chance(rng, 0.5)]
    room = max(layouts[name].size for name in names)
    step = dtype.itemsize if chance(rng, 0.8) else 1
    return kind, {name: step * int(rng.integers(0, room // step + 2)) for name in names}
