"""What layer_norm and layer_norm_forward take and give back, and how they refuse what is wrong."""

from __future__ import annotations

import gc
import inspect
import pydoc
import sys
from fractions import Fraction

import numpy as np
import pytest
from arguments import (
    ARRAY_LAYOUTS,
    BAD_EPS,
    BAD_OUT,
    BAD_PARAMETER,
    BAD_SHAPE,
    BAD_THREADS,
    BAD_X,
    LAYOUTS,
    SHAPE,
    WithArray,
    array,
    as_tuple,
    assert_keeps_no_reference,
    assert_refused,
    call_often,
    counts_references,
)
from helpers import assert_same_bits
from reference import COMBINATIONS, USUAL, exact_layer_norm, make_parameters, make_rows, output_size

import fastln


@pytest.fixture(params=["layer_norm", "layer_norm_forward"])
def function(request):
    """Run the test with each of the two public functions."""
    return getattr(fastln, request.param)


# Shapes


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_normalized_shape_of_every_rank(rank, combination, dtype):
    x = make_rows("normal", 1, 2 * 3 * 4 * 5, dtype).reshape(2, 3, 4, 5)
    shape = x.shape[4 - rank :]
    leading = x.shape[: 4 - rank]
    size = int(np.prod(shape))
    weight, bias = (
        value if use else None
        for value, use in zip(make_parameters(size, dtype), COMBINATIONS[combination], strict=True)
    )
    expected = fastln.layer_norm_forward(x.reshape(-1, size), None, weight, bias)
    shaped = [None if value is None else value.reshape(shape) for value in (weight, bias)]
    y, mean, rstd = fastln.layer_norm_forward(x, shape, *shaped)
    assert_same_bits(y, expected[0].reshape(x.shape))
    assert_same_bits(mean, expected[1].reshape(*leading, *(1,) * rank))
    assert_same_bits(rstd, expected[2].reshape(*leading, *(1,) * rank))
    assert_same_bits(fastln.layer_norm(x, shape, *shaped), y)
    assert_same_bits(fastln.layer_norm(x, list(shape), *shaped), y)


@pytest.mark.parametrize("shape", [None, 5, (5,), [5], np.int64(5), (np.int32(5),)], ids=repr)
def test_the_last_dimension_in_every_spelling(shape, function):
    x = make_rows("normal", 12, 5, np.float32).reshape(3, 4, 5)
    for actual, expected in zip(
        as_tuple(function(x, shape)), as_tuple(function(x, normalized_shape=(5,))), strict=True
    ):
        assert_same_bits(actual, expected)


def test_one_dimension(dtype):
    x = make_rows("normal", 1, 9, dtype)
    y, mean, rstd = fastln.layer_norm_forward(x[0])
    assert_same_bits(y, fastln.layer_norm(x)[0])
    assert mean.shape == rstd.shape == (1,)


def test_results_are_new_plain_arrays_of_the_dtype_of_x(dtype):
    x = make_rows("normal", 3, 8, dtype)
    y, mean, rstd = fastln.layer_norm_forward(x)
    for result in (y, mean, rstd, fastln.layer_norm(x)):
        assert type(result) is np.ndarray
        assert result.dtype == dtype
        assert result.flags.writeable
        assert result.flags.c_contiguous
        assert not np.shares_memory(result, x)


@pytest.mark.parametrize("shape", [(0, 8), (0,) * 3 + (8,), (3, 0, 8), (0, 3, 8)], ids=str)
def test_no_rows_give_an_empty_result(shape, dtype):
    weight, bias = make_parameters(8, dtype)
    y, mean, rstd = fastln.layer_norm_forward(np.empty(shape, dtype), 8, weight, bias)
    assert (y.shape, y.dtype) == (shape, dtype)
    assert mean.shape == rstd.shape == (*shape[:-1], 1)
    out = np.empty(shape, dtype)
    assert fastln.layer_norm(out, 8, weight, bias, out=out) is out


