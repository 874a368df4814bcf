"""The gradients are as accurate as those of ordinary rows are, and they are the derivatives of layer_norm."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from helpers import EDGE_COLS
from reference import (
    GRADIENT_REGIMES,
    are_usual,
    exact_gradients,
    exact_layer_norm,
    gradient_errors,
    make_gradient_case,
    make_gradient_cases,
    make_parameters,
    make_rows,
)

import fastln

NAMES = ("dx", "dweight", "dbias")
ROW_EDGES = (1, 8, 9, 31, 32, 33, 63, 64, 65, 1000)
TALL_COLS = (1, 2, 3, 8, 15, 16, 17, 33, 63, 64, 65, 129, 257, 768)


def errors_of(case, weighted):
    """The errors of what fastln gives for a case: mean and rstd are those of its own forward pass."""
    _, mean, rstd = fastln.layer_norm_forward(case.x, eps=case.eps)
    found = fastln.layer_norm_backward(case.dy, case.x, mean, rstd, case.weight if weighted else None)
    return gradient_errors(found, case.weighted if weighted else case.plain)


@pytest.fixture
def judge(isa, judged_dtype, record_error):
    """judge(regime, cases) asserts that all gradients of all cases are within their bounds, and records the errors."""

    def judge_all(regime, cases):
        worst = {}
        for case, weighted in itertools.product(cases, (True, False)):
            where = f"rows={len(case.x)}, D={case.x.shape[-1]}, {'weight' if weighted else 'plain'}"
            for name, error in errors_of(case, weighted).items():
                worst[name] = max(worst.get(name, (0.0, "")), (error, where))
        for name, (error, _) in worst.items():
            record_error(name, isa, judged_dtype, regime, error)
        assert are_usual({name: error for name, (error, _) in worst.items()}), worst

    return judge_all


@pytest.fixture(params=GRADIENT_REGIMES)
def gradient_regime(request):
    """Run the test once per regime of x and dy."""
    return request.param


def test_gradients_are_within_their_bounds(gradient_regime, judged_dtype, isa, judge):
    judge(gradient_regime, make_gradient_cases(gradient_regime, judged_dtype))


@functools.lru_cache(maxsize=2)
def make_tall_cases(regime, rows, dtype):
    """Cases with so many rows, computed once for all ISAs."""
    cols = TALL_COLS if rows > 65 else (*TALL_COLS, 4096)
    return [make_gradient_case(regime, rows, size, dtype) for size in cols]


@pytest.fixture(params=ROW_EDGES)
def rows(request):
    """Run the test once per number of rows (a fixture: so that each case is computed once)."""
    return request.param


@pytest.fixture(params=["normal", "mean 1e4, dy constant rows"])
def tall_regime(request):
    """Run the test in the most usual regime and in one where roundings add up."""
    return request.param


def test_any_number_of_rows_is_within_the_bounds(tall_regime, rows, judged_dtype, isa, judge):
    judge(f"{tall_regime}, {rows} rows", make_tall_cases(tall_regime, rows, judged_dtype))


@functools.lru_cache(maxsize=2)
def make_very_tall_case(regime, dtype):
    """A case whose columns are very long, computed once for all ISAs."""
    return make_gradient_case(regime, 200_003, 3, dtype)


@pytest.fixture(params=["normal", "normal, dy mean 1e3", "normal, dy one number"])
def very_tall_regime(request):
    """Run the test once per regime in which the length of a column matters most."""
    return request.param


def test_two_hundred_thousand_rows_are_within_the_bounds(very_tall_regime, judged_dtype, isa, judge):
    judge(f"{very_tall_regime}, 200003 rows", [make_very_tall_case(very_tall_regime, judged_dtype)])


@functools.lru_cache(maxsize=2)
def make_very_wide_case(regime, dtype):
    """A case with very long rows, computed once for all ISAs."""
    return make_gradient_case(regime, 2, 300_000, dtype)


@pytest.fixture(params=["mean 1e4", "normal, dy one number"])
def very_wide_regime(request):
    """Run the test once per regime in which the length of a row matters most."""
    return request.param


def test_three_hundred_thousand_columns_are_within_the_bounds(very_wide_regime, judged_dtype, isa, judge):
    judge(f"{very_wide_regime}, D=3e5", [make_very_wide_case(very_wide_regime, judged_dtype)])


@pytest.mark.parametrize("rows", [2, 8, 9, 33, 1000])
def test_small_terms_after_a_large_one_are_not_all_lost(rows, judged_dtype, isa):
    # Each of the small ones is less than half of the last bit of the large one.
    dy = np.full((rows, 40), 0.99 * np.finfo(judged_dtype).eps / 2, judged_dtype)
    dy[0] = 1
    x = np.tile(np.array([1, -1], judged_dtype), (rows, 20))
    _, mean, rstd = fastln.layer_norm_forward(x)
    expected = exact_gradients(dy, exact_layer_norm(x, 1e-5))
    errors = gradient_errors(fastln.layer_norm_backward(dy, x, mean, rstd), expected)
    assert are_usual(errors), errors


@pytest.mark.parametrize("eps", [1e-12, 1.0, 1e6])
def test_every_size_of_eps_is_within_the_bounds(eps, judged_dtype, isa):
    for cols in EDGE_COLS:
        dy, x = make_rows("normal", 33, cols, judged_dtype), make_rows("mean 10", 33, cols, judged_dtype)
        weight, _ = make_parameters(cols, judged_dtype)
        _, mean, rstd = fastln.layer_norm_forward(x, eps=eps)
        found = fastln.layer_norm_backward(dy, x, mean, rstd, weight)
        expected = exact_gradients(dy, exact_layer_norm(x, eps), weight)
        errors = gradient_errors(found, expected)
        assert are_usual(errors), f"{errors}, D={cols}"


# Central differences: f(a + h) - f(a - h) over 2 h is off by h**2 f''' / 6 and by the roundings over h.
STEP = 2.0**-16
TOLERANCE = 64 * STEP**2


def differences(loss, value):
    """The derivative of loss by each element of value; loss takes a stack of values."""
    steps = STEP * np.eye(value.size).reshape(-1, *value.shape)
    return ((loss(value + steps) - loss(value - steps)) / (2 * STEP)).reshape(value.shape)


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize(("shape", "rank"), [((3, 1), 1), ((1, 7), 1), ((5, 8), 1), ((2, 3, 4), 2), ((2, 2, 3, 3), 3)])
def test_gradients_are_the_derivatives_of_layer_norm(shape, rank, mean, isa):
    rng = np.random.default_rng([len(shape), rank])
    normalized = shape[len(shape) - rank :]
    x, dy = rng.standard_normal((2, *shape))
    x += mean
    weight, bias = rng.standard_normal((2, *normalized))
    # The sum of dy y, for stacks of each argument in turn. Parameters differ within a stack: so one call for each.
    inner = tuple(range(1, 1 + len(shape)))
    by_x = differences(lambda many: (dy * fastln.layer_norm(many, normalized, weight, bias)).sum(inner), x)

    def each(call):
        return lambda many: np.array([(dy * call(value)).sum() for value in many])

    by_weight = differences(each(lambda value: fastln.layer_norm(x, normalized, value, bias)), weight)
    by_bias = differences(each(lambda value: fastln.layer_norm(x, normalized, weight, value)), bias)

    _, saved_mean, rstd = fastln.layer_norm_forward(x, normalized)
    found = fastln.layer_norm_backward(dy, x, saved_mean, rstd, weight, normalized_shape=normalized)
    for name, gradient, expected in zip(NAMES, found, (by_x, by_weight, by_bias), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=TOLERANCE * np.abs(dy).sum(), err_msg=name)


def test_a_gradient_step_lowers_the_loss(dtype, isa):
    # All three gradients at once, and their signs.
    x, target = make_rows("mean 10", 40, 33, dtype), make_rows("normal", 40, 33, dtype)
    weight, bias = make_parameters(33, dtype)
    losses = []
    for _ in range(5):
        y, mean, rstd = fastln.layer_norm_forward(x, None, weight, bias)
        losses.append(float(np.square(y - target).mean()))
        dx, dweight, dbias = fastln.layer_norm_backward((y - target) / dtype.type(40), x, mean, rstd, weight)
        x, weight, bias = x - dx, weight - dweight / 4, bias - dbias / 4
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


# NaN and Inf


def clean_and_spoiled(rows, cols, dtype, name, place, bad):
    """The gradients of ordinary arguments, and those with one bad element; mean and rstd follow a bad x."""
    arguments = {"dy": make_rows("normal", rows, cols, dtype), "x": make_rows("mean 10", rows, cols, dtype)}
    arguments["weight"] = make_parameters(cols, dtype)[0]
    _, arguments["mean"], arguments["rstd"] = fastln.layer_norm_forward(arguments["x"])
    clean = fastln.layer_norm_backward(**arguments)
    arguments[name] = arguments[name].copy()
    arguments[name][place] = bad
    if name == "x":
        _, arguments["mean"], arguments["rstd"] = fastln.layer_norm_forward(arguments["x"])
    return clean, fastln.layer_norm_backward(**arguments)


def others(array, index):
    """The bytes of all but one row or element."""
    return np.delete(array, index, 0).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "mean", "rstd"])
def test_a_bad_row_spoils_its_dx_and_dweight_but_no_dbias(name, bad, dtype, isa):
    for rows, cols in ((5, 1), (5, 16), (40, 33), (70, 129), (3, 768)):
        for column in {0, cols // 2, cols - 1}:
            place = (2, column if name == "x" else 0)
            good, (dx, dweight, dbias) = clean_and_spoiled(rows, cols, dtype, name, place, bad)
            assert not np.isfinite(dx[2]).any(), (rows, cols, column)
            assert others(dx, 2) == others(good[0], 2), (rows, cols, column)
            assert not np.isfinite(dweight).any(), (rows, cols, column)
            assert dbias.tobytes() == good[2].tobytes(), (rows, cols, column)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_dy_spoils_its_row_of_dx_and_its_column_of_the_others(bad, dtype, isa):
    for rows, cols in ((5, 2), (5, 16), (40, 33), (70, 129), (3, 768)):
        for column in {0, cols // 2, cols - 1}:
            good, (dx, dweight, dbias) = clean_and_spoiled(rows, cols, dtype, "dy", (2, column), bad)
            assert not np.isfinite(dx[2]).any(), (rows, cols, column)
            assert others(dx, 2) == others(good[0], 2), (rows, cols, column)
            for gradient, expected in ((dweight, good[1]), (dbias, good[2])):
                assert not np.isfinite(gradient[column]), (rows, cols, column)
                assert others(gradient, column) == others(expected, column), (rows, cols, column)


def test_a_bad_weight_spoils_dx_alone(dtype, isa):
    for rows, cols in ((5, 16), (40, 33), (3, 768)):
        good, (dx, dweight, dbias) = clean_and_spoiled(rows, cols, dtype, "weight", cols // 2, np.nan)
        assert np.isnan(dx).all()
        assert dweight.tobytes() == good[1].tobytes()
        assert dbias.tobytes() == good[2].tobytes()


def test_constant_rows_give_nothing_to_dweight(dtype, isa):
    for rows, cols in ((1, 1), (5, 16), (40, 33), (70, 129), (3, 768)):
        x = make_rows("constant", rows, cols, dtype)
        dy = make_rows("normal", rows, cols, dtype)
        _, mean, rstd = fastln.layer_norm_forward(x)
        assert (fastln.layer_norm_backward(dy, x, mean, rstd)[1] == 0).all()


def test_eps_zero_on_a_constant_row_spoils_that_row_of_dx_only(dtype, isa):
    x, dy = make_rows("normal", 40, 20, dtype), make_rows("mean 10", 40, 20, dtype)
    expected = fastln.layer_norm_backward(dy, x, *fastln.layer_norm_forward(x, eps=0.0)[1:])
    x[1] = 0.1
    _, mean, rstd = fastln.layer_norm_forward(x, eps=0.0)
    dx, _, dbias = fastln.layer_norm_backward(dy, x, mean, rstd)
    assert not np.isfinite(dx[1]).any()
    assert others(dx, 1) == others(expected[0], 1)
    assert dbias.tobytes() == expected[2].tobytes()
