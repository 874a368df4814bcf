"""The LayerNorm object: parameters, gradients by name, and the states and looks of PyTorch's module."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import pydoc
import re
import sys

import numpy as np
import pytest
from arguments import BAD_EPS, BAD_SHAPE, BAD_X, SHAPE, array, assert_refused, counts_references
from bounds import USUAL, judge_gradients
from helpers import assert_same_bits, keeps_no_memory
from regimes import make_parameters, make_rows

import fastln
from fastln._reference import normalize, output_size

# Which parameters there are, from elementwise_affine and bias.
AFFINE = {
    "both": ({}, ("weight", "bias")),
    "no bias": ({"bias": False}, ("weight",)),
    "neither": ({"elementwise_affine": False}, ()),
    "neither, said twice": ({"elementwise_affine": False, "bias": False}, ()),
}


@pytest.fixture(params=AFFINE)
def affine(request):
    """(options of LayerNorm, the names of its parameters)."""
    return AFFINE[request.param]


def random_module(normalized_shape, dtype=np.float32, **options):
    """A LayerNorm with parameters of ordinary size."""
    size = int(np.prod(normalized_shape))
    weight, bias = (parameter.reshape(normalized_shape) for parameter in make_parameters(size, dtype))
    return fastln.LayerNorm(normalized_shape, **options, weight_init=weight, bias_init=bias, dtype=dtype)


def parameters_of(module):
    """The parameters that a module has, by name."""
    both = {"weight": module.weight, "bias": module.bias}
    return {name: value for name, value in both.items() if value is not None}


# Construction


def test_defaults():
    module = fastln.LayerNorm(5)
    assert module.normalized_shape == (5,)
    assert module.eps == 1e-5
    assert module.elementwise_affine is True
    assert_same_bits(module.weight, np.ones(5, np.float32))
    assert_same_bits(module.bias, np.zeros(5, np.float32))


def test_parameters_are_there_as_asked(affine, dtype):
    options, names = affine
    module = fastln.LayerNorm((2, 3), dtype=dtype, **options)
    assert tuple(parameters_of(module)) == names
    assert module.elementwise_affine is options.get("elementwise_affine", True)
    for parameter in parameters_of(module).values():
        assert type(parameter) is np.ndarray
        assert parameter.shape == (2, 3)
        assert parameter.dtype == dtype
        assert parameter.flags.writeable
        assert parameter.flags.c_contiguous


@pytest.mark.parametrize("shape", [4, (4,), [4], np.int64(4), (np.int32(4),)], ids=repr)
def test_normalized_shape_is_a_tuple_of_ints(shape):
    module = fastln.LayerNorm(shape)
    assert module.normalized_shape == (4,)
    assert type(module.normalized_shape) is tuple
    assert all(type(size) is int for size in module.normalized_shape)


@pytest.mark.parametrize("dtype_like", ["float32", np.float32, np.dtype("float32"), "float64", np.float64, float])
def test_dtype_in_every_spelling(dtype_like):
    assert fastln.LayerNorm(3, dtype=dtype_like).weight.dtype == np.dtype(dtype_like)


@pytest.mark.parametrize("shape", [2**64 + 8, (2**40, 2**40), 2**61], ids=str)
def test_sizes_that_no_array_can_have_are_refused(shape):
    with pytest.raises(ValueError, match=r"^normalized_shape must have at most \d+ elements, got "):
        fastln.LayerNorm(shape)


INITS = {
    "int": 2,
    "float": 0.1,
    "NumPy scalar": np.float64(0.1),
    "array": np.arange(6.0).reshape(2, 3) / 7,
    "float32 array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "array in Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "read-only array": np.broadcast_to(np.arange(3.0), (2, 3)),
    "list": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    "callable to array": lambda shape: np.full(shape, 0.25),
    "callable to number": lambda shape: float(len(shape)),
    "NumPy function": np.ones,
    "method of a generator": lambda shape: np.random.default_rng(3).normal(0, 0.02, shape),
}


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_initialisers(name, init, dtype):
    value = INITS[init]
    module = fastln.LayerNorm((2, 3), dtype=dtype, **{f"{name}_init": value})
    expected = np.broadcast_to(value((2, 3)) if callable(value) else value, (2, 3)).astype(dtype)
    assert_same_bits(getattr(module, name), np.ascontiguousarray(expected))
    other = {"weight": "bias", "bias": "weight"}[name]
    assert_same_bits(getattr(module, other), getattr(fastln.LayerNorm((2, 3), dtype=dtype), other))


def test_initialisers_are_called_once_with_the_shape_as_a_tuple():
    seen = []

    def init(shape):
        seen.append(shape)
        return np.zeros(shape)

    fastln.LayerNorm([2, 3], weight_init=init, bias=False, bias_init=init)
    assert seen == [(2, 3)]
    assert type(seen[0]) is tuple
    fastln.LayerNorm(4, elementwise_affine=False, weight_init=init, bias_init=init)
    assert seen == [(2, 3)], "an initialiser was called for a parameter that is off"


def test_parameters_are_copies_of_the_initialiser(dtype):
    given = np.ones(4, dtype)
    module = fastln.LayerNorm(4, weight_init=given, bias_init=given, dtype=dtype)
    given[:] = 7
    assert (module.weight == 1).all()
    module.weight[:] = 3
    assert (module.bias == 1).all()
    shared = fastln.LayerNorm(4, weight_init=lambda shape: given, dtype=dtype)
    given[:] = 5
    assert (shared.weight == 7).all()


BAD_INIT = {
    "None": (lambda: None, TypeError),
    "word": (lambda: "ones", TypeError),
    "complex": (lambda: 1j, TypeError),
    "array of words": (lambda: np.full(8, "1"), TypeError),
    "complex array": (lambda: np.ones(8, complex), TypeError),
    "callable to a word": (lambda: lambda shape: "ones", TypeError),
    "callable to None": (lambda: lambda shape: None, TypeError),
    "too short": (lambda: np.ones(7), ValueError),
    "too long": (lambda: np.ones(9), ValueError),
    "column": (lambda: np.ones((8, 1)), ValueError),
    "empty": (lambda: np.ones(0), ValueError),
    "callable to too short": (lambda: lambda shape: np.ones(7), ValueError),
}
BAD_DTYPE = {
    "int": (lambda: np.int64, TypeError),
    "bool": (lambda: bool, TypeError),
    "complex": (lambda: complex, TypeError),
    "object": (lambda: object, TypeError),
    "no dtype": (lambda: "float33", TypeError),
}
BAD_CONSTRUCTIONS = [
    pytest.param(name, make, error, id=f"{name}: {what}")
    for name, values in {
        # A shape that does not fit an x is none here, only one that fits no x.
        "normalized_shape": {
            "None": (lambda: None, TypeError),
            **{
                what: bad
                for what, bad in BAD_SHAPE.items()
                if bad[1] is TypeError or what in ("empty tuple", "zero", "negative")
            },
        },
        "eps": BAD_EPS,
        "weight_init": BAD_INIT,
        "bias_init": BAD_INIT,
        "dtype": BAD_DTYPE,
    }.items()
    for what, (make, error) in values.items()
]


@pytest.mark.parametrize(("name", "make", "error"), BAD_CONSTRUCTIONS)
def test_bad_constructions_name_the_argument(name, make, error):
    assert_refused(fastln.LayerNorm, {"normalized_shape": 8, name: make()}, name, error)


def test_the_signature_is_that_of_torch_and_more():
    parameters = inspect.signature(fastln.LayerNorm).parameters
    assert list(parameters) == [
        "normalized_shape",
        "eps",
        "elementwise_affine",
        "bias",
        "weight_init",
        "bias_init",
        "dtype",
    ]
    defaults = [parameter.default for parameter in parameters.values()]
    assert defaults == [inspect.Parameter.empty, 1e-5, True, True, 1.0, 0.0, np.float32]
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 4 + [inspect.Parameter.KEYWORD_ONLY] * 3
    assert list(inspect.signature(fastln.LayerNorm.__call__).parameters) == ["self", "x", "out", "num_threads"]
    assert list(inspect.signature(fastln.LayerNorm.forward).parameters) == ["self", "x", "out", "num_threads"]
    assert list(inspect.signature(fastln.LayerNorm.backward).parameters) == [
        "self",
        "dy",
        "saved",
        "out",
        "num_threads",
    ]
    assert list(inspect.signature(fastln.LayerNorm.load_state_dict).parameters) == ["self", "state", "prefix"]


def test_positional_arguments_are_those_of_torch(torch):
    theirs = list(inspect.signature(torch.nn.LayerNorm).parameters)[:4]
    assert list(inspect.signature(fastln.LayerNorm).parameters)[:4] == theirs


def test_help():
    text = pydoc.plain(pydoc.render_doc(fastln.LayerNorm))
    for word in ("normalized_shape", "eps", "elementwise_affine", "weight_init", "bias_init", "dtype", "state_dict"):
        assert word in text
    for name in ("__call__", "forward", "backward", "state_dict", "load_state_dict"):
        assert len(inspect.getdoc(getattr(fastln.LayerNorm, name))) > 20, name


# Parameters


def test_what_is_assigned_is_an_array_from_then_on(dtype):
    module = fastln.LayerNorm(4, dtype=dtype)
    for value in ([1, 2.5, 3, 4], (0.5,) * 4, np.arange(4.0, dtype="f2"), np.arange(4.0, dtype=">f8")):
        module.weight = value
        assert type(module.weight) is np.ndarray
        assert_same_bits(module.weight, np.array(value).astype(dtype))
        assert_same_bits(module.state_dict()["weight"], module.weight)
        module.weight -= 1
        assert_same_bits(module.weight, (np.array(value) - 1).astype(dtype))


def test_an_array_that_may_be_the_parameter_is_kept(dtype):
    module, other = fastln.LayerNorm((2, 3), dtype=dtype), fastln.LayerNorm((2, 3), dtype=dtype)
    tied = np.ones((2, 3), dtype)
    module.weight = other.weight = tied
    module.weight *= 3
    assert module.weight is other.weight is tied
    assert (tied == 3).all()


UNFIT = {
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "Fortran order": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "subclass": lambda a: a.view(np.recarray),
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "other precision": lambda a: a.astype("f8" if a.dtype == "f4" else "f4"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_any_other_array_is_copied(what, dtype):
    module = fastln.LayerNorm((2, 3), dtype=dtype)
    value = UNFIT[what](np.arange(6, dtype=dtype).reshape(2, 3))
    module.bias = value
    assert_same_bits(module.bias, np.array(value, dtype, order="C"))
    assert type(module.bias) is np.ndarray
    assert module.bias.flags.carray
    assert not np.shares_memory(module.bias, value)


BAD_PARAMETERS = {
    "too short": ([1.0, 2], ValueError),
    "too long": (array(5), ValueError),
    "a number": (1.0, ValueError),
    "a row": (array(1, 4), ValueError),
    "ints": (np.ones(4, int), TypeError),
    "list of ints": ([1, 2, 3, 4], TypeError),
    "words": (["1"] * 4, TypeError),
    "masked": (np.ma.masked_array(np.ones(4), mask=[1, 0, 0, 0]), TypeError),
    "masked, in a list": ([1.0, 1.0, 1.0, np.ma.masked], TypeError),
    "complex": (np.ones(4, complex), TypeError),
    "ragged": ([[1.0], [1.0, 2.0]], ValueError),
    "True": (True, TypeError),
}


@pytest.mark.parametrize("what", BAD_PARAMETERS)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_bad_parameters_are_refused_when_they_are_set(name, what):
    value, error = BAD_PARAMETERS[what]
    module = random_module((4,))
    before = getattr(module, name)
    with pytest.raises(error, match=rf"^{name} must .+, got "):
        setattr(module, name, value)
    assert getattr(module, name) is before


# Forward


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4)], ids=str)
def test_a_call_is_layer_norm_with_the_parameters(shape, affine, dtype, isa):
    module = random_module(shape, dtype, eps=0.25, **affine[0])
    x = make_rows("mean 10", 6, 24, dtype).reshape(2, 3, *shape)
    expected = fastln.layer_norm(x, shape, module.weight, module.bias, 0.25)
    assert_same_bits(module(x), expected)
    out = np.empty_like(x)
    assert module(x, out=out) is out
    assert_same_bits(out, expected)
    assert module(x, out=x) is x
    assert_same_bits(x, expected)


def test_parameters_are_converted_to_the_dtype_of_x(dtype):
    x = make_rows("normal", 3, 8, dtype)
    for other in (np.float32, np.float64):
        module = random_module((8,), other)
        y = module(x)
        assert_same_bits(y, fastln.layer_norm(x, 8, module.weight.astype(dtype), module.bias.astype(dtype)))


def test_parameters_may_be_changed_in_place_and_replaced():
    module = fastln.LayerNorm(8)
    x = make_rows("normal", 3, 8, np.float32)
    weight, bias = make_parameters(8, np.float32)
    module.weight *= weight
    module.bias += bias
    assert_same_bits(module(x), fastln.layer_norm(x, 8, weight, bias))
    module.weight = bias
    module.bias = None
    assert_same_bits(module(x), fastln.layer_norm(x, 8, bias))


@pytest.mark.parametrize(("make", "error"), BAD_X.values(), ids=BAD_X)
@pytest.mark.parametrize("method", ["__call__", "forward"])
def test_bad_x_is_refused(method, make, error):
    with pytest.raises(error, match=r"^(x|normalized_shape) must .+, got "):
        getattr(fastln.LayerNorm(8), method)(make())


def test_x_of_another_width_is_refused():
    for x in (array(3, 7), array(8, 3)):
        with pytest.raises(ValueError, match=r"^(x|normalized_shape) must .+, got "):
            fastln.LayerNorm(8)(x)
    with pytest.raises(ValueError, match=r"^out must .+, got "):
        fastln.LayerNorm(8)(array(3, 8), out=array(3, 7))


# Forward and backward


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4)], ids=str)
def test_backward_is_layer_norm_backward_with_the_parameters(shape, affine, dtype, isa):
    options, names = affine
    module = random_module(shape, dtype, eps=0.25, **options)
    x = make_rows("mean 10", 6, 24, dtype).reshape(2, 3, *shape)
    dy = make_rows("normal", 6, 24, dtype).reshape(x.shape)
    y, saved = module.forward(x)
    assert_same_bits(y, module(x))
    gradients = module.backward(dy, saved)
    assert gradients._fields == ("dx", "dweight", "dbias")
    assert isinstance(gradients, tuple)
    _, mean, rstd = fastln.layer_norm_forward(x, shape, eps=0.25)
    expected = fastln.layer_norm_backward(dy, x, mean, rstd, module.weight, normalized_shape=shape)
    assert_same_bits(gradients.dx, expected[0])
    for name, found, other in zip(("weight", "bias"), gradients[1:], expected[1:], strict=True):
        if name in names:
            assert_same_bits(found, other)
        else:
            assert found is None


def test_a_second_forward_does_not_disturb_the_first(dtype):
    module = random_module((8,), dtype)
    inputs = [make_rows(regime, 4, 8, dtype) for regime in ("normal", "mean 10", "mean 1e3")]
    dy = make_rows("lognormal", 4, 8, dtype)
    alone = []
    for x in inputs:
        _, saved = module.forward(x)
        alone.append(module.backward(dy, saved))
    together = [module.forward(x)[1] for x in inputs]
    module(inputs[0])
    for saved, expected in reversed(list(zip(together, alone, strict=True))):
        for _ in range(2):  # nor does a backward
            for one, other in zip(module.backward(dy, saved), expected, strict=True):
                assert_same_bits(one, other)


def test_one_module_may_be_used_twice_in_a_network(dtype):
    # As with tied weights: y2 = f(f(x)); the gradients of both uses add up.
    module = random_module((6,), np.float64)
    x, dy = make_rows("normal", 3, 6, np.float64), make_rows("mean 10", 3, 6, np.float64)
    inner, saved_inner = module.forward(x)
    _, saved_outer = module.forward(inner)
    outer_gradients = module.backward(dy, saved_outer)
    inner_gradients = module.backward(outer_gradients.dx, saved_inner)
    found = outer_gradients.dweight + inner_gradients.dweight

    def loss(weight):
        return (dy * fastln.layer_norm(fastln.layer_norm(x, 6, weight, module.bias), 6, weight, module.bias)).sum()

    step = 2.0**-16
    steps = step * np.eye(6)
    expected = [(loss(module.weight + h) - loss(module.weight - h)) / (2 * step) for h in steps]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1024 * step**2 * np.abs(dy).sum())


def test_a_forward_pass_without_rows():
    module = fastln.LayerNorm(8)
    y, saved = module.forward(np.empty((0, 8), np.float32))
    gradients = module.backward(y, saved)
    assert gradients.dx.shape == (0, 8)
    assert (gradients.dweight == 0).all()
    assert (gradients.dbias == 0).all()


def test_results_go_where_they_are_asked_to(dtype):
    module = random_module((24,), dtype)
    x, dy = make_rows("mean 10", 6, 24, dtype), make_rows("normal", 6, 24, dtype)
    expected_y, saved = module.forward(x)
    expected = module.backward(dy, saved)
    out = np.empty_like(x)
    for threads in (1, 2, None):
        assert module(x, out=out, num_threads=threads) is out
        assert_same_bits(out, expected_y)
        y, saved = module.forward(x, out=out, num_threads=threads)
        assert y is out
        assert_same_bits(out, expected_y)
        gradient = dy.copy()
        gradients = module.backward(gradient, saved, out=gradient, num_threads=threads)
        assert gradients.dx is gradient
        for one, other in zip(gradients, expected, strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("method", ["__call__", "forward", "backward"])
def test_bad_threads_are_refused(method):
    module = fastln.LayerNorm(8)
    arguments = (array(4, 8), module.forward(array(4, 8))[1]) if method == "backward" else (array(4, 8),)
    with pytest.raises(ValueError, match=r"^num_threads must .+, got 0"):
        getattr(module, method)(*arguments, num_threads=0)


def test_forward_keeps_x_for_backward():
    module = fastln.LayerNorm(8)
    buffer = array(9, 8)
    x = buffer[:6]
    before = buffer.copy()
    for out in (x, x[:], buffer[3:], x[::-1]):
        with pytest.raises(ValueError, match=r"^out must share no memory with x, which backward needs, got "):
            module.forward(x, out=out)
    assert_same_bits(buffer, before)
    wide = array(6, 16)
    beside = wide[:, 8:]
    y, saved = module.forward(wide[:, :8], out=beside)
    assert y is beside
    assert np.shares_memory(saved.x, wide)


@pytest.mark.parametrize(
    ("dy", "error"),
    [
        pytest.param(array(3, 8), ValueError, id="a row too few"),
        pytest.param(array(4, 7), ValueError, id="a column too few"),
        pytest.param(array(8), ValueError, id="one row"),
        pytest.param(array(4, 8).astype(int), TypeError, id="ints"),
        pytest.param(None, TypeError, id="None"),
    ],
)
def test_bad_dy_is_refused(dy, error):
    module = fastln.LayerNorm(8)
    _, saved = module.forward(array(4, 8))
    with pytest.raises(error, match=r"^dy must .+, got "):
        module.backward(dy, saved)


def test_saved_of_another_module_is_refused():
    _, saved = fastln.LayerNorm(6).forward(array(4, 6))
    with pytest.raises(ValueError, match=r" must .+, got "):
        fastln.LayerNorm((4, 6)).backward(array(4, 6), saved)


# States


def state_of(module, prefix=""):
    """Copies of a module's state under a prefix."""
    return {prefix + name: np.array(value) for name, value in module.state_dict().items()}


