"""Arguments that public functions refuse, by kind, and what must not happen to those of any call."""

from __future__ import annotations

import contextlib
import functools
import sys

import numpy as np
import pytest
from layouts import WithArray
from operations import Kind

# What is refused: {what: (its maker, the exception)}. Each test makes its value anew.


def array(*shape, dtype=np.float32):
    """Ordinary values of a shape."""
    return np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype(dtype)


def frozen(a):
    """The same, not writable."""
    a.flags.writeable = False
    return a


class Odd:
    """Neither a number nor an array."""


SHAPE = (2, 3, 8)

STATS = (*SHAPE[:-1], 1)

# Each of these replaces an argument of a call with an x of SHAPE and a normalized_shape of 8.


def not_floats(shape):
    """What cannot stand for floats of a shape, whatever its values."""
    kinds = {
        "None": lambda: None,
        "False": lambda: False,
        "a word": lambda: "array",
        "a dict": dict,
        "an object": Odd,
        "list of ints": lambda: np.ones(shape, int).tolist(),
        "list of words": lambda: np.full(shape, "1.0").tolist(),
        "str": lambda: np.full(shape, "1.0"),
        "bytes": lambda: np.full(shape, b"1.0"),
        "structured": lambda: np.zeros(shape, [("a", "f4")]),
        "masked": lambda: np.ma.masked_array(array(*shape), mask=False),
        "masked, in a list": lambda: [np.ma.masked_array(array(*shape[1:]), mask=False)] * shape[0],
        "__array__ of ints": lambda: WithArray(np.ones(shape, int)),
        "StringDType": lambda: np.full(shape, "1.0").astype(np.dtypes.StringDType()),
    }
    dtypes = ["int32", "int64", "uint8", "bool", "complex64", "complex128", "object", "M8[s]", "m8[s]"]
    if np.dtype(np.longdouble) != np.dtype(np.float64):
        dtypes.append("longdouble")
    kinds |= {name: functools.partial(np.ones, shape, name) for name in dtypes}
    return {what: (make, TypeError) for what, make in kinds.items()}


NO_ARRAY = {
    "ragged list": (lambda: [[1.0, 2.0], [3.0]], ValueError),
    "0-d array": (lambda: np.array(1, np.float32), ValueError),
    "0-d scalar": (lambda: np.float32(1), ValueError),
    "0-d float": (lambda: 1.0, ValueError),
}

BAD_X = not_floats(SHAPE) | NO_ARRAY

# The lengths that PyTorch's own function reads past the end for are among these.
BAD_STATS = {
    **not_floats(STATS),
    **NO_ARRAY,
    "one": (lambda: array(1), ValueError),
    "one, as many dimensions": (lambda: array(1, 1, 1), ValueError),
    "one too few": (lambda: array(5), ValueError),
    "flat": (lambda: array(6), ValueError),
    "one too many": (lambda: array(7), ValueError),
    "without the last dimension": (lambda: array(*SHAPE[:-1]), ValueError),
    "without the first dimension": (lambda: array(3, 1), ValueError),
    "a dimension more": (lambda: array(*STATS, 1), ValueError),
    "transposed": (lambda: array(3, 2, 1), ValueError),
    "broadcastable": (lambda: array(2, 1, 1), ValueError),
    "shape of x": (lambda: array(*SHAPE), ValueError),
    "shape of weight": (lambda: array(8), ValueError),
    "empty": (lambda: array(0, 3, 1), ValueError),
    "strided, too short": (lambda: array(4, 3, 1)[::4], ValueError),
}

BAD_ROWS = {
    **not_floats(SHAPE),
    **NO_ARRAY,
    "one row": (lambda: array(8), ValueError),
    "broadcastable": (lambda: array(1, 3, 8), ValueError),
    "flat": (lambda: array(48), ValueError),
    "transposed": (lambda: array(8, 3, 2), ValueError),
    "a dimension more": (lambda: array(1, *SHAPE), ValueError),
    "a row too few": (lambda: array(2, 2, 8), ValueError),
    "a row too many": (lambda: array(2, 4, 8), ValueError),
    "a column too few": (lambda: array(2, 3, 7), ValueError),
    "empty": (lambda: array(0, 3, 8), ValueError),
}

# Parameters may be absent, and are converted from any floats.
GOOD_PARAMETER = ("None", "longdouble")

BAD_PARAMETER = {
    **{what: bad for what, bad in not_floats((8,)).items() if what not in GOOD_PARAMETER},
    **NO_ARRAY,
    "too short": (lambda: array(7), ValueError),
    "too long": (lambda: array(9), ValueError),
    "one": (lambda: array(1), ValueError),
    "column": (lambda: array(8, 1), ValueError),
    "row": (lambda: array(1, 8), ValueError),
    "shape of x": (lambda: array(*SHAPE), ValueError),
    "empty": (lambda: array(0), ValueError),
    "strided, too short": (lambda: array(14)[::2], ValueError),
    "list too short": (lambda: [1.0] * 7, ValueError),
}

