"""What errors say: the argument's name, what it must be, what was given in a few words, and what to do instead."""

from __future__ import annotations

import inspect
import itertools
import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
from arguments import array, assert_refused, call_with, good_call
from helpers import assert_all_same_bits, assert_same_bits, run_python
from layouts import WithArray
from operations import OPERATIONS, Kind

import fastln
from fastln._core.describe import describe
from fastln._core.names import ELSEWHERE

LONGEST = 400


def message_of(call, *arguments, **keywords):
    """What the error says, which is one line of a readable length."""
    with pytest.raises((TypeError, ValueError, KeyError)) as caught:
        call(*arguments, **keywords)
    error = caught.value
    assert type(error) in (TypeError, ValueError, KeyError)
    # Nobody else's traceback: neither a cause, nor one that is shown.
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    text = error.args[0]
    assert "\n" not in text
    assert len(text) < LONGEST
    return text


# Values in a few words


class Loud:
    """Has a repr that must not be asked for, as it may be long, or somebody's secret."""

    def __repr__(self):
        raise AssertionError("the repr was asked for")


class Tensorlike:
    """Says what dtype and shape it has."""

    dtype, shape = "float8", [2, 3]


class Sulking(Loud):
    """Does not say what shape it has."""

    dtype = "float8"

    @property
    def shape(self):
        raise RuntimeError("not now")


DESCRIBED = {
    "array": (np.zeros((2, 3), np.float32), "array of float32, shape (2, 3)"),
    "subclass": (np.ma.zeros(3), "MaskedArray of float64, shape (3,)"),
    "0-d array": (np.array(1.0), "array of float64, shape ()"),
    "array of objects": (np.array([Loud()], object), "array of object, shape (1,)"),
    "NumPy scalar": (np.float32(0.5), "np.float32(0.5)"),
    "tensor": (Tensorlike(), "Tensorlike of float8, shape (2, 3)"),
    "object that raises": (Sulking(), "Sulking"),
    "object": (Loud(), "Loud"),
    "None": (None, "None"),
    "bool": (True, "True"),
    "float": (0.1, "0.1"),
    "fraction": (Fraction(1, 3), "Fraction(1, 3)"),
    "string": ("a\nb", r"'a\nb'"),
    "long string": ("a" * 10**6, f"'{'a' * 40}'... of length 1000000"),
    "long bytes": (b"a" * 100, f"b'{'a' * 40}'... of length 100"),
    "long int": (10**100, f"1{'0' * 37}...{'0' * 38}"),
    "int too long to print": (10**5000, "int"),
    "type": (np.float16, "float16"),
    "dtype": (np.dtype("M8[s]"), "datetime64[s]"),
    "tuple": ((1, 2.5), "(1, 2.5)"),
    "tuple of one": ((8.0,), "(8.0,)"),
    "empty list": ([], "[]"),
    "long list": ([0.0] * 10**5, "list of length 100000"),
    "arrays in a list": ([np.zeros(9), Loud()], "[array of float64, shape (9,), Loud]"),
    "nested lists": ([[[[1.0]]]], "[[list of length 1]]"),
    "dict": ({"a": np.zeros(9)}, "dict"),
}


@pytest.mark.parametrize("what", DESCRIBED)
def test_a_value_in_a_few_words(what):
    value, words = DESCRIBED[what]
    assert describe(value) == words


def test_a_list_that_holds_itself():
    endless = []
    endless += [endless, endless]
    assert describe(endless) == "[[list of length 2, list of length 2], [list of length 2, list of length 2]]"


BULKY = {
    "array": lambda: np.full((50, 60), 0.123456789),
    "array of objects": lambda: np.array([Loud()] * 1000, object),
    "list": lambda: [0.123456789] * 1000,
    "nested list": lambda: [[0.123456789] * 1000] * 3,
    "list of arrays": lambda: [np.full(1000, 0.123456789)] * 3,
    "ragged list": lambda: [[0.123456789] * 1000, [0.5]],
    "string": lambda: "0.123456789" * 1000,
    "bytes": lambda: b"0.123456789" * 1000,
    "dict": lambda: {"0.123456789" * 1000: 1},
    "int": lambda: 123456789**1000,
    "object": Loud,
    "dtype": lambda: np.zeros(3, [(f"field{i}", "f4") for i in range(100)]),
}
LONG = [
    (operation, name, what)
    for operation in OPERATIONS.values()
    for name in good_call(operation)
    for what in BULKY
    if (name, what) != ("num_threads", "int")  # which is as many as can be
]


