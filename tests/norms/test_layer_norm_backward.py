"""What only layer_norm_backward promises: derivatives, what NaN and Inf spoil, signature, and beside PyTorch."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from arguments import array, good_call
from bounds import USUAL, are_usual, gradient_errors, judge_gradients
from operations import OPERATIONS
from regimes import make_parameters, make_rows

import fastln
from fastln._reference import normalize

BACKWARD = OPERATIONS["layer_norm_backward"]
NAMES = ("dx", "dweight", "dbias")


# Accuracy


@pytest.mark.parametrize("rows", [2, 8, 9, 33, 1000])
def test_small_terms_after_a_large_one_are_not_all_lost(rows, judged_dtype, isa):
    # Each of the small ones is less than half of the last bit of the large one.
    dy = np.full((rows, 40), 0.99 * np.finfo(judged_dtype).eps / 2, judged_dtype)
    dy[0] = 1
    x = np.tile(np.array([1, -1], judged_dtype), (rows, 20))
    _, mean, rstd = fastln.layer_norm_forward(x)
    expected = judge_gradients(dy, normalize(x))
    errors = gradient_errors(fastln.layer_norm_backward(dy, x, mean, rstd), expected)
    assert are_usual(errors), errors


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
    data = BACKWARD.data("mean 10", rows, cols, dtype)
    arguments = BACKWARD.complete(data)
    clean = tuple(BACKWARD(**arguments).values())
    arguments[name] = arguments[name].copy()
    arguments[name][place] = bad
    if name == "x":
        arguments = BACKWARD.complete({**data, "x": arguments["x"]})
    return clean, tuple(BACKWARD(**arguments).values())


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


def test_subnormal_numbers_are_not_flushed(dtype, isa):
    # Gradients of rows of +1 and -1 by a subnormal dy, of which rstd is nearly 1 and dweight the sum.
    tiny = float(np.finfo(dtype).tiny)
    x = np.tile(np.array([1, -1], dtype), (8, 32))
    dy = np.where(np.arange(64) % 3 == 0, tiny / 8, 0).astype(dtype) * np.ones((8, 1), dtype)
    _, mean, rstd = fastln.layer_norm_forward(x)
    dx, dweight, dbias = fastln.layer_norm_backward(dy, x, mean, rstd)
    touched = np.arange(64) % 3 == 0
    assert (np.abs(dx) > tiny / 1000).all()
    for gradient in (np.abs(dweight), dbias):
        np.testing.assert_allclose(gradient[touched] / tiny, 1, rtol=1e-4)
        assert (gradient[~touched] == 0).all()


# The signature


def test_signature():
    parameters = inspect.signature(fastln.layer_norm_backward).parameters
    assert list(parameters) == [*BACKWARD.arguments, "normalized_shape", "output_mask", "out", "num_threads"]
    defaults = [parameter.default for parameter in parameters.values()]
    assert defaults == [inspect.Parameter.empty] * 4 + [None, None, (True, True, True), None, None]
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 5 + [inspect.Parameter.KEYWORD_ONLY] * 4


def test_arguments_by_position():
    arguments = BACKWARD.make("mean 10", 3, 5, np.float32)
    for one, other in zip(
        fastln.layer_norm_backward(**arguments), fastln.layer_norm_backward(*arguments.values()), strict=True
    ):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("count", "named", "mentioned"),
    [
        pytest.param(0, {}, "dy|argument", id="nothing"),
        pytest.param(3, {}, "rstd|argument", id="no rstd"),
        pytest.param(5, {"eps": 1e-5}, "eps", id="unknown name"),
        pytest.param(5, {"x": array(2, 3, 8)}, "x", id="x twice"),
        pytest.param(6, {}, "argument", id="normalized_shape by position"),
    ],
)
def test_calls_that_do_not_fit_the_signature(count, named, mentioned):
    with pytest.raises(TypeError, match=mentioned):
        fastln.layer_norm_backward(*list(good_call(BACKWARD).values())[:count], **named)


@pytest.mark.parametrize(
    ("name", "shape", "needed"),
    [
        ("dy", (4, 767), (4, 768)),
        ("mean", (4,), (4, 1)),
        ("rstd", (3, 1), (4, 1)),
        ("weight", (512,), (768,)),
    ],
)
def test_wrong_shapes_are_told_what_is_needed(name, shape, needed):
    arguments = {**BACKWARD.make("mean 10", 4, 768, np.float32), name: np.zeros(shape, np.float32)}
    with pytest.raises(ValueError, match=rf"^{name} must have shape {escape(needed)}.*, got {escape(shape)}$"):
        fastln.layer_norm_backward(**arguments)


def escape(shape):
    """A shape as a regular expression."""
    return str(shape).replace("(", r"\(").replace(")", r"\)")


@pytest.mark.parametrize("name", ["mean", "rstd"])
@pytest.mark.parametrize("rank", [2, 3])
def test_statistics_of_another_normalized_shape_are_refused(rank, name):
    # As many numbers are there, or more: but they are not those of these rows.
    x = make_rows("normal", 6, 8, np.float32).reshape(1, 6, 2, 4)
    _, mean, rstd = fastln.layer_norm_forward(x, x.shape[4 - rank :])
    stats = {"mean": mean, "rstd": rstd}
    for wrong in (mean.reshape(-1), mean.reshape(*mean.shape[:-1]), fastln.layer_norm_forward(x)[1]):
        with pytest.raises(ValueError, match=rf"^{name} must have shape .+, got "):
            fastln.layer_norm_backward(x, x, **{**stats, name: wrong}, normalized_shape=x.shape[4 - rank :])


# Beside PyTorch


@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "plain"])
@pytest.mark.parametrize("shape", [(7, 9), (5, 24), (2, 3, 4, 6), (65, 768)], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_agrees_with_torch_for_ordinary_numbers(rank, shape, weighted, dtype, torch):
    rank = min(rank, len(shape) - 1)
    dims = shape[len(shape) - rank :]
    cols = int(np.prod(dims))
    rows = int(np.prod(shape)) // cols
    dy, x = make_rows("normal", rows, cols, dtype), make_rows("mean 10", rows, cols, dtype)
    weight, bias = make_parameters(cols, dtype)

    leaves = [torch.from_numpy(a.reshape(to)).requires_grad_() for a, to in ((x, shape), (weight, dims), (bias, dims))]
    y = torch.nn.functional.layer_norm(leaves[0], dims, leaves[1] if weighted else None, leaves[2])
    y.backward(torch.from_numpy(dy.reshape(shape)))
    theirs = [None if leaf.grad is None else leaf.grad.numpy() for leaf in leaves]

    given = torch.from_numpy(x.reshape(shape))
    _, mean, rstd = torch.native_layer_norm(given, dims, None, None, 1e-5)
    ours = fastln.layer_norm_backward(  # tensors have __array__; mean and rstd are PyTorch's own
        torch.from_numpy(dy.reshape(shape)),
        given,
        mean,
        rstd,
        leaves[1].detach() if weighted else None,
        normalized_shape=dims,
    )
    exact = judge_gradients(dy, normalize(x), weight if weighted else None)
    few = 6 * np.finfo(dtype).eps  # PyTorch's own error is a few times what is usual for ours
    for name, our, their, expected in zip(("dx", "dweight", "dbias"), ours, theirs, exact[:3], strict=True):
        if their is not None:
            assert our.shape == their.shape
            difference = np.abs(our - their).reshape((rows, cols) if name == "dx" else cols)
            assert (difference <= few * USUAL[name] * expected.size).all(), name


def test_masks_are_those_of_torch(torch):
    tensors = {name: torch.from_numpy(value) for name, value in BACKWARD.make("mean 10", 5, 8, np.float32).items()}
    for mask in BACKWARD.masks:
        theirs = torch.ops.aten.native_layer_norm_backward(
            *(tensors[name] for name in ("dy", "x")),
            [8],
            *(tensors[name] for name in ("mean", "rstd", "weight")),
            tensors["weight"],
            list(mask),
        )
        ours = fastln.layer_norm_backward(**tensors, output_mask=mask)
        assert [one is None for one in ours] == [one is None for one in theirs]