BAD_SHAPE = {
    "other int": (lambda: 7, ValueError),
    "multiple": (lambda: 16, ValueError),
    "all elements": (lambda: 24, ValueError),
    "other tuple": (lambda: (4, 8), ValueError),
    "leading": (lambda: (2, 3), ValueError),
    "too many": (lambda: (1, 2, 3, 8), ValueError),
    "empty tuple": (lambda: (), ValueError),
    "zero": (lambda: 0, ValueError),
    "negative": (lambda: -8, ValueError),
    "8 plus 2**32": (lambda: 8 + 2**32, ValueError),
    "8 plus 2**64": (lambda: 8 + 2**64, ValueError),
    "tuple, 8 plus 2**64": (lambda: (3, 8 + 2**64), ValueError),
    "float": (lambda: 8.0, TypeError),
    "tuple of float": (lambda: (8.0,), TypeError),
    "word": (lambda: "8", TypeError),
    "tuple of words": (lambda: ("8",), TypeError),
    "tuple of None": (lambda: (None,), TypeError),
    "tuple of True": (lambda: (True,), TypeError),
    "weight": (lambda: array(8), TypeError),
    "weight as a list": (lambda: [1.0] * 8, TypeError),
    "nested tuple": (lambda: ((8,),), TypeError),
    "dict": (lambda: {8: 8}, TypeError),
    "object": (Odd, TypeError),
    "complex": (lambda: 8j, TypeError),
}


def bad_masks(count):
    """What cannot say which of so many results are wanted."""
    return {
        "None": (lambda: None, TypeError),
        "True": (lambda: True, TypeError),
        "7": (lambda: 7, TypeError),
        "word": (lambda: "111"[:count], TypeError),
        "dict": (lambda: {"dx": True}, TypeError),
        "set": (lambda: {True, False}, TypeError),
        "array": (lambda: np.ones(count, bool), TypeError),
        "object": (Odd, TypeError),
        "of ints": (lambda: (1, 0, 1)[:count], TypeError),
        "with None": (lambda: (True, None, True)[:count], TypeError),
        "with words": (lambda: ["dx", "dweight", "dbias"][:count], TypeError),
        "with arrays": (lambda: (np.ones(2, bool), True, True)[:count], TypeError),
        "empty": (lambda: (), ValueError),
        "of one": (lambda: (True,), ValueError),
        "one too few": (lambda: [True] * (count - 1), ValueError),
        "one too many": (lambda: (True,) * (count + 1), ValueError),
    }


BAD_EPS = {
    "negative": (lambda: -1e-5, ValueError),
    "least negative": (lambda: -5e-324, ValueError),
    "nan": (lambda: float("nan"), ValueError),
    "inf": (lambda: float("inf"), ValueError),
    "-inf": (lambda: -float("inf"), ValueError),
    "float32 nan": (lambda: np.float32("nan"), ValueError),
    "negative int": (lambda: -1, ValueError),
    "too large an int": (lambda: 10**400, ValueError),
    "an int too large to print": (lambda: 10**5000, ValueError),
    "word": (lambda: "1e-5", TypeError),
    "None": (lambda: None, TypeError),
    "complex": (lambda: 1e-5j, TypeError),
    "list": (lambda: [1e-5], TypeError),
    "array": (lambda: np.array([1e-5, 1e-5]), TypeError),
    "object": (Odd, TypeError),
}

BAD_OUT = {
    "float64": (lambda: array(*SHAPE, dtype=np.float64), TypeError),
    "int32": (lambda: np.zeros(SHAPE, np.int32), TypeError),
    "float16": (lambda: np.zeros(SHAPE, np.float16), TypeError),
    "object": (lambda: np.zeros(SHAPE, object), TypeError),
    "list": (lambda: [[0.0]], TypeError),
    "True": (lambda: True, TypeError),
    "word": (lambda: "out", TypeError),
    "bytearray": (lambda: bytearray(192), TypeError),
    "__array__": (lambda: WithArray(array(*SHAPE)), TypeError),
    "masked": (lambda: np.ma.masked_array(array(*SHAPE), mask=False), TypeError),
    "flat": (lambda: array(48), ValueError),
    "transposed": (lambda: array(8, 3, 2), ValueError),
    "broadcastable": (lambda: array(1, 2, 3, 8), ValueError),
    "longer": (lambda: array(3, 3, 8), ValueError),
    "0-d": (lambda: np.array(0, np.float32), ValueError),
    "empty": (lambda: array(0, 3, 8), ValueError),
    "read-only": (lambda: frozen(array(*SHAPE)), ValueError),
    "all one element": (lambda: np.ndarray(SHAPE, np.float32, array(1), strides=(0, 0, 0)), ValueError),
    "all one row": (lambda: np.ndarray(SHAPE, np.float32, array(8), strides=(0, 0, 4)), ValueError),
    "sliding rows": (lambda: np.ndarray(SHAPE, np.float32, array(60), strides=(16, 32, 4)), ValueError),
}

