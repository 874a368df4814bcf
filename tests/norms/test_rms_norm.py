"""What only rms_norm and its gradients promise: eps=None, weight_offset, cast, scale, no mean, and beside PyTorch."""

from __future__ import annotations

import inspect
import pydoc

import numpy as np
import pytest
from bounds import USUAL, in_eps, output_error
from helpers import assert_all_same_bits, assert_same_bits
from operations import OPERATIONS
from regimes import EDGE_COLS, make_parameters, make_rows

import fastln
from fastln._reference import normalize_by_rms, rms_norm, rms_norm_backward

FORWARD, BACKWARD = OPERATIONS["rms_norm_forward"], OPERATIONS["rms_norm_backward"]


@pytest.fixture(params=["rms_norm", "rms_norm_forward"])
def function(request):
    """Run the test with each of the two public functions."""
    return getattr(fastln, request.param)


@pytest.fixture(params=["rms_norm", "rms_norm_forward", "rms_norm_backward"])
def operation_name(request):
    """Run the test with each of the three public functions."""
    return request.param


def y_of(result):
    """The first result, or the only one."""
    return result[0] if isinstance(result, tuple) else result


# eps


def test_eps_of_none_is_that_of_the_dtype(function, dtype, isa):
    eps = float(np.finfo(dtype).eps)
    for cols in EDGE_COLS:
        x = make_rows("normal", 5, cols, dtype) * dtype.type(eps**0.5)  # where eps counts as much as x
        expected = y_of(function(x, eps=eps))
        assert_same_bits(y_of(function(x)), expected)
        assert_same_bits(y_of(function(x, eps=None)), expected)
        assert_same_bits(y_of(function(x.tolist() if dtype == np.float64 else x[:, ::-1][:, ::-1])), expected)


@pytest.mark.parametrize("eps", [None, 1e-5, 1e-6])
def test_pytorch_means_the_same_eps(eps, dtype):
    torch = pytest.importorskip("torch")
    for scale in (1.0, 1e-3, 1e-8):
        x = make_rows("normal", 5, 64, dtype) * dtype.type(scale)
        weight, _ = make_parameters(64, dtype)
        theirs = torch.nn.functional.rms_norm(torch.from_numpy(x), (64,), torch.from_numpy(weight), eps).numpy()
        ours = fastln.rms_norm(x, 64, weight, eps)
        np.testing.assert_allclose(ours, theirs, rtol=20 * np.finfo(dtype).eps, atol=0)


def test_layer_norm_has_no_eps_of_none():
    with pytest.raises(TypeError, match=r"^eps must be a real number >= 0, got None"):
        fastln.layer_norm(np.ones((2, 3)), eps=None)


# weight_offset and cast


@pytest.mark.parametrize("offset", [1.0, 1, np.float32(0.5), -0.25, 0.1])
def test_an_offset_is_added_to_the_weight_in_the_dtype_of_x(function, offset, dtype, isa):
    for cols in EDGE_COLS:
        x, (weight, _) = make_rows("mean 10", 9, cols, dtype), make_parameters(cols, dtype)
        before = weight.copy()
        added = weight + dtype.type(offset)
        expected = y_of(function(x, None, added, 1e-6))
        assert_same_bits(y_of(function(x, None, weight, 1e-6, weight_offset=offset)), expected)
        assert_same_bits(y_of(function(x[::-1], None, weight, 1e-6, weight_offset=offset)), expected[::-1])
        assert_same_bits(weight, before)


@pytest.mark.parametrize("rows", [1, 9, 70])
def test_gradients_take_the_same_offset(rows, dtype, isa):
    for cols in EDGE_COLS:
        arguments = BACKWARD.make("mean 10", rows, cols, dtype)
        added = {**arguments, "weight": arguments["weight"] + dtype.type(1)}
        assert_all_same_bits(BACKWARD(**arguments, weight_offset=1.0), BACKWARD(**added))
        assert_all_same_bits(
            BACKWARD(**arguments, weight_offset=1.0, out=arguments["x"].copy(), num_threads=2), BACKWARD(**added)
        )


