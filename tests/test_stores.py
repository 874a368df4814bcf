"""Whether a large result goes past the cache: tried both ways, and remembered by shape."""

from __future__ import annotations

import internals as stores
import pytest
from helpers import assert_all_same_bits
from operations import Kind

LARGE = 1 << 26
FORWARD, BACKWARD, ADD_FORWARD, ADD_BACKWARD = range(4)  # directions of effort.pyx
ROWS, COLS, THREADS = 1000, 768, 1
SHAPE = (FORWARD, THREADS, ROWS, COLS, LARGE)


@pytest.fixture(autouse=True)
def untried():
    """No shape is known, before and after, and nobody has set a limit (the environment may)."""
    before = stores.set_stream_bytes(None)
    stores.forget()
    yield
    stores.forget()
    stores.set_stream_bytes(before)


def choices(count, seconds, least=0, shape=SHAPE):
    """The ways of the next calls of a shape, which take seconds[way]."""
    found = []
    for _ in range(count):
        past = stores.next_choice(*shape, least)
        stores.tell_seconds(*shape, past, seconds[past])
        found.append(past)
    return found


@pytest.mark.parametrize("usual", [False, True])
def test_the_first_calls_go_both_ways_twice_and_begin_with_the_usual_one(usual):
    assert choices(4, (1.0, 1.0), 0 if usual else LARGE + 1) == [usual, not usual, not usual, usual]


@pytest.mark.parametrize("past", [0.4, 0.95, 1.0, 2.5])
def test_the_faster_way_is_kept_and_the_cache_is_preferred_where_they_are_even(past):
    assert set(choices(40, (1.0, past))[4:]) == {past < 0.9}


def test_the_other_way_is_tried_again_now_and_then():
    found = choices(1000, (1.0, 0.5))
    assert found.count(False) == 2 + 1000 // 127


def test_what_changes_is_noticed():
    assert choices(40, (1.0, 0.5))[-1]
    assert not choices(300, (0.3, 0.5))[-1]


def test_a_cold_first_call_does_not_decide():
    assert not choices(1, (9.0, 9.0), LARGE + 1)[0]
    assert set(choices(40, (1.0, 1.1), LARGE + 1)[3:]) == {False}


@pytest.mark.parametrize("change", range(5), ids=["operation", "threads", "rows", "cols", "size"])
def test_shapes_are_apart(change):
    other = tuple(number + (i == change) for i, number in enumerate(SHAPE))
    choices(40, (1.0, 0.5))
    choices(40, (1.0, 2.0), shape=other)
    assert choices(1, (1.0, 0.5)) == [True]
    assert choices(1, (1.0, 2.0), shape=other) == [False]


def test_a_shape_that_takes_the_place_of_another_begins_anew():
    shapes = [(FORWARD, THREADS, ROWS + i, COLS, LARGE) for i in range(1000)]  # more than there are places
    for shape in shapes:
        choices(8, (1.0, 0.5), LARGE + 1, shape)
    assert choices(4, (1.0, 0.5), LARGE + 1, shapes[0]) == [False, True, True, False]


def test_small_results_stay_in_the_cache():
    small = (FORWARD, THREADS, ROWS, COLS, stores.get_stream_bytes() // 8 - 1)
    assert choices(10, (1.0, 0.1), LARGE, small) == [False] * 10


def test_a_limit_that_somebody_set_is_kept():
    stores.set_stream_bytes(LARGE)
    assert choices(10, (0.1, 1.0), LARGE) == [True] * 10
    assert choices(10, (1.0, 0.1), LARGE + 1) == [False] * 10


def test_a_limit_that_happens_to_be_the_size_of_the_cache_is_kept_too():
    size = stores.get_stream_bytes()
    assert stores.set_stream_bytes(size) is None
    shape = (FORWARD, THREADS, ROWS, COLS, size)
    assert choices(10, (0.1, 1.0), size, shape) == [True] * 10
    assert stores.set_stream_bytes(None) == size
    assert False in choices(10, (0.1, 1.0), size, shape)


def test_callers_who_take_turns_get_to_know_both_ways():
    ways = [stores.next_choice(*SHAPE, 0) for _ in range(4)]
    assert {ways[0], ways[2]} == {ways[1], ways[3]} == {False, True}


def test_what_a_call_took_is_not_said_of_the_shape_that_has_its_place():
    others = [(FORWARD, THREADS, ROWS + i, COLS, LARGE) for i in range(1, 1000)]
    stores.next_choice(*SHAPE, 0)
    for other in others:
        stores.next_choice(*other, 0)
    assert stores.calls_of(*SHAPE) == 0
    stores.tell_seconds(*SHAPE, True, 1e-9)
    assert stores.calls_of(*SHAPE) == 0


@pytest.mark.once_per_kernel
def test_large_calls_are_tried_and_their_bits_are_the_same(operation, dtype):
    cols = 512 if "ds" in operation.arguments else 500  # with ds only rows of whole lines go past the cache
    rows = stores.get_stream_bytes() // 4 // cols // dtype.itemsize
    arguments = operation.make("mean 10", rows, cols, dtype)
    large = sum(kind is Kind.ROWS for kind in (*operation.arguments.values(), *operation.results.values()))
    if operation.saved_by:
        direction = ADD_BACKWARD if "ds" in operation.arguments else BACKWARD
    else:
        direction = ADD_FORWARD if "residual" in operation.arguments else FORWARD
    shape = (direction, 1, rows, cols, large * arguments[operation.base].nbytes)
    with stores.stream_bytes(1 << 56):
        expected = operation(**arguments, num_threads=1)
    stores.forget()
    for call in range(1, 7):
        assert_all_same_bits(operation(**arguments, num_threads=1), expected)
        assert stores.calls_of(*shape) == call
    operation.in_the_place_of(operation.base, arguments, num_threads=1)  # in place there is nothing to try
    assert stores.calls_of(*shape) == 6