@pytest.mark.parametrize("moves", [(0, 1, 2, 3), (1, 0, 2, 3), (2, 0, 1, 3), (3, 2, 1, 0), (0, 2, 3, 1)], ids=str)
def test_transposed_leading_dimensions(moves, dtype):
    x = make_rows("normal", 24, 17, dtype).reshape(2, 3, 4, 17).transpose(moves)
    assert_same_bits(fastln.layer_norm(x), fastln.layer_norm(np.ascontiguousarray(x)))
    assert_same_bits(fastln.layer_norm(x, x.shape[2:]), fastln.layer_norm(np.ascontiguousarray(x), x.shape[2:]))


def test_many_dimensions(dtype):
    x = make_rows("normal", 64, 3, dtype).reshape(*(1, 2) * 6, 3)[::1, ::-1]
    assert_same_bits(fastln.layer_norm(x), fastln.layer_norm(np.ascontiguousarray(x)))


# Layouts: each takes contiguous rows to something of the same values, which must give the same bits.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_x(layout, function, dtype, isa):
    for cols in (1, 3, 16, 65, 130):
        x = make_rows("normal", 6, cols, dtype)
        expected = as_tuple(function(x, None, *make_parameters(cols, dtype)))
        given = LAYOUTS[layout](x)
        for actual, one in zip(as_tuple(function(given, None, *make_parameters(cols, dtype))), expected, strict=True):
            assert type(actual) is np.ndarray
            assert_same_bits(actual, one)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("shape", [(24,), (4, 6)], ids=str)
def test_layouts_of_weight_and_bias(shape, name, layout, dtype):
    x = make_rows("normal", 5, 24, dtype).reshape(5, *shape)
    parameter = make_parameters(24, dtype)[0].reshape(shape)
    expected = fastln.layer_norm(x, shape, **{name: parameter})
    two_dimensional = parameter.reshape(-1, shape[-1])
    given = LAYOUTS[layout](two_dimensional)
    if isinstance(given, WithArray):
        given = WithArray(parameter)
    elif len(shape) == 1:
        given = given[0]
    assert_same_bits(fastln.layer_norm(x, shape, **{name: given}), expected)


