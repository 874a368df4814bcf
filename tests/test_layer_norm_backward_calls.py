"""What layer_norm_backward takes and gives back, and how it refuses what is wrong."""

from __future__ import annotations

import gc
import inspect
import itertools
import pydoc
import sys

import numpy as np
import pytest
from arguments import (
    ARRAY_LAYOUTS,
    BAD_OUT,
    BAD_PARAMETER,
    BAD_SHAPE,
    BAD_THREADS,
    BAD_X,
    LAYOUTS,
    NO_ARRAY,
    SHAPE,
    Odd,
    WithArray,
    array,
    assert_keeps_no_reference,
    assert_refused,
    call_often,
    counts_references,
    not_floats,
)
from helpers import assert_same_bits
from reference import USUAL, exact_gradients, exact_layer_norm, make_parameters, make_rows

import fastln

MASKS = list(itertools.product((True, False), repeat=3))
NAMES = ("dy", "x", "mean", "rstd", "weight")


def make_arguments(rows, cols, dtype):
    """Arguments of layer_norm_backward for ordinary rows, by name."""
    x = make_rows("mean 10", rows, cols, dtype)
    _, mean, rstd = fastln.layer_norm_forward(x)
    dy = make_rows("normal", rows, cols, dtype)
    return {"dy": dy, "x": x, "mean": mean, "rstd": rstd, "weight": make_parameters(cols, dtype)[0]}


def assert_gradients(actual, expected):
    """All three are plain arrays of the same bits."""
    for one, other in zip(actual, expected, strict=True):
        assert type(one) is np.ndarray
        assert_same_bits(one, other)


# Shapes


