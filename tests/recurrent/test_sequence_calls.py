"""What the functions over sequences take, and what they refuse, with nothing written."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import assert_same_bits, in_wider_rows
from layouts import WithArray, byte_swapped, misaligned, read_only, subclass
from recurrent_cases import CELLS, FUNCTIONS, arguments_of, make_case

import fastln


@pytest.mark.parametrize("cell", CELLS)
def test_edge_shapes(cell, dtype, isa):
    for steps, batch, inputs, hidden in ((0, 3, 4, 5), (3, 0, 4, 5), (0, 0, 1, 1), (3, 2, 1, 1), (1, 1, 1, 3)):
        case = make_case(cell, steps, batch, inputs, hidden, dtype)
        y, after = case()
        assert y.shape == (steps, batch, hidden)
        assert np.isfinite(y).all()
        for one, first in zip(after, case.state, strict=True):
            assert one.shape == first.shape
            assert one is not first
            if steps == 0:
                assert_same_bits(one, first)


@pytest.mark.parametrize("cell", CELLS)
def test_absent_parameters_stand_for_ones_and_zeros(cell, dtype, isa):
    case = make_case(cell, 3, 2, 5, 20, dtype)
    neutral = {name: value for name, value in case.parameters.items() if name in ("weight_ih", "weight_hh")}
    ones = {name: np.full_like(value, name.endswith(".weight")) for name, value in case.parameters.items()}
    found, expected = case(parameters=neutral), case(parameters=ones | neutral)
    assert_same_bits(found[0], expected[0])
    for name in case.parameters:  # each by itself too
        left_out = {key: value for key, value in case.parameters.items() if key != name}
        if "." in name or name == "bias":
            assert_same_bits(case(parameters=left_out)[0], case(parameters=left_out | {name: ones[name]})[0], name)
    zeros = tuple(np.zeros_like(one) for one in case.state)
    assert_same_bits(case(state=None)[0], case(state=zeros)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_layouts_of_x_give_the_same_bits(cell, dtype, isa):
    case = make_case(cell, 4, 3, 6, 17, dtype)
    y, (h, *_) = case()
    by_batch = np.ascontiguousarray(case.x.swapaxes(0, 1))
    found, (last, *_) = case(x=by_batch, batch_first=True)
    assert_same_bits(found, np.ascontiguousarray(y.swapaxes(0, 1)))
    assert_same_bits(last, h)
    others = [in_wider_rows(case.x), case.x[::-1].copy()[::-1], np.asfortranarray(case.x), misaligned(case.x)]
    others += [byte_swapped(case.x), read_only(case.x), subclass(case.x), WithArray(case.x)]
    for other in others:
        found, _ = case(x=other)
        assert type(found) is np.ndarray
        assert_same_bits(found, y)
    alone, (h, *_) = case._replace(x=case.x[:, 1], state=tuple(one[1] for one in case.state))()
    assert_same_bits(alone, y[:, 1])
    assert h.shape == (17,)


@pytest.mark.parametrize("cell", CELLS)
def test_out_may_lie_anywhere(cell, dtype):
    case = make_case(cell, 4, 3, 17, 17, dtype)  # so that x itself can be it
    y, _ = case()
    wide = np.full((4, 5, 40), np.nan, dtype)
    places = [
        np.empty_like(y),
        wide[:, 1:4, 2:19],
        np.asfortranarray(y) * 0,
        byte_swapped(y),
        subclass(y),
        case.x.copy(),
    ]
    for out in places:
        found, _ = case(out=out)
        assert found is out
        assert_same_bits(np.array(out, dtype, subok=False), y)
    assert np.isnan(wide[:, 0]).all()
    assert np.isnan(wide[:, 1:4, 19:]).all()
    for view in (slice(None), slice(None, None, -1)):
        x = case.x.copy()
        case(x=x, out=x[view])
        assert_same_bits(x[view].copy(), y, "over x")
    weight = case.parameters["weight_hh"].copy()
    if weight.size >= y.size:
        over = weight.reshape(-1)[: y.size].reshape(y.shape)
        case(parameters=case.parameters | {"weight_hh": weight}, out=over)
        assert_same_bits(over, y, "over a matrix")


def test_other_arguments_are_converted_to_the_dtype_of_x():
    case = make_case("lstm", 3, 2, 4, 9, np.float32)
    wide = {name: value.astype(np.float64) for name, value in case.parameters.items()}
    state = tuple(one.astype(np.float16).astype(np.longdouble) for one in case.state)
    found = case(parameters=wide, state=state, lengths=[3, np.int8(2)])
    same = case(state=tuple(one.astype(np.float16).astype(np.float32) for one in case.state), lengths=np.array([3, 2]))
    assert_same_bits(found[0], same[0])
    nested, _ = fastln.layer_norm_rnn([[1.0, 2.0]], None, [[1.0, 0.0]], [[0.0]])
    assert nested.dtype == np.float64


@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_inf_stay_in_their_sequence(cell, dtype, isa):
    case = make_case(cell, 5, 6, 9, 18, dtype)
    y, _ = case()
    x = case.x.copy()
    x[2, 1, 0], x[1, 4, 3] = np.nan, np.inf
    found, _ = case(x=x)
    rows = [0, 2, 3, 5]
    assert_same_bits(found[:, rows], y[:, rows])
    assert_same_bits(found[:2, 1], y[:2, 1])
    assert np.isnan(found[2:, 1]).all()
    assert np.isnan(found[1:, 4]).all()


def test_arguments_are_left_alone():
    case = make_case("lstm", 4, 3, 5, 8)
    arrays = [case.x, *case.state, *case.parameters.values()]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    case(lengths=read_only(np.array([1, 4, 0])))
    for array, same in zip(arrays, before, strict=True):
        assert_same_bits(array, same)


class Changing:
    """Converts to an array, and does something to another argument meanwhile."""

    def __init__(self, array, act):
        self.array, self.act = array, act

    def __array__(self, dtype=None, copy=None):
        self.act()
        return self.array


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize("new_shape", [(60,), (1, 60), (2, 3, 10), (4, 15)])
@pytest.mark.parametrize("later", ["bias", "c_norm", "lengths"])
def test_an_argument_that_changes_x_meanwhile_is_refused_or_right(later, new_shape):
    """By what it is when all have been converted: nothing past its end is read."""
    case = make_case("lstm", 4, 3, 5, 8)
    x = case.x.copy()

    def act():
        x.shape = new_shape

    given = {"state": case.state, **arguments_of("lstm", case.parameters), "lengths": np.array([1, 2, 3])}
    if later == "c_norm":
        given["c_norm"] = (Changing(given["c_norm"][0], act), None)
    else:
        given[later] = Changing(given[later], act)
    with pytest.raises(ValueError, match=r"^\S+ must .*, got"):
        fastln.layer_norm_lstm(x, **given)


# Calls that are refused: {what: (of which cell, what is replaced, the exception, the words)}. x is (4, 3, 5), H is 8.


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def broadcast(*shape):
    return np.broadcast_to(np.float32(0), shape)


BAD = {
    "x of ints": ("lstm", {"x": ones(4, 3, 5, dtype=int)}, TypeError, "x must be an array of float32"),
    "x of 16 bits": ("lstm", {"x": ones(4, 3, 5, dtype=np.float16)}, TypeError, "x must be an array of float32 or"),
    "x of long doubles": ("gru", {"x": ones(4, 3, 5, dtype=np.longdouble)}, TypeError, "x must be an array of"),
    "x None": ("rnn", {"x": None}, TypeError, "x must be an array of float32"),
    "x masked": ("rnn", {"x": np.ma.masked_array(ones(4, 3, 5))}, TypeError, "x must be an array without a mask"),
    "x of 1 dimension": ("gru", {"x": ones(5)}, ValueError, "x must have 3 dimensions, or 2 without a batch, got 1"),
    "x of 4 dimensions": ("gru", {"x": ones(1, 4, 3, 5)}, ValueError, "x must have 3 dimensions, or 2"),
    "x of no features": ("gru", {"x": ones(4, 3, 0)}, ValueError, "x must have a last dimension of at least 1"),
    "x of other features": ("lstm", {"x": ones(4, 3, 6)}, ValueError, "weight_ih must have shape (32, 6) to match x"),
    "weight_ih transposed": ("lstm", {"weight_ih": ones(5, 32)}, ValueError, "weight_ih must have shape (32, 5)"),
    "weight_ih flat": ("lstm", {"weight_ih": ones(160)}, ValueError, "weight_ih must have shape (32, 5)"),
    "weight_ih None": ("lstm", {"weight_ih": None}, TypeError, "weight_ih must be an array of float32"),
    "weight_hh of another cell": ("lstm", {"weight_hh": ones(24, 8)}, ValueError, "weight_hh must have shape (4 * hid"),
    "weight_hh flat": ("rnn", {"weight_hh": ones(64)}, ValueError, "weight_hh must have shape (hidden_size, hidden_"),
    "weight_hh of no units": ("gru", {"weight_hh": ones(0, 0)}, ValueError, "weight_hh must have shape (3 * hidden_"),
    "weight_hh of ints": ("gru", {"weight_hh": ones(24, 8, dtype=int)}, TypeError, "weight_hh must be an array of"),
    "bias too long": ("lstm", {"bias": ones(33)}, ValueError, "bias must have shape (32,) to match weight_hh"),
    "bias per unit": ("gru", {"bias": ones(8)}, ValueError, "bias must have shape (24,) to match weight_hh"),
    "bias too large": ("gru", {"bias": np.full(24, 1e300)}, ValueError, "bias must be of values that float32 can"),
    "a norm's weight alone": (
        "lstm",
        {"ih_norm": ones(32)},
        TypeError,
        "ih_norm must be None or a pair (weight, bias)",
    ),
    "a norm of three": ("lstm", {"c_norm": (None,) * 3}, TypeError, "c_norm must be None or a pair (weight, bias)"),
    "a norm per gate": ("lstm", {"hh_norm": (ones(8), None)}, ValueError, "hh_norm[0] must have shape (32,)"),
    "a norm of words": ("lstm", {"hh_norm": ("a", "b")}, TypeError, "hh_norm[0] must be an array of float32"),
    "c_norm of all gates": ("lstm", {"c_norm": (None, ones(32))}, ValueError, "c_norm[1] must have shape (8,)"),
    "a column for a norm": ("rnn", {"norm": (ones(8, 1), None)}, ValueError, "norm[0] must have shape (8,)"),
    "half of a state": ("lstm", {"state": ones(3, 8)}, TypeError, "state must be None or a pair (h0, c0)"),
    "h0 of another batch": ("lstm", {"state": (ones(4, 8), ones(3, 8))}, ValueError, "h0 must have shape (3, 8)"),
    "c0 of another size": ("lstm", {"state": (ones(3, 8), ones(3, 7))}, ValueError, "c0 must have shape (3, 8)"),
    "h0 of layers": ("gru", {"h0": ones(1, 3, 8)}, ValueError, "h0 must have shape (3, 8) to match x and weight_hh"),
    "h0 of ints": ("rnn", {"h0": ones(3, 8, dtype=int)}, TypeError, "h0 must be an array of float32"),
    "eps negative": ("rnn", {"eps": -1e-5}, ValueError, "eps must be finite and >= 0"),
    "eps a word": ("lstm", {"eps": "1e-5"}, TypeError, "eps must be a real number"),
    "lengths of floats": ("lstm", {"lengths": ones(3)}, TypeError, "lengths must be an array of integers"),
    "lengths too few": ("lstm", {"lengths": [4, 4]}, ValueError, "lengths must have shape (3,) to match x"),
    "a length too large": ("gru", {"lengths": [4, 5, 4]}, ValueError, "lengths must be from 0 to 4, the steps of x"),
    "a length below 0": ("gru", {"lengths": [4, -1, 4]}, ValueError, "lengths must be from 0 to 4, the steps of x"),
    "lengths without a batch": (
        "rnn",
        {"x": ones(4, 5), "h0": None, "lengths": [4]},
        ValueError,
        "lengths must be None",
    ),
    "reverse 1": ("rnn", {"reverse": 1}, TypeError, "reverse must be True or False"),
    "batch_first a word": ("rnn", {"batch_first": "yes"}, TypeError, "batch_first must be True or False"),
    "another function": (
        "rnn",
        {"nonlinearity": "gelu"},
        ValueError,
        "nonlinearity must be 'tanh' or 'relu'",
    ),
    "another carry": ("lstm", {"carry": True}, TypeError, "carry must be 'cell' or 'normalized', got True"),
    "out of another dtype": ("lstm", {"out": ones(4, 3, 8, dtype=float)}, TypeError, "out must have dtype float32"),
    "out of x's shape": ("lstm", {"out": ones(4, 3, 5)}, ValueError, "out must have shape (4, 3, 8)"),
    "out over itself": ("lstm", {"out": broadcast(4, 3, 8)}, ValueError, "out must be writable"),
    "out a list": ("lstm", {"out": [0.0]}, TypeError, "out must be an ndarray"),
    "no threads": ("gru", {"num_threads": 0}, ValueError, "num_threads must be an int >= 1"),
    "half a thread": ("gru", {"num_threads": 0.5}, TypeError, "num_threads must be an int >= 1"),
    "PyTorch's name": ("lstm", {"hx": None}, TypeError, "state must be given by this name, got the keyword hx"),
    "another's option": ("gru", {"carry": "cell"}, TypeError, "keywords must be among"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_calls_say_what_is_wrong_and_write_nothing(what):
    kind, wrong, exception, words = BAD[what]
    case = make_case(kind, 4, 3, 5, 8)
    state = case.state if kind == "lstm" else case.state[0]
    given = {"x": case.x, "state" if kind == "lstm" else "h0": state, **arguments_of(kind, case.parameters)}
    given["out"] = np.full((4, 3, 8), 7, np.float32)
    arrays = [value for value in (given | wrong).values() if type(value) is np.ndarray]
    before = [array.copy() for array in arrays]
    with pytest.raises(exception, match=f"^{re.escape(words)}") as error:
        FUNCTIONS[kind](**(given | wrong))
    assert re.fullmatch(r"\S+ must .+, got .+", str(error.value))
    for array, same in zip(arrays, before, strict=True):
        assert_same_bits(array, same)


def test_there_are_forty_bad_calls():
    assert len(BAD) >= 40
