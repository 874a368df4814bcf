"""Gradients of the objects: against differences, the reference and autograd; by slices, and on any threads."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits
from recurrent_cases import CELLS, EPS, OBJECTS, make_case, reference_options

from fastln import _reference_recurrent as exact

# Of the largest gradient of an array, in eps: sums over few steps and rows, whose terms may cancel. Measured: up to 8.
MOST = 30


# Central differences at h and 2 h, since the third derivatives of norms of few units are up to 1e5: together they err
# by h^4 times a fifth derivative, and by eps / h from rounding. The largest error measured here is below NEAR / 10.
H = 3e-5
NEAR = 1e-8


def slope_of(loss, array, way):
    """The derivative of the loss when the array goes this way, by Richardson's extrapolation of central differences."""
    before, slopes = array.copy(), []
    for h in (H, 2 * H):
        array[...] = before + h * way
        above = loss()
        array[...] = before - h * way
        slopes.append((above - loss()) / (2 * h))
    array[...] = before
    return (4 * slopes[0] - slopes[1]) / 3


def object_of(case, **options):
    """An object of one layer with the parameters of a case."""
    inputs, hidden = exact.sizes_of(case.parameters)
    has_bias = "bias" in case.parameters
    network = OBJECTS[case.kind](
        inputs, hidden, norm_bias=not has_bias, eps=EPS, dtype=case.x.dtype, **(case.options | options)
    )
    for name in network.parameters:
        network.parameters[name] = case.parameters[reference_name(name)]
    return network


def reference_name(name):
    """The name of a parameter of the first layer in the reference: ln_ih_l0.weight is ln_ih.weight there."""
    return name.replace("_l0", "")


def state_of(case, arrays=None):
    """The state with an axis of layers."""
    arrays = case.state if arrays is None else arrays
    return tuple(one[None] for one in arrays) if case.kind == "lstm" else arrays[0][None]


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def without(case, *names):
    kept = {name: value for name, value in case.parameters.items() if name not in names}
    return case._replace(parameters=kept)


def biased(cell, *sizes, dtype=np.float64, has_bias=False):
    """A case with the biases of norms, or with one bias instead of those that it stands for."""
    case = make_case(cell, *sizes, dtype)
    return without(case, "ln.bias", "ln_ih.bias", "ln_hh.bias") if has_bias else without(case, "bias")


def gradients_of(case, dy, dstate, lengths=None, **options):
    """What backward gives: (y, dx, the gradient of the state as a tuple, {name in the reference: gradient})."""
    network = object_of(case)
    (y, _), saved = network.forward(case.x, state_of(case), lengths=lengths, **options)
    found = network.backward(dy, state_of(case, dstate), saved, **options)
    named = {reference_name(name): gradient for name, gradient in found.dparameters.items()}
    return y, found.dx, tuple(one[0] for one in as_tuple(found.dstate)), named


def flowing_back(case):
    """Gradients of y and of the last state."""
    rng = np.random.default_rng(5)
    hidden = case.state[0].shape[1]
    dy = rng.standard_normal((*case.x.shape[:2], hidden)).astype(case.x.dtype)
    return dy, tuple(rng.standard_normal(one.shape).astype(one.dtype) for one in case.state)


def assert_near(found, expected, most, where):
    """Within so many eps of the largest gradient there."""
    assert found.shape == expected.shape, where
    error = float(np.abs(found.astype(np.longdouble) - expected).max(initial=0))
    size = float(np.abs(expected).max(initial=0))
    assert error <= most * np.finfo(found.dtype).eps * size, (where, error / np.finfo(found.dtype).eps / (size or 1))


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_the_formulas(cell, has_bias, dtype, isa, judged_dtype):
    for sizes, lengths in (((3, 4, 5, 18), None), ((4, 3, 17, 9), np.array([4, 0, 2])), ((2, 70, 3, 40), None)):
        case = biased(cell, *sizes, dtype=dtype, has_bias=has_bias)
        dy, dstate = flowing_back(case)
        _, dx, dfirst, found = gradients_of(case, dy, dstate, lengths)
        _, _, saved = exact.forward(
            case.kind, case.x, case.state, case.parameters, reference_options(case.options), lengths
        )
        expected_dx, expected_dfirst, expected = exact.backward(dy, dstate, saved)
        assert_near(dx, expected_dx, MOST, "dx")
        for name, one, right in zip(("dh", "dc"), dfirst, expected_dfirst, strict=False):
            assert_near(one, right, MOST, name)
        assert set(found) == set(case.parameters)
        for name, gradient in found.items():
            assert_near(gradient, expected[name], MOST, name)


