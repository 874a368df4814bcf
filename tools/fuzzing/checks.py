"""What is checked of a case."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

import fastln

from . import Array, forget_streaming, long_double_suffices, set_min_parallel_bytes, set_stream_bytes
from .calls import Case
from .operations import OPERATIONS, PARAMETER, FindingError, Operation


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


@contextmanager
def on_isa(isa: str) -> Iterator[None]:
    """The instruction set, for a while."""
    before = fastln.get_isa()
    fastln.set_isa(isa)
    try:
        yield
    finally:
        fastln.set_isa(before)


@contextmanager
def refusal_of(names: str) -> Iterator[None]:
    """What is within must raise an error that says in one line what is wrong with one of these, a pattern."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not re.fullmatch(rf"({names}) must .+, got .*", str(error)):
            raise FindingError(f"the message is {error}") from None
    else:
        raise FindingError("no error")


def as_tuple(result: Any) -> tuple[Any, ...]:
    """One result or several as a tuple."""
    return tuple(result) if isinstance(result, tuple) else (result,)


def bits_differ(a: Array, b: Array) -> Array:
    """Where two arrays of one dtype and size have other bits, flat. A NaN is a NaN, whatever its payload."""
    a, b = (np.ascontiguousarray(one).reshape(-1) for one in (a, b))
    unsigned = f"u{a.itemsize}"
    return np.flatnonzero((a.view(unsigned) != b.view(unsigned)) & ~(np.isnan(a) & np.isnan(b)))


def check_results(found: tuple[Any, ...], expected: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> None:
    """Plain native arrays of the expected bits and shapes."""
    for number, (one, right, shape) in enumerate(zip(found, expected, shapes, strict=True)):
        if right is None or one is None:
            if one is not right:
                raise FindingError(f"result {number} is {one!r:.60} instead of {right!r:.60}")
            continue
        if type(one) is not np.ndarray or one.dtype != right.dtype or one.shape != shape:
            raise FindingError(
                f"result {number} is {type(one)}, {one.dtype}, {one.shape} "
                f"instead of an ndarray, {right.dtype}, {shape}"
            )
        differ = bits_differ(one, right)
        if len(differ):
            at = differ[0]
            raise FindingError(
                f"result {number} has other bits in {len(differ)} of {one.size} elements, "
                f"first {at}: {one.reshape(-1)[at]!r} instead of {right.reshape(-1)[at]!r}"
            )


def check_memory(case: Case, results: dict[str, Array]) -> None:
    """No byte differs from before, but those of the elements of buffers, which are the expected results."""
    views = case.places.views
    for memory in case.places.memories:
        first = memory.bytes.ctypes.data
        inside = {name: view for name, view in views.items() if np.may_share_memory(view, memory.bytes)}
        expected = memory.before.copy()
        for name, result in results.items():
            if name not in inside:
                continue
            out = views[name]
            at = np.ndarray(out.shape, out.dtype, expected, out.ctypes.data - first, out.strides)
            at[...] = result.reshape(out.shape)
        differ = np.flatnonzero(expected != memory.bytes)
        if len(differ):
            where = ", ".join(f"{name} from byte {view.ctypes.data - first}" for name, view in inside.items())
            raise FindingError(
                f"{len(differ)} of {memory.bytes.size} bytes of a memory are not as they should be, "
                f"{differ[0]} to {differ[-1]}; it holds {where or 'nothing'}"
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
        if kind != PARAMETER and among is not None and len(bits_differ(alone, among[row : row + 1])):
            raise FindingError(f"row {row} alone has other bits than among the others")


# The largest errors that were seen, in units of what is promised.
LARGEST: dict[tuple[str, str], tuple[float, int]] = {}


def run_plain(case: Case, operation: Operation) -> tuple[Any, ...]:
    """The call on contiguous copies, one row after the other on one thread, judged."""
    options = {name: case.arguments[name] for name in ("eps", "output_mask") if name in operation.options}
    expected = as_tuple(operation.plain(**case.problem.arrays, **options, num_threads=1))
    too_large = []
    dtype = case.problem.arrays[operation.base].dtype
    for result, error in operation.judge(case.problem, expected) if long_double_suffices(dtype) else ():
        key = result, dtype.name
        LARGEST[key] = max(LARGEST.get(key, (0.0, 0)), (error, case.number))
        if not error <= 1:
            too_large.append(f"the error of {result} is {error:.3g} times what is promised")
    if too_large:
        raise FindingError(", ".join(too_large))
    if case.shape.rows > 1:
        check_alone(case, operation, expected, case.number % case.shape.rows)
    return expected


def run_wrong(case: Case, operation: Operation) -> None:
    """A call with a wrong argument says so, in one line that names it, and writes nothing."""
    value = case.arguments[case.wrong]
    before = value.tobytes() if isinstance(value, np.ndarray) else None
    with refusal_of(case.wrong), settings(case.min_parallel_bytes, case.stream_bytes):
        operation.call(**case.arguments)
    if before is not None and value.tobytes() != before:
        raise FindingError("the wrong argument was written to")
    check_memory(case, {})


def run_right(case: Case, operation: Operation) -> None:
    """A call gives the bits of the plain one, and touches nothing else."""
    expected = run_plain(case, operation)
    shapes = [case.shape.of(kind) for kind in operation.results]
    given = {place: case.arguments.get(name) for place, name in enumerate(("out", "residual_out"))}
    given = {place: out for place, out in given.items() if out is not None}
    fresh = [place for place in range(len(shapes)) if place not in given]
    with settings(case.min_parallel_bytes, case.stream_bytes):
        for found in call_together(case, operation):
            check_results(*(tuple(results[place] for place in fresh) for results in (found, expected, shapes)))
            if any(found[place] is not out for place, out in given.items()):
                raise FindingError("a result is not the buffer that was given")
    views = {place: case.places.views[("out", "residual_out")[place]] for place in given}
    written = {place: with_nans_of(expected[place], view) for place, view in views.items()}
    check_memory(case, {("out", "residual_out")[place]: result for place, result in written.items()})


def call_together(case: Case, operation: Operation) -> list[tuple[Any, ...]]:
    """The results of the call, or of several callers at the same time."""
    if case.callers == 1:
        return [as_tuple(operation.call(**case.arguments))]
    with ThreadPoolExecutor(case.callers) as pool:
        jobs = [pool.submit(operation.call, **case.arguments) for _ in range(case.callers)]
        return [as_tuple(job.result()) for job in jobs]


def with_nans_of(expected: Array, out: Array) -> Array:
    """The expected result, but with out's NaNs where both have one: their payload means nothing."""
    plain = np.array(out, expected.dtype, order="C").reshape(expected.shape)
    return np.where(np.isnan(expected) & np.isnan(plain), plain, expected)


def run_case(case: Case) -> None:
    """Everything about a case; a FindingError if something is wrong."""
    operation = OPERATIONS[case.name]
    with on_isa(case.isa):
        (run_wrong if case.wrong else run_right)(case, operation)