@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "plain"])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_normalized_shape_of_every_rank(rank, weighted, dtype, isa):
    whole = (2, 3, 4, 5)
    leading, shape = whole[: 4 - rank], whole[4 - rank :]
    size = int(np.prod(shape))
    flat = make_arguments(120 // size, size, dtype)
    if not weighted:
        flat["weight"] = None
    expected = fastln.layer_norm_backward(**flat)
    shapes = dict(zip(NAMES, (whole, whole, *[(*leading, *(1,) * rank)] * 2, shape), strict=True))
    shaped = {name: None if value is None else value.reshape(shapes[name]) for name, value in flat.items()}
    for spelling in (shape, list(shape)):
        found = fastln.layer_norm_backward(**shaped, normalized_shape=spelling)
        assert_gradients(found, [one.reshape(to) for one, to in zip(expected, (whole, shape, shape), strict=True)])


@pytest.mark.parametrize("shape", [None, 5, (5,), [5], np.int64(5), (np.int32(5),)], ids=repr)
def test_the_last_dimension_in_every_spelling(shape):
    arguments = make_arguments(12, 5, np.float32)
    expected = fastln.layer_norm_backward(**arguments)
    assert_gradients(fastln.layer_norm_backward(**arguments, normalized_shape=shape), expected)


def test_one_dimension(dtype):
    arguments = make_arguments(1, 9, dtype)
    expected = fastln.layer_norm_backward(**arguments)
    row = {name: value if name == "weight" else value[0] for name, value in arguments.items()}
    dx, dweight, dbias = fastln.layer_norm_backward(**row)
    assert_gradients((dx[None], dweight, dbias), expected)


def test_results_are_new_plain_arrays_of_the_dtype_of_x(dtype):
    arguments = make_arguments(3, 8, dtype)
    results = fastln.layer_norm_backward(**arguments)
    assert type(results) is tuple
    for result, shape in zip(results, ((3, 8), (8,), (8,)), strict=True):
        assert type(result) is np.ndarray
        assert result.dtype == dtype
        assert result.shape == shape
        assert result.flags.writeable
        assert result.flags.c_contiguous
        assert not any(np.shares_memory(result, given) for given in arguments.values())
    assert not np.shares_memory(results[1], results[2])


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_what_is_masked_off_is_none(mask, dtype, isa):
    arguments = make_arguments(5, 24, dtype)
    expected = fastln.layer_norm_backward(**arguments)
    for spelling in (mask, list(mask)):
        found = fastln.layer_norm_backward(**arguments, output_mask=spelling)
        assert [one is not None for one in found] == list(mask)
        for one, other in zip(found, expected, strict=True):
            assert one is None or (one.tobytes() == other.tobytes() and one.shape == other.shape)


@pytest.mark.parametrize("shape", [(0, 8), (0,) * 3 + (8,), (3, 0, 8), (0, 3, 8)], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_no_rows_give_zero_gradients_of_parameters(rank, shape, dtype, isa):
    rank = 1 if 0 in shape[len(shape) - rank :] else rank
    normalized = shape[len(shape) - rank :]
    x = np.empty(shape, dtype)
    stats = np.empty((*shape[: len(shape) - rank], *(1,) * rank), dtype)
    weight = np.ones(normalized, dtype)
    for mask in MASKS:
        dx, dweight, dbias = fastln.layer_norm_backward(
            x, x, stats, stats, weight, normalized_shape=normalized, output_mask=mask
        )
        assert [one is not None for one in (dx, dweight, dbias)] == list(mask)
        assert dx is None or (dx.shape == shape and dx.dtype == dtype)
        for gradient in (dweight, dbias):
            assert gradient is None or gradient.tobytes() == np.zeros(normalized, dtype).tobytes()
            assert gradient is None or (gradient.shape == normalized and gradient.dtype == dtype)
    out = np.empty(shape, dtype)
    found = fastln.layer_norm_backward(x, x, stats, stats, weight, normalized_shape=normalized, out=out)
    assert found[0] is out


@pytest.mark.parametrize("moves", [(1, 0, 2), (0, 2, 1), (2, 1, 0)], ids=str)
def test_transposed_dimensions(moves, dtype):
    x, dy = make_rows("mean 10", 24, 17, dtype), make_rows("normal", 24, 17, dtype)
    x, dy = (a.reshape(4, 6, 17).transpose(moves) for a in (x, dy))
    _, mean, rstd = fastln.layer_norm_forward(x)
    expected = fastln.layer_norm_backward(*map(np.ascontiguousarray, (dy, x)), mean, rstd)
    assert_gradients(fastln.layer_norm_backward(dy, x, mean, rstd), expected)


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("names", [("dy",), ("x",), ("dy", "x")], ids="+".join)
def test_layouts_of_dy_and_x(names, layout, dtype, isa, always_parallel):
    for rows, cols in ((6, 1), (6, 3), (6, 16), (6, 65), (40, 130)):
        arguments = make_arguments(rows, cols, dtype)
        expected = fastln.layer_norm_backward(**arguments)
        given = {**arguments, **{name: LAYOUTS[layout](arguments[name]) for name in names}}
        assert_gradients(fastln.layer_norm_backward(**given, num_threads=2), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["mean", "rstd"])
def test_layouts_of_mean_and_rstd(name, layout, dtype):
    for rows in (1, 6, 40):
        arguments = make_arguments(rows, 24, dtype)
        expected = fastln.layer_norm_backward(**arguments)
        arguments[name] = LAYOUTS[layout](arguments[name])
        assert_gradients(fastln.layer_norm_backward(**arguments), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_weight(layout, dtype):
    arguments = {
        name: value.reshape(5, -1, value.shape[-1])
        for name, value in make_arguments(30, 4, dtype).items()
        if name in ("dy", "x")
    }
    arguments["weight"] = make_parameters(24, dtype)[0].reshape(6, 4)
    _, arguments["mean"], arguments["rstd"] = fastln.layer_norm_forward(arguments["x"], (6, 4))
    expected = fastln.layer_norm_backward(**arguments, normalized_shape=(6, 4))
    arguments["weight"] = LAYOUTS[layout](arguments["weight"])
    assert_gradients(fastln.layer_norm_backward(**arguments, normalized_shape=(6, 4)), expected)


WRITABLE_LAYOUTS = [name for name in ARRAY_LAYOUTS if name != "read-only"]


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_layouts_of_out(layout, dtype, isa):
    for cols in (1, 3, 16, 65, 130):
        arguments = make_arguments(6, cols, dtype)
        expected = fastln.layer_norm_backward(**arguments)
        out = LAYOUTS[layout](np.zeros_like(arguments["x"]))
        found = fastln.layer_norm_backward(**arguments, out=out)
        assert found[0] is out
        assert_gradients((np.array(out, dtype), *found[1:]), expected)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("name", ["dy", "x"])
def test_layouts_in_place(name, layout, dtype):
    arguments = make_arguments(6, 33, dtype)
    expected = fastln.layer_norm_backward(**arguments)
    arguments[name] = LAYOUTS[layout](arguments[name])
    found = fastln.layer_norm_backward(**arguments, out=arguments[name])
    assert found[0] is arguments[name]
    assert_gradients((np.array(found[0], dtype), *found[1:]), expected)


@pytest.mark.parametrize("cols", [1, 8, 33])
@pytest.mark.parametrize("names", [("dy",), ("x",), ("dy", "x")], ids="+".join)
def test_broadcast_dy_and_x(names, cols, dtype, isa):
    arguments = make_arguments(40, cols, dtype)
    for part in (np.s_[:1], np.s_[:, :1], np.s_[:1, :1]):
        given = {**arguments, **{name: np.broadcast_to(arguments[name][part], (40, cols)) for name in names}}
        _, given["mean"], given["rstd"] = fastln.layer_norm_forward(given["x"])
        expected = fastln.layer_norm_backward(**{name: value.copy() for name, value in given.items()})
        assert_gradients(fastln.layer_norm_backward(**given), expected)


def test_broadcast_mean_rstd_and_weight(dtype):
    arguments = make_arguments(40, 20, dtype)
    for name in ("mean", "rstd", "weight"):
        given = {**arguments, name: np.broadcast_to(arguments[name][:1], arguments[name].shape)}
        expected = fastln.layer_norm_backward(**{key: value.copy() for key, value in given.items()})
        assert_gradients(fastln.layer_norm_backward(**given), expected)


def test_nested_lists_are_float64():
    arguments = make_arguments(3, 4, np.float64)
    found = fastln.layer_norm_backward(**{name: value.tolist() for name, value in arguments.items()})
    assert_gradients(found, fastln.layer_norm_backward(**arguments))


@pytest.mark.parametrize("name", ["dy", "mean", "rstd", "weight"])
def test_arguments_of_the_other_precision_are_converted(name, dtype):
    other = np.dtype("float64" if dtype == "float32" else "float32")
    arguments = make_arguments(40, 19, dtype)
    arguments[name] = arguments[name].astype(other)
    if other == "float64":
        arguments[name] += arguments[name] * 2.0**-40  # what the conversion rounds off
    found = fastln.layer_norm_backward(**arguments)
    assert_gradients(found, fastln.layer_norm_backward(**{**arguments, name: arguments[name].astype(dtype)}))


def test_inputs_are_left_alone(dtype, isa, always_parallel):
    arguments = make_arguments(40, 65, dtype)
    before = {name: value.copy() for name, value in arguments.items()}
    for mask, threads in itertools.product(MASKS, (1, 3)):
        fastln.layer_norm_backward(**arguments, output_mask=mask, num_threads=threads)
    for name, value in arguments.items():
        assert_same_bits(value, before[name])
        value.flags.writeable = False
    fastln.layer_norm_backward(**arguments)


# The signature


def test_signature():
    parameters = inspect.signature(fastln.layer_norm_backward).parameters
    assert list(parameters) == [*NAMES, "normalized_shape", "output_mask", "out", "num_threads"]
    defaults = [parameter.default for parameter in parameters.values()]
    assert defaults == [inspect.Parameter.empty] * 4 + [None, None, (True, True, True), None, None]
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 5 + [inspect.Parameter.KEYWORD_ONLY] * 4


def test_help():
    text = pydoc.plain(pydoc.render_doc(fastln.layer_norm_backward))
    words = [*NAMES, "normalized_shape", "output_mask", "out", "num_threads", "dx", "dweight", "dbias", "float32"]
    assert [word for word in words if word not in text] == []


def test_arguments_by_position_and_by_name():
    arguments = make_arguments(3, 5, np.float32)
    out = np.empty_like(arguments["x"])
    options = {"normalized_shape": 5, "output_mask": (True, True, True), "out": out, "num_threads": 1}
    by_name = fastln.layer_norm_backward(**arguments, **options)
    assert by_name[0] is out
    assert_gradients(by_name, fastln.layer_norm_backward(*arguments.values()))


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
    exact = exact_gradients(dy, exact_layer_norm(x, 1e-5), weight if weighted else None)
    few = 6 * np.finfo(dtype).eps  # PyTorch's own error is a few times what is usual for ours
    for name, our, their, expected in zip(("dx", "dweight", "dbias"), ours, theirs, exact[:3], strict=True):
        if their is not None:
            assert our.shape == their.shape
            difference = np.abs(our - their).reshape((rows, cols) if name == "dx" else cols)
            assert (difference <= few * USUAL[name] * expected.size).all(), name


def test_masks_are_those_of_torch(torch):
    tensors = {name: torch.from_numpy(value) for name, value in make_arguments(5, 8, np.float32).items()}
    for mask in MASKS:
        theirs = torch.ops.aten.native_layer_norm_backward(
            *(tensors[name] for name in ("dy", "x")),
            [8],
            *(tensors[name] for name in ("mean", "rstd", "weight")),
            tensors["weight"],
            list(mask),
        )
        ours = fastln.layer_norm_backward(**tensors, output_mask=mask)
        assert [one is None for one in ours] == [one is None for one in theirs]


# Overlap: as if there were none


@pytest.mark.parametrize("name", ["dy", "x"])
@pytest.mark.parametrize("rows", [1, 3, 33])
@pytest.mark.parametrize("cols", [1, 5, 17])
def test_out_may_overlap_dy_and_x_in_every_way(rows, cols, name, dtype, isa, always_parallel):
    size = rows * cols
    arguments = make_arguments(rows, cols, dtype)
    expected = fastln.layer_norm_backward(**arguments)
    shifts = range(2 * size + 1) if rows < 33 else sorted({0, 1, cols, size - 1, size, size + 1, 2 * size - cols})
    for shift in shifts:
        buffer = np.zeros(3 * size, dtype)
        given = {**arguments, name: place(buffer, size, arguments[name])}
        out = buffer[shift : shift + size].reshape(rows, cols)
        found = fastln.layer_norm_backward(**given, out=out, num_threads=2)
        assert found[0] is out
        assert_gradients(found, expected)


def place(buffer, start, values):
    """A copy of values in a flat buffer, from an index on."""
    view = buffer[start : start + values.size].reshape(values.shape)
    view[...] = values
    return view


@pytest.mark.parametrize("name", ["mean", "rstd", "weight"])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (4, 5), (40, 3), (3, 40)])
def test_out_may_overlap_mean_rstd_and_weight_in_every_way(rows, cols, name, dtype, isa, always_parallel):
    size = rows * cols
    arguments = make_arguments(rows, cols, dtype)
    expected = fastln.layer_norm_backward(**arguments)
    room = arguments[name].size
    for shift in range(size + room + 1):
        buffer = np.zeros(size + 2 * room, dtype)
        out = buffer[room : room + size].reshape(rows, cols)
        given = {**arguments, name: place(buffer, shift, arguments[name])}
        found = fastln.layer_norm_backward(**given, out=out, num_threads=2)
        assert found[0] is out
        assert_gradients(found, expected)


OVERLAPS = {
    "the rows reversed": lambda a: a[::-1],
    "the columns reversed": lambda a: a[:, ::-1],
    "the transpose": lambda a: a.T,
    "a view": lambda a: a[...],
}


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("name", ["dy", "x"])
@pytest.mark.parametrize("side", [1, 4, 17, 40])
def test_out_may_be_another_view_of_an_input(side, name, overlap, dtype, always_parallel):
    arguments = make_arguments(side, side, dtype)
    expected = fastln.layer_norm_backward(**arguments)
    out = OVERLAPS[overlap](arguments[name])
    found = fastln.layer_norm_backward(**arguments, out=out, num_threads=2)
    assert found[0] is out
    assert_gradients((np.ascontiguousarray(out), *found[1:]), expected)


def test_inputs_may_be_one_array(dtype):
    x = make_rows("normal", 5, 5, dtype)
    _, mean, rstd = fastln.layer_norm_forward(x)
    expected = fastln.layer_norm_backward(x.copy(), x, mean, rstd, x[0].copy())
    assert_gradients(fastln.layer_norm_backward(x, x, mean, rstd, x[0]), expected)
    assert_gradients(fastln.layer_norm_backward(x, x, mean, rstd, x[0], out=x), expected)


# Bad calls: SHAPE and the tables of bad values are those of arguments.py, for an x of shape (2, 3, 8)

STATS = (*SHAPE[:-1], 1)

# The lengths that PyTorch's own function reads past the end for are among these.
BAD_STATS = {
    **not_floats(STATS),
    **NO_ARRAY,
    "one": (lambda: array(1), ValueError),
    "one, as many dimensions": (lambda: array(1, 1, 1), ValueError),
    "one too few": (lambda: array(5), ValueError),
    "flat": (lambda: array(6), ValueError),
    "one too many": (lambda: array(7), ValueError),
    "without the last dimension": (lambda: array(*SHAPE[:-1]), ValueError),
    "without the first dimension": (lambda: array(3, 1), ValueError),
    "a dimension more": (lambda: array(*STATS, 1), ValueError),
    "transposed": (lambda: array(3, 2, 1), ValueError),
    "broadcastable": (lambda: array(2, 1, 1), ValueError),
    "shape of x": (lambda: array(*SHAPE), ValueError),
    "shape of weight": (lambda: array(8), ValueError),
    "empty": (lambda: array(0, 3, 1), ValueError),
    "strided, too short": (lambda: array(4, 3, 1)[::4], ValueError),
}

BAD_DY = {
    **not_floats(SHAPE),
    **NO_ARRAY,
    "one row": (lambda: array(8), ValueError),
    "broadcastable": (lambda: array(1, 3, 8), ValueError),
    "flat": (lambda: array(48), ValueError),
    "transposed": (lambda: array(8, 3, 2), ValueError),
    "a dimension more": (lambda: array(1, *SHAPE), ValueError),
    "a row too few": (lambda: array(2, 2, 8), ValueError),
    "a row too many": (lambda: array(2, 4, 8), ValueError),
    "a column too few": (lambda: array(2, 3, 7), ValueError),
    "empty": (lambda: array(0, 3, 8), ValueError),
}

BAD_MASK = {
    "None": (lambda: None, TypeError),
    "True": (lambda: True, TypeError),
    "7": (lambda: 7, TypeError),
    "word": (lambda: "111", TypeError),
    "dict": (lambda: {"dx": True}, TypeError),
    "set": (lambda: {True, False}, TypeError),
    "array": (lambda: np.ones(3, bool), TypeError),
    "object": (Odd, TypeError),
    "of ints": (lambda: (1, 1, 0), TypeError),
    "with None": (lambda: (True, None, True), TypeError),
    "with words": (lambda: ["dx", "dweight", "dbias"], TypeError),
    "with arrays": (lambda: (np.ones(2, bool), True, True), TypeError),
    "empty": (lambda: (), ValueError),
    "of one": (lambda: (True,), ValueError),
    "of two": (lambda: [True, True], ValueError),
    "of four": (lambda: (True,) * 4, ValueError),
}

BAD = {
    "dy": BAD_DY,
    "x": BAD_X,
    "mean": BAD_STATS,
    "rstd": BAD_STATS,
    "weight": BAD_PARAMETER,
    "normalized_shape": BAD_SHAPE,
    "output_mask": BAD_MASK,
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
        "dy": array(*SHAPE),
        "x": array(*SHAPE),
        "mean": array(*STATS),
        "rstd": array(*STATS),
        "weight": array(8),
        "normalized_shape": (8,),
        "output_mask": (True, True, True),
        "out": array(*SHAPE),
        "num_threads": 1,
    }


def arguments_with(name, value):
    """A call with one other argument."""
    # A bad shape of x is about x, not about what it is compared with.
    return {**good_arguments(), name: value, **({"normalized_shape": None} if name == "x" else {})}


def test_the_good_call_is_good():
    found = fastln.layer_norm_backward(**good_arguments())
    assert [one.shape for one in found] == [SHAPE, (8,), (8,)]


@pytest.mark.parametrize(("name", "make", "error"), BAD_CALLS)
def test_bad_calls_name_the_argument_and_touch_nothing(name, make, error):
    assert_refused(fastln.layer_norm_backward, arguments_with(name, make()), name, error)


@pytest.mark.parametrize(("name", "make", "error"), BAD_CALLS)
def test_bad_calls_are_refused_whatever_is_masked_off(name, make, error):
    if name == "output_mask":
        pytest.skip("the mask itself is bad")
    value = make()
    for mask in MASKS:
        arguments = {**arguments_with(name, value), "output_mask": mask}
        if not mask[0]:
            if name == "out":
                continue
            arguments["out"] = None
        assert_refused(fastln.layer_norm_backward, arguments, name, error)


@pytest.mark.parametrize("mask", [mask for mask in MASKS if not mask[0]], ids=str)
def test_out_is_refused_where_dx_is_masked_off(mask):
    arguments = {**good_arguments(), "output_mask": mask}
    assert_refused(fastln.layer_norm_backward, arguments, "out", ValueError)


def test_there_are_enough_bad_calls():
    assert len(BAD_CALLS) >= 100


@pytest.mark.parametrize("name", ["dy", "x", "mean", "rstd", "weight"])
def test_wrong_dtypes_are_told_what_is_accepted(name):
    arguments = good_arguments()
    with pytest.raises(TypeError, match=rf"^{name} must .*float32.*float64.*, got .*int64"):
        fastln.layer_norm_backward(**{**arguments, name: np.ones(arguments[name].shape, np.int64)})


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
    arguments = {**make_arguments(4, 768, np.dtype("float32")), name: np.zeros(shape, np.float32)}
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


@pytest.mark.parametrize("shape", [(3, 0), (0, 0)], ids=str)
def test_nothing_to_normalize_is_refused(shape):
    x, stats = np.empty(shape), np.empty((shape[0], 1))
    with pytest.raises(ValueError, match=r"^(x|normalized_shape) must .+, got "):
        fastln.layer_norm_backward(x, x, stats, stats)


def test_bad_calls_are_refused_for_empty_input_too():
    x, stats = np.empty((0, 8), np.float32), np.empty((0, 1), np.float32)
    good = {"dy": x, "x": x, "mean": stats, "rstd": stats}
    bad = {"dy": array(1, 8), "mean": array(1, 1), "rstd": array(0), "weight": array(7), "num_threads": 0}
    for name, value in bad.items():
        assert_refused(fastln.layer_norm_backward, {**good, name: value}, name, ValueError)


@pytest.mark.parametrize(
    ("count", "named", "mentioned"),
    [
        pytest.param(0, {}, "dy|argument", id="nothing"),
        pytest.param(3, {}, "rstd|argument", id="no rstd"),
        pytest.param(5, {"eps": 1e-5}, "eps", id="unknown name"),
        pytest.param(5, {"x": array(*SHAPE)}, "x", id="x twice"),
        pytest.param(6, {}, "argument", id="normalized_shape by position"),
    ],
)
def test_calls_that_do_not_fit_the_signature(count, named, mentioned):
    with pytest.raises(TypeError, match=mentioned):
        fastln.layer_norm_backward(*list(good_arguments().values())[:count], **named)


@pytest.mark.parametrize("name", ["dy", "x", "mean", "rstd", "weight"])
def test_an_exception_of_the_argument_is_passed_on(name):
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise ZeroDivisionError("of the argument")

    with pytest.raises(ZeroDivisionError, match="of the argument"):
        fastln.layer_norm_backward(**{**good_arguments(), name: Broken()})


# References and memory


@counts_references
@pytest.mark.parametrize(("name", "make", "error"), BAD_CALLS)
def test_bad_calls_keep_no_reference(name, make, error):
    assert_keeps_no_reference(fastln.layer_norm_backward, arguments_with(name, make()))


@counts_references
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_out", [True, False], ids=["out", "no out"])
def test_good_calls_keep_no_reference(with_out, layout):
    arguments = make_arguments(6, 8, np.float32)
    make = WithArray if layout == "__array__" else LAYOUTS[layout]
    for name in ("dy", "x", "mean", "rstd"):
        arguments[name] = make(arguments[name])
    arguments["out"] = np.empty((6, 8), np.float32) if with_out else None
    assert_keeps_no_reference(fastln.layer_norm_backward, arguments)


@counts_references
def test_results_belong_to_the_caller():
    for result in fastln.layer_norm_backward(**{**good_arguments(), "out": None}):
        assert sys.getrefcount(result) <= 4  # the tuple, the loop, the call
        assert result.base is None or type(result.base) is np.ndarray


@counts_references
def test_memory_does_not_grow():
    good, bad = good_arguments(), {**good_arguments(), "mean": array(7)}
    strided = {**good_arguments(), "x": np.asfortranarray(array(*SHAPE)), "out": None}
    masked = {**good_arguments(), "out": None, "output_mask": (False, True, False)}
    for arguments in (good, bad, strided, masked):
        call_often(fastln.layer_norm_backward, arguments, 50)
        gc.collect()
        before = sys.getallocatedblocks()
        call_often(fastln.layer_norm_backward, arguments, 1000)
        gc.collect()
        assert sys.getallocatedblocks() - before < 200