@pytest.mark.parametrize("cell", CELLS)
def test_norms_of_one_number_or_two_pass_nothing_on_but_rounding(cell, dtype, isa, judged_dtype):
    """Their gradients cancel, whatever reaches them: errors are an eps of what has cancelled, times 1 / sqrt(EPS)."""
    for hidden in (1, 2):
        case = biased(cell, 2, 40, 3, hidden, dtype=dtype)
        dy, dstate = flowing_back(case)
        _, dx, _, found = gradients_of(case, dy, dstate)
        _, _, saved = exact.forward(case.kind, case.x, case.state, case.parameters, reference_options(case.options))
        expected_dx, _, expected = exact.backward(dy, dstate, saved)
        cancelled = np.abs(dy).sum() + sum(np.abs(one).sum() for one in dstate)
        most = MOST * np.finfo(dtype).eps * EPS**-0.5 * cancelled
        for name, one, right in [("dx", dx, expected_dx), *((name, found[name], expected[name]) for name in found)]:
            assert np.abs(one - right).max() <= most, (name, hidden)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_match_central_differences(cell):
    case = biased(cell, 3, 2, 3, 4)
    dy, dstate = flowing_back(case)
    _, dx, dfirst, found = gradients_of(case, dy, dstate)

    def loss():
        y, after = case()
        return (y * dy).sum() + sum((one * d).sum() for one, d in zip(after, dstate, strict=True))

    pairs = [(case.x, dx), *zip(case.state, dfirst, strict=True)]
    pairs += [(case.parameters[name], gradient) for name, gradient in found.items()]
    for array, gradient in pairs:
        for index in np.ndindex(array.shape):
            way = np.zeros(array.shape)
            way[index] = 1
            assert abs(slope_of(loss, array, way) - gradient[index]) < NEAR, (array.shape, index)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_match_autograd_of_the_same_formulas(cell):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = biased(cell, 4, 3, 5, 6)
    dy, dstate = flowing_back(case)
    y, dx, dfirst, found = gradients_of(case, dy, dstate)

    x, *state = (torch.tensor(one, requires_grad=True) for one in (case.x, *case.state))
    first, p = list(state), {name: torch.tensor(one, requires_grad=True) for name, one in case.parameters.items()}
    outputs = []
    for x_t in x:
        state = step_of_torch(torch, case, x_t, state, p)
        outputs.append(state[0])
    theirs = torch.stack(outputs)
    loss = (theirs * torch.tensor(dy)).sum()
    loss = loss + sum((one * torch.tensor(d)).sum() for one, d in zip(state, dstate, strict=True))
    loss.backward()
    assert_near(y, theirs.detach().numpy(), MOST, "y")
    assert_near(dx, x.grad.numpy(), MOST, "dx")
    for one, right in zip(dfirst, first, strict=True):
        assert_near(one, right.grad.numpy(), MOST, "the first state")
    for name, gradient in found.items():
        assert_near(gradient, p[name].grad.numpy(), MOST, name)