@pytest.mark.parametrize("layout", [name for name in ARRAY_LAYOUTS if name != "read-only"])
def test_layouts_of_out(layout, function, dtype, isa):
    for cols in (1, 3, 16, 65, 130):
        x = make_rows("normal", 6, cols, dtype)
        out = LAYOUTS[layout](np.zeros_like(x))
        expected = as_tuple(function(x))
        actual = as_tuple(function(x, out=out))
        assert actual[0] is out
        assert_same_bits(np.array(out, dtype), expected[0])
        for one, other in zip(actual[1:], expected[1:], strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("layout", [name for name in ARRAY_LAYOUTS if name != "read-only"])
def test_layouts_in_place(layout, dtype):
    x = make_rows("normal", 6, 33, dtype)
    given = LAYOUTS[layout](x)
    assert fastln.layer_norm(given, out=given) is given
    assert_same_bits(np.array(given, dtype), fastln.layer_norm(x))


@pytest.mark.parametrize("cols", [1, 8, 33])
def test_broadcast_x(cols, function, dtype):
    row = make_rows("normal", 1, cols, dtype)
    column = make_rows("normal", 1, 6, dtype).T
    for x in (
        np.broadcast_to(row, (6, cols)),
        np.broadcast_to(column, (6, cols)),
        np.broadcast_to(row[0, 0], (6, cols)),
    ):
        for actual, expected in zip(as_tuple(function(x)), as_tuple(function(x.copy())), strict=True):
            assert_same_bits(actual, expected)


def test_broadcast_weight_and_bias(dtype):
    x = make_rows("normal", 4, 20, dtype)
    same = np.broadcast_to(dtype.type(0.3), 20)
    assert_same_bits(fastln.layer_norm(x, None, same, same), fastln.layer_norm(x, None, same.copy(), same.copy()))


def test_overlapping_rows_of_x(dtype):
    windows = np.lib.stride_tricks.sliding_window_view(make_rows("normal", 1, 50, dtype)[0], 17)
    assert_same_bits(fastln.layer_norm(windows), fastln.layer_norm(windows.copy()))


def test_memmap(tmp_path, dtype):
    x = make_rows("normal", 6, 40, dtype)
    x.tofile(tmp_path / "x")
    expected = fastln.layer_norm(x)
    mapped = np.memmap(tmp_path / "x", dtype, "r", shape=x.shape)
    y = fastln.layer_norm(mapped)
    assert type(y) is np.ndarray
    assert_same_bits(y, expected)
    written = np.memmap(tmp_path / "y", dtype, "w+", shape=x.shape)
    assert fastln.layer_norm(mapped, out=written) is written
    written.flush()
    assert_same_bits(np.fromfile(tmp_path / "y", dtype).reshape(x.shape), expected)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrix(dtype):
    x = make_rows("normal", 3, 4, dtype)
    y, mean, rstd = fastln.layer_norm_forward(np.matrix(x))
    assert type(y) is type(mean) is type(rstd) is np.ndarray
    assert_same_bits(y, fastln.layer_norm(x))


def test_nested_lists_are_float64():
    x = [[1.0, 2.0, 4.0], [-1.0, 0.5, 8.0]]
    y = fastln.layer_norm(x, 3, [1.0, 2.0, 3.0], (0.5, 0.0, -0.5))
    expected = fastln.layer_norm(np.array(x), 3, np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -0.5]))
    assert_same_bits(y, expected)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_parameters_of_the_other_precision_are_converted(name, dtype):
    other = np.dtype("float64" if dtype == "float32" else "float32")
    x = make_rows("normal", 4, 19, dtype)
    parameter = make_parameters(19, other)[0]
    y = fastln.layer_norm(x, **{name: parameter})
    assert_same_bits(y, fastln.layer_norm(x, **{name: parameter.astype(dtype)}))


@pytest.mark.parametrize(
    "eps",
    [0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5), Fraction(1, 2)],
    ids=lambda e: type(e).__name__,
)
def test_eps_may_be_any_real_number(eps):
    x = make_rows("normal", 4, 19, np.float32)
    assert_same_bits(fastln.layer_norm(x, eps=eps), fastln.layer_norm(x, eps=0.5))
    assert_same_bits(fastln.layer_norm(x, eps=1), fastln.layer_norm(x, eps=1.0))


# The signature


@pytest.mark.parametrize("bound", [True, False], ids=["signature", "documentation"])
def test_signature_and_help(function, bound):
    if bound:
        parameters = inspect.signature(function).parameters
        assert list(parameters) == ["x", "normalized_shape", "weight", "bias", "eps", "out", "num_threads"]
        defaults = [parameter.default for parameter in parameters.values()]
        assert defaults == [inspect.Parameter.empty, None, None, None, 1e-5, None, None]
        kinds = [parameter.kind for parameter in parameters.values()]
        assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 5 + [inspect.Parameter.KEYWORD_ONLY] * 2
    else:
        text = pydoc.plain(pydoc.render_doc(function))
        for word in (
            "normalized_shape",
            "weight",
            "bias",
            "eps",
            "out",
            "num_threads",
            "float32",
            "1607.06450",
        ):
            assert word in text


@pytest.mark.parametrize(
    "name",
    ["set_num_threads", "get_num_threads", "threads", "set_isa", "get_isa", "available_isas", "show_config"],
)
def test_every_public_function_has_a_signature_and_a_docstring(name):
    public = getattr(fastln, name)
    assert inspect.signature(public) is not None
    assert len(inspect.getdoc(public)) > 20
    assert name in pydoc.plain(pydoc.render_doc(public))


