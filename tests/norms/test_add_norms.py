"""What only the norms of a sum promise: the bits of the two calls, and any places for their two results."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
from arguments import array, assert_refused
from helpers import assert_all_same_bits, assert_same_bits, at_offset, in_wider_rows, without_nan
from internals import stream_bytes
from operations import MIXED, OPERATIONS
from regimes import EDGE_COLS, ELEMENTS, REGIMES, eps_of, is_tried, make_rows

import fastln

NORMS = ("layer_norm", "rms_norm")
NEVER = 1 << 56

every_dtype = pytest.mark.parametrize("dtype", ELEMENTS, indirect=True)


@pytest.fixture(params=NORMS)
def norm(request):
    """Run the test with each of the norms that a sum may have."""
    return request.param


def two_calls(norm, arguments):
    """What NumPy's sum and the norm give, by name."""
    rest = {name: value for name, value in arguments.items() if name != "residual"}
    s = np.add(rest.pop("x"), arguments["residual"])
    found = OPERATIONS[f"{norm}_forward"](x=s, **rest)
    return {"y": found.pop("y"), "s": s, **found}


# The bits of two calls


@every_dtype
def test_the_results_are_those_of_two_calls(norm, dtype, isa):
    operation = OPERATIONS[f"add_{norm}_forward"]
    absences = itertools.cycle(operation.absences)
    options = itertools.cycle([{}] if norm == "layer_norm" else [{"cast": cast} for cast in (None, "gemma", "llama")])
    regimes = [regime for regime in REGIMES if is_tried(regime, dtype)]
    for cols, regime in itertools.product((*EDGE_COLS[1::2], 4096), regimes):
        data = operation.data(regime, 9, cols, dtype) | dict.fromkeys(next(absences))
        arguments = {**data, "eps": eps_of(regime), **next(options)}
        assert_all_same_bits(operation(**arguments), two_calls(norm, arguments), f"{regime}, D={cols}")


@every_dtype
@pytest.mark.parametrize("shape", [(300, 768), (64, 2100), (33, 4096), (9, 4100), (3, 20_000), (1000, 40)], ids=str)
def test_so_they_are_past_the_cache_and_on_threads(norm, shape, dtype, isa, always_parallel):
    operation = OPERATIONS[f"add_{norm}_forward"]
    arguments = operation.make(MIXED, *shape, dtype)
    expected = two_calls(norm, arguments)
    for size, threads in itertools.product((0, NEVER), (1, 2, 3)):
        with stream_bytes(size):
            assert_all_same_bits(operation(**arguments, num_threads=threads), expected, f"{size}, {threads} threads")


@every_dtype
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0])
def test_special_values_are_added_as_numpy_adds_them(norm, value, dtype, isa):
    x, residual = make_rows("normal", 4, 33, dtype), make_rows("mean 10", 4, 33, dtype)
    x[1, 5] = residual[2, 7] = value
    x[3], residual[3] = -0.0, value
    y, s = getattr(fastln, f"add_{norm}")(x, residual, eps=1e-5)
    assert_same_bits(without_nan(s), without_nan(x + residual))
    assert_same_bits(without_nan(y), without_nan(getattr(fastln, norm)(s, eps=1e-5)))


def test_gradients_are_those_of_the_norm_with_ds_added(norm, dtype, isa, always_parallel):
    # Of 16 bits dx is rounded once, after the addition: test_narrow.py has that.
    operation, plain = OPERATIONS[f"add_{norm}_backward"], OPERATIONS[f"{norm}_backward"]
    for (rows, cols), size in itertools.product(((1, 5), (9, 40), (33, 768), (130, 64), (17, 4112)), (0, NEVER)):
        arguments = operation.make("normal", rows, cols, dtype)
        of_norm = {"x" if name == "s" else name: value for name, value in arguments.items() if name != "ds"}
        expected = plain(**of_norm)
        with stream_bytes(size):
            for threads in (1, 3):
                alone = operation(**{**arguments, "ds": None}, num_threads=threads)
                assert_all_same_bits(alone, expected, f"{rows}x{cols}")
                found = operation(**arguments, num_threads=threads)
                dx = np.add(expected["dx"], arguments["ds"])
                assert_all_same_bits(found, {**expected, "dx": dx}, f"{rows}x{cols}")


# Places of the results

PLACES = [
    (out, residual_out)
    for out, residual_out in itertools.product((None, "own", "x", "residual"), repeat=2)
    if out != residual_out or out in (None, "own")
]


def by_columns(a):
    """A copy in Fortran order."""
    return np.array(a, order="F")