def step_of_torch(torch, case, x, state, p):
    """A cell in PyTorch's operations, written after the paper and not after fastln."""
    h = state[0]
    hidden = h.shape[1]

    def norm(a, name, first=0, last=None):
        weight, bias = p[f"{name}.weight"][first:last], p[f"{name}.bias"][first:last]
        return torch.nn.functional.layer_norm(a[:, first:last], weight.shape, weight, bias, EPS)

    from_x, from_h = x @ p["weight_ih"].T, h @ p["weight_hh"].T
    if case.kind == "rnn":
        function = torch.relu if case.options.get("nonlinearity") == "relu" else torch.tanh
        return [function(norm(from_x + from_h, "ln"))]
    if case.kind == "lstm":
        i, f, g, o = (norm(from_x, "ln_ih") + norm(from_h, "ln_hh")).chunk(4, dim=1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        normed = norm(c, "ln_c")
        return [o.sigmoid() * normed.tanh(), c if case.options.get("carry", "cell") == "cell" else normed]
    gates = norm(from_x, "ln_ih", 0, 2 * hidden) + norm(from_h, "ln_hh", 0, 2 * hidden)
    r, z = gates.sigmoid().chunk(2, dim=1)
    n = (norm(from_x, "ln_ih", 2 * hidden) + r * norm(from_h, "ln_hh", 2 * hidden)).tanh()
    return [(1 - z) * n + z * h]


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_have_the_same_bits_on_any_number_of_threads(cell, dtype, isa, always_parallel):
    case = biased(cell, 5, 13, 11, 34, dtype=dtype)
    dy, dstate = flowing_back(case)
    lengths = np.arange(13) % 6
    _, dx, dfirst, expected = gradients_of(case, dy, dstate, lengths, num_threads=1)
    for threads in (2, 3, 7):
        _, other, others, found = gradients_of(case, dy, dstate, lengths, num_threads=threads)
        assert_same_bits(other, dx, f"dx on {threads} threads")
        for one, right in zip(others, dfirst, strict=True):
            assert_same_bits(one, right, f"the first state on {threads} threads")
        for name, gradient in found.items():
            assert_same_bits(gradient, expected[name], f"{name} on {threads} threads")


@pytest.mark.parametrize("cell", CELLS)
def test_forward_gives_the_bits_of_a_call(cell, dtype, isa):
    case = biased(cell, 4, 3, 7, 19, dtype=dtype)
    network = object_of(case)
    y, state = network(case.x, state_of(case))
    (saved_y, saved_state), _ = network.forward(case.x, state_of(case))
    assert_same_bits(saved_y, y)
    for one, right in zip(as_tuple(saved_state), as_tuple(state), strict=True):
        assert_same_bits(one, right)


@pytest.mark.parametrize("cell", CELLS)
def test_slices_give_the_gradients_of_the_whole(cell):
    """Truncated backpropagation, when the gradient of the state is not truncated."""
    case = biased(cell, 6, 3, 5, 8)
    network, (dy, dstate) = object_of(case), flowing_back(case)
    _, dx, dfirst, expected = gradients_of(case, dy, dstate)
    saves, state = [], state_of(case)
    for first in (0, 2, 4):
        (_, state), saved = network.forward(case.x[first : first + 2], state)
        saves.append(saved)
    flowing, parts = state_of(case, dstate), []
    for first, saved in zip((4, 2, 0), reversed(saves), strict=True):
        parts.insert(0, network.backward(dy[first : first + 2], flowing, saved))
        flowing = parts[0].dstate
    assert_near(np.concatenate([part.dx for part in parts]), dx, MOST, "dx")
    for one, right in zip(as_tuple(flowing), dfirst, strict=True):
        assert_near(one[0], right, MOST, "the first state")
    for name, gradient in parts[0].dparameters.items():
        total = gradient + parts[1].dparameters[name] + parts[2].dparameters[name]
        assert_near(total, expected[reference_name(name)], MOST, name)


def test_none_stands_for_gradients_of_zero():
    case = biased("lstm", 3, 2, 4, 5)
    network, (dy, dstate) = object_of(case), flowing_back(case)
    (y, _), saved = network.forward(case.x, state_of(case))
    zeros = tuple(np.zeros_like(one)[None] for one in case.state)
    last = state_of(case, dstate)
    for given, same in (((dy, None), (dy, zeros)), ((None, last), (np.zeros_like(y), last))):
        found, expected = network.backward(*given, saved), network.backward(*same, saved)
        assert_same_bits(found.dx, expected.dx)
        assert_same_bits(found.dparameters["weight_hh_l0"], expected.dparameters["weight_hh_l0"])


@pytest.mark.parametrize("kind", OBJECTS)
def test_layers_and_directions_pass_gradients_on(kind):
    """Two layers of two directions, against differences along a random direction of everything at once."""
    network = OBJECTS[kind](3, 4, num_layers=2, bidirectional=True, batch_first=True, dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    x, lengths = rng.standard_normal((3, 5, 3)), [5, 2, 4]
    states = [rng.standard_normal((4, 3, 4)) for _ in range(2 if kind == "lstm" else 1)]
    given = tuple(states) if kind == "lstm" else states[0]
    (y, after), saved = network.forward(x, given, lengths=lengths)
    dy, dafter = rng.standard_normal(y.shape), [rng.standard_normal(one.shape) for one in as_tuple(after)]
    found = network.backward(dy, tuple(dafter) if kind == "lstm" else dafter[0], saved)
    assert list(found.dparameters) == list(network.parameters)

    def loss():
        y, after = network(x, given, lengths=lengths)
        return (y * dy).sum() + sum((one * d).sum() for one, d in zip(as_tuple(after), dafter, strict=True))

    pairs = [(x, found.dx), *zip(states, as_tuple(found.dstate), strict=True)]
    pairs += [(network.parameters[name], gradient) for name, gradient in found.dparameters.items()]
    for array, gradient in pairs:
        way = rng.standard_normal(array.shape)
        expected = (gradient * way).sum()
        assert abs(slope_of(loss, array, way) - expected) < NEAR * max(1, abs(expected)), array.shape


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize(("steps", "batch", "lengths"), [(0, 3, None), (3, 0, None), (0, 0, None), (4, 2, [0, 0])])
def test_no_steps_have_gradients_of_zero_and_pass_that_of_the_state_on(kind, steps, batch, lengths):
    network = OBJECTS[kind](3, 5, num_layers=2, bidirectional=True)
    (y, state), saved = network.forward(np.ones((steps, batch, 3), np.float32), lengths=lengths)
    ones = tuple(np.ones_like(one) for one in as_tuple(state))
    found = network.backward(np.ones_like(y), ones if kind == "lstm" else ones[0], saved)
    assert found.dx.shape == (steps, batch, 3)
    assert not found.dx.any()
    for name, gradient in found.dparameters.items():
        assert gradient.shape == network.parameters[name].shape
        assert not gradient.any(), name
    for one, right in zip(as_tuple(found.dstate), ones, strict=True):
        assert_same_bits(one, right)


def test_what_was_saved_must_be_of_the_object():
    network = OBJECTS["gru"](3, 4)
    (y, _), saved = network.forward(np.ones((2, 1, 3), np.float32))
    with pytest.raises(TypeError, match=r"^saved must be what forward returned with y, got \(1, 2\)"):
        network.backward(y, None, (1, 2))
    with pytest.raises(ValueError, match=r"^saved must be of an object of these sizes, got LayerNormGRU\(3, 4, "):
        OBJECTS["gru"](3, 5).backward(y, None, saved)
    with pytest.raises(ValueError, match=r"^dy must have shape \(2, 1, 4\) to match y, got \(2, 1, 3\)"):
        network.backward(np.ones((2, 1, 3), np.float32), None, saved)
    with pytest.raises(ValueError, match=r"^dstate must have shape \(1, 1, 4\) to match the state, got \(1, 4\)"):
        network.backward(y, np.ones((1, 4)), saved)
    lstm = OBJECTS["lstm"](3, 4)
    (y, _), saved = lstm.forward(np.ones((2, 1, 3), np.float32))
    with pytest.raises(TypeError, match=r"^dstate must be None or a pair \(dh0, dc0\), got array"):
        lstm.backward(y, np.ones((1, 4)), saved)
