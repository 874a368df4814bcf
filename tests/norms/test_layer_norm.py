"""What only layer_norm and layer_norm_forward promise: constant rows, scale, signature and help, and beside PyTorch."""

from __future__ import annotations

import inspect
import pydoc

import numpy as np
import pytest
from bounds import USUAL, output_error
from helpers import assert_same_bits
from operations import OPERATIONS
from regimes import EDGE_COLS, make_parameters, make_rows

import fastln
from fastln._reference import normalize, output_size

FORWARD = OPERATIONS["layer_norm_forward"]


@pytest.fixture(params=["layer_norm", "layer_norm_forward"])
def function(request):
    """Run the test with each of the two public functions."""
    return getattr(fastln, request.param)


@pytest.fixture(params=FORWARD.absences, ids=lambda absent: f"no {' '.join(absent)}" if absent else "all")
def absent(request):
    """Run the test with each choice of weight and bias."""
    return request.param


# Constant rows, NaN and Inf, scale


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
    assert output_error(y[::2], normalize(x[::2], 0.0)) <= USUAL["y"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_make_their_row_nan_and_no_other(bad, absent, dtype, isa):
    for cols in EDGE_COLS:
        arguments = FORWARD.make("normal", 5, cols, dtype, absent)
        expected = FORWARD(**arguments)["y"]
        for place in {0, cols // 2, cols - 1}:
            x = arguments["x"].copy()
            x[2, place] = bad
            y = FORWARD(**{**arguments, "x": x})["y"]
            assert np.isnan(y[2]).all(), f"D={cols}, at {place}"
            assert np.delete(y, 2, 0).tobytes() == np.delete(expected, 2, 0).tobytes(), f"D={cols}, at {place}"


def test_two_infinities_give_nan(dtype, isa):
    x = np.ones((1, 40), dtype)
    x[0, 3], x[0, 30] = np.inf, -np.inf
    assert np.isnan(fastln.layer_norm(x)).all()


def test_scaling_by_a_power_of_two_changes_no_bit_when_eps_scales_too(absent, dtype, isa):
    for cols in (3, 17, 64, 129, 768):
        arguments = FORWARD.make("normal", 3, cols, dtype, absent)
        expected = fastln.layer_norm(**arguments, eps=2.0**-10)
        arguments["x"] *= dtype.type(64)
        assert fastln.layer_norm(**arguments, eps=2.0**2).tobytes() == expected.tobytes()


def test_subnormal_numbers_are_not_flushed(dtype, isa, always_parallel):
    rows_of_two = np.tile(np.array([1, -1], dtype), (8, 32))
    for threads in (1, 2):
        fastln.layer_norm(FORWARD.make("mixed", 8, 64, dtype)["x"], num_threads=threads)
        smallest = np.finfo(dtype).smallest_subnormal
        assert (np.full(64, smallest) * dtype.type(1) != 0).all()
        # A subnormal weight on an otherwise ordinary row: the result is subnormal, and not zero.
        weight = np.full(64, np.finfo(dtype).tiny / 8, dtype)
        y = fastln.layer_norm(rows_of_two, None, weight, num_threads=threads)
        assert (np.abs(y) > np.finfo(dtype).tiny / 16).all()


# The signature


def test_signature(function):
    parameters = inspect.signature(function).parameters
    assert list(parameters) == ["x", "normalized_shape", "weight", "bias", "eps", "out", "num_threads"]
    defaults = [parameter.default for parameter in parameters.values()]
    assert defaults == [inspect.Parameter.empty, None, None, None, 1e-5, None, None]
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 5 + [inspect.Parameter.KEYWORD_ONLY] * 2


def test_help_names_the_paper(function):
    assert "1607.06450" in pydoc.plain(pydoc.render_doc(function))


def test_arguments_by_position(function):
    arguments = FORWARD.make("normal", 3, 5, np.float32)
    by_name = function(**arguments, normalized_shape=(5,), eps=0.1)
    by_position = function(arguments["x"], (5,), arguments["weight"], arguments["bias"], 0.1)
    for one, other in zip(by_name, by_position, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize(
    ("positional", "named", "mentioned"),
    [
        pytest.param((), {}, "x|argument", id="nothing"),
        pytest.param((), {"weight": None}, "x|argument", id="no x"),
        pytest.param((np.ones(8),), {"epsilon": 1e-5}, "epsilon", id="unknown name"),
        pytest.param((np.ones(8),), {"x": np.ones(8)}, "x", id="x twice"),
        pytest.param((np.ones(8), 8, None, None, 1e-5, np.ones(8)), {}, "argument", id="out by position"),
    ],
)
def test_calls_that_do_not_fit_the_signature(positional, named, mentioned, function):
    with pytest.raises(TypeError, match=mentioned):
        function(*positional, **named)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_wrong_shapes_are_told_what_is_needed(name, function):
    x = np.zeros((4, 768), np.float32)
    expected = rf"^{name} must have shape \(768,\) to match normalized_shape, got \(512,\)$"
    with pytest.raises(ValueError, match=expected):
        function(x, 768, **{name: np.zeros(512, np.float32)})
    expected = rf"^{name} must have shape \(4, 768\) to match normalized_shape, got \(3072,\)$"
    with pytest.raises(ValueError, match=expected):
        function(x, (4, 768), **{name: np.zeros(3072, np.float32)})


# Beside PyTorch


def test_positional_arguments_are_those_of_torch(torch):
    theirs = list(inspect.signature(torch.nn.functional.layer_norm).parameters)
    assert theirs == ["input", "normalized_shape", "weight", "bias", "eps"]
    assert list(inspect.signature(fastln.layer_norm).parameters)[1:5] == theirs[1:]


@pytest.mark.parametrize("shape", [(7, 1), (5, 24), (2, 3, 4, 6), (3, 768)], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_agrees_with_torch_for_ordinary_numbers(rank, shape, absent, dtype, torch):
    rank = min(rank, len(shape) - 1)
    leading, dims = shape[: len(shape) - rank], shape[-rank:]
    rows, cols = int(np.prod(leading)), int(np.prod(dims))
    flat = FORWARD.make("normal", rows, cols, dtype, absent)
    shaped = FORWARD.reshaped(flat, leading, dims)
    x, weight, bias = (None if value is None else torch.from_numpy(value) for value in shaped.values())
    arguments = (x, dims, weight, bias, 1e-5)
    theirs = torch.nn.functional.layer_norm(*arguments).numpy()
    ours = fastln.layer_norm(*arguments)  # tensors have __array__
    size = output_size(normalize(flat["x"]).x_hat, flat["weight"], flat["bias"])
    # PyTorch's own error is a few times as large here (and without limit for rows with a large mean).
    assert (np.abs(ours - theirs).reshape(rows, cols) <= 6 * USUAL["y"] * np.finfo(dtype).eps * size).all()
    their_mean, their_rstd = torch.native_layer_norm(*arguments)[1:]
    _, mean, rstd = fastln.layer_norm_forward(*arguments)
    assert mean.shape == tuple(their_mean.shape)
    assert rstd.shape == tuple(their_rstd.shape)
    tolerance = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(mean, their_mean.numpy(), rtol=0, atol=tolerance * np.abs(flat["x"]).max())
    np.testing.assert_allclose(rstd, their_rstd.numpy(), rtol=tolerance)
