"""The tests' own tools are right: the reference, the judge, and the guard against a stale build."""

from __future__ import annotations

import os
from decimal import Decimal, localcontext
from fractions import Fraction
from importlib.machinery import EXTENSION_SUFFIXES
from typing import NamedTuple

import numpy as np
import pytest
from bounds import Judged, gradient_errors, half_subnormal, output_error
from conftest import find_stale_build
from helpers import assert_same_bits, at_offset, in_wider_rows
from operations import OPERATIONS
from regimes import GRADIENT_REGIMES, REGIMES, eps_of, make_mixed_rows, make_rows

from fastln._reference import long_double_suffices, normalize

BACKWARD = OPERATIONS["layer_norm_backward"]


def to_decimal(fraction):
    """A fraction to the precision of the context."""
    return Decimal(fraction.numerator) / Decimal(fraction.denominator)


def to_long_double(decimal):
    """A decimal as a long double."""
    return np.longdouble(str(decimal))


@pytest.mark.parametrize("regime", REGIMES)
def test_reference_agrees_with_rational_arithmetic(regime, dtype):
    if not long_double_suffices(dtype):
        pytest.skip("long double is too narrow here")
    eps = REGIMES[regime].eps
    for cols in (1, 2, 40):
        x = make_rows(regime, 4, cols, dtype)
        exact = normalize(x, eps)
        for row, xhat, mean, rstd in zip(x, *exact, strict=True):
            values = [Fraction(float(value)) for value in row]
            true_mean = sum(values) / cols
            variance = sum((value - true_mean) ** 2 for value in values) / cols + Fraction(eps)
            if variance == 0:
                assert np.isnan(xhat).all()
                continue
            with localcontext(prec=60):
                root = to_decimal(variance).sqrt()
                true_xhat = np.array([to_long_double(to_decimal(value - true_mean) / root) for value in values])
                true_rstd = to_long_double(1 / root)
                true_mean = to_long_double(to_decimal(true_mean))
            # A thousandth of what is usual: the judge must be far better than what it judges.
            tolerance = np.finfo(dtype).eps / 500 * np.longdouble(1)
            assert (np.abs(xhat - true_xhat) <= tolerance * np.abs(true_xhat).max()).all()
            assert abs(rstd[0] - true_rstd) <= tolerance * true_rstd
            assert abs(mean[0] - true_mean) <= tolerance * np.abs(row.astype(np.longdouble)).max()


class GradientCase(NamedTuple):
    """dy for rows of one regime and width, a weight, and the exact gradients with that weight and without."""

    dy: np.ndarray
    x: np.ndarray
    weight: np.ndarray
    weighted: Judged
    plain: Judged


def make_gradient_case(label, rows, cols, dtype):
    """Of a label of regimes.py."""
    data = BACKWARD.data(label, rows, cols, dtype)
    exact = BACKWARD.exact(data, eps_of(label), label)
    return GradientCase(
        data["dy"], data["x"], data["weight"], exact[frozenset(["ds"])], exact[frozenset(["ds", "weight"])]
    )


@pytest.mark.parametrize("label", GRADIENT_REGIMES)
def test_reference_gradients_agree_with_rational_arithmetic(label, dtype):
    if not long_double_suffices(dtype):
        pytest.skip("long double is too narrow here")
    eps = Fraction(eps_of(label))
    tolerance, least = np.longdouble(np.finfo(dtype).eps) / 50, half_subnormal(dtype) / 100
    for rows, cols in ((1, 1), (2, 2), (3, 20)):
        case = make_gradient_case(label, rows, cols, dtype)
        weight = [Fraction(float(value)) for value in case.weight]
        with localcontext(prec=60):
            dweight, dbias = [Decimal(0)] * cols, [Decimal(0)] * cols
            for row in range(rows):
                dy = [Fraction(float(value)) for value in case.dy[row]]
                x = [Fraction(float(value)) for value in case.x[row]]
                g = [a * b for a, b in zip(dy, weight, strict=True)]
                centred = [value - sum(x) / cols for value in x]
                variance = sum(value**2 for value in centred) / cols + eps
                root = to_decimal(variance).sqrt()
                # g - mean(g) - xhat mean(g xhat), without its square root
                along = sum(a * b for a, b in zip(g, centred, strict=True)) / cols / variance
                dx = [to_decimal(a - sum(g) / cols - b * along) / root for a, b in zip(g, centred, strict=True)]
                for i in range(cols):
                    error = abs(case.weighted.dx.value[row, i] - to_long_double(dx[i]))
                    assert error <= tolerance * case.weighted.dx.size[row, 0] + least, (rows, cols)
                    dweight[i] += to_decimal(dy[i] * centred[i]) / root
                    dbias[i] += to_decimal(dy[i])
        for found in (case.weighted, case.plain):
            for gradient, true in ((found.dweight, dweight), (found.dbias, dbias)):
                error = np.abs(gradient.value - np.array([to_long_double(value) for value in true]))
                assert (error <= tolerance * gradient.size + least).all(), (rows, cols)


