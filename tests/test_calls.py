"""What operations take and give back, and how they refuse what is wrong."""

from __future__ import annotations

import inspect
import itertools
import pydoc
import sys
from fractions import Fraction

import numpy as np
import pytest
from arguments import (
    STATS,
    array,
    assert_keeps_no_reference,
    assert_refused,
    bad_values,
    call_often,
    call_with,
    counts_references,
    good_call,
)
from helpers import assert_all_same_bits, assert_same_bits, keeps_no_memory
from layouts import LAYOUTS, VIEWS, WRITABLE_LAYOUTS, WithArray, in_layout
from operations import MIXED, OPERATIONS, Kind
from regimes import EDGE_COLS, computed

import fastln

pytestmark = pytest.mark.once_per_width

LABEL = "mean 10"


# Shapes


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_normalized_shape_of_every_rank(operation, absent, rank, dtype):
    whole = (2, 3, 4, 5)
    leading, shape = whole[: 4 - rank], whole[4 - rank :]
    size = int(np.prod(shape))
    flat = operation.make(LABEL, 120 // size, size, dtype, absent)
    expected = operation.reshaped(operation(**flat), leading, shape)
    shaped = operation.reshaped(flat, leading, shape)
    for spelling in (shape, list(shape)):
        assert_all_same_bits(operation(**shaped, normalized_shape=spelling), expected)


@pytest.mark.parametrize("shape", [None, 5, (5,), [5], np.int64(5), (np.int32(5),)], ids=repr)
def test_the_last_dimension_in_every_spelling(operation, shape):
    arguments = operation.reshaped(operation.make(LABEL, 12, 5, np.float32), (3, 4), (5,))
    expected = operation(**arguments, normalized_shape=(5,))
    assert_all_same_bits(operation(**arguments), expected)
    assert_all_same_bits(operation(**arguments, normalized_shape=shape), expected)


def test_one_dimension(operation, dtype):
    arguments = operation.make(LABEL, 1, 9, dtype)
    found = operation(**operation.reshaped(arguments, (), (9,)))
    assert_all_same_bits(found, operation.reshaped(operation(**arguments), (), (9,)))


def test_results_are_new_plain_arrays_of_the_dtype_of_x(operation, dtype):
    arguments = operation.make(LABEL, 3, 8, dtype)
    results = operation(**arguments)
    assert list(results) == list(operation.results)
    for name, result in results.items():
        assert type(result) is np.ndarray
        assert result.dtype == operation.result_dtype(name, dtype)
        assert result.shape == operation.results[name].shape((3,), (8,))
        assert result.flags.writeable
        assert result.flags.c_contiguous
        assert not any(np.shares_memory(result, given) for given in arguments.values())
    assert not any(np.shares_memory(*pair) for pair in itertools.combinations(results.values(), 2))


def test_what_is_masked_off_is_none(operation, mask, dtype):
    arguments = operation.make(LABEL, 5, 24, dtype)
    expected = operation(**arguments)
    for spelling in (mask, list(mask)):
        found = getattr(fastln, operation.name)(**arguments, output_mask=spelling)
        assert [one is not None for one in found] == list(mask)
        for one, other in zip(found, expected.values(), strict=True):
            if one is not None:
                assert_same_bits(one, other)


@pytest.mark.once_per_kernel
@pytest.mark.parametrize("shape", [(0, 8), (0,) * 3 + (8,), (3, 0, 8), (0, 3, 8)], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_no_rows_give_empty_results_and_sums_of_zero(operation, rank, shape, dtype):
    rank = 1 if 0 in shape[len(shape) - rank :] else rank
    leading, normalized = shape[: len(shape) - rank], shape[len(shape) - rank :]
    arguments = {name: np.ones(kind.shape(leading, normalized), dtype) for name, kind in operation.arguments.items()}
    masks = operation.masks or [(True,) * len(operation.results)]
    for mask in masks:
        options = {"output_mask": mask} if operation.has_mask else {}
        found = operation(**arguments, normalized_shape=normalized, **options)
        assert list(found) == list(itertools.compress(operation.results, mask))
        for name, one in found.items():
            shape = operation.results[name].shape(leading, normalized)
            assert_same_bits(one, np.zeros(shape, operation.result_dtype(name, dtype)))
    for name, buffer in itertools.product(operation.in_place, operation.buffers):
        operation.in_the_place_of(name, arguments, buffer, normalized_shape=normalized)


@pytest.mark.parametrize("moves", [(0, 1, 2, 3), (1, 0, 2, 3), (2, 0, 1, 3), (3, 2, 1, 0), (0, 2, 3, 1)], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_transposed_dimensions(operation, rank, moves, dtype):
    shape = (2, 3, 4, 17)
    data = operation.data(LABEL, 24, 17, dtype)
    moved = tuple(shape[i] for i in moves)
    leading, normalized = moved[: 4 - rank], moved[4 - rank :]
    arguments = operation.make(LABEL, int(np.prod(leading)), int(np.prod(normalized)), dtype)
    arguments = operation.reshaped(arguments, leading, normalized)
    rows = {name: data[name].reshape(shape).transpose(moves) for name in rows_named(operation)}
    expected = operation(**arguments | {name: a.copy() for name, a in rows.items()}, normalized_shape=normalized)
    assert_all_same_bits(operation(**arguments | rows, normalized_shape=normalized), expected)


def rows_named(operation):
    """Names of the arguments that have a number for each element of x."""
    return [name for name, kind in operation.arguments.items() if kind is Kind.ROWS]


def test_many_dimensions(operation, dtype):
    arguments = operation.make(LABEL, 64, 3, dtype)
    shaped = operation.reshaped(arguments, (1, 2) * 6, (3,))
    given = {name: value[:, ::-1] if name in operation.by_row else value for name, value in shaped.items()}
    expected = operation(**{name: value.copy() for name, value in given.items()})
    assert_all_same_bits(operation(**given), expected)


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_arguments(operation, layout, dtype, always_parallel):
    for rows, cols in ((6, 1), (6, 3), (6, 16), (6, 65), (40, 130), (1, 24)):
        arguments = operation.make(LABEL, rows, cols, dtype)
        expected = operation(**arguments)
        for names in (*((name,) for name in arguments), rows_named(operation), tuple(arguments)):
            given = {name: in_layout(layout, a) if name in names else a for name, a in arguments.items()}
            assert_all_same_bits(operation(**given, num_threads=2), expected, f"{rows}x{cols}, {names}")


@pytest.mark.once_per_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_arguments_of_two_normalized_dimensions(operation, argument, layout, dtype):
    arguments = operation.reshaped(operation.make(LABEL, 5, 24, dtype), (5,), (4, 6))
    expected = operation(**arguments, normalized_shape=(4, 6))
    shape = arguments[argument].shape
    given = in_layout(layout, arguments[argument].reshape(-1, shape[-1]))
    if isinstance(given, WithArray):
        given = WithArray(given.array.reshape(shape))
    elif given.ndim < len(shape):
        given = given.reshape(shape)
    assert_all_same_bits(operation(**{**arguments, argument: given}, normalized_shape=(4, 6)), expected)


@pytest.mark.once_per_kernel
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_layouts_of_out(operation, layout, dtype):
    for cols in (1, 3, 16, 65, 130):
        arguments = operation.make(LABEL, 6, cols, dtype)
        found = operation.into(LAYOUTS[layout], arguments)
        assert_all_same_bits(plain(operation, found), operation(**arguments))


def plain(operation, results):
    """The same results, those in buffers of whatever layout as plain arrays."""
    written = {name: results[name] for name in operation.buffers.values()}
    return results | {name: np.array(one, one.dtype.newbyteorder("=")) for name, one in written.items()}


@pytest.mark.once_per_kernel
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_layouts_in_place(operation, replaced, buffer, layout, dtype):
    arguments = operation.make(LABEL, 6, 33, dtype)
    expected = operation(**arguments)
    found = operation.in_the_place_of(replaced, {**arguments, replaced: LAYOUTS[layout](arguments[replaced])}, buffer)
    assert_all_same_bits(plain(operation, found), expected)


def copies(arguments):
    """The same in memory of their own."""
    return {name: value.copy() for name, value in arguments.items()}


@pytest.mark.parametrize("cols", [1, 8, 33])
def test_broadcast_arguments(operation, cols, dtype):
    data = operation.data(LABEL, 40, cols, dtype)
    rows = rows_named(operation)
    for names in (*((name,) for name in rows), rows):
        for part in (np.s_[:1], np.s_[:, :1], np.s_[:1, :1]):
            given = operation.complete(
                {**data, **{name: np.broadcast_to(data[name][part], (40, cols)) for name in names}}
            )
            assert_all_same_bits(operation(**given), operation(**copies(given)))
    arguments = operation.make(LABEL, 40, cols, dtype)
    for name in set(arguments) - set(rows):
        given = {**arguments, name: np.broadcast_to(arguments[name][:1], arguments[name].shape)}
        assert_all_same_bits(operation(**given), operation(**copies(given)))


def test_overlapping_rows_of_arguments(operation, dtype):
    arguments = operation.make(LABEL, 34, 17, dtype)
    for names in (*((name,) for name in rows_named(operation)), rows_named(operation)):
        given = dict(arguments)
        for name in names:
            given[name] = np.lib.stride_tricks.sliding_window_view(arguments[name].reshape(-1)[:50], 17)
        assert_all_same_bits(operation(**given), operation(**copies(given)))


def test_memmap(operation, tmp_path, dtype):
    arguments = operation.make(LABEL, 6, 40, dtype)
    expected = operation(**arguments)
    arguments[operation.base].tofile(tmp_path / "x")
    mapped = {**arguments, operation.base: np.memmap(tmp_path / "x", dtype, "r", shape=(6, 40))}
    assert_all_same_bits(operation(**mapped), expected)
    written = np.memmap(tmp_path / "y", dtype, "w+", shape=(6, 40))
    assert operation(**mapped, out=written)[operation.result] is written
    written.flush()
    assert_same_bits(np.fromfile(tmp_path / "y", dtype).reshape(6, 40), expected[operation.result])


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrix(operation, dtype):
    arguments = operation.make(LABEL, 3, 4, dtype)
    rows = {name: np.matrix(arguments[name]) for name in rows_named(operation)}
    assert_all_same_bits(operation(**arguments | rows), operation(**arguments))


def test_nested_lists_are_float64(operation):
    arguments = operation.make(LABEL, 3, 4, np.float64)
    lists = {name: value.tolist() for name, value in arguments.items()}
    assert_all_same_bits(operation(**lists), operation(**arguments))
    tuples = {name: tuple(value) if isinstance(value[0], float) else value for name, value in lists.items()}
    assert_all_same_bits(operation(**tuples, normalized_shape=4), operation(**arguments))


def test_arguments_of_the_other_precision_are_converted(operation, argument, dtype):
    if argument == operation.base or argument in operation.like_base:
        pytest.skip("decides the precision, or has that of what does")
    other = np.dtype("float32" if dtype == "float64" else "float64")
    arguments = operation.make(LABEL, 40, 19, dtype)
    arguments[argument] = arguments[argument].astype(other)
    if other == "float64":
        arguments[argument] += arguments[argument] * 2.0**-40  # what the conversion rounds off
    to = dtype if operation.arguments[argument] is Kind.ROWS else computed(dtype)
    expected = operation(**{**arguments, argument: arguments[argument].astype(to)})
    assert_all_same_bits(operation(**arguments), expected)


@pytest.mark.parametrize(
    "eps",
    [0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5), Fraction(1, 2)],
    ids=lambda e: type(e).__name__,
)
def test_eps_may_be_any_real_number(operation, eps):
    if not operation.takes_eps:
        pytest.skip("has no eps")
    arguments = operation.make("normal", 4, 19, np.float32)
    assert_all_same_bits(operation(**arguments, eps=eps), operation(**arguments, eps=0.5))
    assert_all_same_bits(operation(**arguments, eps=1), operation(**arguments, eps=1.0))


# Names


def test_help_names_all_arguments_and_results(operation):
    text = pydoc.plain(pydoc.render_doc(getattr(fastln, operation.name)))
    results = [name for name in operation.results if len(operation.results) > 1]
    words = [*good_call(operation), *results, "float32"]
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    "name",
    [
        *OPERATIONS,
        "set_num_threads",
        "get_num_threads",
        "threads",
        "set_isa",
        "get_isa",
        "available_isas",
        "show_config",
    ],
)
def test_every_public_function_has_a_signature_and_a_docstring(name):
    public = getattr(fastln, name)
    assert inspect.signature(public) is not None
    assert len(inspect.getdoc(public)) > 20
    assert name in pydoc.plain(pydoc.render_doc(public))


def test_every_argument_has_a_name_and_those_of_arrays_a_place(operation):
    arguments = operation.make(LABEL, 3, 5, np.float32)
    out = np.empty_like(arguments[operation.base])
    options = {name: value for name, value in good_call(operation).items() if name not in arguments}
    options |= {name: np.empty_like(out) for name in operation.buffers}
    by_name = operation(**arguments, **options | {"normalized_shape": 5, "out": out})
    assert by_name[operation.result] is out
    assert_all_same_bits(by_name, operation(**arguments))


# Kernels: which one runs is no matter


def test_operations_of_one_kernel_give_the_same_bits(operation, absent, dtype, isa, always_parallel):
    if operation.kernel is None:
        pytest.skip("has a kernel of its own")
    for rows, cols in ((1, 65553), *((38, cols) for cols in EDGE_COLS)):
        arguments = operation.make(MIXED, rows, cols, dtype, absent)
        expected = OPERATIONS[operation.kernel](**arguments, num_threads=1)
        for threads in (1, 2, 3, 7):
            found = operation(**arguments, num_threads=threads)
            assert_all_same_bits(found, {name: expected[name] for name in found}, f"D={cols}, threads={threads}")


# Overlap: as if there were none


def place(memory, start, values):
    """A copy of values in a flat array, from an index on."""
    start *= memory.itemsize
    view = memory.view(np.uint8)[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


@pytest.mark.once_per_kernel
@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (3, 5), (3, 16), (33, 1), (33, 17)], ids=str)
def test_a_buffer_may_overlap_every_argument_in_every_way(operation, argument, buffer, shape, dtype, always_parallel):
    rows, cols = shape
    arguments = operation.make(LABEL, rows, cols, dtype)
    expected = operation(**arguments)
    size, room = rows * cols, arguments[argument].nbytes // dtype.itemsize
    shifts = range(size + room + 1)
    if size > 200:
        near = (0, 1, cols, room - 1, room, room + 1, size - 1, size, size + 1, size + room - cols, size + room)
        shifts = sorted(shift for shift in {*near} if 0 <= shift <= size + room)
    for shift in shifts:
        memory = np.zeros(size + 2 * room, dtype)
        out = memory[room : room + size].reshape(rows, cols)
        given = {**arguments, argument: place(memory, shift, arguments[argument])}
        found = operation(**given, **{buffer: out}, num_threads=2)
        assert found[operation.buffers[buffer]] is out
        assert_all_same_bits(found, expected, f"{shift - room} elements after out")