@pytest.mark.parametrize(("operation", "name", "what"), LONG, ids=str)
def test_no_message_prints_what_is_long(operation, name, what):
    call = call_with(operation, name, BULKY[what]())
    text = message_of(getattr(fastln, operation.name), **call)
    assert re.match(rf"{name} must .+, got ", text) or name in ("x", "s")
    assert text.count("123456789") < 8


@pytest.mark.parametrize("what", BULKY)
@pytest.mark.parametrize("name", list(inspect.signature(fastln.LayerNorm).parameters))
def test_no_message_of_a_construction_prints_what_is_long(name, what):
    text = message_of(fastln.LayerNorm, **{"normalized_shape": 8, name: BULKY[what]()})
    assert text.startswith(f"{name} must ")
    assert text.count("123456789") < 8


@pytest.mark.parametrize("what", [what for what in BULKY if what != "int"])
@pytest.mark.parametrize("call", [fastln.set_num_threads, fastln.threads, fastln.set_isa])
def test_no_message_of_a_setting_prints_what_is_long(call, what):
    text = message_of(call, BULKY[what]())
    assert re.match(r"(num_threads|name) must .+, got ", text)


# Mistakes that are often made


def test_a_forgotten_shape():
    x, weight, bias = array(4, 768), array(768), array(768)
    text = message_of(fastln.layer_norm, x, weight, bias)
    assert text == (
        "normalized_shape must be an int or a tuple of ints, got array of float32, shape (768,): "
        "weight and bias come after it"
    )


@pytest.mark.parametrize("shape", [-1, (-1,), [-2, -1], 1, (0, 1)], ids=str)
def test_an_axis_for_a_size(operation, shape):
    text = message_of(operation, **{**good_call(operation), "normalized_shape": shape})
    advice = "; leave it out, the last dimension is the default" if shape in (-1, (-1,)) else ""
    assert text.endswith(f": sizes are meant, not axes{advice}")


def test_a_wrong_size_is_not_taken_for_an_axis(operation):
    text = message_of(operation, **{**good_call(operation), "normalized_shape": 7})
    start = f"normalized_shape must equal the trailing dimensions of {operation.base}, whose shape is "
    assert text == f"{start}(2, 3, 8), got (7,)"


def test_an_axis_for_the_size_of_an_object():
    assert message_of(fastln.LayerNorm, -1) == "normalized_shape must have sizes of at least 1 (no axes), got -1"
    text = message_of(fastln.LayerNorm, array(4, 8))
    assert text.endswith("shape (4, 8): LayerNorm(8)(x) or fastln.layer_norm(x) normalizes an array x")
    assert message_of(fastln.RMSNorm, array(8)).endswith("RMSNorm(8)(x) or fastln.rms_norm(x) normalizes an array x")
    for shape in (True, (True, 8), [False]):
        assert message_of(fastln.LayerNorm, shape).startswith(
            "normalized_shape must be an int or a tuple of ints, got "
        )


def test_an_array_as_the_bias_of_an_object():
    text = message_of(fastln.LayerNorm, 8, bias=array(8))
    assert text == "bias must be True or False, got array of float32, shape (8,): bias_init gives its values"
    text = message_of(fastln.LayerNorm, 8, array(8), array(8))
    assert text.endswith("got array of float32, shape (8,): weight_init and bias_init give the parameters")
    assert message_of(fastln.RMSNorm, 8, array(8)).endswith("shape (8,): weight_init gives the weight")
    assert message_of(fastln.RMSNorm, 8, 1e-5, array(8)).endswith("shape (8,): weight_init gives the weight")


@pytest.mark.parametrize(
    ("function", "place"),
    [("layer_norm", "fifth"), ("rms_norm", "fourth"), ("add_layer_norm", "sixth"), ("add_rms_norm", "fifth")],
)
def test_an_eps_in_the_place_of_a_weight(function, place):
    rows = [array(4, 8)] * (2 if function.startswith("add") else 1)
    for call in (function, f"{function}_forward"):
        text = message_of(getattr(fastln, call), *rows, 8, 1e-5)
        assert text == (
            f"weight must have shape (8,) to match normalized_shape, got the number 1e-05: eps is the {place} argument"
        )


