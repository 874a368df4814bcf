"""The functions of fastln.torch: fastln's bits where nothing but numbers is wanted, PyTorch's results elsewhere."""

from __future__ import annotations

import copy
import doctest
import functools
import gc
import inspect
import pickle
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same_bits, in_wider_rows

import fastln

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
fastln_torch = pytest.importorskip("fastln.torch", exc_type=ImportError)

from torch.autograd import forward_ad  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_calls import as_array  # noqa: E402

from fastln.torch import _direct  # noqa: E402

# PyTorch's own modules call what it advises against.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NAMES = ("layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def assert_equal_bits(tensor, expected):
    assert_same_bits(as_array(tensor), as_array(expected))


def eps_of(dtype):
    """Of what a result is computed in and stored in, whichever is larger."""
    return torch.finfo(dtype).eps if dtype != torch.float64 else 2 * torch.finfo(dtype).eps


def taken(name, *arguments, out=None, residual_out=None, eps=1e-5):
    """What fastln gives of a call, None where it leaves it to PyTorch."""
    outs = (out, residual_out) if name.startswith("add") else (out,)
    return getattr(_direct, name)(*arguments, eps, *outs)


def arguments_of(name, x, residual, parameters, normalized_shape=None):
    """The positional arguments before eps."""
    weight, bias = parameters
    rows = (x, residual) if name.startswith("add") else (x,)
    sizes = x.shape[-1] if normalized_shape is None else normalized_shape
    return (*rows, sizes, weight, bias) if name.endswith("layer_norm") else (*rows, sizes, weight)


def of_torch(name, *arguments, eps=1e-5):
    """The same in PyTorch: y, or y and s."""
    norm = functional.layer_norm if name.endswith("layer_norm") else functional.rms_norm
    if not name.startswith("add"):
        x, sizes, *parameters = arguments
        return norm(x, (sizes,) if isinstance(sizes, int) else sizes, *parameters, eps=eps)
    x, residual, *rest = arguments
    s = x + residual
    return of_torch(name.removeprefix("add_"), s, *rest, eps=eps), s


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(dtype)


# What fastln takes


