"""The bits of a row's result depend on the row, D, eps, the parameters and the dtype alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import EDGE_COLS, assert_same_bits, at_offset, in_wider_rows
from reference import COLS, COMBINATIONS, REGIMES, make_case, make_mixed_rows, make_parameters, make_rows

import fastln

THREADS = (1, 2, 3, 7)
BATCHES = (2, 5, 64, 300)
OFFSETS = range(17)
# As many registers as short rows have, whole and cut short anywhere.
SHORT_COLS = (*range(1, 18), 23, 24, 25, 31, 32, 33, 40, 47, 48, 49, 50, 63, 64)


@pytest.fixture(params=COMBINATIONS)
def combination(request):
    """Run the test once with each choice of weight and bias."""
    return request.param


def parameters(combination, cols, dtype):
    """(weight or None, bias or None)."""
    given = make_parameters(cols, dtype)
    return tuple(value if use else None for value, use in zip(given, COMBINATIONS[combination], strict=True))


def rows_alone(x, weight, bias):
    """y, mean and rstd from one call a row, contiguous, aligned, serial: what all other ways must equal."""
    parts = [fastln.layer_norm_forward(at_offset(row), None, weight, bias, num_threads=1) for row in x]
    return tuple(np.stack(part) for part in zip(*parts, strict=True))


@pytest.mark.parametrize("rows", BATCHES)
def test_a_row_alone_equals_the_row_in_a_batch(rows, combination, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        x = make_mixed_rows(rows, cols, dtype)
        weight, bias = parameters(combination, cols, dtype)
        y, mean, rstd = rows_alone(x, weight, bias)
        assert_same_bits(fastln.layer_norm(x, None, weight, bias, num_threads=1), y)
        together = fastln.layer_norm_forward(x, None, weight, bias, num_threads=2)
        for actual, expected in zip(together, (y, mean, rstd), strict=True):
            assert_same_bits(actual, expected)


@pytest.mark.parametrize("ordinary", [True, False])
def test_any_number_of_short_rows_gives_the_same_bits(ordinary, combination, dtype, isa):
    """Groups of 16, 8, 4 and 1, of ordinary rows only, which mixed rows never are, and with some other among them."""
    for cols in SHORT_COLS:
        x = make_rows("mean 10", 41, cols, dtype)
        if not ordinary:
            x[3], x[26] = 1.1, x[26] * dtype.type(1e30 if dtype == np.float32 else 1e200)
        weight, bias = parameters(combination, cols, dtype)
        expected = rows_alone(x, weight, bias)
        for rows, start in itertools.product(range(1, 41), (0, 1)):
            part = slice(start, start + rows)
            for buffer in (x[part].copy(), in_wider_rows(x[part])):
                for out in (None, buffer):
                    results = fastln.layer_norm_forward(buffer, None, weight, bias, out=out)
                    for actual, one in zip(results, expected, strict=True):
                        assert_same_bits(actual, one[part])


@pytest.mark.parametrize("rows", [1, 2, 5, 64, 300])
def test_any_number_of_threads_gives_the_same_bits(rows, combination, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        x = make_mixed_rows(rows, cols, dtype)
        weight, bias = parameters(combination, cols, dtype)
        expected = fastln.layer_norm_forward(x, None, weight, bias, num_threads=1)
        for threads in THREADS:
            assert_same_bits(fastln.layer_norm(x, None, weight, bias, num_threads=threads), expected[0])
            forward = fastln.layer_norm_forward(x, None, weight, bias, num_threads=threads)
            for actual, one in zip(forward, expected, strict=True):
                assert_same_bits(actual, one)


def test_long_rows_give_the_same_bits_on_any_number_of_threads(dtype, isa, always_parallel):
    x = make_mixed_rows(20, 65553, dtype)
    weight, bias = make_parameters(65553, dtype)
    expected = rows_alone(x, weight, bias)[0]
    for threads in THREADS:
        assert_same_bits(fastln.layer_norm(x, None, weight, bias, num_threads=threads), expected)


@pytest.mark.parametrize("cols", [16385, 40_000, 65553])
def test_a_row_shared_by_threads_has_the_same_bits(cols, combination, dtype, isa, always_parallel):
    x = make_mixed_rows(len(REGIMES), cols, dtype)
    weight, bias = parameters(combination, cols, dtype)
    expected = rows_alone(x, weight, bias)
    for threads in THREADS[1:]:
        for i in range(len(x)):
            results = fastln.layer_norm_forward(x[i], None, weight, bias, num_threads=threads)
            for actual, one in zip(results, expected, strict=True):
                assert_same_bits(actual, one[i])
            buffer = x[i].copy()
            fastln.layer_norm(buffer, None, weight, bias, out=buffer, num_threads=threads)
            assert_same_bits(buffer, expected[0][i])


def test_rows_left_over_are_shared_to_the_same_bits(dtype, isa, always_parallel):
    x = make_mixed_rows(11, 32769, dtype)
    weight, bias = make_parameters(32769, dtype)
    expected = rows_alone(x, weight, bias)
    for rows, threads in itertools.product((2, 3, 5, 8, 11), (2, 3, 4, 7)):
        wide = in_wider_rows(x[:rows])
        for results in (
            fastln.layer_norm_forward(x[:rows], None, weight, bias, num_threads=threads),
            fastln.layer_norm_forward(wide, None, weight, bias, out=in_wider_rows(x[:rows]), num_threads=threads),
        ):
            for actual, one in zip(results, expected, strict=True):
                assert_same_bits(actual, one[:rows])


def test_the_place_in_a_batch_does_not_matter(dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        x = make_mixed_rows(64, cols, dtype)
        expected = fastln.layer_norm(x)
        order = np.random.default_rng(cols).permutation(64)
        assert_same_bits(fastln.layer_norm(x[order], num_threads=3), expected[order])
        for start in range(1, 12):
            assert_same_bits(fastln.layer_norm(x[start:]), expected[start:])


@pytest.mark.parametrize("moved", ["x", "weight", "bias", "out", "all"])
def test_any_offset_in_a_buffer_gives_the_same_bits(moved, dtype, isa):
    for cols in EDGE_COLS:
        arrays = {"x": make_mixed_rows(7, cols, dtype)}
        arrays["weight"], arrays["bias"] = make_parameters(cols, dtype)
        arrays["out"] = np.empty_like(arrays["x"])
        expected = fastln.layer_norm(arrays["x"], weight=arrays["weight"], bias=arrays["bias"])
        for offset in OFFSETS:
            call = {name: at_offset(array, offset if moved in (name, "all") else 0) for name, array in arrays.items()}
            assert_same_bits(fastln.layer_norm(**call), expected)


@pytest.mark.parametrize("extra_bytes", [1, 2, 3, 5, 7])
def test_misaligned_arrays_give_the_same_bits(extra_bytes, dtype, isa):
    for cols in EDGE_COLS:
        x = make_mixed_rows(5, cols, dtype)
        weight, bias = make_parameters(cols, dtype)
        expected = fastln.layer_norm(x, None, weight, bias)
        moved = [at_offset(array, 0, extra_bytes) for array in (x, weight, bias, np.empty_like(x))]
        assert_same_bits(fastln.layer_norm(moved[0], None, *moved[1:3], out=moved[3]), expected)


def test_in_place_gives_the_same_bits(combination, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        x = make_mixed_rows(19, cols, dtype)
        weight, bias = parameters(combination, cols, dtype)
        expected = fastln.layer_norm_forward(x, None, weight, bias)
        for threads in (1, 3):
            buffer = x.copy()
            assert fastln.layer_norm(buffer, None, weight, bias, out=buffer, num_threads=threads) is buffer
            assert_same_bits(buffer, expected[0])
            buffer = x.copy()
            results = fastln.layer_norm_forward(buffer, None, weight, bias, out=buffer, num_threads=threads)
            assert results[0] is buffer
            for actual, one in zip(results, expected, strict=True):
                assert_same_bits(actual, one)


# Each takes contiguous rows to a view of other memory with the same values.
STRIDED = {
    "wider rows": in_wider_rows,
    "wider rows, odd gap": lambda x: in_wider_rows(x, 3),
    "reversed rows": lambda x: x[::-1].copy()[::-1],
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every third column": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
    "reversed columns": lambda x: x[:, ::-1].copy()[:, ::-1],
    "Fortran": np.asfortranarray,
}


@pytest.mark.parametrize("strided", STRIDED)
def test_strided_arrays_give_the_same_bits(strided, combination, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        x = make_mixed_rows(11, cols, dtype)
        weight, bias = parameters(combination, cols, dtype)
        expected = fastln.layer_norm(x, None, weight, bias)
        view = STRIDED[strided](x)
        assert_same_bits(fastln.layer_norm(view, None, weight, bias, num_threads=2), expected)
        out = STRIDED[strided](np.zeros_like(x))
        assert fastln.layer_norm(view, None, weight, bias, out=out, num_threads=2) is out
        assert_same_bits(out, expected)
        assert fastln.layer_norm(view, None, weight, bias, out=view) is view
        assert_same_bits(view, expected)


def test_one_call_after_another_gives_the_same_bits(dtype, isa, always_parallel):
    x = make_mixed_rows(64, 257, dtype)
    weight, bias = make_parameters(257, dtype)
    expected = fastln.layer_norm(x, None, weight, bias, num_threads=2)
    for _ in range(200):
        assert_same_bits(fastln.layer_norm(x, None, weight, bias, num_threads=2), expected)


@pytest.mark.parametrize("regime", REGIMES)
def test_avx2_and_avx512_give_the_same_bits(regime, dtype):
    available = fastln.available_isas()
    missing = [name for name in ("avx2", "avx512") if name not in available]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not available here, only {', '.join(available)}")
    previous = fastln.get_isa()
    try:
        for cols in COLS:
            x = make_rows(regime, 3, cols, dtype)
            given = make_parameters(cols, dtype)
            for use in COMBINATIONS.values():
                weight, bias = (value if used else None for value, used in zip(given, use, strict=True))
                results = []
                for name in ("avx2", "avx512"):
                    fastln.set_isa(name)
                    results.append(fastln.layer_norm_forward(x, None, weight, bias, REGIMES[regime].eps))
                for one, other in zip(*results, strict=True):
                    # A NaN (eps 0 on a constant row) has no promised payload.
                    assert_same_bits(np.nan_to_num(other, nan=-7.0), np.nan_to_num(one, nan=-7.0))
    finally:
        fastln.set_isa(previous)


@pytest.mark.parametrize("regime", ["normal", "huge", "subnormal"])
def test_forward_and_layer_norm_give_the_same_bits(regime, combination, dtype, isa):
    for cols in EDGE_COLS:
        case = make_case(regime, 4, cols, dtype)
        weight, bias = case.parameters(combination)
        y = fastln.layer_norm(case.x, None, weight, bias)
        assert_same_bits(fastln.layer_norm_forward(case.x, None, weight, bias)[0], y)


def test_the_rank_of_the_normalized_shape_does_not_matter(dtype, isa):
    x = make_mixed_rows(6, 120, dtype)
    weight, bias = make_parameters(120, dtype)
    expected = fastln.layer_norm(x, None, weight, bias)
    for shape in ((120,), (10, 12), (2, 3, 20), (1, 120), (120, 1)):
        y = fastln.layer_norm(x.reshape(2, 3, *shape), shape, weight.reshape(shape), bias.reshape(shape))
        assert_same_bits(y, expected.reshape(2, 3, *shape))