def test_a_parameter_with_a_dimension_too_many():
    x = array(4, 8)
    for weight in (array(1, 8), array(8, 1)):
        assert message_of(fastln.layer_norm, x, 8, weight).endswith(f"got {weight.shape}: weight.reshape(8)")
    assert message_of(fastln.layer_norm, x, 8, array(2, 4)).endswith("got (2, 4)")


CURES = {
    "int32": "x.astype(np.float32)",
    "bool": "x.astype(np.float32)",
    "uint16": "x.astype(np.float32), or x.view(ml_dtypes.bfloat16) if these are its bits",
}


@pytest.mark.parametrize("dtype", CURES)
def test_how_to_have_floats(dtype):
    text = message_of(fastln.layer_norm, np.ones((2, 3), dtype))
    assert text.endswith(f"got array of {dtype}, shape (2, 3): {CURES[dtype]}")
    fastln.layer_norm(np.ones((2, 3), dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("function", "most", "keywords"),
    [
        ("layer_norm", 5, "out and num_threads"),
        ("layer_norm_forward", 5, "out and num_threads"),
        ("rms_norm", 4, "weight_offset, cast, out and num_threads"),
        ("layer_norm_backward", 5, "normalized_shape, output_mask, out and num_threads"),
        ("add_layer_norm", 6, "out, residual_out and num_threads"),
        ("add_rms_norm", 5, "weight_offset, cast, out, residual_out and num_threads"),
        ("add_layer_norm_backward", 6, "normalized_shape, output_mask, out and num_threads"),
    ],
)
def test_too_many_positional_arguments(function, most, keywords):
    text = message_of(getattr(fastln, function), *[array(2, 8)] * (most + 1))
    assert text == (
        f"{function}() must have at most {most} positional arguments, got {most + 1}: {keywords} are given by keyword"
    )


PUBLIC = {
    "layernorm": "layer_norm",
    "layer_normalization": "layer_norm",
    "layer_nrom": "layer_norm",
    "LayerNormalization": "LayerNorm",
    "Layernorm": "LayerNorm",
    "RmsNorm": "RMSNorm",
    "rmsnorm": "rms_norm",
    "layer_norm_grad": "layer_norm_backward",
    "AddLayerNorm": "add_layer_norm",
    "add_rmsnorm": "add_rms_norm",
}


def test_names_of_functions_elsewhere_point_to_the_name_here():
    for name, here in PUBLIC.items():
        with pytest.raises(AttributeError) as caught:
            getattr(fastln, name)
        assert str(caught.value) == f"module 'fastln' has no attribute '{name}': the name here is {here}"
        assert hasattr(fastln, here)
    with pytest.raises(AttributeError, match=r"^module 'fastln' has no attribute 'group_norm'$"):
        fastln.group_norm  # noqa: B018


# Keywords

KEYWORDS = {
    "axis": "normalized_shape",
    "dim": "normalized_shape",
    "normalized_dim": "normalized_shape",
    "begin_norm_axis": "normalized_shape",
    "epsilon": "eps",
    "Epsilon": "eps",
    "variance_epsilon": "eps",
    "gamma": "weight",
    "scale": "weight",
    "Scale": "weight",
    "wieght": "weight",
    "beta": "bias",
    "B": "bias",
    "input": "x",
    "X": "x",
    "n_jobs": "num_threads",
    "numthreads": "num_threads",
    "normalised_shape": "normalized_shape",
    "grad_output": "dy",
    "invstd": "rstd",
    "ouput_mask": "output_mask",
    "skip": "residual",
    "residul": "residual",
    "input_skip_bias_sum": "residual_out",
    "grad_sum": "ds",
}


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize(
    "function", ["layer_norm", "layer_norm_forward", "layer_norm_backward", "LayerNorm", "add_layer_norm"]
)
def test_keywords_of_elsewhere_point_to_the_name_here(function, keyword):
    call = getattr(fastln, function)
    names = list(inspect.signature(call).parameters)
    required = [array(2, 8)] * sum(p.default is p.empty for p in inspect.signature(call).parameters.values())
    for arguments in (required, []):  # what is missing elsewhere does not matter
        text = message_of(call, *arguments, **{keyword: 1})
        if KEYWORDS[keyword] in names:
            assert text.startswith(f"{KEYWORDS[keyword]} must be given by this name, got the keyword {keyword}")
            assert text.endswith(f"; known are {', '.join(names)}")
        else:
            assert text == f"keywords must be among {', '.join(names)}, got {keyword}"
    if keyword == "axis":
        assert ("x.shape[-1] for axis=-1" if function == "LayerNorm" else "np.moveaxis(x, axis, -1)") in text


def test_keywords_for_what_is_said_otherwise_here():
    assert "got the keyword inplace: out=x;" in message_of(fastln.layer_norm, array(2, 8), inplace=True)
    text = message_of(fastln.layer_norm, array(2, 8), dtype="f8")
    assert text.startswith("x must have the dtype of the result, got the keyword dtype: x.astype(dtype);")


@pytest.mark.parametrize("function", ["layer_norm", "layer_norm_backward", "LayerNorm"])
def test_keywords_of_other_functions_are_no_misspelt_ones(function):
    call = getattr(fastln, function)
    known = f"keywords must be among {', '.join(inspect.signature(call).parameters)}"
    assert message_of(call, weight_offset=1) == f"{known}, got weight_offset: rms_norm has it"
    assert message_of(call, residual=1) == f"{known}, got residual: add_layer_norm and add_rms_norm add one"


def test_a_dtype_of_pytorch_is_none_of_numpy():
    torch = pytest.importorskip("torch")
    text = message_of(fastln.RMSNorm, 8, dtype=torch.bfloat16)
    assert text.endswith(", got torch.bfloat16: np.float32 and ml_dtypes.bfloat16 are NumPy's")


def test_a_keyword_that_nobody_knows():
    text = message_of(fastln.layer_norm, array(2, 8), zzz=1)
    assert text == "keywords must be among x, normalized_shape, weight, bias, eps, out, num_threads, got zzz"
    assert message_of(fastln.layer_norm, array(2, 8), **{"z" * 1000: 1}).endswith(f"got {'z' * 38}...{'z' * 38}")


def test_every_name_elsewhere_means_one_thing():
    elsewhere = [name for names in ELSEWHERE.values() for name in names]
    assert len(elsewhere) == len(set(elsewhere))
    public = set()
    for function in (
        "LayerNorm",
        "add_layer_norm",
        "layer_norm_backward",
        "add_layer_norm_backward",
        "LayerNormRNN",
        "layer_norm_rnn",
        "layer_norm_lstm",
    ):
        public |= {*inspect.signature(getattr(fastln, function)).parameters}
    assert set(ELSEWHERE) <= public


def test_other_wrong_calls_keep_pythons_words():
    for call in (
        lambda: fastln.layer_norm(),
        lambda: fastln.layer_norm(*[array(2, 8)] * 9),
        lambda: fastln.layer_norm(array(2, 8), x=array(2, 8)),
        lambda: fastln.LayerNorm(),
    ):
        with pytest.raises(TypeError, match=r"\(\)"):
            call()


def test_signatures_show_no_other_keywords(operation):
    kinds = {p.kind for p in inspect.signature(getattr(fastln, operation.name)).parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


# Arrays of other libraries, and kinds of arrays that NumPy would read otherwise


class Dask:
    """Stands for a collection of dask, which may be larger than memory."""

    dtype, shape = np.dtype("f4"), (10**6, 10**6)

    def __dask_graph__(self):
        return {}

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("it was loaded")


class Wrapper(Dask):
    """Stands for a DataArray of xarray: with a graph if it wraps a collection of dask."""

    def __init__(self, graph):
        self.graph = graph

    def __dask_graph__(self):
        return self.graph

    def __array__(self, dtype=None, copy=None):
        return array(2, 3, 8)


@pytest.mark.parametrize("make", [Dask, lambda: [Dask()], lambda: Wrapper({})], ids=["dask", "in a list", "wrapped"])
def test_what_is_not_in_memory_is_not_loaded(operation, argument, make):
    call = call_with(operation, argument, make())
    text = message_of(getattr(fastln, operation.name), **call)
    assert text.startswith(f"{argument} must be an array in memory, got ")
    assert text.endswith("of float32, shape (1000000, 1000000): its compute() loads it")
    assert_refused(operation, call, argument, TypeError)


def test_a_wrapper_of_an_array_in_memory_is_taken():
    fastln.layer_norm(Wrapper(None))


def test_an_array_of_dask():
    dask_array = pytest.importorskip("dask.array")
    x = dask_array.from_array(array(6, 8), chunks=(2, 8))
    weight = array(8)
    for chunks, shape, recipe in (
        ((2, 8), None, "x.map_blocks(fastln.layer_norm, 8, dtype=x.dtype)"),
        ((2, 3), None, "x.rechunk({-1: -1}).map_blocks(fastln.layer_norm, 8, dtype=x.dtype)"),
        ((2, 8), (6, 8), "x.rechunk({-2: -1, -1: -1}).map_blocks(fastln.layer_norm, (6, 8), dtype=x.dtype)"),
    ):
        text = message_of(fastln.layer_norm, x.rechunk(chunks), shape)
        assert f": {recipe} normalizes it block by block (weight and bias come after " in text
        found = eval(recipe, {"x": x.rechunk(chunks), "fastln": fastln}).compute()
        np.testing.assert_array_equal(found, fastln.layer_norm(array(6, 8), shape))
    assert "x.map_blocks(fastln.rms_norm, 8, dtype=x.dtype)" in message_of(fastln.rms_norm, x)
    assert "x.map_blocks(fastln.layer_norm, 8, dtype=x.dtype)" in message_of(fastln.LayerNorm(8), x)
    found = x.map_blocks(fastln.layer_norm, 8, weight, dtype=x.dtype).compute()
    np.testing.assert_array_equal(found, fastln.layer_norm(array(6, 8), 8, weight))


@pytest.mark.parametrize("nest", [lambda a: [a, a], lambda a: ([a], [a]), lambda a: [[a.data[0], a[1]]]], ids="123")
def test_a_masked_array_in_a_list_is_refused(nest):
    masked = np.ma.masked_array(np.ones((2, 4)), mask=np.eye(2, 4))
    assert re.match(
        r"x must be an array without a mask, got (list|tuple) with MaskedArray of float64, shape ",
        message_of(fastln.layer_norm, nest(masked)),
    )
    assert message_of(fastln.layer_norm, [[1.0, np.ma.masked]]).startswith("x must be an array without a mask, got ")


def test_arrays_of_objects_and_strings(operation, argument):
    shape = good_call(operation)[argument].shape
    for dtype in (object, np.dtypes.StringDType(), "U3", "S3"):
        values = np.full(shape, "1.5").astype(dtype)
        text = message_of(operation, **call_with(operation, argument, values))
        assert text.endswith(f"got array of {values.dtype}, shape {shape}")


def test_a_frame_with_a_column_that_is_no_float(operation, argument):
    pandas = pytest.importorskip("pandas")
    frames = {
        "string": pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        "nullable": pandas.DataFrame({"a": [1.0, 2.0], "b": pandas.array([1.0, None], dtype="Float64")}),
        "categories": pandas.Series(["a", "b"], dtype="category"),
    }
    for frame in frames.values():
        text = message_of(operation, **call_with(operation, argument, frame))
        assert re.match(rf"{argument} must .+, got (DataFrame|Series)", text)


class Failing:
    """Raises another library's error when NumPy asks for an array."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize("error", [TypeError, RuntimeError, NotImplementedError, ValueError, AttributeError])
def test_errors_of_a_conversion_name_the_argument(operation, argument, error):
    text = message_of(operation, **call_with(operation, argument, Failing(error("Use\ndetach()"))))
    assert text == f"{argument} must be what NumPy can make an array of, got Failing (Use)"
    assert_refused(operation, call_with(operation, argument, Failing(error("it is elsewhere"))), argument, TypeError)


def test_a_tensor_that_requires_a_gradient(operation, argument, torch):
    tensor = torch.from_numpy(good_call(operation)[argument]).requires_grad_()
    text = message_of(operation, **call_with(operation, argument, tensor))
    assert text.startswith(f"{argument} must be what NumPy can make an array of, got Tensor of torch.float32, shape ")
    assert "tensor.detach().numpy()" in text


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm"])
def test_a_tensor_as_x_is_told_who_takes_tensors(name, torch):
    x = torch.ones(2, 8)
    for tensor in (x.clone().requires_grad_(), x.to(torch.bfloat16), x.to("meta")):
        for function in (getattr(fastln, name), getattr(fastln, f"{name}_forward")):
            with pytest.raises(TypeError, match=rf"\(.*\); fastln.torch.{name} takes tensors$"):
                function(*[tensor] * (1 + name.startswith("add")))
    with pytest.raises(TypeError, match=r"got Tensor of int64, shape \(2, 8\)$"):
        fastln.layer_norm(x.to(torch.int64))


def test_a_state_of_tensors_with_gradients_is_loaded(torch):
    theirs, ours = torch.nn.LayerNorm(8), fastln.LayerNorm(8, weight_init=3)
    ours.load_state_dict(dict(theirs.named_parameters()))
    assert ours.weight.tolist() == [1] * 8
    theirs.weight.data += 1
    assert ours.weight.tolist() == [1] * 8


# Parameters of other floats


def parameters(operation):
    """Names of its parameters."""
    return [name for name, kind in operation.arguments.items() if kind is Kind.COLS]


def assert_parameters_are_converted(operation, convert):
    """A call with the parameters in another form is the call with what NumPy makes of that."""
    for dtype in ("float32", "float64"):
        arguments = operation.make("normal", 4, 24, dtype)
        other = {name: convert(arguments[name]) for name in parameters(operation)}
        expected = {name: np.asarray(value.astype(dtype)) for name, value in other.items() if hasattr(value, "astype")}
        assert_all_same_bits(operation(**arguments | other), operation(**arguments | expected))


@pytest.mark.parametrize("float_dtype", ["f2", ">f2", "f4", "f8", ">f8", "longdouble"])
def test_parameters_of_all_floats_are_converted(operation, float_dtype):
    assert_parameters_are_converted(operation, lambda a: a.astype(float_dtype))


def test_parameters_of_bfloat16_are_converted(operation):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert_parameters_are_converted(operation, lambda a: a.astype(bfloat16))
    weight = np.arange(8).astype(bfloat16)
    norm = fastln.LayerNorm(8, weight_init=weight)
    assert_same_bits(norm.weight, np.arange(8, dtype=np.float32))
    norm.load_state_dict({"weight": weight, "bias": weight})
    norm.bias = weight
    for parameter in (norm.weight, norm.bias):
        assert parameter.dtype == np.float32
        assert parameter.tolist() == list(range(8))


def test_other_floats_of_8_bits_are_refused(operation, argument):
    float8 = pytest.importorskip("ml_dtypes").float8_e4m3fn
    value = good_call(operation)[argument].astype(float8)
    text = message_of(operation, **call_with(operation, argument, value))
    assert text.startswith(f"{argument} must be an array of float32, float64, float16")
    assert text.endswith(f"got array of float8_e4m3fn, shape {value.shape}")


def test_a_checkpoint_in_bfloat16(tmp_path, torch):
    pytest.importorskip("ml_dtypes")  # whose import makes bfloat16 known to NumPy, as the loader needs it
    numpy_loader = pytest.importorskip("safetensors.numpy")
    saver = pytest.importorskip("safetensors.torch")
    tensors = {name: torch.linspace(-1, 1, 8).to(torch.bfloat16) for name in ("norm.weight", "norm.bias")}
    saver.save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    expected = tensors["norm.weight"].float().numpy()
    loaded = numpy_loader.load_file(tmp_path / "a.safetensors")
    trained = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    for state, dtype in itertools.product((loaded, tensors, trained), ("float32", "float64", "float16", "bfloat16")):
        norm = fastln.LayerNorm(8, dtype=dtype)
        norm.load_state_dict(state, "norm.")
        for parameter in (norm.weight, norm.bias):
            assert parameter.dtype == dtype
            np.testing.assert_array_equal(parameter.astype(np.float32), expected.astype(dtype).astype(np.float32))


def test_tensors_of_half_precision_as_parameters(operation, torch):
    for dtype in (torch.float16, torch.bfloat16):
        arguments = operation.make("normal", 4, 24, np.float32)
        given = {name: torch.from_numpy(arguments[name]).to(dtype) for name in parameters(operation)}
        norm = fastln.LayerNorm(24, weight_init=given["weight"])
        assert_same_bits(norm.weight, given["weight"].float().numpy())
        expected = {name: tensor.float().numpy() for name, tensor in given.items()}
        assert_all_same_bits(operation(**arguments | given), operation(**arguments | expected))


# Values that the type of x cannot hold


@pytest.mark.parametrize("value", [1e300, -1e300, 3.5e38])
@pytest.mark.parametrize("state", ["warn", "raise", "ignore"])
def test_values_too_large_for_the_type_of_x_are_refused(operation, argument, value, state):
    if argument == operation.base or argument in operation.like_base:
        pytest.skip("decides the type, or has that of what does")
    large = good_call(operation)[argument].astype(np.float64)
    large.flat[-1] = value
    with np.errstate(all=state), warnings.catch_warnings():
        warnings.simplefilter("error")
        call = call_with(operation, argument, large)
        assert_refused(operation, call, argument, ValueError)
        assert message_of(operation, **call) == f"{argument} must be of values that float32 can hold, got {value}"


@pytest.mark.parametrize("state", ["warn", "raise"])
def test_infinite_nan_and_tiny_values_are_converted(operation, state):
    arguments = operation.make("normal", 4, 8, np.float32)
    special = np.array([np.inf, -np.inf, np.nan, 1e-300, -1e-300, 0, 1, 1e-40])
    given = dict.fromkeys(parameters(operation), special)
    with np.errstate(all="ignore"):
        expected = {name: special.astype(np.float32) for name in given}
    with np.errstate(all=state), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_all_same_bits(operation(**arguments | given), operation(**arguments | expected))


def test_too_large_parameters_of_an_object():
    norm = fastln.LayerNorm(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert message_of(setattr, norm, "weight", [1e300, 1]).endswith("of values that float32 can hold, got 1e+300")
        assert message_of(fastln.LayerNorm, 2, bias_init=-1e300).startswith("bias_init must be of values that float32")
        state = {"weight": np.ones(2), "bias": np.array([0, 1e39])}
        assert message_of(norm.load_state_dict, state) == "bias must be of values that float32 can hold, got 1e+39"
    assert norm.weight.tolist() == [1, 1]


# The environment

BAD_ENVIRONMENT = {
    "FASTLN_MIN_PARALLEL_BYTES": ["9223372036854775808", "-1", "1e6", "256K", "many", " 5", "٣", "9" * 5000],
    "FASTLN_STREAM_BYTES": ["9223372036854775808", "-1", "0x10", "32M", "1" * 100],
    "FASTLN_ISA": ["avx3", "AVX2", " avx2", "neon,avx2", "a" * 5000],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD_ENVIRONMENT for value in BAD_ENVIRONMENT[name]]
)
def test_bad_values_in_the_environment_are_named(name, value):
    done = run_python("import fastln", **{name: value})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(rf"ImportError: {name} must be .+, got '", last)
    assert value[:38] in last
    assert len(last) < LONGEST


# Objects that stand for something else


def test_what_backward_needs_is_named():
    norm = fastln.LayerNorm(8)
    x = array(4, 8)
    _, saved = norm.forward(x)
    for wrong in (5, None, x, x[:3], [x, x, x], saved[:2], "abc"):
        assert message_of(norm.backward, x, wrong).startswith("saved must be what forward returned with y, got ")


def test_what_is_masked_off_takes_no_out():
    arguments = OPERATIONS["layer_norm_backward"].make("normal", 4, 8, np.float32)
    text = message_of(fastln.layer_norm_backward, **arguments, output_mask=(False, True, True), out=arguments["x"])
    assert text == "out must be None where output_mask[0] is False, got array of float32, shape (4, 8)"


def test_lists_are_described_by_what_they_make():
    assert message_of(fastln.layer_norm, [[1, 2, 3]] * 5).endswith(
        "got list of int64, shape (5, 3): np.asarray(x, np.float32)"
    )
    assert message_of(fastln.layer_norm, WithArray(np.ones(3, "c8"))).endswith("got WithArray of complex64, shape (3,)")