def parameter_dtypes(dtype):
    return {dtype, torch.float32} if dtype.itemsize == 2 else {dtype}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_have_the_bits_of_the_same_arrays(name, dtype):
    for parameter_dtype in parameter_dtypes(dtype):
        weight, bias = normal(40, dtype=parameter_dtype), torch.nn.Parameter(normal(40, dtype=parameter_dtype), False)
        for parameters in ((weight, bias), (weight, None), (None, bias), (None, None)):
            x, residual = normal(3, 5, 40, dtype=dtype), normal(3, 5, 40, dtype=dtype)
            arguments = arguments_of(name, x, residual, parameters)
            found = taken(name, *arguments)
            arrays = [as_array(a) if isinstance(a, torch.Tensor) else a for a in arguments]
            expected = getattr(fastln, name)(*arrays, eps=1e-5)
            for one, other in zip(as_tuple(found), as_tuple(expected), strict=True):
                assert type(one) is torch.Tensor
                assert not one.requires_grad
                assert_same_bits(as_array(one), other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_are_those_of_pytorch_but_for_rounding(name, dtype):
    x, residual = normal(4, 257, dtype=dtype), normal(4, 257, dtype=dtype)
    arguments = arguments_of(name, x, residual, (normal(257, dtype=dtype), normal(257, dtype=dtype)))
    for eps in (1e-5, None) if name.endswith("rms_norm") else (1e-5,):
        found, expected = taken(name, *arguments, eps=eps), of_torch(name, *arguments, eps=eps)
        for one, other in zip(as_tuple(found), as_tuple(expected), strict=True):
            assert one.dtype == other.dtype
            difference = (one.double() - other.double()).abs().max()
            assert difference <= 4 * eps_of(dtype) * other.double().abs().max()


def test_rows_at_any_stride_and_sizes_of_any_kind_are_taken():
    array = np.random.default_rng(0).standard_normal((6, 24)).astype(np.float32)
    wide = torch.from_numpy(in_wider_rows(array))
    expected = taken("layer_norm", torch.from_numpy(array), 24, None, None)
    expanded = wide[:1].expand(6, 24)
    for x, sizes, y in (
        (wide, (24,), expected),
        (wide[::2], torch.Size([24]), expected[::2]),
        (expanded, [24], expected[:1].expand(6, 24)),
        (wide[:, 3:9], 6, taken("layer_norm", wide[:, 3:9].contiguous(), 6, None, None)),
    ):
        found = taken("layer_norm", x, sizes, None, None)
        assert found.is_contiguous()
        assert_equal_bits(found, y)
    whole = torch.from_numpy(array.reshape(3, 2, 4, 6))
    assert_equal_bits(taken("layer_norm", whole, (4, 6), None, None).reshape(6, 24), expected)


@pytest.mark.parametrize("name", NAMES)
def test_results_go_where_the_caller_wants_them(name):
    x, residual, parameters = normal(4, 24), normal(4, 24), (normal(24), normal(24))
    expected = as_tuple(taken(name, *arguments_of(name, x, residual, parameters)))
    places = [
        lambda x, r: (torch.full((4, 24), 7.0), torch.full((4, 24), 7.0)),
        lambda x, r: tuple(torch.full((4, 64), 7.0)[:, at : at + 24] for at in (0, 5)),
    ]
    if name.startswith("add"):
        places += [lambda x, r: (r, x), lambda x, r: (x, r)]
    else:
        places += [lambda x, r: (x, None)]
    for place in places:
        mine, others = x.clone(), residual.clone()
        outs = place(mine, others)[: len(expected)]
        versions = [out._version for out in outs]
        found = as_tuple(
            taken(
                name,
                *arguments_of(name, mine, others, parameters),
                **dict(zip(("out", "residual_out"), outs, strict=False)),
            )
        )
        for one, out, version, other in zip(found, outs, versions, expected, strict=True):
            assert one is out
            assert out._version > version
            assert_equal_bits(out.contiguous(), other)


def test_a_change_that_a_graph_must_not_miss_is_noticed():
    a = torch.ones(2, 8, requires_grad=True)
    saved = a * 3
    loss = (saved * saved).sum()
    with torch.no_grad():
        fastln_torch.layer_norm(normal(2, 8), 8, out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_parameters_that_learn_are_taken_where_nothing_needs_a_gradient(mode):
    norm, x = torch.nn.LayerNorm(24), normal(2, 24).requires_grad_()
    assert taken("layer_norm", x, 24, norm.weight, norm.bias) is None
    with mode():
        y = taken("layer_norm", x, 24, norm.weight, norm.bias)
        assert y.is_inference() == functional.layer_norm(x, (24,)).is_inference()
        assert not y.requires_grad


def test_results_are_tensors_like_any_other():
    y = fastln_torch.rms_norm(normal(3, 24), 24)
    for other in (pickle.loads(pickle.dumps(y)), copy.deepcopy(y), y.clone()):
        assert_equal_bits(other, y)
    del other
    weight = normal(24).requires_grad_()
    (y * weight).sum().backward()
    assert_equal_bits(weight.grad, y.sum(0))


def test_under_autocast_dtypes_are_those_of_pytorch():
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = normal(2, 24, dtype=dtype), normal(24, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            for name in NAMES:
                arguments = arguments_of(name, x, x, (weight, weight))
                for one, other in zip(
                    as_tuple(taken(name, *arguments)), as_tuple(of_torch(name, *arguments)), strict=True
                ):
                    assert one.dtype == other.dtype


# What it leaves to PyTorch


def negated(a):
    return torch._neg_view(a.neg())


def imaginary(a):
    return torch.complex(a, a.neg()).conj().imag


def without_memory(a):
    """What is left of it is an offset."""
    a = torch.cat([a, a])[a.shape[0] :]
    a.untyped_storage().resize_(0)
    return a


def misaligned(a):
    return torch.frombuffer(bytearray(b"\0" + a.numpy().tobytes()), dtype=a.dtype, offset=1).view(a.shape)


class OwnTensor(torch.Tensor):
    """Somebody's own."""


# Rows and parameters alike.
UNUSUAL = {
    "requires a gradient": lambda a: a.clone().requires_grad_(),
    "negated": negated,
    "imaginary part": imaginary,
    "a subclass": lambda a: a.as_subclass(OwnTensor),
    "meta": lambda a: a.to("meta"),
    "zeros without memory": lambda a: torch._efficientzerotensor(a.shape),
    "other columns": lambda a: a[..., :-1],
    "every other column": lambda a: a.repeat_interleave(2, -1)[..., ::2],
    "memory given back": without_memory,
    "misaligned": misaligned,
    "ints": lambda a: a.to(torch.int32),
    "complex": lambda a: a.to(torch.complex64),
    "float8": lambda a: a.to(torch.float8_e4m3fn),
    "an array": lambda a: a.numpy(),
    "a number": lambda a: 1.0,
}
UNUSUAL_ROWS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "turned leading dimensions": lambda x: x.reshape(2, 2, -1).transpose(0, 1),
    "sparse": lambda x: x.to_sparse(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor([x, x]),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
    "no dimensions": lambda x: x[0, 0],
}
UNUSUAL_PARAMETERS = {
    "another dtype": lambda a: a.double(),
    "16 bits beside float32": lambda a: a.to(torch.bfloat16),
    "a column": lambda a: a[:, None],
}


def unusual_calls(kind):
    """The usual call with one argument that is not usual."""
    x, weight = normal(4, 24), normal(24)
    if kind not in UNUSUAL_PARAMETERS:
        odd = (UNUSUAL | UNUSUAL_ROWS)[kind](x)
        yield "layer_norm", (odd, 24, weight, weight)
        yield "rms_norm", (odd, 24, weight)
        yield "add_layer_norm", (x, odd, 24, weight, weight)
        yield "add_rms_norm", (odd, x, 24, weight)
    if kind not in UNUSUAL_ROWS:
        odd = (UNUSUAL | UNUSUAL_PARAMETERS)[kind](weight)
        yield "layer_norm", (x, 24, odd, None)
        yield "layer_norm", (x, 24, weight, odd)
        yield "rms_norm", (x, 24, odd)


@pytest.mark.parametrize("kind", [*UNUSUAL, *UNUSUAL_ROWS, *UNUSUAL_PARAMETERS])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of PyTorch, about what it is given here
def test_what_is_unusual_is_left_to_pytorch(kind):
    for name, arguments in unusual_calls(kind):
        assert taken(name, *arguments) is None, name
        if kind != "memory given back":  # where PyTorch's rms_norm ends the process
            assert_like_pytorch(name, *arguments)


@pytest.mark.parametrize("sizes", [None, (), 0, 23, (4, 24, 1), (24.0,), "24", True, -1, 2**70], ids=str)
def test_wrong_sizes_are_left_to_pytorch(sizes):
    x = normal(4, 24)
    assert taken("layer_norm", x, sizes, None, None) is None
    assert taken("rms_norm", x, sizes, None) is None
    for name in ("layer_norm", "rms_norm"):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            getattr(fastln_torch, name)(x, sizes)


@pytest.mark.parametrize("eps", [-1.0, float("nan"), float("inf"), np.float64(1e-5), True, torch.tensor(1e-5)], ids=str)
def test_an_unusual_eps_is_left_to_pytorch(eps):
    x = normal(4, 24)
    for name in ("layer_norm", "rms_norm"):
        arguments = arguments_of(name, x, None, (None, None))
        assert taken(name, *arguments, eps=eps) is None
        assert_like_pytorch(name, *arguments, eps=eps)


def outcome(function, *arguments, eps):
    """Its results, or the type and the first line of its error."""
    try:
        return as_tuple(function(*arguments, eps=eps))
    except Exception as error:
        return type(error), str(error).partition("\n")[0]


def assert_like_pytorch(name, *arguments, eps=1e-5):
    """The public function gives PyTorch's results, or its error."""
    found = outcome(getattr(fastln_torch, name), *arguments, eps=eps)
    expected = outcome(functools.partial(of_torch, name), *arguments, eps=eps)
    for one, other in zip(found, expected, strict=True):
        if not isinstance(other, torch.Tensor):
            assert one == other
            continue
        assert (type(one), one.dtype, one.layout) == (type(other), other.dtype, other.layout)
        assert (one.device, one.requires_grad) == (other.device, other.requires_grad)
        if one.layout == torch.strided and not one.is_nested and not one.is_meta:
            torch.testing.assert_close(one.detach(), other.detach(), rtol=0, atol=0, equal_nan=True)


# What watches a call


def call(x):
    """All four, in one number a row."""
    weight = torch.linspace(-1, 1, 24)
    y = fastln_torch.layer_norm(x, 24, weight)
    z, s = fastln_torch.add_rms_norm(y, x, (24,), weight, 1e-5)
    return (y + z + s + fastln_torch.rms_norm(x, 24)).square().sum(-1)


def call_of_torch(x):
    weight = torch.linspace(-1, 1, 24)
    y = functional.layer_norm(x, (24,), weight)
    z, s = of_torch("add_rms_norm", y, x, 24, weight)
    return (y + z + s + functional.rms_norm(x, (24,))).square().sum(-1)


def test_gradients_are_those_of_pytorch():
    x = normal(3, 24)
    found, expected = (x.clone().requires_grad_() for _ in range(2))
    call(found).sum().backward()
    call_of_torch(expected).sum().backward()
    assert_equal_bits(found.grad, expected.grad)
    weight = normal(24).requires_grad_()
    out = torch.empty(3, 24)
    assert fastln_torch.layer_norm(x, 24, weight, out=out) is out
    out.sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "vmap of grad", "functionalize"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_transforms_of_functions_see_the_calls(transform):
    func, x = torch.func, normal(3, 24)
    transforms = {
        "grad": lambda f: func.grad(lambda x: f(x).sum())(x),
        "vmap": lambda f: torch.vmap(f)(x),
        "jvp": lambda f: func.jvp(f, (x,), (x + 1,))[1],
        "vmap of grad": lambda f: torch.vmap(func.grad(f))(x),
        "functionalize": lambda f: func.functionalize(f)(x),
    }
    torch.testing.assert_close(transforms[transform](call), transforms[transform](call_of_torch), rtol=0, atol=0)


def test_forward_gradients_are_seen():
    x = normal(3, 24)
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(x, x + 1)
        found, expected = (forward_ad.unpack_dual(f(dual)).tangent for f in (call, call_of_torch))
        assert_equal_bits(found, expected)


def test_tensors_that_have_left_their_transform_are_left_to_pytorch():
    kept = []
    torch.func.grad(lambda x: (kept.append(x), x.sum())[1])(normal(3, 24))
    torch.vmap(lambda x: (kept.append(x), x)[1])(normal(3, 4, 24))
    for x in kept:
        assert taken("layer_norm", x, 24, None, None) is None


def test_modes_see_the_calls():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            seen.append(str(function))
            return function(*arguments, **(options or {}))

    class Called(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            seen.append(function.__name__)
            return function(*arguments, **(options or {}))

    for mode, name in ((Dispatched, "aten.native_layer_norm.default"), (Called, "layer_norm")):
        seen = []
        with mode():
            call(normal(3, 24))
        assert name in seen


def test_tracers_see_the_calls():
    x = normal(3, 24)
    traced = torch.jit.trace(call, x)
    assert "aten::layer_norm" in str(traced.graph)
    symbolic = torch.fx.symbolic_trace(call)
    made = torch.fx.experimental.proxy_tensor.make_fx(call)(x)
    for graph in (traced, symbolic, made):
        torch.testing.assert_close(graph(x + 1), call_of_torch(x + 1), rtol=1e-5, atol=1e-5)
    with torch._subclasses.FakeTensorMode() as mode:
        assert call(mode.from_tensor(x)).shape == (3,)


def test_a_compiler_sees_the_calls():
    x, out = normal(3, 24), torch.zeros(3, 24)

    def with_out(x, out):
        return fastln_torch.layer_norm(x, 24, out=out) + 1

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), call_of_torch(x), rtol=0, atol=0)
    torch.compile(with_out, backend="eager", fullgraph=True)(x, out)
    assert_equal_bits(out, functional.layer_norm(x, (24,)))

    class Model(torch.nn.Module):
        def forward(self, x):
            return call(x)

    graph = str(torch.export.export(Model(), (x,), strict=False).graph)
    assert "aten.layer_norm" in graph
    assert "aten.rms_norm" in graph


# Results in the caller's tensors, where PyTorch finds them


@pytest.mark.parametrize("direct", [True, False])
def test_what_cannot_take_a_result_is_refused_before_anything_is_written(direct):
    x, good = normal(4, 24).requires_grad_(not direct), torch.full((4, 24), 7.0)
    cases = [
        (np.empty((4, 24), np.float32), TypeError, "must be a Tensor, got array of float32, shape (4, 24)"),
        (torch.empty(4, 24, dtype=torch.float64), TypeError, "must have dtype torch.float32, got torch.float64"),
        (torch.empty(3, 4, 24), ValueError, "must have shape (4, 24), got (3, 4, 24)"),
        (torch.empty(4, 24, device="meta"), ValueError, "must be on the device cpu, got meta"),
        (torch.empty(24).expand(4, 24), ValueError, "must not overlap itself, got strides (0, 1) for shape (4, 24)"),
        (torch.empty(4, 24, requires_grad=True), ValueError, "must not be a leaf that requires a gradient, got one"),
    ]
    for out, error, text in cases:
        with pytest.raises(error) as caught:
            fastln_torch.layer_norm(x, 24, out=out)
        assert str(caught.value) == f"out {text}"
        with pytest.raises(error) as caught:
            fastln_torch.add_rms_norm(x, x, 24, out=good, residual_out=out)
        assert str(caught.value) == f"residual_out {text}"
    buffer = torch.full((100,), 7.0)
    for first, second in ((good, good), (good, good.view(4, 24)), (buffer[:96].view(4, 24), buffer[4:].view(4, 24))):
        with pytest.raises(ValueError, match="residual_out must share no memory with out, got a tensor that does"):
            fastln_torch.add_layer_norm(x, x, 24, out=first, residual_out=second)
    assert torch.equal(good, torch.full((4, 24), 7.0))
    assert torch.equal(buffer, torch.full((100,), 7.0))


def test_any_overlap_gives_the_same_result():
    buffer = normal(200)
    x = buffer[:96].view(4, 24)
    weight = buffer[96:120]
    expected = functional.layer_norm(x, (24,), weight)
    for out in (buffer[8:104].view(4, 24), buffer[100:196].view(4, 24), buffer[: 4 * 25].view(4, 25)[:, :24]):
        before = buffer.clone()
        torch.testing.assert_close(fastln_torch.layer_norm(x, 24, weight, out=out), expected)
        buffer.copy_(before)
    both = torch.empty(4, 48)
    y, s = fastln_torch.add_layer_norm(x, x, 24, weight, out=both[:, :24], residual_out=both[:, 24:])
    assert_equal_bits(s.contiguous(), x + x)
    torch.testing.assert_close(y, functional.layer_norm(s, (24,), weight))


def test_results_of_inference_mode_are_not_changed_outside_of_it():
    with torch.inference_mode():
        out = torch.zeros(4, 24)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        fastln_torch.layer_norm(normal(4, 24), 24, out=out)
    with torch.inference_mode():
        assert fastln_torch.layer_norm(normal(4, 24), 24, out=out) is out


# Many calls


def test_no_path_keeps_memory():
    """Of any one of these, 2000 results are 400 MB."""
    x, out = normal(64, 800), torch.empty(64, 800)
    needs = x.clone().requires_grad_()

    def go():
        fastln_torch.layer_norm(x, 800)
        fastln_torch.add_rms_norm(x, x, 800, residual_out=out)
        fastln_torch.layer_norm(needs, 800, out=torch.empty_like(x))
        for wrong in ({"normalized_shape": 3}, {"normalized_shape": 800, "out": x.double()}):
            with pytest.raises((RuntimeError, TypeError)):
                fastln_torch.layer_norm(x, **wrong)

    for _ in range(50):
        go()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2000):
        go()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_threads_may_call_at_once():
    x, weight = normal(256, 768), normal(768)
    expected = fastln_torch.rms_norm(x, 768, weight)
    results = []

    def work():
        results.extend(torch.equal(fastln_torch.rms_norm(x, 768, weight), expected) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 150
    assert all(results)


# The module


def test_nothing_of_pytorch_is_linked():
    content = Path(_direct.__file__).read_bytes()
    for namespace in (b"_ZN2at", b"_ZN3c10", b"_ZN5torch", b"_ZNK2at", b"THPVariable", b"aoti_torch", b"libtorch"):
        assert namespace not in content


@pytest.mark.parametrize("name", NAMES)
def test_signatures_and_examples(name):
    function = getattr(fastln_torch, name)
    parameters = list(inspect.signature(function).parameters)
    of_numpy = list(inspect.signature(getattr(fastln, name)).parameters)
    assert parameters == [other for other in of_numpy if other in parameters]
    assert function.__doc__
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder(recurse=False).find(function, name, module=False, globs={}):
        assert test.examples
        assert not runner.run(test).failed
