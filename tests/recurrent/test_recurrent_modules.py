"""The recurrent objects: what layers and directions are, parameters, states, freezing, and what is refused."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
from helpers import assert_same_bits
from recurrent_cases import ARGUMENTS, FUNCTIONS, OBJECTS

import fastln

BOTH = ({}, {"bidirectional": True})


@pytest.fixture(params=OBJECTS)
def kind(request):
    """Run the test with each kind of cell."""
    return request.param


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def state_for(kind, *shape, seed=1):
    h, c = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    return (h, c) if kind == "lstm" else h


def part_of(kind, state, index):
    return tuple(one[index] for one in state) if kind == "lstm" else state[index]


def arguments_of(network, place):
    """The arguments of the function for one layer in one direction."""
    given = {name: network.parameters.get(f"{name}{place}") for name in ("weight_ih", "weight_hh", "bias")}
    keys = {name.partition("_l")[0] for name in network.parameters if name.startswith("ln")}
    keys = {name.partition(place)[0] for name in network.parameters if name.startswith("ln") and f"{place}." in name}
    for key in keys:
        given[ARGUMENTS[key]] = tuple(network.parameters.get(f"{key}{place}.{which}") for which in ("weight", "bias"))
    return given


def by_hand(kind, network, x, state, lengths=None):
    """What the layers come to, one function after the other."""
    last = []
    directions = 1 + network.bidirectional
    for layer in range(network.num_layers):
        outputs = []
        for direction in range(directions):
            place = f"_l{layer}" + "_reverse" * direction
            first = part_of(kind, state, layer * directions + direction)
            y, after = FUNCTIONS[kind](
                x, first, **arguments_of(network, place), lengths=lengths, reverse=bool(direction), eps=network.eps
            )
            outputs.append(y)
            last.append(after)
        x = np.concatenate(outputs, axis=2)
    stacked = tuple(np.stack(one) for one in zip(*last, strict=True)) if kind == "lstm" else np.stack(last)
    return x, stacked


@pytest.mark.parametrize("options", BOTH, ids=["one way", "both ways"])
@pytest.mark.parametrize("bias", [{}, {"norm_bias": False}, {"bias": False}], ids=["norms' bias", "one bias", "none"])
def test_layers_are_functions_after_each_other(kind, options, bias):
    network = OBJECTS[kind](5, 6, num_layers=3, eps=1e-3, rng=0, **options, **bias)
    for index, name in enumerate(network.parameters):
        network.parameters[name] += 0.1 * normal(*network.parameters[name].shape, seed=index)
    x, lengths = normal(7, 4, 5), np.array([7, 3, 0, 5])
    state = state_for(kind, 3 * (1 + network.bidirectional), 4, 6)
    y, after = network(x, state, lengths=lengths)
    expected, last = by_hand(kind, network, x, state, lengths)
    assert_same_bits(y, expected)
    for index in range(2 if kind == "lstm" else 1):
        assert_same_bits(*(one[index] if kind == "lstm" else one for one in (after, last)))


def test_states_and_batches_are_where_pytorch_has_them(kind):
    first, other = (OBJECTS[kind](3, 4, num_layers=2, batch_first=batch, rng=0) for batch in (True, False))
    x = normal(2, 5, 3)
    y, state = first(x)
    by_time, same = other(np.ascontiguousarray(x.swapaxes(0, 1)))
    assert_same_bits(y, np.ascontiguousarray(by_time.swapaxes(0, 1)))
    h, same_h = (one[0] if kind == "lstm" else one for one in (state, same))
    assert_same_bits(h, same_h)
    assert h.shape == (2, 2, 4)
    alone, last = other(x[1], part_of(kind, state_for(kind, 2, 2, 4), (slice(None), 1)))
    among, whole = first(x, state_for(kind, 2, 2, 4))
    assert_same_bits(alone, among[1])
    assert_same_bits(*(one[0] if kind == "lstm" else one for one in (last, part_of(kind, whole, (slice(None), 1)))))


def test_names_and_shapes_are_pytorchs(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](3, 4, 2, bidirectional=True)
    ours = OBJECTS[kind](3, 4, 2, bidirectional=True)
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items() if name.startswith("weight")}
    assert {name: value.shape for name, value in ours.parameters.items() if name.startswith("weight")} == shapes
    y, state = ours(normal(5, 2, 3))
    y_of_theirs, state_of_theirs = theirs(torch.tensor(normal(5, 2, 3)))
    assert y.shape == tuple(y_of_theirs.shape)
    h, h_of_theirs = (one[0] if kind == "lstm" else one for one in (state, state_of_theirs))
    assert h.shape == tuple(h_of_theirs.shape)


def test_parameters_are_what_options_say():
    names = {
        "norms' bias": list(fastln.LayerNormLSTM(3, 4).parameters),
        "one bias": list(fastln.LayerNormLSTM(3, 4, norm_bias=False).parameters),
        "none": list(fastln.LayerNormLSTM(3, 4, bias=False).parameters),
    }
    norms = ("ln_ih_l0", "ln_hh_l0", "ln_c_l0")
    weights = ["weight_ih_l0", "weight_hh_l0"]
    assert names["norms' bias"] == weights + [f"{norm}.{which}" for norm in norms for which in ("weight", "bias")]
    assert names["one bias"] == [*weights, "bias_l0", *(f"{norm}.weight" for norm in norms), "ln_c_l0.bias"]
    assert names["none"] == weights + [f"{norm}.weight" for norm in norms]
    assert list(fastln.LayerNormRNN(3, 4).parameters) == [*weights, "ln_l0.weight", "ln_l0.bias"]


def test_the_first_parameters_are_pytorchs(kind):
    network = OBJECTS[kind](30, 25, rng=3)
    for name, value in network.parameters.items():
        if name.startswith("weight"):
            assert 0.19 < np.abs(value).max() <= 0.2
            assert abs(value.mean()) < 0.02
        else:
            assert (value == name.endswith(".weight")).all()
    again, other = OBJECTS[kind](30, 25, rng=np.random.default_rng(3)), OBJECTS[kind](30, 25)
    assert_same_bits(again.parameters["weight_ih_l0"], network.parameters["weight_ih_l0"])
    assert not np.array_equal(other.parameters["weight_ih_l0"], network.parameters["weight_ih_l0"])


def test_what_is_changed_in_place_is_seen_by_the_next_call(kind):
    network, x = OBJECTS[kind](3, 4), normal(5, 2, 3)
    before, _ = network(x)
    for name in network.parameters:
        changed = network.parameters[name]
        changed += 0.5 * normal(*changed.shape, seed=9)
        after, _ = network(x)
        assert not np.array_equal(after, before), name
        before = after


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_an_array_that_fits_is_kept_and_any_other_converted(kind):
    network = OBJECTS[kind](3, 4)
    shape = network.parameters["weight_hh_l0"].shape
    mine = normal(*shape)
    network.parameters["weight_hh_l0"] = mine
    assert network.parameters["weight_hh_l0"] is mine
    network.parameters["weight_hh_l0"] = mine.astype(np.float64)
    assert network.parameters["weight_hh_l0"].dtype == np.float32
    with pytest.raises(ValueError, match=r"^weight_hh_l0 must have shape .* to match the sizes of the object, got"):
        network.parameters["weight_hh_l0"] = mine.T[:2]
    with pytest.raises(KeyError, match=r"^names must be those of parameters, got 'weight_hh_l1': weight_hh_l0 is one$"):
        network.parameters["weight_hh_l1"] = mine
    with pytest.raises(TypeError, match=r"^parameters must stay what they are, got a deletion"):
        del network.parameters["weight_hh_l0"]
    mine = network.parameters["weight_hh_l0"]
    mine.shape = (mine.size,)  # behind the object's back
    with pytest.raises(ValueError, match=r"^weight_hh_l0 must have shape"):
        network(normal(5, 2, 3))


def test_x_decides_what_is_computed_in(kind):
    network = OBJECTS[kind](3, 4, rng=0)
    wide = OBJECTS[kind](3, 4, dtype=np.float64)
    wide.load_state_dict(network.state_dict())
    x = normal(5, 2, 3, dtype=np.float64)
    y, _ = network(x)
    assert y.dtype == np.float64
    assert_same_bits(y, wide(x)[0])
    with pytest.raises(TypeError, match=r"^x_t must have dtype float32 to match the parameters, got float64"):
        network.freeze().step(x[0])


def test_states_go_both_ways(kind):
    network, other = (OBJECTS[kind](3, 4, 2, bidirectional=True, rng=seed) for seed in (0, 1))
    held = other.parameters["weight_ih_l1"]
    checkpoint = {f"decoder.{name}": value for name, value in network.state_dict().items()} | {"head": np.ones(3)}
    other.load_state_dict(checkpoint, prefix="decoder.")
    assert other.parameters["weight_ih_l1"] is held
    for name, value in network.state_dict().items():
        assert value is not network.parameters[name]
        assert_same_bits(other.parameters[name], value)
    before = other.state_dict()
    wrong = [
        ({**network.state_dict(), "weight_hh_l0": np.ones((2, 2))}, ValueError, "weight_hh_l0 must have shape"),
        ({**network.state_dict(), "bias_hh_l0": np.ones(4)}, KeyError, "state must have no key but those of"),
        ({"weight_ih_l0": np.ones((4, 3))}, KeyError, "state must have the key 'weight_hh_l0', got"),
        (network, TypeError, "state must be a mapping of names to arrays, got"),
    ]
    for state, exception, words in wrong:
        with pytest.raises(exception, match=f"^{words}"):
            other.load_state_dict(state)
    for name, value in before.items():
        assert_same_bits(other.parameters[name], value)


def test_a_state_dict_of_pytorch_is_taken(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    network = OBJECTS[kind](3, 4)
    tensors = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in network.state_dict().items()}
    other = OBJECTS[kind](3, 4)
    other.load_state_dict(tensors)
    assert_same_bits(other.parameters["weight_ih_l0"], network.parameters["weight_ih_l0"])


def test_copies_are_apart(kind):
    network, x = OBJECTS[kind](3, 4, rng=0), normal(5, 2, 3)
    y, _ = network(x)
    copies = [copy.deepcopy(network), *(pickle.loads(pickle.dumps(network, protocol)) for protocol in range(6))]
    network.parameters["weight_ih_l0"][...] = 0
    for other in copies:
        assert_same_bits(other(x)[0], y)
        assert repr(other) == repr(network)


def test_copies_of_frozen_objects_give_the_same_bits(kind):
    """Wherever the packed matrices lie then."""
    frozen = OBJECTS[kind](30, 40, num_layers=2, rng=0).freeze()
    x = normal(5, 3, 30)
    y, _ = frozen(x)
    for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert_same_bits(other(x)[0], y)


def test_attributes_are_read_or_checked(kind):
    network = OBJECTS[kind](3, 4, 2, batch_first=True, bidirectional=True, norm_bias=False)
    assert (network.input_size, network.hidden_size, network.num_layers) == (3, 4, 2)
    assert (network.batch_first, network.bidirectional, network.bias, network.norm_bias) == (True, True, True, False)
    assert network.dtype == np.float32
    network.eps = 1e-3
    with pytest.raises(ValueError, match=r"^eps must be finite and >= 0, got -1"):
        network.eps = -1
    assert network.eps == 1e-3
    with pytest.raises(AttributeError, match=r"^attributes must be among eps, got gamma"):
        network.gamma = 1
    with pytest.raises(AttributeError, match="hidden_size"):
        network.hidden_size = 5
    assert repr(network) == (
        f"{type(network).__name__}(3, 4, num_layers=2, batch_first=True, bidirectional=True, norm_bias=False, "
        "eps=0.001, dtype=float32)"
    )


BAD_SIZES = [
    ({"input_size": 0}, ValueError, "input_size must be an int >= 1, got 0"),
    ({"hidden_size": 4.0}, TypeError, "hidden_size must be an int >= 1, got 4.0"),
    ({"num_layers": True}, TypeError, "num_layers must be an int >= 1, got True"),
    ({"hidden_size": 2**40}, ValueError, "hidden_size must leave matrices of at most"),
    ({"bidirectional": 1}, TypeError, "bidirectional must be True or False, got 1"),
    ({"norm_bias": None}, TypeError, "norm_bias must be True or False, got None"),
    ({"eps": "small"}, TypeError, "eps must be a real number >= 0, got 'small'"),
    ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got"),
    ({"dtype": int}, TypeError, "dtype must be float32, float64, float16 or bfloat16, got int"),
    ({"rng": "seed"}, TypeError, "rng must be a numpy.random.Generator or a seed >= 0, got 'seed'"),
    ({"rng": -1}, TypeError, "rng must be a numpy.random.Generator or a seed >= 0, got -1"),
    ({"dropout": 0.5}, TypeError, "keywords must be among input_size"),
    ({"units": 4}, TypeError, "hidden_size must be given by this name, got the keyword units"),
]


@pytest.mark.parametrize(("wrong", "exception", "words"), BAD_SIZES, ids=lambda value: str(value)[:30])
def test_what_an_object_is_made_of_is_checked(kind, wrong, exception, words):
    with pytest.raises(exception, match=f"^{re.escape(words)}"):
        OBJECTS[kind](**({"input_size": 3, "hidden_size": 4} | wrong))


def test_options_of_one_kind_are_words():
    with pytest.raises(ValueError, match=r"^nonlinearity must be 'tanh' or 'relu', got 'Tanh'"):
        fastln.LayerNormRNN(3, 4, nonlinearity="Tanh")
    with pytest.raises(ValueError, match=r"^carry must be 'cell' or 'normalized', got 'c'"):
        fastln.LayerNormLSTM(3, 4, carry="c")
    x = normal(5, 2, 3)
    for network, function, option in (
        (fastln.LayerNormRNN(3, 4, nonlinearity="relu", rng=0), fastln.layer_norm_rnn, {"nonlinearity": "relu"}),
        (fastln.LayerNormLSTM(3, 4, carry="normalized", rng=0), fastln.layer_norm_lstm, {"carry": "normalized"}),
    ):
        y, _ = function(x, None, **arguments_of(network, "_l0"), **option)
        assert_same_bits(network(x)[0], y)
        assert next(iter(option.values())) in repr(network)


BAD_CALLS = [
    ({"x": normal(5, 2, 4)}, ValueError, "x must have 3 as its last dimension, the input_size, got 4"),
    ({"x": normal(5, 2, 3).astype(np.float16)}, TypeError, "x must be an array of float32 or float64"),
    ({"lengths": [5, 6]}, ValueError, "lengths must be from 0 to 5, the steps of x, got 6"),
    ({"out": normal(5, 2, 3)}, ValueError, "out must have shape (5, 2, 4), got (5, 2, 3)"),
    ({"num_threads": 0}, ValueError, "num_threads must be an int >= 1, got 0"),
]


@pytest.mark.parametrize(("wrong", "exception", "words"), BAD_CALLS, ids=lambda value: str(value)[:20])
def test_what_an_object_is_called_with_is_checked(kind, wrong, exception, words):
    network = OBJECTS[kind](3, 4)
    out = np.full((5, 2, 4), 7, np.float32)
    with pytest.raises(exception, match=f"^{re.escape(words)}"):
        network(**({"x": normal(5, 2, 3), "out": out} | wrong))
    assert (out == 7).all()


def test_messages_of_states_name_what_was_given():
    x = normal(5, 2, 3)
    with pytest.raises(ValueError, match=r"^state must have shape \(1, 2, 4\) to match x and the sizes .*, got"):
        fastln.LayerNormGRU(3, 4)(x, np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"^c0 must have shape \(1, 2, 4\) to match x and the sizes of the object"):
        fastln.LayerNormLSTM(3, 4)(x, (np.zeros((1, 2, 4)), np.zeros((2, 2, 4))))
    frozen = fastln.LayerNormLSTM(3, 4).freeze()
    with pytest.raises(TypeError, match=r"^state must be None or a pair \(h0, c0\), got array"):
        frozen.step(x[0], np.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match=r"^h0 must have shape \(1, 2, 4\) to match x_t and the sizes"):
        frozen.step(x[0], (np.zeros((2, 4)), np.zeros((2, 4))))
    with pytest.raises(ValueError, match=r"^x_t must have 2 dimensions, or 1 without a batch, got 3"):
        frozen.step(x)
    with pytest.raises(ValueError, match=r"^x_t must have 3 as its last dimension, the input_size, got 2"):
        frozen.step(x[0, :, :2])
    with pytest.raises(ValueError, match=r"^bidirectional must be False where steps come one by one, got True"):
        fastln.LayerNormLSTM(3, 4, bidirectional=True).freeze()


def test_a_step_leaves_its_state_alone(kind):
    frozen = OBJECTS[kind](3, 4, num_layers=2).freeze()
    state = state_for(kind, 2, 5, 4)
    before = copy.deepcopy(state)
    after = frozen.step(normal(5, 3), state)
    for one, same in zip(state if kind == "lstm" else [state], before if kind == "lstm" else [before], strict=True):
        assert_same_bits(one, same)
    alone = frozen.step(normal(5, 3)[2], part_of(kind, state, (slice(None), 2)))
    among = part_of(kind, after, (slice(None), 2))
    assert_same_bits(*(one[0] if kind == "lstm" else one for one in (alone, among)))
    assert repr(frozen).startswith(f"FrozenRecurrent(of {OBJECTS[kind].__name__}(3, 4, num_layers=2")
