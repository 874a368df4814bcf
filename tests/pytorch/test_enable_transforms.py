"""With fastln on, PyTorch's machinery works on the norms as ever: autograd of any order, torch.func, modes, modules."""

from __future__ import annotations

import copy
import io
import threading

import numpy as np
import pytest
from helpers import assert_same_bits
from torch_calls import as_array, assert_same_kind, counted, fastln_torch, off_and_on, torch

functional = torch.nn.functional
autograd = torch.autograd

# PyTorch uses what it has deprecated itself, for forward-mode derivatives and here and there.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight"),
]

LAYER_NORM = {"native_layer_norm", "native_layer_norm_backward"}
RMS_NORM = {"_fused_rms_norm", "_fused_rms_norm_backward"}


def doubles(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer_norm(x, weight=None, bias=None):
    return functional.layer_norm(x, x.shape[-1:], weight, bias)


def rms_norm(x, weight=None):
    return functional.rms_norm(x, x.shape[-1:], weight)


# The norm, which of its parameters are there, and which arguments want a gradient.
DERIVATIVES = [
    (layer_norm, (), (0,)),
    (layer_norm, (0,), (0, 1)),
    (layer_norm, (0, 1), (0, 1, 2)),
    (layer_norm, (0, 1), (0,)),
    (layer_norm, (0, 1), (1, 2)),
    (layer_norm, (0, 1), (2,)),
    (lambda x, bias: layer_norm(x, None, bias), (1,), (0, 1)),
    (rms_norm, (), (0,)),
    (rms_norm, (0,), (0, 1)),
    (rms_norm, (0,), (0,)),
    (rms_norm, (0,), (1,)),
]


@pytest.mark.parametrize(("norm", "parameters", "differentiated"), DERIVATIVES)
def test_derivatives_of_any_order(norm, parameters, differentiated):
    inputs = [doubles(3, 4), *(doubles(4, seed=place + 1) for place in parameters)]
    for place in differentiated:
        inputs[place].requires_grad_()
    with counted() as calls:
        assert autograd.gradcheck(norm, inputs, check_forward_ad=True, check_batched_grad=True)
        if parameters != (1,):  # PyTorch's double backward forgets a bias without a weight, whoever's kernel is called
            assert autograd.gradgradcheck(norm, inputs, check_batched_grad=True)
    assert set(calls.taken) == (RMS_NORM if norm is rms_norm else LAYER_NORM)
    assert calls.passed_on == {}


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_functions_of_torch_func(norm):
    names = RMS_NORM if norm is rms_norm else LAYER_NORM
    x, weight = doubles(5, 3, 8), doubles(8, seed=1)

    def loss(weight, row):
        return norm(row, weight).square().sum() + norm(row).sin().sum()

    calls_of = {
        "grad": lambda: torch.func.grad(loss)(weight, x),
        "per sample": lambda: torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x),
        "jvp": lambda: torch.func.jvp(lambda row: norm(row, weight), (x,), (x.cos(),)),
        "jacrev": lambda: torch.func.jacrev(loss)(weight, x[0]),
        "hessian": lambda: torch.func.hessian(loss)(weight, x[0]),
        "vmap": lambda: torch.func.vmap(norm)(x),
    }
    for name, call in calls_of.items():
        off, on, calls = off_and_on(call)
        assert_same_kind(off, on)
        # PyTorch makes RMS norm of other operators where it is vectorized.
        assert set(calls.taken) & names or (norm is rms_norm and name in ("per sample", "vmap")), name
        assert calls.passed_on == {}, name