def test_the_state_has_the_keys_of_torch(affine, dtype):
    options, names = affine
    module = random_module((2, 3), dtype, **options)
    state = module.state_dict()
    assert isinstance(state, dict)
    assert tuple(state) == names
    for name, value in state.items():
        assert type(value) is np.ndarray
        assert_same_bits(value, getattr(module, name))


@pytest.mark.parametrize("prefix", ["", "encoder.norm.", "weight."], ids=repr)
def test_a_state_makes_another_module_equal(prefix, affine, dtype):
    source = random_module((2, 3), dtype, **affine[0])
    target = fastln.LayerNorm((2, 3), dtype=dtype, **affine[0])
    assert target.load_state_dict(state_of(source, prefix), prefix=prefix) is None
    for name, value in parameters_of(source).items():
        assert_same_bits(getattr(target, name), value)
    x = make_rows("normal", 4, 6, dtype).reshape(4, 2, 3)
    assert_same_bits(target(x), source(x))


def test_a_loaded_state_is_a_copy(dtype):
    module = fastln.LayerNorm(8, dtype=dtype)
    state = state_of(random_module((8,), dtype))
    expected = {name: value.copy() for name, value in state.items()}
    module.load_state_dict(state)
    for value in state.values():
        value[:] = 7
    for name, value in expected.items():
        assert_same_bits(getattr(module, name), value)
    module.weight[:] = 3
    assert (state["weight"] == 7).all()


