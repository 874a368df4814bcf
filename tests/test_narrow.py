"""Numbers of 16 bits, which are only stored: as if computed in float32 and rounded once, whatever goes with what."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_all_same_bits, assert_same_bits, output_of, without_nan
from operations import MIXED, OPERATIONS, Kind
from regimes import EDGE_COLS, NARROW, finfo, make_parameters, make_rows

import fastln

WIDE = np.dtype(np.float32)


@pytest.fixture(params=NARROW)
def narrow(request):
    """Run the test with each dtype of 16 bits."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    return np.dtype(request.param)


def widened(arguments):
    """The same numbers in float32. A sum is rounded before it is normalized: it has -0 added, which changes no bit."""
    if "residual" in arguments:
        s = arguments["x"] + arguments["residual"]
        arguments = {**arguments, "x": s, "residual": np.full_like(s, -0.0)}
    return {name: value if value is None else value.astype(WIDE) for name, value in arguments.items()}


def rounded(results, dtypes):
    """Results of float32 in these dtypes, by name."""
    with np.errstate(over="ignore"):
        return {name: one.astype(dtypes[name]) for name, one in results.items()}


def all_without_nan(results):
    """The same without NaN, by name."""
    return {name: without_nan(one) for name, one in results.items()}


# As if computed in float32


@pytest.mark.once_per_kernel
def test_results_are_those_of_float32_rounded_once(operation, absent, narrow, isa, always_parallel):
    dtypes = {name: operation.result_dtype(name, narrow) for name in operation.results}
    for rows, cols in (*((40, cols) for cols in EDGE_COLS), (1, 65553), (3, 4097), (700, 130)):
        arguments = operation.make(MIXED, rows, cols, narrow, absent)
        expected = all_without_nan(rounded(operation(**widened(arguments)), dtypes))
        for threads in (1, 3):
            found = all_without_nan(operation(**arguments, num_threads=threads))
            assert_all_same_bits(found, expected, f"rows={rows}, D={cols}, threads={threads}")


def parameters_of(operation):
    """Names of the arguments that are of no row."""
    return [name for name, kind in operation.arguments.items() if kind is Kind.COLS]


# Where parameters have room on the stack, where what stands in for absent ones is there, and longer rows.
WIDTHS = (1, 7, 16, 64, 65, 768, 1024, 1025, 4096, 4097, 20_000)


def test_each_parameter_may_be_of_float32_or_of_the_dtype_of_x(operation, narrow, isa):
    names = parameters_of(operation)
    for cols in WIDTHS:
        arguments = operation.make("mean 10", 5, cols, narrow)
        expected = operation(**arguments)
        for dtypes in itertools.product((narrow, WIDE), repeat=len(names)):
            given = {name: arguments[name].astype(dtype) for name, dtype in zip(names, dtypes, strict=True)}
            found = operation(**arguments | given)
            sums = {name: given["weight"].dtype for name, kind in operation.results.items() if kind is Kind.COLS}
            assert {name: found[name].dtype for name in sums} == sums
            assert_all_same_bits(rounded(found, {name: one.dtype for name, one in expected.items()}), expected)
            for name in operation.in_place:
                in_place = {**arguments, **given, name: arguments[name].copy()}
                assert_all_same_bits(operation.in_the_place_of(name, in_place), found)


def test_other_parameters_are_as_those_of_float32(operation, narrow):
    other = np.dtype(NARROW[narrow == NARROW[0]])
    if other == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    for cols, dtype in itertools.product((33, 50_000), (np.float64, np.longdouble, other)):
        arguments = operation.make("mean 10", 5, cols, narrow)
        given = {name: arguments[name].astype(dtype) for name in parameters_of(operation)}
        expected = operation(**arguments | widened(given))
        for names in (*([name] for name in given), list(given)):
            found = operation(**arguments | widened(given) | {name: given[name] for name in names})
            assert_all_same_bits(found, expected)


def test_absent_parameters_are_as_ones_and_zeros(operation, absent, narrow, isa):
    for cols in WIDTHS:
        arguments = operation.make("mean 10", 5, cols, narrow, absent)
        parameters = [name for name in absent if operation.arguments[name] is Kind.COLS]
        stand_ins = {name: np.full(cols, 1 if name == "weight" else -0.0, narrow) for name in parameters}
        assert_all_same_bits(operation(**arguments), operation(**arguments | stand_ins))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "rms" in name and not OPERATIONS[name].kernel])