BAD_THREADS = {
    "0": (lambda: 0, ValueError),
    "-1": (lambda: -1, ValueError),
    "-(2**70)": (lambda: -(2**70), ValueError),
    "float": (lambda: 1.0, TypeError),
    "word": (lambda: "2", TypeError),
    "True": (lambda: True, TypeError),
    "numpy True": (lambda: np.True_, TypeError),
    "list": (lambda: [2], TypeError),
    "object": (Odd, TypeError),
}


BAD_OTHERS = {
    "weight_offset": {
        "nan": (lambda: float("nan"), ValueError),
        "inf": (lambda: float("inf"), ValueError),
        "too large an int": (lambda: 10**400, ValueError),
        "None": (lambda: None, TypeError),
        "word": (lambda: "1", TypeError),
        "True": (lambda: True, TypeError),
        "array": (lambda: np.ones(8), TypeError),
        "object": (Odd, TypeError),
    },
    "cast": {
        "other word": (lambda: "bert", ValueError),
        "empty word": (lambda: "", ValueError),
        "True": (lambda: True, TypeError),
        "a dtype": (lambda: np.float16, TypeError),
        "array": (lambda: np.array(["llama", "gemma"]), TypeError),
        "object": (Odd, TypeError),
    },
}

# What must have x's dtype.
BAD_LIKE_X = {"float64": (lambda: array(*SHAPE, dtype=np.float64), TypeError)}

BAD_OF_KIND = {Kind.ROWS: BAD_ROWS, Kind.COLS: BAD_PARAMETER, Kind.STATS: BAD_STATS}


def bad_values(operation):
    """{argument: {what: (its maker, the exception)}}."""
    bad = {name: BAD_X if name == operation.base else BAD_OF_KIND[kind] for name, kind in operation.arguments.items()}
    bad |= {name: bad[name] | BAD_LIKE_X for name in operation.like_base}
    for name in operation.optional:
        bad[name] = {what: value for what, value in bad[name].items() if what != "None"}
    bad |= {"normalized_shape": BAD_SHAPE, "num_threads": BAD_THREADS} | dict.fromkeys(operation.buffers, BAD_OUT)
    if operation.takes_eps:
        good = "None" if "eps" in operation.usual else ""  # then it has a default that is no number
        bad["eps"] = {what: value for what, value in BAD_EPS.items() if what != good}
    if operation.has_mask:
        bad["output_mask"] = bad_masks(len(operation.results))
    return bad | {name: BAD_OTHERS[name] for name in operation.others}


def good_call(operation):
    """A call that is right in every argument, with an x of SHAPE."""
    return {
        **{name: array(*kind.shape(SHAPE[:-1], SHAPE[-1:])) for name, kind in operation.arguments.items()},
        "normalized_shape": (8,),
        **({"eps": 1e-5} if operation.takes_eps else {}),
        **({"output_mask": (True,) * len(operation.results)} if operation.has_mask else {}),
        **operation.others,
        **{name: array(*SHAPE) for name in operation.buffers},
        "num_threads": 1,
    }


def call_with(operation, name, value):
    """The good call with one other argument."""
    # A bad shape of x is about x, not about what it is compared with.
    return {**good_call(operation), name: value, **({"normalized_shape": None} if name == operation.base else {})}


# Reference counts

counts_references = pytest.mark.skipif(
    sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="needs CPython with a GIL: elsewhere counts are deferred",
)


def call_often(function, arguments, times):
    """Call and drop the result or the error."""
    for _ in range(times):
        with contextlib.suppress(TypeError, ValueError):
            function(**arguments)


def assert_keeps_no_reference(function, arguments):
    """Each argument has as many references after some calls as before them."""
    kept = [value for value in arguments.values() if value is not None and not isinstance(value, int | str)]
    kept += [getattr(value, "dtype", None) for value in arguments.values()]
    call_often(function, arguments, 2)
    before = [sys.getrefcount(value) for value in kept]
    call_often(function, arguments, 20)
    after = [sys.getrefcount(value) for value in kept]
    # Other threads and caches may hold one for a moment, but not one a call.
    assert all(abs(a - b) < 10 for a, b in zip(after, before, strict=True)), (before, after)


def assert_refused(function, arguments, name, error):
    """The call raises this type of error, in one line that names the argument, and writes nothing."""
    arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
    before = [value.tobytes() for value in arrays]
    with pytest.raises(error, match=rf"^{name} must .+, got ") as caught:
        function(**arguments)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert [value.tobytes() for value in arrays] == before