def test_the_rest_of_a_checkpoint_is_ignored_under_a_prefix():
    source = random_module((4,))
    checkpoint = {
        "embeddings.weight": np.zeros((10, 4)),
        "encoder.layer.0.norm.weight": source.weight,
        "encoder.layer.0.norm.bias": source.bias,
        "encoder.layer.1.norm.weight": np.zeros(4),
        "encoder.layer.0.normal": np.zeros(4),
        "weight": np.zeros(9),
        "step": 17,
    }
    module = fastln.LayerNorm(4)
    module.load_state_dict(checkpoint, "encoder.layer.0.norm.")
    assert_same_bits(module.weight, source.weight)
    assert_same_bits(module.bias, source.bias)


@pytest.mark.parametrize("convert", [np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: a.astype(">f8")])
def test_states_in_any_layout_and_precision(convert, dtype):
    source = random_module((4, 6), dtype)
    state = {name: convert(value) for name, value in source.state_dict().items()}
    module = fastln.LayerNorm((4, 6), dtype=dtype)
    module.load_state_dict(state)
    assert_same_bits(module.weight, source.weight)
    assert_same_bits(module.bias, source.bias)
    assert module.weight.flags.c_contiguous


def test_parameters_can_be_swapped_through_a_state(dtype):
    module = random_module((8,), dtype)
    weight, bias = module.weight.copy(), module.bias.copy()
    arrays = module.weight, module.bias
    module.load_state_dict({"weight": module.bias, "bias": module.weight})
    assert_same_bits(module.weight, bias)
    assert_same_bits(module.bias, weight)
    assert (module.weight, module.bias)[0] is arrays[0]
    module.load_state_dict({"weight": module.bias[::-1], "bias": module.bias})
    assert_same_bits(module.weight, weight[::-1].copy())
    assert_same_bits(module.bias, weight)