def test_every_argument_has_a_name(function):
    x = make_rows("normal", 3, 5, np.float32)
    weight, bias = make_parameters(5, np.float32)
    out = np.empty_like(x)
    by_name = function(x=x, normalized_shape=5, weight=weight, bias=bias, eps=0.1, out=out, num_threads=1)
    assert as_tuple(by_name)[0] is out
    for actual, expected in zip(as_tuple(by_name), as_tuple(function(x, (5,), weight, bias, 0.1)), strict=True):
        assert_same_bits(actual, expected)


# Beside PyTorch


def test_positional_arguments_are_those_of_torch(torch):
    theirs = list(inspect.signature(torch.nn.functional.layer_norm).parameters)
    assert theirs == ["input", "normalized_shape", "weight", "bias", "eps"]
    assert list(inspect.signature(fastln.layer_norm).parameters)[1:5] == theirs[1:]


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("shape", [(7, 1), (5, 24), (2, 3, 4, 6), (3, 768)], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_agrees_with_torch_for_ordinary_numbers(rank, shape, combination, dtype, torch):
    rank = min(rank, len(shape) - 1)
    cols = int(np.prod(shape[-rank:]))
    rows = int(np.prod(shape[:-rank]))
    x = make_rows("normal", rows, cols, dtype)
    weight, bias = (
        value if use else None
        for value, use in zip(make_parameters(cols, dtype), COMBINATIONS[combination], strict=True)
    )

    def tensor(value, *dims):
        return None if value is None else torch.from_numpy(value.reshape(dims))

    dims = shape[-rank:]
    arguments = (tensor(x, *shape), dims, tensor(weight, *dims), tensor(bias, *dims), 1e-5)
    theirs = torch.nn.functional.layer_norm(*arguments).numpy()
    ours = fastln.layer_norm(*arguments)  # tensors have __array__
    usual = USUAL["y"] * np.finfo(dtype).eps * output_size(exact_layer_norm(x, 1e-5).xhat, weight, bias)
    # PyTorch's own error is a few times as large here (and without limit for rows with a large mean).
    assert (np.abs(ours - theirs).reshape(rows, cols) <= 6 * usual).all()
    their_mean, their_rstd = torch.native_layer_norm(*arguments)[1:]
    _, mean, rstd = fastln.layer_norm_forward(*arguments)
    assert mean.shape == tuple(their_mean.shape)
    assert rstd.shape == tuple(their_rstd.shape)
    tolerance = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(mean, their_mean.numpy(), rtol=0, atol=tolerance * np.abs(x).max())
    np.testing.assert_allclose(rstd, their_rstd.numpy(), rtol=tolerance)


# Overlap: as if there were none


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cols", [1, 5, 16, 33])
def test_out_may_overlap_x_in_every_way(rows, cols, dtype, isa, always_parallel):
    size = rows * cols
    start = make_rows("normal", 1, 3 * size, dtype)[0]
    expected = fastln.layer_norm(start[size : 2 * size].reshape(rows, cols))
    for shift in range(2 * size + 1):
        buffer = start.copy()
        x = buffer[size : 2 * size].reshape(rows, cols)
        out = buffer[shift : shift + size].reshape(rows, cols)
        assert fastln.layer_norm(x, out=out, num_threads=2) is out
        assert_same_bits(out, expected)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("cols", [1, 5, 16, 33])
def test_out_may_overlap_weight_and_bias_in_every_way(rows, cols, name, dtype, isa, always_parallel):
    size = rows * cols
    x = make_rows("normal", rows, cols, dtype)
    start = make_rows("normal", 1, 2 * cols + size, dtype)[0]
    other = {"weight": "bias", "bias": "weight"}[name]
    parameters = {other: make_parameters(cols, dtype)[0], name: None}
    for shift in range(cols + size + 1):
        buffer = start.copy()
        out = buffer[cols : cols + size].reshape(rows, cols)
        parameters[name] = buffer[shift : shift + cols]
        expected = fastln.layer_norm(x, None, **{key: value.copy() for key, value in parameters.items()})
        assert fastln.layer_norm(x, None, **parameters, out=out, num_threads=2) is out
        assert_same_bits(out, expected)


OVERLAPS = {
    "out reverses the rows": lambda x: x[::-1],
    "out reverses the columns": lambda x: x[:, ::-1],
    "out is the transpose": lambda x: x.T,
    "out is a view of x": lambda x: x[...],
}


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("side", [1, 4, 17, 40])
def test_out_may_be_another_view_of_x(side, overlap, dtype, always_parallel):
    x = make_rows("normal", side, side, dtype)
    expected = fastln.layer_norm(x)
    out = OVERLAPS[overlap](x)
    assert fastln.layer_norm(x, out=out, num_threads=2) is out
    assert_same_bits(np.ascontiguousarray(out), expected)


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_out_may_interleave_with_x(gap, dtype, always_parallel):
    buffer = make_rows("normal", 12, 20 + gap, dtype)
    x, out = buffer[:8, :20], buffer[4:, gap : 20 + gap]
    expected = fastln.layer_norm(x.copy())
    fastln.layer_norm(x, out=out, num_threads=3)
    assert_same_bits(np.ascontiguousarray(out), expected)
    buffer = make_rows("normal", 5, 40, dtype)
    x, out = buffer[:, :20], buffer[:, 20:]  # same rows, no byte shared
    expected = fastln.layer_norm(x.copy())
    fastln.layer_norm(x, out=out)
    assert_same_bits(np.ascontiguousarray(out), expected)


def test_weight_bias_and_x_may_be_one_array(dtype):
    x = make_rows("normal", 1, 30, dtype)[0]
    expected = fastln.layer_norm(x.copy(), None, x.copy(), x.copy())
    assert_same_bits(fastln.layer_norm(x, None, x, x), expected)
    assert_same_bits(fastln.layer_norm(x, None, x, x, out=x), expected)


# Bad calls
BAD = {
    "x": BAD_X,
    "normalized_shape": BAD_SHAPE,
    "weight": BAD_PARAMETER,
    "bias": BAD_PARAMETER,
    "eps": BAD_EPS,
    "out": BAD_OUT,
    "num_threads": BAD_THREADS,
}
BAD_CALLS = [
    pytest.param(name, make, error, id=f"{name}: {what}")
    for name, values in BAD.items()
    for what, (make, error) in values.items()
]


def good_arguments():
    """A call that is right in every argument."""
    return {
        "x": array(*SHAPE),
        "normalized_shape": (8,),
        "weight": array(8),
        "bias": array(8),
        "eps": 1e-5,
        "out": array(*SHAPE),
        "num_threads": 1,
    }


@pytest.mark.parametrize(("name", "make", "error"), BAD_CALLS)
def test_bad_calls_name_the_argument_and_touch_nothing(name, make, error, function):
    arguments = {**good_arguments(), name: make()}
    if name == "x":
        arguments["normalized_shape"] = None  # a bad shape of x is about x
    assert_refused(function, arguments, name, error)


def test_there_are_enough_bad_calls():
    assert len(BAD_CALLS) >= 60


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_wrong_dtypes_are_told_what_is_accepted(name, function):
    with pytest.raises(TypeError, match=rf"^{name} must .*float32.*float64.*, got .*int64"):
        function(**{**good_arguments(), name: np.ones(SHAPE if name == "x" else 8, np.int64)})


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_wrong_shapes_are_told_what_is_needed(name, function):
    x = np.zeros((4, 768), np.float32)
    expected = rf"^{name} must have shape \(768,\) to match normalized_shape, got \(512,\)$"
    with pytest.raises(ValueError, match=expected):
        function(x, 768, **{name: np.zeros(512, np.float32)})
    expected = rf"^{name} must have shape \(4, 768\) to match normalized_shape, got \(3072,\)$"
    with pytest.raises(ValueError, match=expected):
        function(x, (4, 768), **{name: np.zeros(3072, np.float32)})


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        pytest.param(np.empty((3, 0)), None, id="last dimension"),
        pytest.param(np.empty((3, 0)), 0, id="int"),
        pytest.param(np.empty((3, 0, 4)), (0, 4), id="one of two"),
        pytest.param(np.empty((0, 0)), None, id="no rows either"),
        pytest.param([], None, id="empty list"),
    ],
)
def test_nothing_to_normalize_is_refused(x, shape, function):
    with pytest.raises(ValueError, match=r"^(x|normalized_shape) must .+, got "):
        function(x, shape)