def test_an_offset_is_added_in_float32(name, narrow, isa):
    operation = OPERATIONS[name]
    for cols in WIDTHS:
        arguments = operation.make("mean 10", 5, cols, narrow)
        added = arguments["weight"].astype(WIDE) + WIDE.type(1)
        expected = operation(**{**arguments, "weight": added})
        for dtype in (narrow, WIDE):
            given = {**arguments, "weight": arguments["weight"].astype(dtype)}
            found = operation(**given, weight_offset=1.0)
            assert_all_same_bits(found, rounded(expected, {key: one.dtype for key, one in found.items()}))


def test_every_pattern_of_16_bits_is_widened_and_rounded_as_it_should(narrow, isa):
    # Of rows of 1, x_hat is 1 with eps 0, and y the weight.
    every = np.arange(1 << 16, dtype=np.uint16).view(narrow)
    x = np.ones((2, every.size), narrow)
    y = fastln.rms_norm(x, None, every, 0.0)
    for row in y:
        assert_same_bits(without_nan(row), without_nan(every))
    # Between two neighbours: exactly half way, and a little to either side; so even ones are found from both sides.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = every[np.isfinite(every)]
        above = np.nextafter(finite, narrow.type(np.inf))
    half = finite.astype(WIDE) / 2 + np.where(np.isfinite(above), above, finite).astype(WIDE) / 2
    for weight in (half, np.nextafter(half, WIDE.type(np.inf)), np.nextafter(half, WIDE.type(-np.inf))):
        y = fastln.rms_norm(np.ones((1, weight.size), narrow), None, weight, 0.0)
        with np.errstate(over="ignore"):
            assert_same_bits(y[0], weight.astype(narrow))


# Which dtype is which


def test_bfloat16_is_known_without_its_package():
    code = """
import sys
import numpy as np
import fastln
fastln.layer_norm(np.ones((2, 3), np.float16))
assert "ml_dtypes" not in sys.modules
"""
    output_of(code)


FIRST = """
import sys
import fastln
import numpy as np
import ml_dtypes
x = np.linspace(-1, 1, 24).reshape(3, 8).astype(ml_dtypes.bfloat16)
stats = np.zeros((3, 1), np.float32)
calls = {
    "layer_norm": lambda: fastln.layer_norm(x),
    "layer_norm_forward": lambda: fastln.layer_norm_forward(x)[0],
    "layer_norm_backward": lambda: fastln.layer_norm_backward(x, x, stats, stats)[0],
    "rms_norm": lambda: fastln.rms_norm(x),
    "add_layer_norm": lambda: fastln.add_layer_norm(x, x)[0],
    "add_layer_norm_backward": lambda: fastln.add_layer_norm_backward(x, x, x, stats, stats)[0],
    "LayerNorm": lambda: fastln.LayerNorm(8, dtype=ml_dtypes.bfloat16)(x),
    "weight": lambda: fastln.layer_norm(x.astype(np.float32), 8, x[0]).astype(x.dtype),
}
for _ in range(3):
    y = calls[sys.argv[1]]()
    assert type(y) is np.ndarray and y.dtype == x.dtype and y.shape == x.shape
    fastln.layer_norm(x, out=y)
print("done")
"""


@pytest.mark.parametrize(
    "first",
    [
        *("layer_norm", "layer_norm_forward", "layer_norm_backward", "rms_norm", "add_layer_norm"),
        *("add_layer_norm_backward", "LayerNorm", "weight"),
    ],
)
def test_the_first_array_of_bfloat16_may_come_anywhere(first):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    assert output_of(FIRST, first) == "done"


def test_another_dtype_of_16_bits_is_no_bfloat16():
    for dtype in ("V2", "u2", "i2", "S2", [("bfloat16", "u2")]):
        with pytest.raises(TypeError, match=r"^x must be an array of float32, float64, float16 or bfloat16, got "):
            fastln.layer_norm(np.zeros((2, 3), dtype))