def make_read_only(module):
    """In place."""
    module.bias.flags.writeable = False


def assign_a_list(module):
    """Of as many numbers."""
    module.bias = [1.0, 2, 3, 4, 5, 6, 7, 8]


def assign_a_read_only_array(module):
    """Of as many numbers."""
    module.bias = np.broadcast_to(np.float32(3), 8)


def tie_parameters(module):
    """To one array."""
    module.bias = module.weight


def overlap_parameters(module):
    """Each with a part of the other."""
    buffer = np.zeros(12, np.float32)
    module.weight, module.bias = buffer[:8], buffer[4:]


def reshape_in_place(module):
    """To a shape that does not fit any more."""
    module.bias.shape = (2, 4)


def resize_in_place(module):
    """To fewer numbers."""
    module.bias = np.arange(8, dtype=np.float32)
    module.bias.resize(3, refcheck=False)


@pytest.mark.parametrize(
    "deed",
    [
        make_read_only,
        assign_a_list,
        assign_a_read_only_array,
        tie_parameters,
        overlap_parameters,
        reshape_in_place,
        resize_in_place,
    ],
)
@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_a_state_is_loaded_whatever_the_attributes_hold(deed):
    module, source = random_module((8,)), random_module((8,))
    deed(module)
    weight = module.weight.copy()
    with pytest.raises(ValueError, match=r"^bias must have shape \(8,\).*, got \(7,\)"):
        module.load_state_dict({"weight": array(8), "bias": array(7)})
    assert_same_bits(module.weight, weight)
    module.load_state_dict(state_of(source))
    assert_same_bits(module.weight, source.weight)
    assert_same_bits(module.bias, source.bias)
    module.bias -= 1