@every_dtype
@pytest.mark.parametrize(("out", "residual_out"), PLACES)
def test_every_place_of_both_results(norm, out, residual_out, dtype, isa, always_parallel):
    operation = OPERATIONS[f"add_{norm}_forward"]
    shapes = ((1, 1), (9, 33), (37, 64), (5, 768), (3, 4100), (1, 40_000), (3, 33_000))
    for (rows, cols), copy in itertools.product(shapes, (np.copy, in_wider_rows, by_columns)):
        data = operation.make(MIXED, rows, cols, dtype)
        expected = operation(**data)
        for threads, size in ((1, 0), (1, NEVER), (3, NEVER), (2, 0)):
            given = data | {name: copy(data[name]) for name in ("x", "residual")}
            own = {name: given[name] for name in ("x", "residual")} | {None: None}
            places = {"out": out, "residual_out": residual_out}
            buffers = {
                name: copy(np.zeros_like(data["x"])) if place == "own" else own[place] for name, place in places.items()
            }
            with stream_bytes(size):
                found = operation(**given, **buffers, num_threads=threads)
            for name, result in (("out", "y"), ("residual_out", "s")):
                assert buffers[name] is None or found[result] is buffers[name]
            contiguous = {name: np.ascontiguousarray(one) for name, one in found.items()}
            assert_all_same_bits(contiguous, expected, f"{rows}x{cols}, {threads} threads")
            for name in ("x", "residual"):
                if name not in places.values():
                    assert_same_bits(np.ascontiguousarray(given[name]), data[name])


def overlapping_pairs():
    """{what: out and residual_out of shape (4, 6) with bytes in common}."""
    memory = array(12, 12)
    return {
        "one array": (memory[:4, :6],) * 2,
        "two views": (memory[:4, :6], memory[:4, :6][...]),
        "a row further on": (memory[:4, :6], memory[1:5, :6]),
        "a column further on": (memory[:4, :6], memory[:4, 1:7]),
        "reversed": (memory[:4, :6], memory[3::-1, :6]),
        "every other column": (memory[:4, :6], memory[:4, ::2]),
        "transposed": (memory[:4, :6], memory[:6, :4].T),
    }


@pytest.mark.parametrize("what", overlapping_pairs())
@pytest.mark.parametrize("forward", ["", "_forward"])
def test_results_that_overlap_each_other_are_refused(norm, forward, what):
    out, residual_out = overlapping_pairs()[what]
    x = array(4, 6)
    function = getattr(fastln, f"add_{norm}{forward}")
    assert_refused(
        function, {"x": x, "residual": x, "out": out, "residual_out": residual_out}, "residual_out", ValueError
    )
    with pytest.raises(ValueError, match=r"^residual_out must share no memory with out, got an array that does$"):
        function(out, x, out=out, residual_out=residual_out)


@every_dtype
def test_results_between_each_other_are_not(norm, dtype):
    x, residual = make_rows("normal", 4, 6, dtype), make_rows("mean 10", 4, 6, dtype)
    expected = dict(zip(("y", "s"), getattr(fastln, f"add_{norm}")(x, residual), strict=True))
    memory = np.zeros((8, 12), dtype)
    for out, residual_out in (
        (memory[:4, :6], memory[:4, 6:]),
        (memory[::2, :6], memory[1::2, :6]),
        (memory[:4, ::2], memory[:4, 1::2]),
        (memory[:4, :6], memory[3::-1, 6:]),
    ):
        y, s = getattr(fastln, f"add_{norm}")(x, residual, out=out, residual_out=residual_out)
        assert y is out
        assert s is residual_out
        assert_all_same_bits({"y": y.copy(), "s": s.copy()}, expected)


@every_dtype
@pytest.mark.parametrize(("rows", "cols"), [(1, 33), (5, 17), (70, 64)])
def test_both_results_may_overlap_both_inputs(norm, rows, cols, dtype, always_parallel):
    """Each result in another place that the inputs share bytes of, all in one memory."""
    operation = OPERATIONS[f"add_{norm}"]
    data = operation.make(MIXED, rows, cols, dtype)
    expected = operation(**data)
    size = rows * cols
    for shift, x_at, residual_at in itertools.product((1, 3, cols), (0, cols, size), (0, 1, size + 1)):
        memory = np.zeros(4 * size + 4 * cols, dtype)
        out = memory[shift : shift + size].reshape(rows, cols)
        residual_out = memory[shift + size : shift + 2 * size].reshape(rows, cols)
        given = dict(data)
        for name, at in (("x", x_at), ("residual", residual_at)):
            given[name] = memory[at : at + size].reshape(rows, cols)
            given[name][...] = data[name]
        expected = operation(**{name: value.copy() for name, value in given.items()})
        found = operation(**given, out=out, residual_out=residual_out, num_threads=2)
        assert_all_same_bits(found, expected, f"shift {shift}, x at {x_at}, residual at {residual_at}")


