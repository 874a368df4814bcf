"""layer_norm is as accurate as ordinary rows are: every ISA, dtype, combination, width and regime."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers import EDGE_COLS
from reference import (
    COMBINATIONS,
    REGIMES,
    USUAL,
    exact_layer_norm,
    make_case,
    make_cases,
    make_parameters,
    make_rows,
    mean_error,
    output_error,
    rstd_error,
)

import fastln


def largest(errors):
    """The largest error, and what it belongs to."""
    return max(errors, key=lambda pair: pair[0])


@pytest.fixture(params=REGIMES)
def regime(request):
    """Run the test once per regime (a fixture: so regimes vary slowest and each case is computed once)."""
    return request.param


def test_output_is_within_the_bound(regime, judged_dtype, isa, record_error):
    errors = []
    for case in make_cases(regime, judged_dtype):
        for combination in COMBINATIONS:
            weight, bias = case.parameters(combination)
            y = fastln.layer_norm(case.x, None, weight, bias, case.eps)
            error = output_error(y, case.exact, weight, bias)
            errors.append((error, f"D={case.x.shape[-1]}, {combination}"))
    worst, where = largest(errors)
    record_error("y", isa, judged_dtype, regime, worst)
    assert worst <= USUAL["y"], where


def test_mean_and_rstd_are_within_their_bounds(regime, judged_dtype, isa):
    means, rstds = [], []
    for case in make_cases(regime, judged_dtype):
        _, mean, rstd = fastln.layer_norm_forward(case.x, eps=case.eps)
        where = f"D={case.x.shape[-1]}"
        means.append((mean_error(mean, case.x, case.exact), where))
        rstds.append((rstd_error(rstd, case.exact), where))
    assert largest(means)[0] <= USUAL["mean"], largest(means)[1]
    assert largest(rstds)[0] <= USUAL["rstd"], largest(rstds)[1]


@pytest.fixture(params=["normal", "mean 1e5", "ramp", "two-valued"])
def long_regime(request):
    """Run the test once per regime in which the length of a row matters most."""
    return request.param


@functools.lru_cache(maxsize=2)
def make_long_case(regime, dtype):
    """One row of a million, computed once for all ISAs."""
    return make_case(regime, 1, 1_000_000, dtype)


def test_a_million_columns_are_within_the_bound(long_regime, judged_dtype, isa, record_error):
    case = make_long_case(long_regime, judged_dtype)
    y = fastln.layer_norm(case.x, None, case.weight, case.bias, case.eps)
    error = output_error(y, case.exact, case.weight, case.bias)
    record_error("y", isa, judged_dtype, f"{long_regime}, D=1e6", error)
    assert error <= USUAL["y"]


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0, 1e6])
def test_every_size_of_eps_is_within_the_bound(eps, judged_dtype, isa):
    for cols in EDGE_COLS:
        x = make_rows("normal", 3, cols, judged_dtype)
        weight, bias = make_parameters(cols, judged_dtype)
        y = fastln.layer_norm(x, None, weight, bias, eps)
        assert output_error(y, exact_layer_norm(x, eps), weight, bias) <= USUAL["y"], f"D={cols}"


def constants(dtype):
    """Values that have gone wrong elsewhere, and the ends of the range."""
    info = np.finfo(dtype)
    ends = [info.max, -info.max, info.tiny, info.smallest_subnormal, -info.smallest_subnormal]
    return np.array([0.0, -0.0, 1.0, 0.1, -1234.0, 1e5 / 3, 7e9, 1e-20, 1e20, 1e30, *map(float, ends)], dtype)


# In float32 the second eps rounds to zero, the third even makes rstd infinite, the last rounds to infinity.
@pytest.mark.parametrize("eps", [1e-5, 1e-60, 1e-90, 1e60])
def test_constant_rows_give_exactly_the_bias(eps, dtype, isa):
    for cols in (*EDGE_COLS, 4096, 65537):
        x = np.repeat(constants(dtype)[:, None], cols, axis=1)
        weight, bias = make_parameters(cols, dtype)
        weight[0] = 1e10  # would turn a stray last bit into a visible error
        for w in (None, weight):
            assert (fastln.layer_norm(x, None, w, bias, eps) == bias).all(), f"D={cols}"
            assert (fastln.layer_norm(x, None, w, None, eps) == 0).all(), f"D={cols}"


@pytest.mark.parametrize("cols", EDGE_COLS)
def test_constant_rows_have_their_value_as_mean(cols, dtype, isa):
    x = np.repeat(constants(dtype)[:, None], cols, axis=1)
    _, mean, rstd = fastln.layer_norm_forward(x, eps=0.25)
    np.testing.assert_array_equal(mean, x[:, :1])
    np.testing.assert_array_equal(rstd, 2)


def test_eps_zero_on_a_constant_row_gives_nan_there_only(dtype, isa):
    x = make_rows("normal", 3, 20, dtype)
    x[1] = 0.1
    y = fastln.layer_norm(x, eps=0.0)
    assert np.isnan(y[1]).all()
    assert output_error(y[::2], exact_layer_norm(x[::2], 0.0)) <= USUAL["y"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("with_parameters", [False, True], ids=["plain", "weight+bias"])
def test_nan_and_inf_stay_in_their_row(bad, with_parameters, dtype, isa):
    for cols in EDGE_COLS:
        x = make_rows("normal", 5, cols, dtype)
        parameters = make_parameters(cols, dtype) if with_parameters else (None, None)
        expected = fastln.layer_norm(x, None, *parameters)
        for place in {0, cols // 2, cols - 1}:
            spoiled = x.copy()
            spoiled[2, place] = bad
            y = fastln.layer_norm(spoiled, None, *parameters)
            assert np.isnan(y[2]).all(), f"D={cols}, at {place}"
            assert np.delete(y, 2, 0).tobytes() == np.delete(expected, 2, 0).tobytes(), f"D={cols}, at {place}"


def test_two_infinities_give_nan(dtype, isa):
    x = np.ones((1, 40), dtype)
    x[0, 3], x[0, 30] = np.inf, -np.inf
    assert np.isnan(fastln.layer_norm(x)).all()


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_scaling_by_a_power_of_two_changes_no_bit_when_eps_scales_too(combination, dtype, isa):
    for cols in (3, 17, 64, 129, 768):
        case = make_case("normal", 3, cols, dtype)
        weight, bias = case.parameters(combination)
        expected = fastln.layer_norm(case.x, None, weight, bias, 2.0**-10)
        scaled = fastln.layer_norm(case.x * dtype.type(64), None, weight, bias, 2.0**2)
        assert scaled.tobytes() == expected.tobytes()