def test_a_state_is_loaded_into_the_arrays_that_are_there():
    module, other = random_module((8,)), fastln.LayerNorm(8)
    other.weight = module.weight
    bias = module.bias
    module.load_state_dict({"weight": np.full(8, 2.0), "bias": np.full(8, 3.0)})
    assert (other.weight == 2).all()
    assert module.bias is bias
    assert (bias == 3).all()


BERT = {
    **{f"encoder.layer.{i}.output.LayerNorm.{name}": array(8) for i in range(12) for name in ("weight", "bias")},
    **{f"encoder.layer.{i}.output.dense.{name}": array(8, 8) for i in range(12) for name in ("weight", "bias")},
    "embeddings.word_embeddings.weight": array(99, 8),
}
MISSING = {
    "another spelling": (
        BERT,
        "encoder.layer.3.output.layer_norm.",
        r"^state must have the key 'encoder.layer.3.output.layer_norm.weight', got 49 other keys: "
        r"12 prefixes fit, among them 'encoder.layer.3.output.LayerNorm.', '.+.0.output.LayerNorm.', '.+.1.output.+'$",
    ),
    "no prefix": (
        BERT,
        "",
        r"^state must have the key 'weight', got 49 other keys: 12 prefixes fit, among them '.+.0.output.LayerNorm.', ",
    ),
    "no dot": (
        {"norm.weight": array(8), "norm.bias": array(8)},
        "norm",
        r"^state must have the key 'normweight', got 2 .+: prefix='norm.', with its last dot, has weight and bias$",
    ),
    "one place": (
        {"a.norm.weight": array(8), "a.norm.bias": array(8), "head.weight": array(8)},
        "b.norm.",
        r"^state must have the key 'b.norm.weight', got 3 other keys: prefix='a.norm.' has weight and bias$",
    ),
    "names of TensorFlow": (
        {"norm/gamma": array(8), "norm/beta": array(8), "dense/kernel": array(8)},
        "norm/",
        r"got 3 other keys: rename 'norm/gamma' to 'norm/weight' and 'norm/beta' to 'norm/bias'$",
    ),
    "names of TensorFlow, no prefix": (
        {f"bert/layer_{i}/LayerNorm/{name}:0": array(8) for i in range(12) for name in ("gamma", "beta")},
        "",
        r"got 24 other keys: 12 prefixes have gamma:0 and beta:0 for weight and bias, among them "
        r"'bert/layer_0/LayerNorm/', '.+', '.+'; rename them$",
    ),
    "names of TensorFlow, two of them": (
        {f"layer_{i}/LayerNorm/{name}": array(8) for i in range(2) for name in ("gamma", "beta")},
        "",
        r"got 4 other keys: 2 prefixes have gamma and beta for weight and bias, "
        r"'layer_0/LayerNorm/', 'layer_1/LayerNorm/'; rename them$",
    ),
    "names of old BERT": (
        {"bert.LayerNorm.gamma": array(8), "bert.LayerNorm.beta": array(8), "bert.dense.kernel": array(8)},
        "bert.norm.",
        r"got 3 other keys: 'bert.LayerNorm.' has gamma and beta for weight and bias; rename them$",
    ),
    "names of Keras": (
        {"norm/gamma:0": array(8), "norm/beta:0": array(8)},
        "norm/",
        r"got 2 other keys: rename 'norm/gamma:0' to 'norm/weight' and 'norm/beta:0' to 'norm/bias'$",
    ),
    "names of Flax": ({"scale": array(8), "bias": array(8)}, "", r"got 2 other keys: rename 'scale' to 'weight'$"),
    "bias is misspelt": (
        {"a.norm.weight": array(8), "a.norm.bia": array(8)},
        "a.norm.",
        r"^state must have the key 'a.norm.bias', got 2 other keys, the nearest 'a.norm.bia'",
    ),
    "bias is missing": (
        {"a.norm.weight": array(8), "a.dense.weight": array(8), "a.dense.bias": array(8)},
        "a.norm.",
        r"^state must have the key 'a.norm.bias', got 'a.norm.weight' without it: fastln.RMSNorm has no bias, "
        r"nor has LayerNorm\(..., bias=False\)$",
    ),
    "a mapping in it": (
        {"epoch": 3, "model": BERT},
        "encoder.layer.3.output.LayerNorm.",
        r"got 2 other keys, 'model' a mapping itself: load state\['model'\], with a prefix within it$",
    ),
    "nothing near": ({"x": 1, "y": 2}, "norm.", r"^state must have the key 'norm.weight', got 2 other keys$"),
    "nothing": ({}, "norm.", r"^state must have the key 'norm.weight', got 0 other keys$"),
    "one": ({"x": 1}, "norm.", r"^state must have the key 'norm.weight', got 1 other key$"),
    "long keys": (
        {"a" * 10**5: 1, "b" * 10**5 + "weight": 1},
        "c" * 10**5,
        "'c{38}[.]{3}c{32}weight', got 2 other keys",
    ),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_missing_key_is_named_with_few_of_the_others_and_what_to_change(what):
    state, prefix, words = MISSING[what]
    with pytest.raises(KeyError) as caught:
        fastln.LayerNorm(8).load_state_dict(state, prefix)
    text = caught.value.args[0]
    assert str(caught.value) == text  # and not its repr, which is what other KeyErrors show
    assert re.search(words, text)
    assert len(text) < 400


def test_a_bias_that_an_object_has_no_place_for_is_named():
    rms_norm = "a fastln.LayerNorm has a bias, an RMSNorm has none"
    for kind, options, state, advice in (
        (fastln.RMSNorm, {}, "gamma beta", f"rename 'gamma' to 'weight', but there is no place for 'beta': {rms_norm}"),
        (fastln.RMSNorm, {}, "scale bias", f"rename 'scale' to 'weight', but there is no place for 'bias': {rms_norm}"),
        (
            fastln.RMSNorm,
            {},
            "n.gamma n.beta",
            f"'n.' has gamma for weight; rename it, but there is no place for 'n.beta': {rms_norm}",
        ),
        (
            fastln.LayerNorm,
            {"bias": False},
            "gamma beta",
            "rename 'gamma' to 'weight', but there is no place for 'beta': LayerNorm(..., bias=True) has one",
        ),
    ):
        with pytest.raises(KeyError) as caught:
            kind(8, **options).load_state_dict(dict.fromkeys(state.split(), array(8)))
        assert str(caught.value) == f"state must have the key 'weight', got 2 other keys: {advice}"
    with pytest.raises(KeyError, match=f"^state must have no key but those of weight, got 'beta': {rms_norm}$"):
        fastln.RMSNorm(8).load_state_dict({"weight": array(8), "beta": array(8)})


def test_the_prefix_that_a_message_names_is_right():
    module = fastln.LayerNorm(8)
    with pytest.raises(KeyError) as caught:
        module.load_state_dict(BERT, "encoder.layer.3.output.layernorm.")
    module.load_state_dict(BERT, re.search("among them '(.+?)'", caught.value.args[0])[1])
    assert_same_bits(module.weight, array(8))


def test_keys_and_prefixes_that_are_no_strings_are_refused():
    module = fastln.LayerNorm(8)
    state = {"weight": array(8), "bias": array(8)}
    for key in (0, None, ("weight",), b"weight"):
        with pytest.raises(TypeError, match=r"^state must have strings as keys, got "):
            module.load_state_dict({**state, key: array(8)})
    for prefix in (0, None, b"", ["a"]):
        with pytest.raises(TypeError, match=r"^prefix must be a string, got "):
            module.load_state_dict(state, prefix)


def test_an_unexpected_key_is_named():
    for options, key, known, advice in (
        ({}, "running_mean", "weight and bias", ""),
        ({"bias": False}, "bias", "weight", ": LayerNorm(..., bias=True) has one"),
        ({"elementwise_affine": False}, "weight", "none", ": LayerNorm(..., elementwise_affine=True) has it"),
    ):
        module = fastln.LayerNorm(8, **options)
        state = {f"n.{name}": value for name, value in {**module.state_dict(), key: array(8)}.items()}
        with pytest.raises(KeyError) as caught:
            module.load_state_dict(state, "n.")
        expected = f"state must have no key under 'n.' but those of {known}, got 'n.{key}'{advice}"
        assert str(caught.value) == expected
        assert str(pickle.loads(pickle.dumps(caught.value))) == expected


def test_what_gives_a_mapping_is_named():
    class Handle:
        """Stands for an open file of safetensors."""

        def get_tensor(self, name):
            raise AssertionError("it was read")

    load = fastln.LayerNorm(8).load_state_dict
    with pytest.raises(TypeError, match=r"got Handle: safetensors\.numpy\.load_file\(path\) gives one$"):
        load(Handle())
    with pytest.raises(TypeError, match=r"got LayerNorm: its state_dict\(\) is one$"):
        load(fastln.LayerNorm(8))
    with pytest.raises(TypeError, match=r"got generator: dict\(\.\.\.\) of its pairs is one$"):
        load(pair for pair in {"weight": array(8)}.items())
    with pytest.raises(TypeError, match=r"^weight must .+: .+weight\.view\(ml_dtypes\.bfloat16\)"):
        load({"weight": np.ones(8, np.uint16), "bias": array(8)})
    with pytest.raises(ValueError, match=r"^weight must .+, got \(1, 8\): weight\.reshape\(8\)$"):
        load({"weight": array(1, 8), "bias": array(8)})


BAD_STATES = {
    "nothing": ({}, (KeyError, ValueError), "weight|bias"),
    "no bias": ({"weight": array(8)}, (KeyError, ValueError), "bias"),
    "no weight": ({"bias": array(8)}, (KeyError, ValueError), "weight"),
    "one more": ({"weight": array(8), "bias": array(8), "gamma": array(8)}, (KeyError, ValueError), "gamma"),
    "other names": ({"gamma": array(8), "beta": array(8)}, (KeyError, ValueError), "weight|bias|gamma|beta"),
    "capitals": ({"Weight": array(8), "bias": array(8)}, (KeyError, ValueError), "[Ww]eight"),
    "prefixed": ({"norm.weight": array(8), "norm.bias": array(8)}, (KeyError, ValueError), "weight|bias"),
    "weight too short": ({"weight": array(7), "bias": array(8)}, ValueError, "weight"),
    "bias too long": ({"weight": array(8), "bias": array(9)}, ValueError, "bias"),
    "bias a number": ({"weight": array(8), "bias": np.float32(0)}, ValueError, "bias"),
    "bias broadcastable": ({"weight": array(8), "bias": array(1)}, ValueError, "bias"),
    "weight a row": ({"weight": array(1, 8), "bias": array(8)}, ValueError, "weight"),
    "weight of ints": ({"weight": np.ones(8, int), "bias": array(8)}, TypeError, "weight"),
    "bias of words": ({"weight": array(8), "bias": np.full(8, "1")}, TypeError, "bias"),
    "bias None": ({"weight": array(8), "bias": None}, TypeError, "bias"),
    "a list": ([array(8), array(8)], TypeError, "state"),
    "None": (None, TypeError, "state"),
}


@pytest.mark.parametrize("what", BAD_STATES)
@pytest.mark.parametrize("prefix", ["", "a.b."], ids=repr)
def test_a_bad_state_changes_nothing_and_names_the_key(prefix, what):
    state, error, named = BAD_STATES[what]
    if isinstance(state, dict):
        state = {prefix + name: value for name, value in state.items()}
    module = random_module((8,))
    before = state_of(module)
    with pytest.raises(error, match=named):
        module.load_state_dict(state, prefix)
    for name, value in before.items():
        assert_same_bits(getattr(module, name), value)


@pytest.mark.parametrize(
    ("options", "names", "unexpected"),
    [({"bias": False}, ("weight", "bias"), "bias"), ({"elementwise_affine": False}, ("weight",), "weight")],
    ids=["no bias", "neither"],
)
def test_a_parameter_that_is_off_is_unexpected(options, names, unexpected):
    module = fastln.LayerNorm(8, **options)
    with pytest.raises((KeyError, ValueError), match=unexpected):
        module.load_state_dict({name: array(8) for name in names})
    assert module.bias is None


# Attributes

OBJECTS = [fastln.LayerNorm, fastln.RMSNorm]


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_attribute_that_nothing_reads_is_refused(kind):
    module = kind(8)
    for name in ("gamma", "weights", "wieght", "scale"):
        with pytest.raises(AttributeError, match=f"^weight must be set by this name, got {name}$"):
            setattr(module, name, array(8))
    with pytest.raises(AttributeError, match=r"^attributes must be among weight, .*eps.*, got zzz$"):
        module.zzz = 1
    for name, value in (("normalized_shape", 5), ("elementwise_affine", False), ("forward", None)):
        with pytest.raises(AttributeError, match=name):
            setattr(module, name, value)
    assert module.normalized_shape == (8,)
    assert module.elementwise_affine is True


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("what", [what for what in BAD_EPS if what != "None"])
def test_a_bad_eps_is_refused_when_it_is_set(kind, what):
    make, error = BAD_EPS[what]
    module = kind(8, eps=0.5)
    with pytest.raises(error, match=r"^eps must .+, got "):
        module.eps = make()
    assert module.eps == 0.5
    module.eps = 0.25
    x = make_rows("normal", 3, 8, np.float32)
    assert_same_bits(module(x), kind(8, eps=0.25)(x))


def test_attributes_of_rms_norm_are_checked():
    module = fastln.RMSNorm(8, eps=1e-6)
    with pytest.raises(ValueError, match=r"^cast must .+, got 'bert'$"):
        module.cast = "bert"
    with pytest.raises(ValueError, match=r"^weight_offset must be finite, got inf$"):
        module.weight_offset = np.inf
    module.eps, module.cast, module.weight_offset = None, "gemma", 1
    assert repr(module) == "RMSNorm((8,), eps=None, elementwise_affine=True, weight_offset=1.0, cast='gemma')"


def test_what_is_said_of_parameters_is_what_is_there():
    module = fastln.LayerNorm(8)
    module.weight = None
    assert repr(module) == "LayerNorm((8,), eps=1e-05, elementwise_affine=True, bias=True, weight=None)"
    assert list(module.state_dict()) == ["bias"]
    module.bias = None
    assert repr(module) == "LayerNorm((8,), eps=1e-05, elementwise_affine=False, bias=False)"
    assert module.elementwise_affine is False
    module.weight = array(8)
    assert repr(module) == "LayerNorm((8,), eps=1e-05, elementwise_affine=True, bias=False)"


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_no_x_is_given_by_keyword(kind):
    module, x = kind(8), array(3, 8)
    residual = x.copy()
    _, saved = module.forward(x)
    for call in (module, module.forward):
        with pytest.raises(TypeError, match="positional argument"):
            call(x, residual)
    with pytest.raises(TypeError, match="positional argument"):
        module.backward(x, saved, residual)
    assert_same_bits(residual, x)


# Looks and copies


def test_repr():
    assert repr(fastln.LayerNorm(768)) == "LayerNorm((768,), eps=1e-05, elementwise_affine=True, bias=True)"
    module = fastln.LayerNorm((3, 4), eps=1e-12, bias=False)
    assert repr(module) == "LayerNorm((3, 4), eps=1e-12, elementwise_affine=True, bias=False)"
    module = fastln.LayerNorm(8, dtype=np.float64)
    assert repr(module) == "LayerNorm((8,), eps=1e-05, elementwise_affine=True, bias=True, dtype=float64)"
    module = fastln.LayerNorm([5], elementwise_affine=False)
    assert repr(module) == "LayerNorm((5,), eps=1e-05, elementwise_affine=False, bias=False)"


@pytest.mark.parametrize("eps", [1e-5, 1e-6, 1e-12, 0.0, 0.1, 1.0])
def test_repr_is_that_of_torch(eps, affine, torch):
    for shape in (768, (3, 4)):
        ours, theirs = (kind(shape, eps, **affine[0]) for kind in (fastln.LayerNorm, torch.nn.LayerNorm))
        assert repr(ours) == repr(theirs)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda module, protocol=protocol: pickle.loads(pickle.dumps(module, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("way", COPIES)
def test_copies(way, affine, dtype):
    module = random_module((2, 3), dtype, eps=0.25, **affine[0])
    twin = COPIES[way](module)
    assert type(twin) is fastln.LayerNorm
    assert repr(twin) == repr(module)
    assert tuple(parameters_of(twin)) == affine[1]
    x = make_rows("normal", 4, 6, dtype).reshape(4, 2, 3)
    y, saved = twin.forward(x)
    assert_same_bits(y, module(x))
    for one, other in zip(twin.backward(x, saved), module.backward(x, saved), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_same_bits(one, other)
    if way != "copy":
        for name, parameter in parameters_of(module).items():
            assert not np.shares_memory(parameter, getattr(twin, name))


def test_a_subclass_may_add_to_it():
    class Counting(fastln.LayerNorm):
        calls = 0

        def __call__(self, x, *, out=None):
            self.calls += 1
            return super().__call__(x, out=out)

    module = Counting(8)
    x = array(3, 8)
    assert_same_bits(module(x), fastln.LayerNorm(8)(x))
    assert module.calls == 1
    assert repr(module).endswith("((8,), eps=1e-05, elementwise_affine=True, bias=True)")


# Beside PyTorch


@pytest.mark.parametrize("shape", [(24,), (4, 6)], ids=str)
def test_states_go_to_torch_and_back(shape, affine, dtype, torch):
    precision = getattr(torch, dtype.name)
    options, names = affine
    theirs = torch.nn.LayerNorm(shape, eps=1e-6, dtype=precision, **options)
    ours = random_module(shape, dtype, eps=1e-6, **options)
    x, dy = make_rows("mean 10", 10, 24, dtype), make_rows("normal", 10, 24, dtype)
    exact = normalize(x, 1e-6)

    def compare():
        tensor = torch.from_numpy(x.reshape(10, *shape)).requires_grad_()
        theirs.zero_grad()
        their_y = theirs(tensor)
        their_y.backward(torch.from_numpy(dy.reshape(10, *shape)))
        y, saved = ours.forward(x.reshape(10, *shape))
        weight, bias = (None if p is None else p.reshape(-1) for p in (ours.weight, ours.bias))
        # PyTorch's own error is a few times what is usual for ours.
        few = 6 * np.finfo(dtype).eps
        allowed = few * USUAL["y"] * output_size(exact.x_hat, weight, bias)
        assert (np.abs(y - their_y.detach().numpy()).reshape(10, 24) <= allowed).all()
        gradients = ours.backward(dy.reshape(10, *shape), saved)
        expected = judge_gradients(dy, exact, weight)
        allowed = few * USUAL["dx"] * expected.dx.size
        assert (np.abs(gradients.dx - tensor.grad.numpy()).reshape(10, 24) <= allowed).all()
        found = {"weight": gradients.dweight, "bias": gradients.dbias}
        for name in names:
            size = {"weight": expected.dweight, "bias": expected.dbias}[name].size
            difference = np.abs(found[name] - getattr(theirs, name).grad.numpy()).reshape(-1)
            assert (difference <= few * USUAL[f"d{name}"] * size).all(), name

    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    for name in names:
        assert_same_bits(getattr(theirs, name).detach().numpy(), getattr(ours, name))
    compare()

    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(5))
    ours.load_state_dict(theirs.state_dict())  # tensors have __array__
    for name in names:
        assert_same_bits(getattr(ours, name), getattr(theirs, name).detach().numpy())
    compare()

    network = torch.nn.ModuleDict({"encoder": torch.nn.Sequential(torch.nn.Linear(2, 2), theirs)})
    other = fastln.LayerNorm(shape, eps=1e-6, dtype=dtype, **options)
    other.load_state_dict(network.state_dict(), prefix="encoder.1.")
    for name in names:
        assert_same_bits(getattr(other, name), getattr(ours, name))


# Memory


@counts_references
def test_memory_does_not_grow():
    module = fastln.LayerNorm(8)
    x = array(*SHAPE)

    def use():
        _, saved = module.forward(x)
        module.backward(x, saved)
        module.load_state_dict(module.state_dict())
        module(x)
        with contextlib.suppress(ValueError):  # pytest.raises would keep some blocks of its own
            module.load_state_dict({"weight": x, "bias": x})

    assert keeps_no_memory(lambda: [use() for _ in range(300)])


def test_what_is_saved_is_let_go():
    module = fastln.LayerNorm(8)
    x = array(*SHAPE)
    before = sys.getrefcount(x)
    result = module.forward(x)
    del result
    assert sys.getrefcount(x) == before
