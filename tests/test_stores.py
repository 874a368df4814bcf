"""Whether a large result goes past the cache: tried both ways, and remembered by shape."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, output_of

import fastln
from fastln import _dispatch, _stores

LARGE = 1 << 26
OPERATION, ROWS, THREADS = 0, 1000, 1
SHAPE = (OPERATION, ROWS, LARGE, THREADS)


@pytest.fixture(autouse=True)
def untried():
    """No shape is known, before and after, and the limit is the one that the machine has."""
    cache = _dispatch.set_stream_bytes(int(output_of("from fastln import _dispatch as d; print(d.get_stream_bytes())")))
    _stores.forget()
    yield
    _stores.forget()
    _dispatch.set_stream_bytes(cache)


def choices(count, seconds, least=0, shape=SHAPE):
    """The ways of the next calls of a shape, which take seconds[way]."""
    found = []
    for _ in range(count):
        past = _stores.next_choice(*shape, least)
        _stores.tell_seconds(*shape, past, seconds[past])
        found.append(past)
    return found


@pytest.mark.parametrize("usual", [False, True])
def test_the_first_calls_take_turns_and_begin_with_the_usual_way(usual):
    assert choices(4, (1.0, 1.0), 0 if usual else LARGE + 1) == [usual, not usual, usual, not usual]


@pytest.mark.parametrize("past", [0.4, 0.95, 1.0, 2.5])
def test_the_faster_way_is_kept_and_the_cache_is_preferred_where_they_are_even(past):
    assert set(choices(40, (1.0, past))[4:]) == {past < 0.9}


def test_the_other_way_is_tried_again_now_and_then():
    found = choices(1000, (1.0, 0.5))
    assert found.count(False) == 2 + 1000 // 128


def test_what_changes_is_noticed():
    assert choices(40, (1.0, 0.5))[-1]
    assert not choices(300, (0.3, 0.5))[-1]


def test_a_cold_first_call_does_not_decide():
    assert not choices(1, (9.0, 9.0), LARGE + 1)[0]
    assert set(choices(40, (1.0, 1.1), LARGE + 1)[3:]) == {False}


@pytest.mark.parametrize("change", range(4), ids=["operation", "rows", "size", "threads"])
def test_shapes_are_apart(change):
    other = tuple(number + (8 if i == 2 else 1) * (i == change) for i, number in enumerate(SHAPE))
    choices(40, (1.0, 0.5))
    choices(40, (1.0, 2.0), shape=other)
    assert choices(1, (1.0, 0.5)) == [True]
    assert choices(1, (1.0, 2.0), shape=other) == [False]


def test_a_shape_that_takes_the_place_of_another_begins_anew():
    shapes = [(OPERATION, ROWS + i, LARGE, THREADS) for i in range(1000)]  # more than there are places
    for shape in shapes:
        choices(8, (1.0, 0.5), LARGE + 1, shape)
    assert choices(4, (1.0, 0.5), LARGE + 1, shapes[0]) == [False, True, False, True]


def test_small_results_stay_in_the_cache():
    small = (OPERATION, ROWS, _dispatch.get_stream_bytes() // 8 - 1, THREADS)
    assert choices(10, (1.0, 0.1), LARGE, small) == [False] * 10


def test_a_limit_that_somebody_set_is_kept():
    _dispatch.set_stream_bytes(LARGE)
    assert choices(10, (0.1, 1.0), LARGE) == [True] * 10
    assert choices(10, (1.0, 0.1), LARGE + 1) == [False] * 10


def test_trials_change_no_bit(dtype):
    size = _dispatch.get_stream_bytes() // 4
    x = np.random.default_rng(0).standard_normal((size // 2 // dtype.itemsize // 500, 500)).astype(dtype)
    expected = fastln.layer_norm(x[:50])
    for _ in range(6):
        assert_same_bits(fastln.layer_norm(x)[:50], expected)