@pytest.mark.once_per_kernel
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("side", [1, 4, 17, 40])
def test_a_buffer_may_be_another_view_of_an_argument(operation, replaced, buffer, side, view, dtype, always_parallel):
    arguments = operation.make(LABEL, side, side, dtype)
    expected = operation(**arguments)
    out = VIEWS[view](arguments[replaced])
    found = operation(**arguments, **{buffer: out}, num_threads=2)
    assert found[operation.buffers[buffer]] is out
    assert_all_same_bits(plain(operation, found), expected)


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_a_buffer_may_interleave_with_an_argument(operation, replaced, buffer, gap, dtype, always_parallel):
    arguments = operation.make(LABEL, 8, 20, dtype)
    expected = operation(**arguments)
    memory = np.zeros((12, 20 + gap), dtype)
    one_row_down = memory[:8, :20], memory[4:, gap : 20 + gap]
    memory = np.zeros((8, 40), dtype)
    beside = memory[:, :20], memory[:, 20:]  # same rows, no byte shared
    for given, out in (one_row_down, beside):
        given[...] = arguments[replaced]
        found = operation(**{**arguments, replaced: given}, **{buffer: out}, num_threads=3)
        assert_all_same_bits(plain(operation, found), expected)


@pytest.mark.parametrize("rows", [1, 5])
def test_arguments_may_be_one_array(operation, rows, dtype):
    arguments = operation.make("normal", rows, 5, dtype)
    x = arguments[operation.base]
    same = {Kind.ROWS: x, Kind.COLS: x[0]}
    given = {name: same.get(kind, arguments[name]) for name, kind in operation.arguments.items()}
    expected = operation(**copies(given))
    assert_all_same_bits(operation(**given), expected)
    for buffer in operation.buffers:
        own = x.copy()
        same = {Kind.ROWS: own, Kind.COLS: own[0]}
        given = {name: same.get(kind, arguments[name]) for name, kind in operation.arguments.items()}
        assert_all_same_bits(operation(**given, **{buffer: own}), expected)