def test_the_weight_may_overlap_out_whatever_its_offset(dtype):
    x, (weight, _) = make_rows("normal", 3, 24, dtype), make_parameters(24, dtype)
    expected = fastln.rms_norm(x, 24, weight, weight_offset=1)
    out = np.empty_like(x)
    out[1] = weight
    assert_same_bits(fastln.rms_norm(x, 24, out[1], weight_offset=1, out=out), expected)


def test_an_offset_needs_a_weight(operation_name):
    given = {"x": np.ones((2, 3), np.float32)} | (
        {"dy": np.ones((2, 3), np.float32), "rstd": np.ones((2, 1), np.float32)} if "backward" in operation_name else {}
    )
    with pytest.raises(ValueError, match=r"^weight_offset must be 0 where weight is None, got 1\.0$"):
        getattr(fastln, operation_name)(**given, weight_offset=1.0)
    getattr(fastln, operation_name)(**given, weight_offset=0)


@pytest.mark.parametrize("cast", [None, "llama", "gemma"])
def test_a_cast_changes_nothing_where_x_is_computed_with_in_its_own_dtype(function, cast, dtype, isa):
    x, (weight, _) = make_rows("normal", 9, 65, dtype), make_parameters(65, dtype)
    assert_same_bits(y_of(function(x, 65, weight, cast=cast)), y_of(function(x, 65, weight)))


# Values