def test_x_and_out_have_one_dtype(operation, narrow):
    arguments = operation.make("normal", 4, 8, narrow)
    others = [name for name in ("float32", "float64", *NARROW) if name != narrow.name]
    for name in others:
        for buffer in operation.buffers:
            with pytest.raises(TypeError, match=rf"^{buffer} must have dtype {narrow.name}, got {name}$"):
                operation(**arguments, **{buffer: np.zeros((4, 8), name)})
        for argument in operation.like_base:
            given = {**arguments, argument: np.zeros((4, 8), name)}
            with pytest.raises(TypeError, match=rf"^{argument} must have dtype {narrow.name} to match x, got {name}$"):
                operation(**given)


def test_dy_that_its_dtype_cannot_hold_is_refused(narrow):
    arguments = OPERATIONS["layer_norm_backward"].make("normal", 4, 8, narrow)
    arguments["dy"] = arguments["dy"].astype(np.float64)
    arguments["dy"][1, 2] = 1e39
    with pytest.raises(ValueError, match=rf"^dy must be of values that {narrow.name} can hold, got 1e\+39$"):
        fastln.layer_norm_backward(**arguments)


# Rounding orders and eps, beside PyTorch


def llama(torch, x, weight, eps):
    """LlamaRMSNorm of transformers: x_hat is rounded before the weight."""
    wide = x.to(torch.float32)
    x_hat = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * x_hat.to(x.dtype)


def gemma(torch, x, weight, eps):
    """GemmaRMSNorm of transformers: all in float32, and 1 is added to the weight."""
    wide = x.float()
    x_hat = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (x_hat * (1.0 + weight.float())).type_as(x)


MODELS = {"llama": (llama, 0.0), "gemma": (gemma, 1.0)}


def as_tensor(torch, array):
    """The same bits for PyTorch."""
    return torch.from_numpy(array.view(np.int16)).view(getattr(torch, array.dtype.name))


def units_apart(a, b):
    """How many numbers of 16 bits lie between two arrays of them."""
    places = [np.where(one >= 0, one, -0x8000 - one) for one in (c.view(np.int16).astype(np.int32) for c in (a, b))]
    return np.abs(places[0] - places[1])


@pytest.mark.parametrize("model", MODELS)
def test_rounding_orders_are_those_of_the_models(model, narrow, isa, torch):
    formula, offset = MODELS[model]
    other = next(name for name in MODELS if name != model)
    for rows, cols in ((64, 768), (9, 2048), (3, 4096)):
        x, (weight, _) = make_rows("normal", rows, cols, narrow), make_parameters(cols, narrow)
        theirs = formula(torch, as_tensor(torch, x), as_tensor(torch, weight), 1e-6)
        theirs = theirs.view(torch.int16).numpy().view(narrow)
        ours = fastln.rms_norm(x, cols, weight, 1e-6, weight_offset=offset, cast=model)
        # Their rstd is rounded a few times; where an x_hat lies near a tie that decides.
        apart = units_apart(ours, theirs)
        assert apart.max() <= (2 if model == "llama" else 1)
        assert (apart == 0).mean() >= 0.99
        wrong = fastln.rms_norm(x, cols, weight, 1e-6, weight_offset=offset, cast=other)
        assert (wrong != theirs).mean() > 0.05  # so the test can tell


def test_llama_rounds_x_hat_and_y(narrow, isa, always_parallel):
    for rows, cols in ((5, 1), (5, 33), (40, 768), (3, 4097), (1, 65553)):
        x, (weight, _) = make_rows("mean 10", rows, cols, narrow), make_parameters(cols, narrow)
        x_hat = fastln.rms_norm(x, eps=1e-6).astype(WIDE)
        for dtype in (narrow, WIDE):
            given = weight.astype(dtype)
            expected = (x_hat * given.astype(WIDE)).astype(narrow)
            for threads in (1, 2):
                found = fastln.rms_norm(x, cols, given, 1e-6, cast="llama", num_threads=threads)
                assert_same_bits(found, expected)
                y, rstd = fastln.rms_norm_forward(x[::-1], cols, given, 1e-6, cast="llama", num_threads=threads)
                assert_same_bits(y, expected[::-1])
                assert_same_bits(rstd, fastln.rms_norm_forward(x[::-1], eps=1e-6)[1])
        for cast in (None, "gemma"):
            assert_same_bits(fastln.rms_norm(x, cols, weight, 1e-6, cast=cast), fastln.rms_norm(x, cols, weight, 1e-6))