# Bad calls

BAD_CALLS = [
    pytest.param(operation, name, make, error, id=f"{operation}, {name}: {what}")
    for operation in OPERATIONS.values()
    for name, values in bad_values(operation).items()
    for what, (make, error) in values.items()
]


def bad_calls(wanted=lambda operation, name: True):
    """Run a test for each bad argument of the operations that are wanted."""
    wanted_calls = [param for param in BAD_CALLS if wanted(*param.values[:2])]
    return pytest.mark.parametrize(("function", "name", "make", "error"), wanted_calls)


def test_the_good_call_is_good(operation):
    found = operation(**good_call(operation))
    expected = [kind.shape(STATS[:-1], (8,)) for kind in operation.results.values()]
    assert [one.shape for one in found.values()] == expected


@bad_calls()
def test_bad_calls_name_the_argument_and_touch_nothing(function, name, make, error):
    assert_refused(function, call_with(function, name, make()), name, error)


@bad_calls(lambda operation, name: operation.has_mask and name != "output_mask")
def test_bad_calls_are_refused_whatever_is_masked_off(function, name, make, error):
    value = make()
    for mask in function.masks:
        arguments = {**call_with(function, name, value), "output_mask": mask}
        if not mask[0]:
            if name == "out":
                continue
            arguments["out"] = None
        assert_refused(function, arguments, name, error)


