"""The bits of a row's result depend on that row, D, eps, parameters and dtype alone; sums over rows on all of them.

Not on the batch, the place in it, the number of threads, what memory it is in, or which ISA with fused additions ran.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_all_same_bits, assert_same_bits, at_offset, in_wider_rows, without_nan
from layouts import STRIDED
from operations import MIXED
from regimes import EDGE_COLS

import fastln

pytestmark = [pytest.mark.once_per_kernel, pytest.mark.once_per_width]

THREADS = (2, 3, 7)
BATCHES = (1, 2, 5, 7, 8, 9, 31, 32, 33, 63, 64, 65, 300)
# As many registers as short rows have, whole and cut short anywhere.
SHORT_COLS = (*range(1, 18), 23, 24, 25, 31, 32, 33, 40, 47, 48, 49, 50, 63, 64)
# Rows and columns: many short rows; long ones, which the threads share, or whose columns they do.
SHORT = [(1000, 64), (2049, 7), (5000, 5)]
LONG = [(1, 65553), (2, 65553), (20, 65553), (33, 16400), (60, 1025), (65, 2500)]


def test_a_row_alone_equals_the_row_in_a_batch(operation, absent, dtype, isa, always_parallel):
    judged = np.array([*range(40), *range(40, 300, 7)])  # rows of all regimes
    for cols in EDGE_COLS:
        arguments = operation.make(MIXED, 300, cols, dtype, absent)
        alone = operation.alone(operation.rows_of(arguments, judged))
        for rows, threads in itertools.product((1, 2, 5, 32, 33, 64, 100, 300), (1, 2)):
            batch = operation.only_by_row(operation(**operation.rows_of(arguments, slice(rows)), num_threads=threads))
            count = int((judged < rows).sum())
            found = operation.rows_of(batch, judged[:count])
            expected = operation.rows_of(alone, slice(count))
            assert_all_same_bits(found, expected, f"rows={rows}, D={cols}, threads={threads}")


@pytest.mark.parametrize("ordinary", [True, False], ids=["ordinary", "a few are not"])
def test_any_number_of_short_rows_gives_the_same_bits(operation, absent, ordinary, dtype, isa):
    """Groups of 16, 8, 4 and 1, of ordinary rows only, which mixed rows never are, and with some other among them."""
    ways = ways_through(operation)
    first_turn = operation.absences.index(absent) + ordinary
    for i, cols in enumerate(SHORT_COLS):
        data = operation.data("mean 10", 41, cols, dtype)
        if not ordinary:
            operation.change_rows(data, 3, lambda row: 1.1)
            if "huge" in operation.regimes:
                factor = dtype.type({"float64": 1e200, "float16": 3e3}.get(dtype.name, 1e30))
                operation.change_rows(data, 26, lambda row, by=factor: row * by)
        arguments = operation.complete(data) | dict.fromkeys(absent)
        alone = operation.alone(arguments)
        for rows in range(1, 41):
            start, way = divmod(first_turn + i + rows, len(ways))  # these take turns at each width and number of rows
            part = slice(start % 2, start % 2 + rows)
            found = operation.only_by_row(ways[way](operation.rows_of(arguments, part)))
            assert_all_same_bits(found, operation.rows_of(alone, part), f"rows={rows}, D={cols}, way {way}")


def ways_through(operation):
    """Calls with arguments contiguous and in wider rows, with a buffer of its own and in place."""

    def way(copy, name, buffer):
        def call(arguments):
            by_row = [key for key in operation.by_row if arguments.get(key) is not None]
            given = arguments | {key: copy(arguments[key]) for key in by_row}
            is_there = given.get(name) is not None
            return operation.in_the_place_of(name, given, buffer) if is_there else operation(**given)

        return call

    places = [(None, None), *itertools.product(operation.in_place, operation.buffers)]
    return [way(copy, *place) for copy in (np.copy, in_wider_rows) for place in places]


@pytest.mark.parametrize("rows", BATCHES)
def test_any_number_of_threads_gives_the_same_bits(operation, rows, dtype, isa, always_parallel):
    absences = itertools.islice(itertools.cycle(operation.absences), rows % 4, None)  # take turns
    for cols, absent in zip(EDGE_COLS, absences, strict=False):
        arguments = operation.make(MIXED, rows, cols, dtype, absent)
        expected = operation(**arguments, num_threads=1)
        for threads in THREADS:
            found = operation(**arguments, num_threads=threads)
            assert_all_same_bits(found, expected, f"D={cols}, threads={threads}, without {absent}")


@pytest.mark.parametrize("shape", SHORT + LONG, ids=str)
def test_long_and_short_rows_give_the_same_bits_on_any_number_of_threads(operation, shape, dtype, isa, always_parallel):
    arguments = operation.make(MIXED, *shape, dtype)
    expected = operation(**arguments, num_threads=1)
    for threads, options in itertools.product(THREADS, operation.some_masks):
        found = operation(**arguments, **options, num_threads=threads)
        assert_all_same_bits(found, {name: expected[name] for name in found}, f"threads={threads}")


@pytest.mark.parametrize("cols", [16385, 40_000, 65553])
def test_a_row_shared_by_threads_has_the_same_bits(operation, absent, cols, dtype, isa, always_parallel):
    arguments = operation.make(MIXED, 19, cols, dtype, absent)
    for row in range(19):
        one = operation.rows_of(arguments, slice(row, row + 1))
        expected = operation(**one, num_threads=1)
        for threads in THREADS:
            assert_all_same_bits(operation(**one, num_threads=threads), expected)
        for name, buffer in places_of(operation, absent):
            given = {**one, name: one[name].copy()}
            found = operation.in_the_place_of(name, given, buffer, num_threads=THREADS[row % len(THREADS)])
            assert_all_same_bits(found, expected)


def places_of(operation, absent=()):
    """Each argument that is there and in whose place a result may be, with each buffer that may be there."""
    return [place for place in itertools.product(operation.in_place, operation.buffers) if place[0] not in absent]


def test_rows_left_over_are_shared_to_the_same_bits(operation, dtype, isa, always_parallel):
    arguments = operation.make(MIXED, 11, 32769, dtype)
    alone = operation.alone(arguments)
    for rows in (2, 3, 5, 8, 11):
        part = operation.rows_of(arguments, slice(rows))
        expected = operation(**part, num_threads=1)
        assert_all_same_bits(operation.only_by_row(expected), operation.rows_of(alone, slice(rows)))
        base = operation.base
        wide = {**part, **{name: in_wider_rows(part[base]) for name in operation.buffers}}
        wide |= {base: in_wider_rows(part[base])}
        for threads, given in itertools.product((2, 3, 4, 7), (part, wide)):
            assert_all_same_bits(operation(**given, num_threads=threads), expected, f"rows={rows}, threads={threads}")


@pytest.mark.parametrize("shape", LONG, ids=str)
def test_threads_that_share_a_row_do_not_overwrite_what_others_read(
    operation, replaced, buffer, shape, dtype, isa, always_parallel
):
    arguments = operation.make(MIXED, *shape, dtype)
    expected = operation(**arguments)
    for threads in THREADS * 3:
        given = {**arguments, replaced: arguments[replaced].copy()}
        assert_all_same_bits(operation.in_the_place_of(replaced, given, buffer, num_threads=threads), expected)


def test_the_place_in_a_batch_does_not_matter(operation, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        arguments = operation.make(MIXED, 64, cols, dtype)
        expected = operation.only_by_row(operation(**arguments))
        order = np.random.default_rng(cols).permutation(64)
        shuffled = operation(**operation.rows_of(arguments, order), num_threads=3)
        assert_all_same_bits(operation.only_by_row(shuffled), operation.rows_of(expected, order), f"D={cols}")
        for start in (*range(1, 12), 31, 33):
            rest = operation(**operation.rows_of(arguments, slice(start, None)))
            assert_all_same_bits(operation.only_by_row(rest), operation.rows_of(expected, slice(start, None)))


def moved(arguments, names, elements, extra_bytes=0):
    """Arguments in new buffers; those named begin so far into theirs."""
    return {
        name: None if array is None else at_offset(array, *(elements, extra_bytes) if name in names else ())
        for name, array in arguments.items()
    }


def test_any_offset_in_a_buffer_gives_the_same_bits(operation, dtype, isa):
    for cols in EDGE_COLS:
        arguments = operation.make(MIXED, 7, cols, dtype)
        expected = operation(**arguments)
        arguments |= {name: np.empty_like(arguments[operation.base]) for name in operation.buffers}
        for names in (*((name,) for name in arguments), tuple(arguments)):
            for offset in range(17):
                found = operation(**moved(arguments, names, offset))
                assert_all_same_bits(found, expected, f"D={cols}, {names} by {offset}")


@pytest.mark.parametrize("extra_bytes", [1, 2, 3, 5, 7])
def test_misaligned_arrays_give_the_same_bits(operation, extra_bytes, dtype, isa):
    for cols in EDGE_COLS:
        arguments = operation.make(MIXED, 5, cols, dtype)
        expected = operation(**arguments)
        arguments |= {name: np.empty_like(arguments[operation.base]) for name in operation.buffers}
        assert_all_same_bits(operation(**moved(arguments, arguments, 0, extra_bytes)), expected, f"D={cols}")


def test_in_place_gives_the_same_bits(operation, absent, replaced, buffer, dtype, isa, always_parallel):
    if replaced in absent:
        pytest.skip("is not there")
    for rows, cols in itertools.product((19, 37), EDGE_COLS):
        arguments = operation.make(MIXED, rows, cols, dtype, absent)
        expected = operation(**arguments)
        for threads in (1, 3):
            given = {**arguments, replaced: arguments[replaced].copy()}
            found = operation.in_the_place_of(replaced, given, buffer, num_threads=threads)
            assert_all_same_bits(found, expected, f"D={cols}, threads={threads}")


@pytest.mark.parametrize("stride", STRIDED)
def test_rows_at_any_stride_give_the_same_bits(operation, absent, stride, dtype, isa, always_parallel):
    strided = STRIDED[stride]
    for cols in EDGE_COLS:
        arguments = operation.make(MIXED, 11, cols, dtype, absent)
        expected = operation(**arguments)
        by_row = {name: strided(arguments[name]) for name in operation.by_row if arguments.get(name) is not None}
        given = arguments | by_row
        assert_all_same_bits(operation(**given, num_threads=2), expected, f"D={cols}")
        assert_all_same_bits(operation.into(strided, given, num_threads=2), expected, f"D={cols}, into buffers")
        for name, buffer in places_of(operation, absent):
            again = {**given, name: strided(arguments[name])}
            found = operation.in_the_place_of(name, again, buffer)
            assert_all_same_bits(found, expected, f"D={cols}, {buffer} in place of {name}")


def test_one_call_after_another_gives_the_same_bits(operation, dtype, isa, always_parallel):
    arguments = operation.make(MIXED, 100, 257, dtype)
    expected = operation(**arguments, num_threads=2)
    for _ in range(200):
        assert_all_same_bits(operation(**arguments, num_threads=2), expected)


def test_what_is_masked_off_does_not_change_the_rest(operation, absent, mask, dtype, isa, always_parallel):
    for rows, cols in itertools.product((1, 5, 33, 70), (1, 5, 16, 17, 64, 129, 768)):
        arguments = operation.make(MIXED, rows, cols, dtype, absent)
        expected = operation(**arguments)
        expected = {name: one for (name, one), wanted in zip(expected.items(), mask, strict=True) if wanted}
        for threads in (1, 3):
            options = {"output_mask": mask, "num_threads": threads}
            assert_all_same_bits(operation(**arguments, **options), expected)
            for name in operation.in_place if mask[0] else ():
                if name in absent:
                    continue
                given = {**arguments, name: arguments[name].copy()}
                assert_all_same_bits(operation.in_the_place_of(name, given, **options), expected)


def test_avx2_and_avx512_give_the_same_bits(operation, case, dtype):
    available = fastln.available_isas()
    missing = [name for name in ("avx2", "avx512") if name not in available]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not available here, only {', '.join(available)}")
    previous = fastln.get_isa()
    label, shapes = operation.cases(dtype)[case]
    try:
        for shape, absent in itertools.product(shapes, operation.absences):
            results = []
            for name in ("avx2", "avx512"):
                fastln.set_isa(name)
                results.append(operation(**operation.make(label, *shape, dtype, absent)))
            for name in results[0]:
                # A NaN (eps 0 on a constant row) has no promised payload.
                assert_same_bits(*(without_nan(found[name]) for found in results), f"{name}, {shape}")
    finally:
        fastln.set_isa(previous)


def test_the_rank_of_the_normalized_shape_does_not_matter(operation, absent, dtype, isa):
    arguments = operation.make(MIXED, 6, 120, dtype, absent)
    expected = operation(**arguments)
    for shape in ((120,), (10, 12), (2, 3, 20), (1, 120), (120, 1)):
        found = operation(**operation.reshaped(arguments, (2, 3), shape), normalized_shape=shape)
        assert_all_same_bits(found, operation.reshaped(expected, (2, 3), shape))
