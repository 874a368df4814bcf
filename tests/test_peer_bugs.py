"""Inputs on which other implementations of layer norm are or were wrong: one test for each class of bug.

The classes were collected from the issue trackers of deep-learning frameworks and inference engines.
"""

from __future__ import annotations

import numpy as np
import pytest
from bounds import USUAL, are_usual, gradient_errors, judge_gradients, output_error
from helpers import assert_same_bits, output_of

import fastln
from fastln._reference import long_double_suffices, normalize


def assert_exact(x, eps=1e-5):
    """The rows of x are finite and as accurate as ordinary ones when normalized."""
    x = np.atleast_2d(x)
    assert long_double_suffices(np.float32)
    assert x.dtype == np.float32
    y = fastln.layer_norm(x, eps=eps)
    assert np.isfinite(y).all()
    assert output_error(y, normalize(x, eps)) <= USUAL["y"]


def normal(*shape):
    """Standard normal numbers in float32, always the same ones."""
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


CANCELLING = {
    "mean + i / 1000": 100 + np.arange(64) * 1e-3,
    "40000 to 40003": np.arange(40000, 40004),
    "80000 to 80003": np.arange(80000, 80004),
    "1234 everywhere but once": np.r_[np.full(255, 1234.0), 1234.001],
    "0.01 randn + 100, long": normal(32768) * 0.01 + 100,
    "randn + 2000, short": normal(4) + 2000,
    "1e6 +- 1e-3": 1e6 + np.array([-1e-3, 1e-3] * 8),
    "1e6 + i / 16": 1e6 + np.arange(256) / 16,
    "1e5 + randn": normal(768) + 1e5,
}


@pytest.mark.parametrize("row", CANCELLING)
def test_variance_as_a_difference_of_large_numbers(row, isa):
    assert_exact(np.float32(CANCELLING[row]))


def test_mean_rounded_to_float32(isa):
    # 0.4 % off elsewhere: the mean of the row lies between two float32 numbers.
    y = fastln.layer_norm(np.float32(1e6 + np.arange(256) / 16))
    assert abs(y[0] - -1.7253) < 1e-4


@pytest.mark.parametrize("value", [0.0, 1234.0, 0.1, 7e9, 3e38, -3e38, 1e-45])
def test_constant_rows_drift_off_the_bias(value, isa):
    for cols in (1, 4, 256, 768, 1000):
        x = np.full((2, cols), value, np.float32)
        weight, bias = np.full(cols, 1e10, np.float32), normal(cols)
        assert (fastln.layer_norm(x, None, weight, bias) == bias).all()
        _, _, rstd = fastln.layer_norm_forward(x)
        np.testing.assert_allclose(rstd, 1e-5**-0.5, rtol=2 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("scale", [7e9, 1e18, 1e19, 1e20, 1e30, 6e37])
def test_squares_overflow(scale, isa):
    assert_exact(normal(8, 768) * np.float32(scale))


@pytest.mark.parametrize("largest", [3e38, np.finfo(np.float32).max])
def test_sums_overflow(largest, isa):
    assert_exact(np.float32([[largest] * 7 + [0], [largest, -largest] * 4, [largest] * 4 + [-largest] * 4]))


@pytest.mark.parametrize("scale", [1e-18, 1e-22, 1e-30, 1e-37, 1e-40])
def test_squares_underflow_without_eps(scale, isa):
    assert_exact(normal(8, 768) * np.float32(scale), eps=0.0)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 3e-3, 1.0, 1e3])
@pytest.mark.parametrize("outlier", [0.0, 1e19, 1e30])
def test_rescaling_forgets_eps(scale, outlier, isa):
    # "Divide by the largest, then normalize" multiplies eps by the square of the largest.
    x = normal(8, 200) * np.float32(scale)
    x[0, 7] += np.float32(outlier)
    x[1] = 0
    x[2] = outlier
    assert_exact(x)


def test_more_rows_than_a_16_bit_grid_has(always_parallel):
    x = np.tile(normal(7, 3), (10_001, 1))
    expected = np.tile(fastln.layer_norm(x[:7]), (10_001, 1))
    for threads in (1, 2):
        assert_same_bits(fastln.layer_norm(x, num_threads=threads), expected)


@pytest.mark.parametrize("shape", [8 + 2**32, (8 + 2**32,), (1 + 2**32, 8), 8 - 2**32], ids=str)
def test_sizes_cut_to_32_bits(shape):
    with pytest.raises(ValueError, match=r"^normalized_shape must .+, got "):
        fastln.layer_norm(normal(4, 8), shape)