def test_out_is_refused_where_its_result_is_masked_off(operation, mask):
    if not mask[0]:
        assert_refused(operation, {**good_call(operation), "output_mask": mask}, "out", ValueError)


def test_there_are_enough_bad_calls(operation):
    assert sum(param.values[0] is operation for param in BAD_CALLS) >= 100


def test_wrong_dtypes_are_told_what_is_accepted(operation, argument):
    arguments = good_call(operation)
    with pytest.raises(TypeError, match=rf"^{argument} must .*float32.*float64.*, got .*int64"):
        operation(**{**arguments, argument: np.ones(arguments[argument].shape, np.int64)})


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        pytest.param(np.empty((3, 0)), None, id="last dimension"),
        pytest.param(np.empty((3, 0)), 0, id="int"),
        pytest.param(np.empty((3, 0, 4)), (0, 4), id="one of two"),
        pytest.param(np.empty((0, 0)), None, id="no rows either"),
        pytest.param([], None, id="empty list"),
    ],
)
def test_nothing_to_normalize_is_refused(operation, x, shape):
    stats = np.empty((len(x), 1))
    arguments = {name: {Kind.ROWS: x, Kind.STATS: stats}.get(kind) for name, kind in operation.arguments.items()}
    with pytest.raises(ValueError, match=r"^(x|s|normalized_shape) must .+, got "):
        operation(**arguments, normalized_shape=shape)


