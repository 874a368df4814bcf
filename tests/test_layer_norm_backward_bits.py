"""The bits of the gradients: dx depends on its row alone; dweight and dbias on the rows and their order alone."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import EDGE_COLS, assert_same_bits, at_offset
from reference import (
    BACKWARD_REGIMES,
    GRADIENT_REGIMES,
    find_regime,
    gradient_shapes,
    make_gradient_inputs,
    make_mixed_rows,
    make_parameters,
    make_rows,
)

import fastln

THREADS = (1, 2, 3, 7)
BATCHES = (1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 300)
# Rows and columns: many short rows; few long ones, whose columns the threads share.
SHORT = [(1000, 64), (2049, 7), (5000, 5)]
LONG = [(1, 65553), (2, 65553), (33, 16400), (60, 1025), (65, 2500)]
MASKS = list(itertools.product((True, False), repeat=3))


@pytest.fixture(params=[True, False], ids=["weight", "plain"])
def weighted(request):
    """Run the test with a weight and without."""
    return request.param


def make_arguments(rows, cols, dtype, weighted=True):
    """Arguments of layer_norm_backward for rows of many kinds."""
    x = make_mixed_rows(rows, cols, dtype, BACKWARD_REGIMES)
    # Sizes that differ by a few bits: another order of summation shows.
    dy = make_rows("normal", rows, cols, dtype) * np.exp2(np.arange(rows) % 5).astype(dtype)[:, None]
    _, mean, rstd = fastln.layer_norm_forward(x)
    return {
        "dy": dy,
        "x": x,
        "mean": mean,
        "rstd": rstd,
        "weight": make_parameters(cols, dtype)[0] if weighted else None,
    }


def assert_all_same_bits(actual, expected):
    """Each gradient has the same bits, or is None in both."""
    for one, other in zip(actual, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_same_bits(one, other)


@pytest.mark.parametrize("rows", [1, 5, 32, 33, 100])
def test_a_row_alone_has_the_dx_that_it_has_in_a_batch(rows, weighted, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        arguments = make_arguments(rows, cols, dtype, weighted)
        weight = arguments["weight"]
        by_row = zip(*(arguments[name] for name in ("dy", "x", "mean", "rstd")), strict=True)
        alone = np.stack([fastln.layer_norm_backward(*map(at_offset, row), weight, num_threads=1)[0] for row in by_row])
        for threads in (1, 2):
            assert_same_bits(fastln.layer_norm_backward(**arguments, num_threads=threads)[0], alone)


@pytest.mark.parametrize("rows", BATCHES)
def test_any_number_of_threads_gives_the_same_bits(rows, weighted, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        arguments = make_arguments(rows, cols, dtype, weighted)
        expected = fastln.layer_norm_backward(**arguments, num_threads=1)
        for threads in THREADS[1:]:
            assert_all_same_bits(fastln.layer_norm_backward(**arguments, num_threads=threads), expected)


@pytest.mark.parametrize(("rows", "cols"), SHORT + LONG)
def test_long_and_short_rows_give_the_same_bits_on_any_number_of_threads(rows, cols, dtype, isa, always_parallel):
    arguments = make_arguments(rows, cols, dtype)
    expected = fastln.layer_norm_backward(**arguments, num_threads=1)
    for threads in THREADS[1:]:
        for mask in ((True, True, True), (True, False, False), (False, True, True)):
            found = fastln.layer_norm_backward(**arguments, output_mask=mask, num_threads=threads)
            assert_all_same_bits(found, keep(expected, mask))


def keep(gradients, mask):
    """The gradients that a mask leaves."""
    return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, mask, strict=True))


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: "".join("01"[wanted] for wanted in mask))
def test_what_is_masked_off_does_not_change_the_rest(mask, weighted, dtype, isa, always_parallel):
    for rows, cols in itertools.product((1, 5, 33, 70), (1, 5, 16, 17, 64, 129, 768)):
        arguments = make_arguments(rows, cols, dtype, weighted)
        expected = keep(fastln.layer_norm_backward(**arguments), mask)
        for threads in (1, 3):
            assert_all_same_bits(
                fastln.layer_norm_backward(**arguments, output_mask=mask, num_threads=threads), expected
            )
            if mask[0]:
                for name in ("dy", "x"):
                    given = {**arguments, name: arguments[name].copy()}
                    found = fastln.layer_norm_backward(**given, output_mask=mask, out=given[name], num_threads=threads)
                    assert found[0] is given[name]
                    assert_all_same_bits(found, expected)


@pytest.mark.parametrize("name", ["dy", "x"])
def test_in_place_gives_the_same_bits(name, weighted, dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        arguments = make_arguments(37, cols, dtype, weighted)
        expected = fastln.layer_norm_backward(**arguments)
        for threads in (1, 3):
            given = {**arguments, name: arguments[name].copy()}
            found = fastln.layer_norm_backward(**given, out=given[name], num_threads=threads)
            assert found[0] is given[name]
            assert_all_same_bits(found, expected)


@pytest.mark.parametrize("name", ["dy", "x"])
@pytest.mark.parametrize(("rows", "cols"), LONG)
def test_threads_that_share_a_row_do_not_overwrite_what_others_read(rows, cols, name, dtype, isa, always_parallel):
    arguments = make_arguments(rows, cols, dtype)
    expected = fastln.layer_norm_backward(**arguments)
    for threads in (2, 3, 7) * 3:
        given = {**arguments, name: arguments[name].copy()}
        assert_all_same_bits(fastln.layer_norm_backward(**given, out=given[name], num_threads=threads), expected)


def test_the_place_in_a_batch_does_not_matter_to_dx(dtype, isa, always_parallel):
    for cols in EDGE_COLS:
        arguments = make_arguments(64, cols, dtype)
        weight = arguments.pop("weight")
        expected = fastln.layer_norm_backward(**arguments, weight=weight)[0]
        order = np.random.default_rng(cols).permutation(64)
        shuffled = {name: array[order] for name, array in arguments.items()}
        assert_same_bits(fastln.layer_norm_backward(**shuffled, weight=weight, num_threads=3)[0], expected[order])
        for start in (1, 2, 3, 31, 33):
            rest = {name: array[start:] for name, array in arguments.items()}
            assert_same_bits(fastln.layer_norm_backward(**rest, weight=weight)[0], expected[start:])


@pytest.mark.parametrize("moved", ["dy", "x", "mean", "rstd", "weight", "out", "all"])
def test_any_offset_in_a_buffer_gives_the_same_bits(moved, dtype, isa):
    for cols in EDGE_COLS:
        arguments = make_arguments(6, cols, dtype)
        expected = fastln.layer_norm_backward(**arguments)
        arguments["out"] = np.empty_like(arguments["x"])
        for offset in (1, 2, 3, 4, 7, 8, 15):
            given = {name: at_offset(array, offset * (moved in (name, "all"))) for name, array in arguments.items()}
            assert_all_same_bits(fastln.layer_norm_backward(**given), expected)


def test_one_call_after_another_gives_the_same_bits(dtype, isa, always_parallel):
    arguments = make_arguments(100, 257, dtype)
    expected = fastln.layer_norm_backward(**arguments, num_threads=2)
    for _ in range(100):
        assert_all_same_bits(fastln.layer_norm_backward(**arguments, num_threads=2), expected)


def test_eight_python_threads_on_one_input(dtype, always_parallel):
    # Each call has sums of its own.
    arguments = make_arguments(100, 130, dtype)
    expected = fastln.layer_norm_backward(**arguments, num_threads=1)

    def work(number):
        start.wait(10)
        for turn in range(30):
            threads = 1 + (number + turn) % 3
            assert_all_same_bits(fastln.layer_norm_backward(**arguments, num_threads=threads), expected)

    start = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number) for number in range(8)]:
            future.result(timeout=60)


@pytest.mark.parametrize("label", GRADIENT_REGIMES)
def test_avx2_and_avx512_give_the_same_bits(label, dtype):
    available = fastln.available_isas()
    missing = [name for name in ("avx2", "avx512") if name not in available]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not available here, only {', '.join(available)}")
    eps = find_regime(GRADIENT_REGIMES[label][0]).eps
    previous = fastln.get_isa()
    try:
        for rows, cols in gradient_shapes(label):
            dy, x = make_gradient_inputs(label, rows, cols, dtype)
            for weight in (None, make_parameters(cols, dtype)[0]):
                results = []
                for name in ("avx2", "avx512"):
                    fastln.set_isa(name)
                    _, mean, rstd = fastln.layer_norm_forward(x, eps=eps)
                    results.append(fastln.layer_norm_backward(dy, x, mean, rstd, weight))
                assert_all_same_bits(*results)
    finally:
        fastln.set_isa(previous)


def test_the_rank_of_the_normalized_shape_does_not_matter(weighted, dtype, isa):
    arguments = make_arguments(6, 120, dtype, weighted)
    dx, dweight, dbias = fastln.layer_norm_backward(**arguments)
    for shape in ((120,), (10, 12), (2, 3, 20), (1, 120), (120, 1)):
        whole, ones = (2, 3, *shape), (2, 3, *(1,) * len(shape))
        shapes = {"dy": whole, "x": whole, "mean": ones, "rstd": ones, "weight": shape}
        given = {name: None if array is None else array.reshape(shapes[name]) for name, array in arguments.items()}
        found = fastln.layer_norm_backward(**given, normalized_shape=shape)
        assert_all_same_bits(found, (dx.reshape(whole), dweight.reshape(shape), dbias.reshape(shape)))