def test_gradients_have_the_same_bits_on_any_number_of_threads():
    before = torch.get_num_threads()
    x, dy = (torch.randn(2048, 768, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    weight, bias = torch.randn(768), torch.randn(768)
    x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with counted() as calls:
                y, z = layer_norm(x, weight, bias), rms_norm(x, weight)
                found.append((y, z, *autograd.grad((y, z), (x, weight, bias), (dy, dy))))
            assert set(calls.taken) == LAYER_NORM | RMS_NORM
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_same_bits(as_array(other), as_array(one))


def test_backward_runs_in_threads_of_its_own():
    x, weight = doubles(64, 32).requires_grad_(), doubles(32, seed=1).requires_grad_()
    expected = None
    results = []
    with counted() as calls:

        def work():
            loss = layer_norm(x, weight).square().sum() + rms_norm(x, weight).sin().sum()
            results.append(autograd.grad(loss, (x, weight)))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        work()
        expected = results.pop()
    assert calls.taken == dict.fromkeys(LAYER_NORM | RMS_NORM, 5)
    for gradients in results:
        for found, one in zip(gradients, expected, strict=True):
            assert_same_bits(as_array(found), as_array(one))


def test_errors_of_backward_are_pytorchs():
    x = torch.randn(2, 3, requires_grad=True)
    with counted():
        y = layer_norm(x)
        with pytest.raises(RuntimeError, match="Mismatch in shape"):
            y.backward(torch.ones(2, 4))
        y.sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.sum().backward()


def test_inference_mode_and_no_grad():
    x = torch.randn(4, 8, requires_grad=True)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            off, on, calls = off_and_on(lambda: layer_norm(x * 1))
            assert_same_kind(off, on)
            assert on.is_inference() == (mode is torch.inference_mode)
            assert calls.taken == {"native_layer_norm": 1}


def test_autocast_decides_as_ever():
    x, weight, bias = torch.randn(4, 8), torch.randn(8), torch.randn(8)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            off, on, calls = off_and_on(lambda given=given: layer_norm(given, weight, bias))
            assert_same_kind(off, on)
            assert on.dtype == given.dtype
            assert calls.taken == {"native_layer_norm": 1}
        # Beside a weight of another dtype, PyTorch makes RMS norm of other operators.
        off, on, calls = off_and_on(lambda: rms_norm(x.bfloat16(), weight))
        assert_same_kind(off, on)
        assert calls.taken == {}


def test_negative_and_conjugate_views():
    z = torch.randn(3, 8, dtype=torch.complex64)
    x = z.conj().imag
    assert x.is_neg()
    off, on, calls = off_and_on(lambda: layer_norm(x))
    assert_same_kind(off, on)
    assert calls.taken == {"native_layer_norm": 1}
    off, on, _ = off_and_on(lambda: rms_norm(z.conj()))
    assert_same_kind(off, on)


def test_complex_rms_norm_keeps_its_gradients():
    z = torch.randn(3, 4, dtype=torch.complex128, requires_grad=True)
    with counted():
        assert autograd.gradcheck(rms_norm, (z,))


def test_tensors_without_numbers():
    from torch._subclasses import FakeTensorMode

    with counted() as calls:
        y, mean, rstd = torch.ops.aten.native_layer_norm(torch.ones(2, 3, device="meta"), [3], None, None, 1e-5)
        assert (y.device.type, mean.shape, rstd.shape) == ("meta", (2, 1), (2, 1))
        with FakeTensorMode() as mode:
            y = layer_norm(mode.from_tensor(torch.ones(2, 3)))
            z = rms_norm(mode.from_tensor(torch.ones(2, 3)))
        assert y.shape == z.shape == (2, 3)
    assert calls.taken == {}


def test_subclasses_and_modes_see_the_same_operators():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sub(torch.Tensor):
        pass

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    def seen():
        with Seen():
            y = layer_norm(x)
            autograd.grad(y.sum(), x)

    x = torch.randn(2, 4, requires_grad=True)
    lists = []
    for switch in (fastln_torch.disable, fastln_torch.enable):
        switch()
        names = []
        seen()
        lists.append(names)
    fastln_torch.disable()
    assert lists[0] == lists[1]
    assert "aten.native_layer_norm.default" in names
    with counted() as calls:
        y = layer_norm(torch.randn(2, 4).as_subclass(Sub))
    assert type(y) is Sub
    assert calls.taken == {"native_layer_norm": 1}


def test_nested_tensors_run_as_ever():
    rows = [torch.randn(3, 8), torch.randn(5, 8)]
    for layout in (torch.jagged, torch.strided):
        nested = torch.nested.nested_tensor(rows, layout=layout)
        off, on, _ = off_and_on(lambda nested=nested: list(layer_norm(nested).unbind()))
        assert_same_kind(off, on)


def test_symbolic_and_script_traces_reach_the_kernel():
    x = torch.randn(4, 8)
    module = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.RMSNorm(8)).eval()
    expected = module(x)
    traced = {
        "fx": torch.fx.symbolic_trace(module),
        "exported": torch.export.export(module, (x,)).module(),
    }
    traced["script"] = torch.jit.script(torch.nn.Sequential(torch.nn.LayerNorm(8)))
    for name, program in traced.items():
        with counted() as calls:
            y = program(x)
        assert calls.taken["native_layer_norm"] == 1, name
        if name != "script":
            torch.testing.assert_close(y, expected)
            assert calls.taken["_fused_rms_norm"] == 1


def test_the_fast_path_of_transformers_is_reached():
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    with torch.inference_mode():
        off, on, calls = off_and_on(lambda: layer(x))
    assert_same_kind(off, on)
    assert calls.taken == {"native_layer_norm": 2}


def test_modules_are_what_they_were():
    module = torch.nn.LayerNorm(8)
    hooked = []
    module.register_forward_hook(lambda *args: hooked.append(1))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with counted() as calls:
        module(torch.randn(2, 8)).sum().backward()
        twin = copy.deepcopy(module)
        file = io.BytesIO()
        torch.save(torch.nn.LayerNorm(8), file)
    assert type(module) is type(twin) is torch.nn.LayerNorm
    assert hooked == [1]
    assert b"fastln" not in file.getvalue()
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in state.items())
    assert calls.taken == dict.fromkeys(LAYER_NORM, 1)


def test_a_training_step_follows_the_same_path():
    def losses():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Linear(16, 1)
        )
        optimizer = torch.optim.AdamW(model.parameters())
        x, y = torch.randn(32, 8), torch.randn(32, 1)
        found = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return torch.tensor(found)

    off, on, calls = off_and_on(losses)
    assert_same_kind(off, on)
    assert calls.taken == dict.fromkeys(LAYER_NORM, 5)
    assert np.isfinite(on.numpy()).all()