def test_bad_calls_are_refused_for_empty_input_too(operation):
    kinds = operation.arguments.items()
    good = {
        name: None if name in operation.optional else np.empty(kind.shape((0,), (8,)), "f4") for name, kind in kinds
    }
    wrong = {Kind.ROWS: array(1, 8), Kind.COLS: array(7), Kind.STATS: array(1, 1)}
    bad = {name: wrong[kind] for name, kind in kinds if name != operation.base}
    bad |= {"num_threads": 0, "normalized_shape": 7} | dict.fromkeys(operation.buffers, array(1, 8))
    bad |= {"eps": -1} if operation.takes_eps else {}
    for name, value in bad.items():
        assert_refused(operation, {**good, name: value}, name, ValueError)


def test_an_exception_of_the_argument_is_passed_on(operation, argument):
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise ZeroDivisionError("of the argument")

    with pytest.raises(ZeroDivisionError, match="of the argument"):
        operation(**{**good_call(operation), argument: Broken()})


# References: no call, good or bad, keeps or loses one to what it was given


@counts_references
@bad_calls(lambda operation, name: operation.kernel is None)
def test_bad_calls_keep_no_reference(function, name, make, error):
    assert_keeps_no_reference(getattr(fastln, function.name), call_with(function, name, make()))


@counts_references
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_out", [True, False], ids=["out", "no out"])
def test_good_calls_keep_no_reference(operation, with_out, layout):
    arguments = operation.make(LABEL, 6, 8, np.float32)
    given = {name: in_layout(layout, value) for name, value in arguments.items()}
    given |= {name: np.empty((6, 8), np.float32) if with_out else None for name in operation.buffers}
    assert_keeps_no_reference(getattr(fastln, operation.name), given)


@counts_references
def test_results_belong_to_the_caller(operation):
    found = getattr(fastln, operation.name)(**good_call(operation) | dict.fromkeys(operation.buffers))
    for result in found if type(found) is tuple else (found,):
        assert sys.getrefcount(result) <= 4  # the tuple, the loop, the call
        assert result.base is None or type(result.base) is np.ndarray


@pytest.mark.once_per_kernel
@counts_references
def test_memory_does_not_grow(operation):
    function, good = getattr(fastln, operation.name), good_call(operation)
    bad = [{name: array(7)} for name in operation.arguments if name != operation.base]
    others = [{operation.base: np.asfortranarray(good[operation.base]), "out": None}]
    others += [{"out": None, "output_mask": mask} for mask in operation.masks[3:4]]
    for changed in ({}, *bad, *others):
        arguments = good | changed
        call_often(function, arguments, 50)
        assert keeps_no_memory(lambda given=arguments: call_often(function, given, 1000))