def test_no_mean_is_subtracted(dtype, isa):
    for cols in EDGE_COLS:
        x = np.full((3, cols), 3.0, dtype)
        y, rstd = fastln.rms_norm_forward(x, eps=16.0)
        np.testing.assert_allclose(y, 0.6, rtol=2 * np.finfo(dtype).eps)
        np.testing.assert_allclose(rstd, 0.2, rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("eps", [1e-5, 1e-60, 0.0])
def test_rows_of_zeros(eps, dtype, isa):
    for cols in EDGE_COLS:
        x = np.zeros((5, cols), dtype)
        x[1::2] = -0.0
        y = fastln.rms_norm(x, eps=eps)
        assert (y == 0).all() if eps else np.isnan(y).all()  # 0 / 0


def test_powers_of_two_scale_nothing_but_rstd(dtype, isa):
    info = np.finfo(dtype)
    for cols in (5, 16, 65, 768):
        x = make_rows("normal", 6, cols, dtype)
        x = np.where(np.abs(x) < 0.01, dtype.type(1), x)  # so that the smallest one is not subnormal below
        y, rstd = fastln.rms_norm_forward(x, eps=0.0)
        for power in (1, 40, info.maxexp - 4, -40, info.minexp + 8):
            found, found_rstd = fastln.rms_norm_forward(np.ldexp(x, power), eps=0.0)
            expected = np.ldexp(rstd, -power)
            np.testing.assert_allclose(found, y, rtol=4 * info.eps)
            ordinary = np.abs(expected) >= info.tiny
            np.testing.assert_allclose(found_rstd[ordinary], expected[ordinary], rtol=4 * info.eps)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_with_nan_or_inf_is_nan(bad, dtype, isa):
    for cols in EDGE_COLS:
        x = make_rows("normal", 5, cols, dtype)
        x[2, cols // 2] = bad
        y, rstd = fastln.rms_norm_forward(x)
        assert np.isnan(y[2]).all()
        assert np.isnan(rstd[2]).all()
        assert np.isfinite(np.delete(y, 2, 0)).all()


def test_results_are_those_of_pytorch(dtype, isa):
    torch = pytest.importorskip("torch")
    for rows, cols in ((1, 2), (4, 3), (9, 64), (33, 768)):
        x, (weight, _) = make_rows("mean 10", rows, cols, dtype), make_parameters(cols, dtype)
        dy = make_rows("normal", rows, cols, dtype)
        tensors = [torch.from_numpy(a).requires_grad_() for a in (x, weight)]
        y = torch.nn.functional.rms_norm(tensors[0], (cols,), tensors[1], 1e-6)
        y.backward(torch.from_numpy(dy))
        ours, rstd = fastln.rms_norm_forward(x, cols, weight, 1e-6)
        dx, dweight = fastln.rms_norm_backward(dy, x, rstd, weight)
        for found, theirs in zip((ours, dx, dweight), (y.detach(), tensors[0].grad, tensors[1].grad), strict=True):
            tolerance = 200 * np.finfo(dtype).eps * float(theirs.abs().max())
            np.testing.assert_allclose(found, theirs.numpy(), rtol=0, atol=tolerance)


# Accuracy where others lose it


@pytest.mark.parametrize("scale", ["huge", "tiny"])
def test_squares_neither_overflow_nor_underflow(scale, dtype, isa):
    factor = {"huge": {4: 1e20, 8: 1e160}, "tiny": {4: 1e-20, 8: 1e-160}}[scale][dtype.itemsize]
    for cols in EDGE_COLS:
        x = make_rows("normal", 5, cols, dtype) * dtype.type(factor)
        weight, _ = make_parameters(cols, dtype)
        eps = float(np.finfo(dtype).tiny) if scale == "tiny" else 1e-6
        y = fastln.rms_norm(x, cols, weight, eps)
        assert output_error(y, normalize_by_rms(x, eps), weight) <= USUAL["y"]


def test_one_huge_outlier_costs_no_digits(dtype, isa):
    for cols in (2, 33, 768, 4096):
        x = make_rows("normal", 6, cols, dtype)
        x[:, cols // 2] = [1e3, -1e6, 1e12, 1e18, 1e25, -1e37]
        y = fastln.rms_norm(x, eps=1e-6)
        assert output_error(y, normalize_by_rms(x, 1e-6)) <= USUAL["y"]


def test_the_reference_is_the_formula():
    x, (weight, _) = make_rows("normal", 4, 33, np.float64), make_parameters(33, np.float64)
    dy, h = make_rows("mean 10", 4, 33, np.float64), 1e-6
    y, rstd = rms_norm(x, weight, 1e-3)
    np.testing.assert_allclose(rstd[:, 0], [1 / np.sqrt((row @ row) / 33 + 1e-3) for row in x])
    np.testing.assert_allclose(y, x * rstd * weight)
    dx, dweight = rms_norm_backward(dy, x, weight, 1e-3)
    for at in ((0, 0), (2, 7), (3, 32)):
        moved = [x.copy() for _ in range(2)]
        moved[0][at] += h
        moved[1][at] -= h
        above, below = ((dy * rms_norm(one, weight, 1e-3)[0]).sum() for one in moved)
        assert abs((above - below) / (2 * h) - dx[at]) < 1e-7
    np.testing.assert_allclose(dweight, (dy * x * rstd).sum(axis=0))


def test_a_sum_of_many_rows_keeps_its_digits(dtype, isa):
    x = make_rows("normal", 30_000, 3, dtype)
    dy = np.ones_like(x)
    x[:] = np.abs(x)
    _, rstd = fastln.rms_norm_forward(x)
    _, dweight = fastln.rms_norm_backward(dy, x, rstd)
    exact = (normalize_by_rms(x, float(np.finfo(dtype).eps)).x_hat).sum(axis=0)
    assert in_eps(dweight, exact, exact) <= USUAL["dweight"]


# Signature and help


def test_signatures():
    forward = (
        "(x, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None, out=None, num_threads=None)"
    )
    assert str(inspect.signature(fastln.rms_norm)) == forward
    assert str(inspect.signature(fastln.rms_norm_forward)) == forward
    assert str(inspect.signature(fastln.rms_norm_backward)) == (
        "(dy, x, rstd, weight=None, *, normalized_shape=None, output_mask=(True, True), weight_offset=0.0, out=None, "
        "num_threads=None)"
    )


def test_help_has_the_paper_and_an_example(operation_name):
    text = pydoc.plain(pydoc.render_doc(getattr(fastln, operation_name)))
    assert "arXiv:1910.07467" in text
    assert ">>> " in text