@pytest.mark.parametrize(
    ("positional", "named", "mentioned"),
    [
        pytest.param((), {}, "x|argument", id="nothing"),
        pytest.param((), {"weight": None}, "x|argument", id="no x"),
        pytest.param((array(8),), {"epsilon": 1e-5}, "epsilon", id="unknown name"),
        pytest.param((array(8),), {"x": array(8)}, "x", id="x twice"),
        pytest.param((array(8), 8, None, None, 1e-5, array(8)), {}, "argument", id="out by position"),
    ],
)
def test_calls_that_do_not_fit_the_signature(positional, named, mentioned, function):
    with pytest.raises(TypeError, match=mentioned):
        function(*positional, **named)


def test_bad_calls_are_refused_for_empty_input_too(function):
    empty = np.empty((0, 8), np.float32)
    for bad in (
        {"weight": array(7)},
        {"eps": -1},
        {"num_threads": 0},
        {"out": array(1, 8)},
        {"normalized_shape": 7},
    ):
        with pytest.raises(ValueError, match=rf"^{next(iter(bad))} must "):
            function(empty, **bad)


def test_an_exception_of_the_argument_is_passed_on(function):
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise ZeroDivisionError("of the argument")

    with pytest.raises(ZeroDivisionError, match="of the argument"):
        function(Broken())