@every_dtype
def test_the_stream_is_updated_in_place(norm, dtype):
    stream = make_rows("normal", 7, 64, dtype)
    for turn in range(3):
        x = make_rows("mean 10", 7, 64, dtype) * dtype.type(turn)
        expected = stream + x
        y, s = getattr(fastln, f"add_{norm}")(x, stream, residual_out=stream)
        assert s is stream
        assert_same_bits(stream, expected)
        assert_same_bits(y, getattr(fastln, norm)(expected))


# What is refused


def test_x_and_residual_have_the_same_dtype(norm):
    function = getattr(fastln, f"add_{norm}")
    for x, residual, message in (
        (array(2, 4), array(2, 4, dtype=np.float64), "residual must have dtype float32 to match x, got float64"),
        (array(2, 4, dtype=np.float64), array(2, 4), "residual must have dtype float64 to match x, got float32"),
        (array(2, 4, dtype=np.float16), array(2, 4), "residual must have dtype float16 to match x, got float32"),
        (array(2, 4), array(2, 4, dtype=np.float16), "residual must have dtype float32 to match x, got float16"),
        (array(2, 4), [[1.0] * 4] * 2, "residual must have dtype float32 to match x, got float64"),
    ):
        with pytest.raises(TypeError, match=f"^{message}$"):
            function(x, residual)
    swapped = array(2, 4).astype(">f4")
    assert_same_bits(function(array(2, 4), swapped)[0], function(array(2, 4), array(2, 4))[0])


def test_x_and_residual_have_the_same_shape(norm):
    function = getattr(fastln, f"add_{norm}")
    with pytest.raises(ValueError, match=r"^residual must have shape \(2, 4\) to match x, got \(4,\)$"):
        function(array(2, 4), array(4))
    with pytest.raises(
        TypeError, match=r"^residual must be an array of float32, float64, float16 or bfloat16, got None$"
    ):
        function(array(2, 4), None)


def test_rows_of_gradients_match_s(norm):
    operation = OPERATIONS[f"add_{norm}_backward"]
    arguments = operation.make("normal", 3, 8, np.float32)
    for name in ("dy", "ds"):
        with pytest.raises(ValueError, match=rf"^{name} must have shape \(3, 8\) to match s, got \(2, 8\)$"):
            operation(**{**arguments, name: arguments[name][:2]})
    with pytest.raises(
        ValueError, match=r"^rstd must have shape \(3, 1\) to match s and normalized_shape, got \(3,\)$"
    ):
        operation(**{**arguments, "rstd": arguments["rstd"][:, 0]})


@every_dtype
def test_ds_is_not_read_where_dx_is_not_found(norm, dtype):
    operation = OPERATIONS[f"add_{norm}_backward"]
    arguments = operation.make("normal", 5, 8, dtype)
    expected = operation(**arguments)
    mask = (False, *(True,) * (len(operation.results) - 1))
    found = operation(**{**arguments, "ds": at_offset(arguments["ds"], 0, 1)}, output_mask=mask)
    assert_all_same_bits(found, {name: expected[name] for name in found})
    with pytest.raises(ValueError, match=r"^ds must have shape"):
        operation(**{**arguments, "ds": arguments["ds"][:2]}, output_mask=mask)


def test_an_offset_is_added_to_the_weight_in_both_directions(dtype):
    forward, backward = OPERATIONS["add_rms_norm_forward"], OPERATIONS["add_rms_norm_backward"]
    for operation in (forward, backward):
        arguments = operation.make("normal", 5, 24, dtype)
        added = {**arguments, "weight": arguments["weight"] + dtype.type(1)}
        assert_all_same_bits(operation(**arguments, weight_offset=1), operation(**added))


# Signatures


def test_signatures():
    places = "out=None, residual_out=None, num_threads=None)"
    layer = f"(x, residual, normalized_shape=None, weight=None, bias=None, eps=1e-05, *, {places}"
    rms = f"(x, residual, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None, {places}"
    for forward in ("", "_forward"):
        assert str(inspect.signature(getattr(fastln, f"add_layer_norm{forward}"))) == layer
        assert str(inspect.signature(getattr(fastln, f"add_rms_norm{forward}"))) == rms
    assert str(inspect.signature(fastln.add_layer_norm_backward)) == (
        "(dy, ds, s, mean, rstd, weight=None, *, normalized_shape=None, output_mask=(True, True, True), out=None, "
        "num_threads=None)"
    )
    assert str(inspect.signature(fastln.add_rms_norm_backward)) == (
        "(dy, ds, s, rstd, weight=None, *, normalized_shape=None, output_mask=(True, True), weight_offset=0.0, "
        "out=None, num_threads=None)"
    )