def test_eps_of_none_is_what_pytorch_takes(narrow, isa, torch):
    x = (make_rows("normal", 50, 64, np.float32) * 1e-3).astype(narrow)  # where eps counts as much as x
    weight, _ = make_parameters(64, narrow)
    theirs = torch.nn.functional.rms_norm(as_tensor(torch, x), (64,), as_tensor(torch, weight))
    theirs = theirs.view(torch.int16).numpy().view(narrow)
    ours = fastln.rms_norm(x, 64, weight)
    assert_same_bits(ours, fastln.rms_norm(x, 64, weight, float(np.finfo(np.float32).eps)))
    assert units_apart(ours, theirs).max() <= 2
    wrong = fastln.rms_norm(x, 64, weight, float(finfo(narrow).eps))
    assert np.median(units_apart(wrong, theirs)) > 10


def test_x_hat_of_float16_may_be_as_large_as_it_can_be(isa):
    # One number among zeros: x_hat is the root of their number.
    for cols in (4096, 65536, 1 << 20):
        x = np.zeros((1, cols), np.float16)
        x[0, cols // 3] = 65504
        y = fastln.rms_norm(x, eps=1e-6)
        assert y[0, cols // 3] == np.float16(cols**0.5)
        assert np.count_nonzero(y) == 1
        with np.errstate(over="ignore"):
            expected = np.float16(60000 / 256 * cols**0.5)
        assert fastln.rms_norm(x, None, np.full(cols, 60000 / 256, np.float16), 1e-6)[0, cols // 3] == expected


# Objects


@pytest.mark.parametrize("kind", [fastln.LayerNorm, fastln.RMSNorm])
def test_an_object_has_parameters_of_16_bits(kind, narrow):
    norm = kind(8, dtype=narrow, weight_init=np.linspace(-1, 1, 8))
    assert norm.weight.dtype == narrow
    assert norm.state_dict()["weight"].dtype == narrow
    x = make_rows("normal", 3, 8, narrow)
    y, saved = norm.forward(x)
    assert y.dtype == narrow
    assert_same_bits(norm(x), y)
    assert saved.rstd.dtype == np.float32
    gradients = norm.backward(y, saved)
    assert {one.dtype for one in gradients} == {narrow}
    kept = norm.weight
    norm.load_state_dict({name: value * value.dtype.type(2) for name, value in norm.state_dict().items()})
    assert norm.weight is kept
    assert_same_bits(norm.weight, np.linspace(-1, 1, 8).astype(narrow) * narrow.type(2))


@pytest.mark.parametrize("kind", [fastln.LayerNorm, fastln.RMSNorm])
def test_an_object_of_float32_takes_rows_of_16_bits(kind, narrow):
    norm = kind(8, weight_init=np.linspace(-1, 1, 8))
    y, saved = norm.forward(make_rows("normal", 3, 8, narrow))
    gradients = norm.backward(y, saved)
    assert gradients.dx.dtype == narrow
    assert {one.dtype for one in gradients[1:]} == {WIDE}


def test_parameters_that_16_bits_cannot_hold_are_refused(narrow):
    norm = fastln.LayerNorm(2, dtype=narrow)
    with pytest.raises(ValueError, match=rf"^weight must be of values that {narrow.name} can hold, got 1e\+39$"):
        norm.weight = [1e39, 1.0]
    with pytest.raises(ValueError, match=rf"^bias_init must be of values that {narrow.name} can hold, got -1e\+300$"):
        fastln.LayerNorm(2, bias_init=-1e300, dtype=narrow)
    norm.bias = [np.inf, np.nan]
    assert np.isinf(norm.bias[0])
    assert np.isnan(norm.bias[1])


def test_bfloat16_that_float16_cannot_hold_is_refused():
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    large = np.array([2.0**16, -np.inf]).astype(bfloat16)
    refused = r"must be of values that float16 can hold, got 65536(\.0)?$"
    norm = fastln.LayerNorm(2, dtype=np.float16)
    with pytest.raises(ValueError, match=f"^bias {refused}"):
        norm.load_state_dict({"weight": np.ones(2), "bias": large})
    assert_same_bits(norm.bias, np.zeros(2, np.float16))
    _, saved = norm.forward(np.ones((1, 2), np.float16))
    with pytest.raises(ValueError, match=f"^dy {refused}"):
        norm.backward(large[None], saved)
    norm.weight = large[1:].repeat(2)
    assert_same_bits(norm.weight, np.full(2, -np.inf, np.float16))
