"""A sequence has the same bits in any batch, at any place, on any threads, with any padding, in one call or in many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_same_bits
from recurrent_cases import CELLS, OBJECTS, make_case

import fastln

# No multiples of a panel or a register.
INPUTS, HIDDEN = 37, 53


def assert_same_results(found, expected, where=""):
    """The same y and the same states, of which there may be one or two."""
    assert_same_bits(found[0], expected[0], f"y {where}")
    for number, (one, right) in enumerate(zip(found[1], expected[1], strict=True)):
        assert_same_bits(one, right, f"state {number} {where}")


def rows_of(case, rows):
    """The call of some of the sequences."""
    return case._replace(x=case.x[:, rows], state=tuple(one[rows] for one in case.state))


def results_of(results, rows):
    return results[0][:, rows], tuple(one[rows] for one in results[1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_of_any_size_gives_the_bits_of_each_sequence_alone(cell, dtype, isa):
    case = make_case(cell, 3, 64, INPUTS, HIDDEN, dtype)
    whole = case()
    for batch in (1, 2, 8, 33):
        rows = slice(64 - batch, 64)
        assert_same_results(rows_of(case, rows)(), results_of(whole, rows), f"of {batch}")
    backwards = slice(None, None, -1)
    assert_same_results(rows_of(case, backwards)(), results_of(whole, backwards), "in the other order")


@pytest.mark.parametrize("cell", CELLS)
def test_any_number_of_threads_gives_the_same_bits(cell, dtype, isa, always_parallel):
    for batch, hidden in ((1, 130), (9, HIDDEN)):
        case = make_case(cell, 4, batch, INPUTS, hidden, dtype)
        expected = case(num_threads=1)
        for threads in (2, 3, 7):
            assert_same_results(case(num_threads=threads), expected, f"on {threads} threads")


def test_instruction_sets_with_fma_give_the_same_bits(dtype):
    isas = [isa for isa in fastln.available_isas() if isa in ("avx512", "avx2", "neon")]
    if len(isas) < 2:
        pytest.skip("needs two instruction sets with fma")
    before = fastln.get_isa()
    try:
        for cell, (inputs, hidden) in itertools.product(CELLS, ((INPUTS, HIDDEN), (300, 64))):  # two blocks of k
            case = make_case(cell, 3, 5, inputs, hidden, dtype)
            results = []
            for isa in isas:
                fastln.set_isa(isa)
                results.append(case())
            assert_same_results(results[1], results[0], cell)
    finally:
        fastln.set_isa(before)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_bits_do_not_depend_on_what_is_past_a_length(cell, reverse, dtype, isa):
    case = make_case(cell, 6, 5, 11, 21, dtype)
    lengths = np.array([6, 0, 3, 1, 5])
    y, after = case(lengths=lengths, reverse=reverse)
    padded = case.x.copy()
    padded[np.arange(6)[:, None] >= lengths] = np.nan
    assert_same_results(case(x=padded, lengths=lengths, reverse=reverse), (y, after), "with NaN as padding")
    for row, length in enumerate(lengths):
        one = rows_of(case, [row])._replace(x=case.x[:length, [row]])
        own_y, own_state = one(reverse=reverse)
        assert_same_results((y[:length, [row]], tuple(a[[row]] for a in after)), (own_y, own_state), f"row {row}")
        assert not y[length:, row].any()
    for one, first in zip(after, case.state, strict=True):
        assert_same_bits(one[1], first[1], "the state of a sequence without steps")


@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_is_one_call(cell, dtype, isa):
    case = make_case(cell, 7, 3, 19, 34, dtype)
    expected = case()
    for cuts in ((1, 2, 3, 4, 5, 6), (3,), (2, 6)):
        parts, state = [], case.state
        for first, last in itertools.pairwise((0, *cuts, 7)):
            y, state = case(x=case.x[first:last], state=state)
            parts.append(y)
        assert_same_results((np.concatenate(parts), state), expected, f"cut at {cuts}")


@pytest.mark.parametrize("cell", CELLS)
def test_reversing_is_reading_from_the_end(cell, dtype, isa):
    case = make_case(cell, 5, 4, 6, 18, dtype)
    y, after = case(reverse=True)
    turned, last = case(x=case.x[::-1])
    assert_same_results((y[::-1], after), (turned, last))


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_stream_gives_the_bits_of_the_object(kind, dtype, isa):
    network = OBJECTS[kind](9, 22, num_layers=2, dtype=dtype, rng=0)
    x = np.random.default_rng(1).standard_normal((6, 3, 9)).astype(dtype)
    y, expected = network(x)
    frozen, state = network.freeze(), None
    for x_t, y_t in zip(x, y, strict=True):
        state = frozen.step(x_t, state)
        h = state[0] if kind == "lstm" else state
        assert_same_bits(h[-1], y_t)
    pairs = zip(state, expected, strict=True) if kind == "lstm" else [(state, expected)]
    for one, right in pairs:
        assert_same_bits(one, right)
    again, _ = frozen(x[:, :1])
    assert_same_bits(again, y[:, :1])
