"""The RMSNorm object: what it has of its own beside LayerNorm, with which it shares parameters and states."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
from arguments import BAD_EPS, BAD_OTHERS, BAD_SHAPE, assert_refused
from helpers import assert_same_bits
from regimes import make_parameters, make_rows

import fastln


@pytest.fixture(params=[{}, {"weight_offset": 1.0}, {"cast": "llama"}, {"elementwise_affine": False}], ids=str)
def options(request):
    """Options of RMSNorm."""
    return request.param


def make_module(shape, dtype=np.float32, **options):
    """An RMSNorm with a weight of ordinary size."""
    weight = make_parameters(int(np.prod(shape)), dtype)[0].reshape(shape)
    return fastln.RMSNorm(shape, **options, weight_init=weight, dtype=dtype)


def test_defaults():
    module = fastln.RMSNorm(5)
    assert module.normalized_shape == (5,)
    assert module.eps is None
    assert module.weight_offset == 0
    assert module.cast is None
    assert_same_bits(module.weight, np.ones(5, np.float32))


def test_a_new_weight_with_its_offset_is_one():
    assert_same_bits(fastln.RMSNorm(5, weight_offset=1).weight, np.zeros(5, np.float32))
    assert_same_bits(fastln.RMSNorm(5, weight_offset=0.25, dtype=np.float64).weight, np.full(5, 0.75))


def test_a_call_is_the_function(options, dtype):
    x, module = make_rows("mean 10", 6, 24, dtype), make_module(24, dtype, eps=1e-6, **options)
    given = {name: value for name, value in options.items() if name != "elementwise_affine"}
    expected = fastln.rms_norm(x, 24, module.weight, 1e-6, **given)
    assert_same_bits(module(x), expected)
    out = np.empty_like(x)
    assert module(x, out=out, num_threads=1) is out
    assert_same_bits(out, expected)


def test_forward_and_backward_are_the_functions(options, dtype):
    x, dy = make_rows("mean 10", 6, 24, dtype).reshape(6, 4, 6), make_rows("normal", 6, 24, dtype).reshape(6, 4, 6)
    module = make_module((4, 6), dtype, eps=1e-6, **options)
    y, saved = module.forward(x)
    assert_same_bits(y, module(x))
    assert saved._fields == ("x", "rstd")
    gradients = module.backward(dy, saved)
    offset = module.weight_offset
    dx, dweight = fastln.rms_norm_backward(
        dy, x, saved.rstd, module.weight, normalized_shape=(4, 6), weight_offset=offset
    )
    assert_same_bits(gradients.dx, dx)
    if module.weight is None:
        assert gradients.dweight is None
    else:
        assert_same_bits(gradients.dweight, dweight)
    assert module.backward(dy, tuple(saved), out=dy).dx is dy
    assert_same_bits(dy, dx)


def test_what_was_not_saved_is_refused():
    module = fastln.RMSNorm(4)
    x = np.ones((2, 4), np.float32)
    _, of_layer_norm = fastln.LayerNorm(4).forward(x)
    for saved in (5, None, (), of_layer_norm):
        with pytest.raises(TypeError, match=r"^saved must be what forward returned with y, got "):
            module.backward(x, saved)
    with pytest.raises(ValueError, match=r"^out must share no memory with x"):
        module.forward(x, out=x)


def test_the_state_is_the_weight(dtype):
    module, other = make_module(6, dtype), fastln.RMSNorm(6, dtype=dtype)
    state = module.state_dict()
    assert list(state) == ["weight"]
    kept = other.weight
    other.load_state_dict({"model.norm." + name: value for name, value in state.items()}, "model.norm.")
    assert other.weight is kept
    assert_same_bits(kept, module.weight)
    with pytest.raises(
        KeyError, match=r"^state must have no key but those of weight, got .bias.: a fastln\.LayerNorm has a bias"
    ):
        other.load_state_dict({**state, "bias": state["weight"]})
    assert fastln.RMSNorm(6, elementwise_affine=False).state_dict() == {}


def test_a_state_of_pytorch_is_taken(dtype):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.RMSNorm(24, dtype=getattr(torch, dtype.name))
    torch.nn.init.uniform_(theirs.weight)
    ours = fastln.RMSNorm(24, dtype=dtype)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x = make_rows("normal", 6, 24, dtype)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=20 * np.finfo(dtype).eps)


def test_copies_and_pickles_compute_the_same(options):
    x, module = make_rows("normal", 3, 24, np.float32), make_module(24, **options)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_same_bits(other(x), module(x))


def test_the_repr_says_what_is_unusual():
    assert repr(fastln.RMSNorm(4)) == "RMSNorm((4,), eps=None, elementwise_affine=True)"
    other = fastln.RMSNorm((2, 3), 1e-6, weight_offset=1, cast="gemma")
    assert repr(other) == "RMSNorm((2, 3), eps=1e-06, elementwise_affine=True, weight_offset=1.0, cast='gemma')"
    other = fastln.RMSNorm(4, 1e-6, dtype=np.float16)
    assert repr(other) == "RMSNorm((4,), eps=1e-06, elementwise_affine=True, dtype=float16)"


BAD = {
    "eps": {what: bad for what, bad in BAD_EPS.items() if what != "None"},
    **BAD_OTHERS,
    "normalized_shape": {what: BAD_SHAPE[what] for what in ("zero", "negative", "float", "word", "empty tuple")},
}


@pytest.mark.parametrize(("name", "what"), [(name, what) for name in BAD for what in BAD[name]])
def test_bad_arguments_are_named(name, what):
    make, error = BAD[name][what]
    assert_refused(fastln.RMSNorm, {"normalized_shape": 8, name: make()}, name, error)


def test_an_offset_needs_a_weight():
    with pytest.raises(ValueError, match=re.escape("weight_offset must be 0 where weight is None, got 1")):
        fastln.RMSNorm(4, elementwise_affine=False, weight_offset=1)
