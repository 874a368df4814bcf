"""`fastln.torch.enable`: PyTorch's norms have the bits of fastln's, or are passed on to PyTorch's own kernels."""

from __future__ import annotations

import itertools

import pytest
from bounds import USUAL, output_error
from helpers import assert_same_bits, output_of, run_python
from torch_calls import FLOATS, as_array, assert_same_kind, counted, fastln_torch, off_and_on, torch

import fastln
from fastln._reference import normalize

functional = torch.nn.functional
aten = torch.ops.aten

# Beside x of each dtype, what its parameters may be of.
PARAMETERS = [
    (dtype, of)
    for dtype in FLOATS
    for of in dict.fromkeys((None, dtype, torch.float32))  # in this order in every process of xdist
    if of != torch.float32 or dtype != torch.float64
]


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def parameter(cols, dtype, seed):
    return None if dtype is None else normal(cols, dtype=dtype, seed=seed)


def arrays(*tensors):
    return [None if tensor is None else as_array(tensor) for tensor in tensors]


def assert_bits(tensor, array):
    """The numbers of fastln, in the dtype that PyTorch wants: mean and rstd of layer norm are rounded to 16 bits."""
    assert_same_bits(as_array(tensor), array.astype(as_array(tensor).dtype))


@pytest.mark.parametrize(("dtype", "of"), PARAMETERS)
@pytest.mark.parametrize("shape", [(3, 40), (2, 2, 1025)], ids=str)
def test_layer_norm_has_the_bits_of_fastln(shape, dtype, of):
    cols = shape[-1]
    x, dy = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    weight, bias = parameter(cols, of, 2), parameter(cols, of, 3)
    for w, b in {(weight, bias), (weight, None), (None, bias)}:
        with counted() as calls:
            y, mean, rstd = aten.native_layer_norm(x, [cols], w, b, 1e-5)
        assert calls.taken == {"native_layer_norm": 1}
        expected = fastln.layer_norm_forward(*arrays(x), cols, *arrays(w, b))
        for found, one in zip((y, mean, rstd), expected, strict=True):
            assert_bits(found, one)
        for mask in itertools.product((True, False), repeat=3):
            mask = (mask[0], mask[1] and w is not None, mask[2] and b is not None)
            if not any(mask):
                continue
            with counted() as calls:
                found = aten.native_layer_norm_backward(dy, x, [cols], mean, rstd, w, b, mask)
            assert calls.taken == {"native_layer_norm_backward": 1}
            computed = torch.float64 if dtype == torch.float64 else torch.float32
            saved = arrays(mean.to(computed), rstd.to(computed))
            known = w if w is not None or b is None else torch.ones_like(b)  # it says of which dtype dbias is
            expected = fastln.layer_norm_backward(*arrays(dy, x), *saved, *arrays(known), output_mask=mask)
            for one, other in zip(found, expected, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert_bits(one, other)


@pytest.mark.parametrize(("dtype", "of"), PARAMETERS)
def test_rms_norm_has_the_bits_of_fastln(dtype, of):
    x, dy, weight = normal(3, 257, dtype=dtype), normal(3, 257, dtype=dtype, seed=1), parameter(257, of, 2)
    for eps in (None, 1e-3):
        with counted() as calls:
            y, rstd = aten._fused_rms_norm(x, [257], weight, eps)
        assert calls.taken == {"_fused_rms_norm": 1}
        for found, expected in zip(
            (y, rstd), fastln.rms_norm_forward(*arrays(x), 257, *arrays(weight), eps), strict=True
        ):
            assert_bits(found, expected)
    for mask in ((True, weight is not None), (True, False), (False, weight is not None)):
        if not any(mask):
            continue
        with counted() as calls:
            found = aten._fused_rms_norm_backward(dy, x, [257], rstd, weight, mask)
        assert calls.taken == {"_fused_rms_norm_backward": 1}
        expected = fastln.rms_norm_backward(*arrays(dy, x, rstd, weight), output_mask=mask)
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_bits(one, other)


# Tensors that are not in one piece. RMS norm of images whose channels are last does not reach its operator.
LAYOUTS = {
    "rows apart": lambda: normal(4, 3, 16)[:, 1],
    "columns of a wider tensor": lambda: normal(4, 16)[:, 3:9],
    "one row for all": lambda: normal(1, 8).expand(5, 8),
    "transposed": lambda: normal(8, 5).t(),
    "two strides": lambda: normal(3, 4, 8).transpose(0, 1),
    "permuted image": lambda: normal(2, 8, 3, 5).permute(0, 2, 3, 1),
    "channels last": lambda: normal(2, 8, 3, 5).contiguous(memory_format=torch.channels_last),
    "off the grid of its numbers": lambda: torch.frombuffer(bytearray(65), dtype=torch.float32, offset=1).view(2, 8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_has_the_bits_of_one_piece(layout):
    x = LAYOUTS[layout]()
    cols = x.shape[-1]
    weight, bias, dy = normal(cols, seed=2), normal(cols, seed=3), normal(*x.shape, seed=1)
    piece = x.clone(memory_format=torch.contiguous_format)
    with counted() as calls:
        y, mean, rstd = aten.native_layer_norm(x, [cols], weight, bias, 1e-5)
        gradients = aten.native_layer_norm_backward(dy, x, [cols], mean, rstd, weight, bias, [True] * 3)
        swapped = aten.native_layer_norm_backward(x, dy, [cols], mean, rstd, weight, bias, [True] * 3)
    assert calls.taken == {"native_layer_norm": 1, "native_layer_norm_backward": 2}
    with fastln_torch.enabled():
        expected = aten.native_layer_norm(piece, [cols], weight, bias, 1e-5)
        of_piece = aten.native_layer_norm_backward(dy, piece, [cols], mean, rstd, weight, bias, [True] * 3)
        of_swapped = aten.native_layer_norm_backward(piece, dy, [cols], mean, rstd, weight, bias, [True] * 3)
    for found, one in zip((y, mean, rstd, *gradients, *swapped), (*expected, *of_piece, *of_swapped), strict=True):
        assert_same_bits(as_array(found), as_array(one))
        assert found.is_contiguous()

    off, on, calls = off_and_on(lambda: functional.rms_norm(x, (cols,), weight))
    assert calls.taken == ({} if layout == "channels last" else {"_fused_rms_norm": 1})
    assert calls.passed_on == {}
    assert_same_kind(off, on)
    assert off.stride() == on.stride()


# Calls that are passed on: what is called, and the reason. The results and errors are PyTorch's, types and messages.
PASSED_ON = {
    "int": ("dtype", lambda: functional.layer_norm(torch.ones(2, 3, dtype=torch.int32), (3,))),
    "complex": ("dtype", lambda: functional.layer_norm(torch.ones(2, 3, dtype=torch.complex64), (3,))),
    "int of aten": ("dtype", lambda: aten.native_layer_norm(torch.ones(2, 3, dtype=torch.int32), [3], None, None, 0.1)),
    "int in rms_norm": ("dtype", lambda: aten._fused_rms_norm(torch.ones(2, 3, dtype=torch.int32), [3], None, 0.1)),
    "wrong parameter": ("mixed dtypes", lambda: functional.layer_norm(normal(2, 3), (3,), normal(3).double())),
    "two dtypes": (
        "mixed dtypes",
        lambda: functional.layer_norm(normal(2, 3, dtype=torch.bfloat16), (3,), normal(3), normal(3).bfloat16()),
    ),
    "int parameter": (
        "mixed dtypes",
        lambda: functional.layer_norm(normal(2, 3), (3,), torch.ones(3, dtype=torch.int64)),
    ),
    "rms_norm, other weight": (
        "mixed dtypes",
        lambda: aten._fused_rms_norm(normal(2, 3), [3], normal(3).double(), None),
    ),
    "parameter apart": ("layout", lambda: functional.layer_norm(normal(2, 3), (3,), normal(6)[::2])),
    "no rows": ("empty", lambda: functional.layer_norm(normal(0, 3), (3,))),
    "no columns": ("empty", lambda: functional.layer_norm(normal(2, 0), (0,))),
    "no rows in rms_norm": ("empty", lambda: functional.rms_norm(normal(0, 3), (3,))),
    "normalized_shape": ("arguments", lambda: functional.layer_norm(normal(2, 3), (4,))),
    "no normalized_shape": ("arguments", lambda: functional.layer_norm(normal(2, 3), ())),
    "more dimensions": ("arguments", lambda: functional.layer_norm(normal(2, 3), (1, 2, 3))),
    "shape of weight": ("arguments", lambda: functional.layer_norm(normal(2, 3), (3,), normal(4))),
    "shape of bias": ("arguments", lambda: functional.layer_norm(normal(2, 3), (3,), None, normal(1))),
    "negative eps": ("arguments", lambda: functional.layer_norm(normal(2, 3), (3,), eps=-1e-3)),
    "eps is NaN": ("arguments", lambda: functional.layer_norm(normal(2, 3), (3,), eps=float("nan"))),
    "negative eps in rms_norm": ("arguments", lambda: functional.rms_norm(normal(2, 3), (3,), eps=-1e-3)),
    "mean of another shape": (
        "arguments",
        lambda: aten.native_layer_norm_backward(
            normal(2, 3), normal(2, 3), [3], normal(2), normal(2), None, None, [True, False, False]
        ),
    ),
    "dy of another dtype": (
        "mixed dtypes",
        lambda: aten.native_layer_norm_backward(
            normal(2, 3).double(), normal(2, 3), [3], normal(2, 1), normal(2, 1), None, None, [True, False, False]
        ),
    ),
    "dweight without a weight": (
        "arguments",
        lambda: aten.native_layer_norm_backward(
            normal(2, 3), normal(2, 3), [3], normal(2, 1), normal(2, 1), None, None, [True, True, False]
        ),
    ),
}


@pytest.mark.parametrize("case", PASSED_ON)
def test_what_is_not_taken_is_pytorchs_results_and_errors(case):
    reason, call = PASSED_ON[case]
    off, on, calls = off_and_on(call)
    assert calls.taken == {}
    assert calls.passed_on == {reason: 1}
    assert_same_kind(off, on)


@pytest.mark.parametrize(
    "call",
    [
        lambda: functional.rms_norm(normal(2, 3), (4,)),
        lambda: functional.rms_norm(normal(2, 3), (1, 2, 3)),
        lambda: functional.rms_norm(normal(2, 3), ()),
        lambda: functional.rms_norm(normal(2, 3), (3,), normal(4)),
        lambda: functional.rms_norm(torch.ones(2, 3, dtype=torch.bool), (3,)),
        lambda: functional.layer_norm(normal(2, 3).to("meta"), (3,)),
        lambda: functional.layer_norm(normal(2, 3), (3,), normal(3).to("meta")),
        lambda: functional.layer_norm(normal(2, 3).to_sparse(), (3,)),
        lambda: functional.layer_norm([1.0], (1,)),
    ],
)
def test_errors_are_pytorchs_wherever_they_are_raised(call):
    off, on, _ = off_and_on(call)
    assert_same_kind(off, on)


def test_unusual_gradients_of_rms_norm_are_those_of_its_formula():
    x, dy = normal(4, 3, 5).requires_grad_(), normal(4, 3, 5, seed=2)
    weight = normal(30, seed=1)[::2].view(3, 5).requires_grad_()  # not in one piece
    for inputs in ((x, weight), (x,), (weight,)):
        off, on, calls = off_and_on(
            lambda inputs=inputs: torch.autograd.grad(functional.rms_norm(x, (3, 5), weight), inputs, dy)
        )
        assert calls.passed_on == {"layout": 2}
        assert_same_kind(off, on)
    empty = normal(0, 3).requires_grad_()
    off, on, calls = off_and_on(lambda: torch.autograd.grad(functional.rms_norm(empty, (3,), normal(3)).sum(), empty))
    assert calls.passed_on == {"empty": 2}
    assert_same_kind(off, on)


@pytest.mark.parametrize("mean", [0, 1e2, 1e4, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_are_those_of_fastln_whatever_the_mean(dtype, mean):
    x = normal(64, 768, dtype=dtype) + mean
    weight, bias = normal(768, dtype=dtype, seed=1), normal(768, dtype=dtype, seed=2)
    exact = normalize(as_array(x))
    with counted():
        y = functional.layer_norm(x, (768,), weight, bias)
    assert output_error(as_array(y), exact, as_array(weight), as_array(bias)) <= USUAL["y"]
    if dtype == torch.float32 and mean >= 1e4:  # what it is about
        theirs = functional.layer_norm(x, (768,), weight, bias)
        assert output_error(as_array(theirs), exact, as_array(weight), as_array(bias)) > 10 * USUAL["y"]


def test_disable_gives_back_pytorchs_bits():
    x, weight, bias = normal(33, 770) + 5, normal(770, seed=1), normal(770, seed=2)

    def bits():
        xs = [each.clone().requires_grad_() for each in (x, weight, bias)]
        y = functional.layer_norm(xs[0], (770,), *xs[1:])
        z = functional.rms_norm(xs[0], (770,), xs[1])
        return [as_array(each).tobytes() for each in (y, z, *torch.autograd.grad((y * z).sum(), xs))]

    assert not fastln_torch.is_enabled()
    never = bits()
    for _ in range(3):
        fastln_torch.enable()
        fastln_torch.enable()
        assert fastln_torch.is_enabled()
        on = bits()
        fastln_torch.disable()
        assert not fastln_torch.is_enabled()
        assert bits() == never
        assert on != never


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_may_outlast_what_it_was_made_with(dtype):
    x, dy = normal(4, 12, dtype=dtype).requires_grad_(), normal(4, 12, dtype=dtype, seed=1)
    weight = normal(12, dtype=dtype, seed=2).requires_grad_()

    def gradients(forward_on, backward_on):
        (fastln_torch.enable if forward_on else fastln_torch.disable)()
        y = functional.layer_norm(x, (12,), weight), functional.rms_norm(x, (12,), weight)
        (fastln_torch.enable if backward_on else fastln_torch.disable)()
        found = torch.autograd.grad(y, (x, weight), (dy, dy))
        fastln_torch.disable()
        return found

    expected = gradients(False, False)
    for switches in ((True, False), (False, True), (True, True)):
        for found, one in zip(gradients(*switches), expected, strict=True):
            torch.testing.assert_close(found, one, atol=0.1 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)


def test_scopes_nest_and_enable_and_disable_outlast_them():
    is_enabled = fastln_torch.is_enabled
    with fastln_torch.enabled():
        with fastln_torch.enabled():
            assert is_enabled()
        assert is_enabled()
    assert not is_enabled()
    with pytest.raises(ZeroDivisionError), fastln_torch.enabled():
        1 / 0  # noqa: B018
    assert not is_enabled()
    fastln_torch.enable()
    with fastln_torch.enabled():
        pass
    assert is_enabled()
    with fastln_torch.enabled():
        fastln_torch.disable()
        assert not is_enabled()
    assert not is_enabled()
    with fastln_torch.enabled():
        fastln_torch.enable()
    assert is_enabled()
    fastln_torch.disable()

    @fastln_torch.enabled()
    def decorated():
        return is_enabled()

    assert decorated()
    assert decorated()
    assert not is_enabled()


IN_BETWEEN = """
import warnings
import torch
import fastln.torch

x = torch.arange(6.0).reshape(2, 3)
norm = torch.nn.functional.layer_norm
theirs = norm(x, (3,))

def register():
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.m.impl("native_layer_norm", "CPU", lambda *args: (args[0] + 1, args[0], args[0]), False)
    return library

# Registered after fastln's: theirs are called, until they are taken away.
fastln.torch.enable()
other = register()
assert (norm(x, (3,)) == x + 1).all()
other._destroy()
before = fastln.torch.show_calls().taken["native_layer_norm"]
norm(x, (3,))
assert fastln.torch.show_calls().taken["native_layer_norm"] == before + 1
# Taken away under them: they stay.
other = register()
fastln.torch.disable()
assert (norm(x, (3,)) == x + 1).all()
# Registered before: they are passed on to, and come back.
fastln.torch.enable()
assert (norm(x, (3,)) != x + 1).any()
assert (norm(x, (3,), eps=-1) == x + 1).all()
fastln.torch.disable()
assert (norm(x, (3,)) == x + 1).all()
other._destroy()
assert (norm(x, (3,)) == theirs).all()
print("ordered")
"""


def test_kernels_of_others_keep_their_order():
    assert output_of(IN_BETWEEN) == "ordered"


QUIET = """
import torch
before = set(torch.library._impls)
import fastln.torch
assert set(torch.library._impls) == before
assert not fastln.torch.is_enabled()
for _ in range(2):
    fastln.torch.enable()
    fastln.torch.disable()
fastln.torch.enable()  # until the process ends
torch.nn.functional.layer_norm(torch.ones(2, 3, requires_grad=True), (3,)).sum().backward()
print("quiet")
"""


def test_nothing_is_printed_and_importing_changes_nothing():
    done = run_python(QUIET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "quiet\n", "")
