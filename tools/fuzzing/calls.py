"""The call of a case: its arguments, right or wrong, and the settings it is made under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import fastln

from . import FLOATS, OTHER_DTYPES, Array, Rng, chance, is_narrow, pick
from .memory import Places, place
from .operations import OPERATIONS, PARAMETER, ROWS, SHARES, STATS, Operation, Problem
from .values import Shape, make_shape, make_values


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


def spell(rng: Rng, view: Array, alone: bool, is_converted: bool) -> Any:
    """The array itself, or something that stands for it."""
    kind = pick(rng, ("itself", "subclass", "read-only", "__array__", "list"), [0.85, 0.05, 0.04, 0.03, 0.03])
    if kind == "subclass":
        return view.view(Subclass)
    if kind == "read-only" and alone:
        frozen = view.view()
        frozen.flags.writeable = False
        return frozen
    if kind == "__array__":
        return WithArray(view)
    # Lists are of float64, and those of parameters have gradients of more than 16 bits.
    may_be_list = view.dtype == np.float64 or (is_converted and not is_narrow(view.dtype))
    if kind == "list" and view.size and view.size < 1000 and may_be_list:
        return view.tolist()
    return view


def spell_shape(rng: Rng, block: tuple[int, ...]) -> Any:
    """normalized_shape in one of its spellings."""
    spellings: list[Any] = [block, list(block), tuple(np.int64(size) for size in block)]
    if len(block) == 1:
        spellings += [None, None, block[0], np.int32(block[0])]
    return pick(rng, spellings)


# Wrong arguments


def wrong_arrays(rng: Rng, a: Array, required: bool, is_x: bool) -> list[Any]:
    """What cannot stand for an array of floats of this shape."""
    wrong: list[Any] = [np.zeros(a.shape, pick(rng, OTHER_DTYPES)) for _ in range(3)]
    wrong += [np.ma.masked_array(np.zeros(a.shape, "f4")), "word", object(), {}, True, 3, [[1.0], [1.0, 2.0]]]
    wrong += [np.zeros((), a.dtype), 1.0]  # of its dtype: another one's might not hold what the other arguments have
    if required:
        wrong.append(None)
    if not is_x:
        longer = tuple(size + (axis == 0) for axis, size in enumerate(a.shape))
        wrong += [np.zeros((*a.shape, 2), "f4"), np.zeros(longer, "f8"), np.zeros((1, *a.shape), "f4")]
    return wrong


def wrong_outs(rng: Rng, x: Array) -> list[Any]:
    """What cannot take the result for x."""
    native = x.dtype.newbyteorder("=")
    frozen = np.zeros(x.shape, native)
    frozen.flags.writeable = False
    wrong: list[Any] = [np.zeros(x.shape, pick(rng, OTHER_DTYPES)), frozen]
    other = pick(rng, [dtype for dtype in FLOATS if dtype != native])
    wrong += [np.zeros(x.shape, other), np.ma.masked_array(np.zeros(x.shape, native)), frozen]
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
    "output_mask": [None, True, (True,), (True,) * 4, "abc", {}, object()],
    "weight_offset": [float("nan"), float("inf"), 10**400, None, "1", True, np.ones(1), object()],
    "cast": ["bert", True, 1, np.float16, np.array(["llama"]), object()],
    "normalized_shape": [(), 0, -8, 2**64 + 8, 8.0, "8", (8.0,), ("8",), (None,), ((8,),), {8: 8}, 8j, True, object()],
}


def spoil_call(rng: Rng, operation: Operation, shape: Shape, arguments: dict[str, Any], views: dict[str, Array]) -> str:
    """Replaces one of the arguments by a wrong one; its name."""
    names = [*operation.arrays, "num_threads", "normalized_shape", *operation.options, *operation.others]
    name = pick(rng, names)
    if name in operation.arrays:
        view = views.get(name)
        like = view if view is not None else np.zeros(shape.of(operation.arrays[name]))
        wrong = wrong_arrays(rng, like, name not in operation.optional, name == operation.base)
    elif name in ("out", "residual_out"):
        wrong = wrong_outs(rng, views[operation.base])
    elif name == "eps" and operation.others:  # of RMS norm None is right
        wrong = [value for value in WRONG[name] if value is not None]
    elif name == "output_mask":
        wrong = [*WRONG[name], (1,) * len(operation.results), (None,) * len(operation.results)]
    else:
        wrong = WRONG[name]
    arguments[name] = pick(rng, wrong)
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
            lines.append(
                f"  {name}: {type(self.arguments[name]).__name__}, {view.dtype.str} {view.shape}, "
                f"strides {view.strides}, address {view.ctypes.data % 64} mod 64"
            )
        lines.append(f"  overlap of out: {self.places.overlap}")
        lines.append(f"  { ({name: a for name, a in self.arguments.items() if name not in self.places.views}) }")
        lines.append(
            f"  threads from {self.min_parallel_bytes} bytes on, streaming from {self.stream_bytes}, "
            f"{self.callers} callers"
        )
        if self.wrong:
            lines.append(f"  wrong on purpose: {self.wrong} = {self.arguments[self.wrong]!r:.200}")
        return "\n".join(lines)


def make_case(seed: int, number: int) -> Case:
    """The case of a seed and a number."""
    rng = np.random.default_rng([seed, number])
    shares = np.array([SHARES.get(name, 1) for name in OPERATIONS], float)
    name = pick(rng, list(OPERATIONS), shares / shares.sum())
    operation = OPERATIONS[name]
    shape = make_shape(rng)
    problem = make_values(rng, operation, shape, pick(rng, FLOATS))
    mask = tuple(chance(rng, 0.75) for _ in operation.results) if "output_mask" in operation.options else (True,)
    with_out = "out" in operation.options and mask[0] and chance(rng, 0.7)
    places = place(rng, operation, shape, problem, with_out)
    fill(operation, shape, problem, places)
    arguments = make_arguments(rng, operation, shape, problem, places, mask)
    case = Case(
        number=number,
        name=name,
        isa=pick(rng, fastln.available_isas()),
        shape=shape,
        problem=problem,
        places=places,
        arguments=arguments,
        min_parallel_bytes=pick(rng, (0, 0, 1000, 1 << 20)),
        stream_bytes=pick(rng, (0, 0, 1000, None)),
        callers=3 if not with_out and "residual_out" not in places.views and chance(rng, 0.05) else 1,
    )
    if chance(rng, 0.2):
        case.wrong = spoil_call(rng, operation, shape, arguments, places.views)
    return case


def make_arguments(
    rng: Rng, operation: Operation, shape: Shape, problem: Problem, places: Places, mask: tuple[bool, ...]
) -> dict[str, Any]:
    """Arguments by name, all of them right."""
    views, is_apart = places.views, places.overlap == "none"
    fixed = operation.of_base_dtype
    arguments: dict[str, Any] = {
        name: spell(rng, views[name], is_apart, name not in fixed) if name in views else None
        for name in operation.arrays
    }
    if "residual_out" in views:
        arguments["residual_out"] = views["residual_out"]
    arguments["normalized_shape"] = spell_shape(rng, shape.block)
    arguments["num_threads"] = pick(rng, (None, 1, 2, 3, 7, np.int64(2)))
    if "eps" in operation.options:
        arguments["eps"] = problem.eps
    if "output_mask" in operation.options:
        arguments["output_mask"] = mask
    arguments |= {name: pick(rng, values) for name, values in operation.others.items()}
    if "out" in views:
        twins = [name for name in operation.arrays if name in views and is_same(views[name], views["out"])]
        out = views["out"]
        if twins and chance(rng, 0.5):  # not only the same memory: the same object
            out = arguments[twins[0]] = views[twins[0]]
        arguments["out"] = out.view(Subclass) if chance(rng, 0.03) else out
    return arguments


def is_same(a: Array, b: Array) -> bool:
    """The same elements of the same memory."""
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)


def fill(operation: Operation, shape: Shape, problem: Problem, places: Places) -> None:
    """Writes the values into their places, and takes back what stands there then: places may repeat or overlap.

    The statistics are those of x, unless something else lies over them.
    """
    flat = {ROWS: (shape.rows, shape.cols), STATS: (shape.rows, 1), PARAMETER: (shape.cols,)}

    def values_of(name: str) -> Array:
        dtype = problem.arrays[name].dtype
        return np.array(places.views[name], dtype, order="C").reshape(flat[operation.arrays[name]])

    def write(names: list[str]) -> None:
        for name in names:
            places.views[name][...] = problem.arrays[name].reshape(shape.of(operation.arrays[name]))

    present = [name for name in operation.arrays if name in places.views]
    write([name for name in present if operation.arrays[name] != STATS])
    if operation.statistics:
        problem.arrays.update(operation.statistics(values_of(operation.base), problem.eps))
        write([name for name in present if operation.arrays[name] == STATS])
    problem.arrays.update({name: values_of(name) for name in present})
    for memory in places.memories:
        memory.before = memory.bytes.copy()
