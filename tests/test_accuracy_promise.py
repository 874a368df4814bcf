"""Every row keeps the promise of accuracy: the constants of its proof, hard rows, and a search for worse ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from adversary import find_worst, promised
from bounds import (
    PROMISED,
    PROMISED_OF_RMS,
    USUAL,
    errors_of_any_rows,
    judge_gradients,
    mean_error,
    output_error,
    rstd_error,
)

import fastln
from fastln._reference import normalize

ROOT = Path(__file__).resolve().parents[1]


# The constants of docs/accuracy.md, in u = eps / 2


def additions(steps, levels):
    """Those of numbers that are added one by one, the first two together, then in a tree of so many levels."""
    return np.array([steps - 1, *range(steps - 1, 0, -1)]) + levels


def rms(numbers):
    """The root of the mean square."""
    return float(np.sqrt(np.square(numbers).mean()))


def proved(dtype, steps):
    """What docs/accuracy.md derives for blocks of so many steps, in u, by its names."""
    double = dtype == "float64"
    levels = 6 if double else 3
    wide = 1.25**0.5  # rms(x - shift) of a centred row, over its standard deviation
    sums = rms(additions(steps, levels)) * wide
    lo = rms(additions(steps, levels) + 1) * wide + double
    variance = 2 * wide + (steps + levels) * 1.25 + sums + double * (2.75 + 2.25)
    rstd = variance / 2 + 1
    output = 1.5 + (1 if double else 1.5) + 0.5 + 2.5 + lo + variance / 2 + 2
    offset = 9 * wide + 1
    x_hat = 1.5 + offset + 1 + (0 if double else 1.5)
    mean_gx = 11 * wide + offset + 8 / 2 + 0.5 + (wide + 0.5) + 2
    dx = max(2 * rstd + 10 + 7, 3 * rstd + x_hat + mean_gx + 3)
    return {"y": output, "mean": lo, "rstd": rstd, "dx": dx, "dweight": rstd + x_hat + 5, "dbias": 4}


def proved_of_rms(dtype, steps):
    """The same of RMS norm."""
    double = dtype == "float64"
    square = steps + (6 if double else 3) + 3 * double
    rstd = square / 2 + 1
    dx = max(3 * rstd + 1 + (3 + 7 + 2) + 3, rstd + 3)
    return {"y": square / 2 + 3, "rstd": rstd, "dx": dx, "dweight": rstd + 1 + 5}


def block_steps():
    """CHAIN_STEPS of the kernels."""
    return int(re.search(r"CHAIN_STEPS = (\d+);", (ROOT / "src/rows/moments.h").read_text())[1])


@pytest.mark.skipif(not (ROOT / "src").exists(), reason="the sources are not here")
@pytest.mark.parametrize("dtype", PROMISED)
def test_what_is_promised_is_what_is_proved(dtype):
    for derive, promises in ((proved, PROMISED), (proved_of_rms, PROMISED_OF_RMS)):
        constants = derive(dtype, block_steps())
        assert set(constants) == set(promises[dtype])
        for result, constant in constants.items():
            # What is of second order needs a little room, and more than one eps would be a promise too weak.
            assert constant / 2 + 0.02 < promises[dtype][result] < constant / 2 + 1.1, result


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the documentation is not here")
def test_the_documentation_says_what_is_promised():
    text = (ROOT / "docs/accuracy.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| `[^|]*` \| ([\d.]+) \| ([\d.]+) \|", text, re.M)
    assert {row[0]: (float(row[1]), float(row[2])) for row in table} == {
        result: (PROMISED["float32"][result], PROMISED["float64"][result]) for result in PROMISED["float32"]
    }
    table = re.findall(r"^\| `(\w+)`.* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+), ([\d.]+) \|", text, re.M)
    of_rms = {"float32": {}, "float64": {}}
    for result, float32, float64, *promises in table:
        of_rms["float32"][result], of_rms["float64"][result] = map(float, promises)
        constants = (proved_of_rms(dtype, block_steps())[result] for dtype in of_rms)
        assert (float(float32), float(float64)) == tuple(constants), result
    assert of_rms == PROMISED_OF_RMS


# Rows that are known to be hard


def periodic(n, period, first, value, other):
    """Two values by turns, and a third one where the shift is sampled."""
    x = np.where(np.arange(n) % period < first, value, -value)
    x.reshape(4, n // 4)[:, : period // 4] = other
    return x


# {name: (dtype, row, eps)}
HARD_ROWS = {
    "1910 equally spaced": ("float64", np.arange(1910) * 1.8 + 2.4, 0.01),
    "1696 equally spaced": ("float32", np.arange(1696) * 0.5 + 1.4, 0.01),
    "497 equally spaced": ("float64", np.arange(497) * 0.9 + 1.1, 0.01),
    "1024 of period 64": ("float32", periodic(1024, 64, 32, 1.3284455760688139, 0.5904421273914957), 1e-5),
    "512 of period 32": ("float64", periodic(512, 32, 16, 1.3803545981435976, 0.5485378028790063), 1e-5),
    "256 of period 32": ("float64", periodic(256, 32, 16, 1.389, 0.526), 1e-5),
    "3 columns": ("float64", np.array([-0.4, 1.53, 0.6]), 1e-5),
}


def assert_promised(errors, dtype):
    """Each of {result: error in eps} is within the promise."""
    for result, error in errors.items():
        assert error <= promised(result, dtype), (result, error)


def errors_of_row(row, eps, weight, bias):
    """{result: error in eps} of a row, without parameters and with them."""
    exact = normalize(row, eps)
    y, mean, rstd = fastln.layer_norm_forward(row, eps=eps)
    return {
        "y": output_error(y, exact),
        "y, weight+bias": output_error(fastln.layer_norm(row, None, weight, bias, eps), exact, weight, bias),
        "mean": mean_error(mean, row, exact),
        "rstd": rstd_error(rstd, exact),
    }


@pytest.mark.parametrize("name", HARD_ROWS)
def test_hard_rows_keep_the_promise(name, isa):
    dtype, row, eps = HARD_ROWS[name]
    row = row.astype(dtype)[None]
    weight = np.resize([0.3, 0.9, -0.5], row.shape[1]).astype(dtype)
    bias = np.resize([0.005, -0.005, -0.012], row.shape[1]).astype(dtype)
    assert_promised(errors_of_row(row, eps, weight, bias), dtype)


def errors_of_gradients(dy, x):
    """{result: error in eps}."""
    _, mean, rstd = fastln.layer_norm_forward(x)
    return errors_of_any_rows(fastln.layer_norm_backward(dy, x, mean, rstd), judge_gradients(dy, normalize(x)))


def cancelling(n, dtype, value, apart, outlier):
    """Gradients and rows with mean(g x_hat) near 0, but not that of its roundings, and one large x_hat."""
    place = np.arange(n)
    x = np.where(place % 4 == 0, value, np.where(place % 4 == 1, value * (1 + apart * np.finfo(dtype).eps), -value))
    dy = np.where(place % 2 == 0, 1.0, -1.0)
    x[n // 2 : n // 2 + 4] = dy[n // 2 : n // 2 + 4] = 0
    x[n // 2] = outlier * n**0.5 * value
    return dy, x


def column_of_small_terms(dtype):
    """A column of which each small number is lost next to the first."""
    small = 0.99 * np.finfo(dtype).eps / 2
    return np.array([1, small, small, 0, small, 0, 0, 0, small])[:, None]


# {name: (dtype, dy, x)}
HARD_GRADIENTS = {
    "33 equal rows": (
        "float32",
        np.tile([0.97095811, 1.79816294, 1.35462379], (33, 1)),
        np.tile([0.19213627, 0.60839570, 0.53721595], (33, 1)),
    ),
    "2 rows of 8208": (
        "float64",
        np.random.default_rng(2).standard_normal((2, 8208)),
        np.random.default_rng(1).choice([-1.7, 1.7], (2, 8208)),
    ),
    "dbias of 9 rows": ("float32", np.tile(column_of_small_terms("float32"), 4), np.tile([1, -1, 2, 0.5], (9, 1))),
    "dbias of 9 rows, float64": (
        "float64",
        np.tile(column_of_small_terms("float64"), 4),
        np.tile([1, -1, 2, 0.5], (9, 1)),
    ),
    "dx of 65536": ("float32", *cancelling(65536, "float32", 1.5059366220404455, 105, 1)),
    "dx of 65536, float64": ("float64", *cancelling(65536, "float64", 1.2287530382476837, 144, 2)),
}


@pytest.mark.parametrize("name", HARD_GRADIENTS)
def test_hard_gradients_keep_the_promise(name, isa):
    dtype, *arguments = HARD_GRADIENTS[name]
    dy, x = (np.atleast_2d(argument).astype(dtype) for argument in arguments)
    assert_promised(errors_of_gradients(dy, x), dtype)


# A search for worse ones: the same as `python tests/adversary.py`, for seconds

RESTARTS = 42  # every kind of rows three times, forward and backward


def test_a_search_finds_nothing_near_the_promise(judged_dtype, isa):
    worst = find_worst(isa, judged_dtype, 1, restarts=RESTARTS)
    assert {result.split(",")[0] for result in worst} == set(PROMISED[judged_dtype.name])
    assert all(found.error <= 0.95 for found in worst.values()), worst


def test_no_promise_is_stricter_than_what_ordinary_rows_keep():
    for promise in PROMISED.values():
        assert all(promise[result] > USUAL[result] for result in promise)