def test_the_judge_tells_good_gradients_from_usual_ones():
    # All in float32, from a mean rounded to float32, as most implementations have it.
    case = make_gradient_case("mean 1e3", 33, 768, np.float32)
    centred = case.x - case.x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    xhat = centred * rstd
    along = xhat * (case.dy * xhat).mean(axis=-1, keepdims=True)
    dx = rstd * (case.dy - case.dy.mean(axis=-1, keepdims=True) - along)
    usual = gradient_errors((dx, (case.dy * xhat).sum(axis=0), case.dy.sum(axis=0)), case.plain)
    assert usual["dx"] > 8
    assert usual["dweight"] > 2
    assert usual["dweight of many rows"] > 20
    good = [expected.value.astype(np.float32) for expected in case.plain[:3]]
    assert all(error <= 0.5 + 1e-6 for error in gradient_errors(good, case.plain).values())
    for i in range(3):
        spoiled = list(good)
        spoiled[i] = np.where(good[i] == good[i].flat[3], np.nan, good[i])
        assert gradient_errors(spoiled, case.plain)[("dx", "dweight", "dbias")[i]] == np.inf
        spoiled[i] = good[i][:-1]
        assert gradient_errors(spoiled, case.plain)[("dx", "dweight", "dbias")[i]] == np.inf


def test_the_judge_tells_a_good_result_from_a_usual_one():
    # Two passes in float32 with a mean rounded to float32, as most implementations have it.
    x = make_rows("mean 1e3", 4, 768, np.float32)
    exact = normalize(x, 1e-5)
    centred = x - x.mean(axis=-1, keepdims=True)
    usual = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    assert output_error(usual, exact) > 20
    assert output_error(exact.x_hat.astype(np.float32), exact) <= 0.5 + 1e-6
    spoiled = exact.x_hat.astype(np.float32)
    spoiled[1, 5] = np.nan
    assert output_error(spoiled, exact) == np.inf


def test_mixed_rows_hold_usual_and_unusual_rows(dtype):
    x = make_mixed_rows(300, 33, dtype)
    assert x.shape == (300, 33)
    assert np.isfinite(x).all()
    size = np.abs(x).max(axis=1)
    info = np.finfo(dtype)
    assert (size > info.max / 2).any()
    assert ((size > 0) & (size < info.tiny)).any()
    assert (np.ptp(x.astype(np.longdouble), axis=1) == 0).any()


def test_copies_are_where_they_should_be(dtype):
    x = make_rows("normal", 3, 7, dtype)
    for elements, extra in ((0, 0), (3, 0), (16, 0), (0, 1)):
        copy = at_offset(x, elements, extra)
        assert copy.ctypes.data % 64 == (elements * x.itemsize + extra) % 64
        assert_same_bits(copy, x)
    wide = in_wider_rows(x)
    assert wide.strides == (12 * x.itemsize, x.itemsize)
    with pytest.raises(AssertionError, match="1 of 21 elements"):
        assert_same_bits(np.where(np.arange(21).reshape(3, 7) == 4, 9, x).astype(dtype), x)


@pytest.fixture
def checkout(tmp_path):
    """A clone with two modules that were built after every source."""
    names = ["src/rows/sum.h", "fastln/a.pyx", "fastln/b.pyx", "fastln/b.pxd", "setup.py"]
    built = [f"fastln/{stem}{EXTENSION_SUFFIXES[0]}" for stem in "ab"]
    for age, name in ((200, "a"), (100, "b")):
        for path in names if name == "a" else built:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
            touch(tmp_path / path, -age)
    return tmp_path


def touch(path, when):
    """Date a file this many seconds from some moment."""
    os.utime(path, (1_000_000_000 + when,) * 2)


def test_a_fresh_build_is_not_stale(checkout):
    assert find_stale_build(checkout, checkout / "fastln") is None


@pytest.mark.parametrize("source", ["src/rows/sum.h", "fastln/a.pyx", "fastln/b.pxd", "setup.py"])
def test_a_newer_source_makes_the_build_stale(source, checkout):
    touch(checkout / source, 0)
    reason = find_stale_build(checkout, checkout / "fastln")
    assert source in reason
    assert "\n" not in reason
    assert find_stale_build(checkout, checkout / "site-packages" / "fastln") is None


def test_a_module_may_be_built_again_alone(checkout):
    touch(checkout / "fastln/a.pyx", 0)
    touch(checkout / f"fastln/a{EXTENSION_SUFFIXES[0]}", 1)
    assert find_stale_build(checkout, checkout / "fastln") is None


def test_a_clone_without_a_build_says_so(checkout):
    for module in (checkout / "fastln").glob(f"*{EXTENSION_SUFFIXES[0]}"):
        module.unlink()
    assert "not built" in find_stale_build(checkout, checkout / "fastln")
    assert "not importable" in find_stale_build(checkout, None)