# Reference counts: no call, good or bad, keeps or loses a reference to what it was given


@counts_references
@pytest.mark.parametrize(("name", "make", "error"), BAD_CALLS)
def test_bad_calls_keep_no_reference(name, make, error, function):
    arguments = {**good_arguments(), name: make()}
    if name == "x":
        arguments["normalized_shape"] = None
    assert_keeps_no_reference(function, arguments)


@counts_references
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_out", [True, False], ids=["out", "no out"])
def test_good_calls_keep_no_reference(with_out, layout, function):
    arguments = good_arguments()
    x = arguments["x"].reshape(6, 8)
    arguments["x"] = LAYOUTS[layout](x)
    arguments["out"] = np.empty_like(x) if with_out else None
    arguments["weight"] = LAYOUTS[layout](x)[0] if layout != "__array__" else WithArray(x[0])
    assert_keeps_no_reference(function, arguments)


@counts_references
def test_results_belong_to_the_caller(function):
    for result in as_tuple(function(**{**good_arguments(), "out": None})):
        assert sys.getrefcount(result) <= 4  # the tuple, the loop, the call
        assert result.base is None or type(result.base) is np.ndarray


@counts_references
def test_memory_does_not_grow(function):
    good, bad = good_arguments(), {**good_arguments(), "weight": array(7)}
    strided = {**good_arguments(), "x": np.asfortranarray(array(*SHAPE)), "out": None}
    for arguments in (good, bad, strided):
        call_often(function, arguments, 50)
        gc.collect()
        before = sys.getallocatedblocks()
        call_often(function, arguments, 1000)
        gc.collect()
        assert sys.getallocatedblocks() - before < 200