def test_results_depend_on_threads_or_batch(isa, always_parallel):
    x = normal(97, 513)
    alone = np.stack([fastln.layer_norm(row) for row in x])
    for threads in (1, 2, 5):
        assert_same_bits(fastln.layer_norm(x, num_threads=threads), alone)


def test_stepped_views_are_read_as_if_contiguous(isa):
    x = normal(12, 6, 50)
    for view in (x[::2], x[:, ::3], x[:, :, ::2], x[::-1, 1:5, 3:], x.swapaxes(0, 1), x[..., 7:40]):
        assert_same_bits(fastln.layer_norm(view), fastln.layer_norm(view.copy()))


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("size", [0, 1, 767, 769])
def test_parameters_of_another_size_are_read_past_their_end(size, name):
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(768,\)"):
        fastln.layer_norm(normal(4, 768), 768, **{name: normal(size)})


@pytest.mark.parametrize("shape", [(3, 0), (0, 0)], ids=str)
def test_division_by_a_size_of_zero_kills_the_process(shape):
    with pytest.raises(ValueError, match=r"must .+, got "):
        fastln.layer_norm(np.empty(shape, np.float32))


def test_loading_a_library_flushes_subnormal_numbers():
    code = "import fastln; fastln.layer_norm([1.0, 2.0]); print(5e-324 * 1.0 != 0 and 2.5e-310 / 2 != 0)"
    assert output_of(code) == "True"


def test_masks_are_dropped_in_silence():
    x = np.ma.masked_array(normal(4, 8), mask=np.eye(4, 8, dtype=bool))
    with pytest.raises(TypeError, match=r"^x must .+, got "):
        fastln.layer_norm(x)


def test_half_precision_sums_overflow():
    x = np.full((2, 8), 60000, np.float16)
    x[1, ::2] = -60000
    y, mean, _ = fastln.layer_norm_forward(x)
    assert mean.tolist() == [[60000], [0]]
    assert y.tolist() == [[0] * 8, [-1, 1] * 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_row_spoils_its_neighbours(bad, isa):
    x = normal(5, 100)
    expected = fastln.layer_norm(x)
    x[3, 50] = bad
    y = fastln.layer_norm(x)
    assert np.isnan(y[3]).all()
    assert_same_bits(y[[0, 1, 2, 4]], expected[[0, 1, 2, 4]])


# Gradients


@pytest.mark.parametrize("name", ["mean", "rstd"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 8])
def test_backward_reads_past_the_end_of_short_statistics(size, name):
    x = normal(4, 8)
    _, mean, rstd = fastln.layer_norm_forward(x)
    for shape in ((size,), (size, 1), (1, size)):
        with pytest.raises(ValueError, match=rf"^{name} must have shape \(4, 1\).*, got "):
            fastln.layer_norm_backward(x, x, **{"mean": mean, "rstd": rstd, name: normal(*shape)})


def test_gradients_of_parameters_depend_on_threads(isa, always_parallel):
    x, dy = normal(1000, 96) + 3, normal(1000, 96)
    _, mean, rstd = fastln.layer_norm_forward(x)
    one = fastln.layer_norm_backward(dy, x, mean, rstd, num_threads=1)
    for threads in (2, 3, 5):
        for found, expected in zip(
            fastln.layer_norm_backward(dy, x, mean, rstd, num_threads=threads), one, strict=True
        ):
            assert_same_bits(found, expected)


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_dx_as_a_difference_of_large_numbers(offset, isa):
    # Written as a dy + b x + c, dx loses its digits where |mean| >> std.
    x, dy = normal(32, 768) + np.float32(offset), normal(32, 768)[::-1]
    _, mean, rstd = fastln.layer_norm_forward(x)
    errors = gradient_errors(fastln.layer_norm_backward(dy, x, mean, rstd), judge_gradients(dy, normalize(x)))
    assert are_usual(errors), errors


def test_gradients_are_dropped_in_silence():
    # Elsewhere a layer norm without a backward pass gives zeros, or nothing, and training goes on.
    x = normal(3, 8)
    _, mean, rstd = fastln.layer_norm_forward(x)
    assert all((gradient != 0).all() for gradient in fastln.layer_norm_backward(normal(3, 8) + x**2, x, mean, rstd))
