"""Arguments that run code of their own while they are converted, or lie about themselves, never crash the process."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, run_python

import fastln

# What the fresh processes share. An array of 256 KB has pages of its own (MMAP): what is left of one that was made
# small is not mapped any more, and reading there ends the process.
MMAP = {"MALLOC_MMAP_THRESHOLD_": 1 << 16, "MALLOC_PERTURB_": 165}
PRELUDE = r"""
import sys
import numpy as np
import fastln

ROWS, COLS = 256, 256
rng = np.random.default_rng(0)


def rows():
    return rng.random((ROWS, COLS), np.float32)


def stats():
    return np.ones((ROWS, 1), np.float32)


def parameter():
    return np.ones(COLS, np.float32)


ARGUMENTS = {
    "layer_norm": {"x": rows, "weight": parameter, "bias": parameter, "out": rows},
    "layer_norm_forward": {"x": rows, "weight": parameter, "bias": parameter, "out": rows},
    "layer_norm_backward": {
        "dy": rows, "x": rows, "mean": stats, "rstd": stats, "weight": parameter, "out": rows
    },
    "add_layer_norm": {
        "x": rows, "residual": rows, "weight": parameter, "bias": parameter, "out": rows, "residual_out": rows
    },
    "add_layer_norm_backward": {
        "dy": rows, "ds": rows, "s": rows, "mean": stats, "rstd": stats, "weight": parameter, "out": rows
    },
}
function = getattr(fastln, sys.argv[1])
given = {name: make() for name, make in ARGUMENTS[sys.argv[1]].items()}


class Lying(np.ndarray):
    "Says that it is as large as x, wherever it is asked."

    shape = property(lambda self: (ROWS, COLS))
    strides = property(lambda self: (4 * COLS, 4))
    ndim = property(lambda self: 2)
    size = property(lambda self: ROWS * COLS)
    nbytes = property(lambda self: 4 * ROWS * COLS)
    itemsize = property(lambda self: 4)
    dtype = property(lambda self: np.dtype(np.float32))
    flags = property(lambda self: np.zeros(1).flags)
    base = property(lambda self: None)
    data = ctypes = __array_interface__ = __array_struct__ = property(lambda self: 1 / 0)

    def __array_function__(self, *arguments):
        return True

    def __array_ufunc__(self, *arguments, **options):
        return self

    def __array_finalize__(self, source):
        if self.is_armed:
            raise RuntimeError("asked")

    def view(self, *arguments):
        return np.zeros((ROWS, COLS), np.float32)

    copy = astype = view
    is_armed = False


def lying(array):
    "A view of the array that says what it should not."
    view = np.ndarray.view(array, type("Lying", (Lying,), {}))
    type(view).is_armed = True
    return view


class Acting:
    "Stands for an array or a number, and does something when it is asked."

    def __init__(self, value, act):
        self.value, self.act, self.asked = value, act, 0

    def answer(self, *arguments, **options):
        self.asked += 1
        self.act()
        return self.value

    __array__ = __index__ = __bool__ = answer


class ActingFloat(float):
    "A real number that does something when it is asked."

    def __new__(cls, act):
        self = super().__new__(cls, 1e-5)
        self.act = act
        return self

    def __float__(self):
        self.act()
        return 1e-5


def call(**changes):
    "How the call ended; in any case the process lives."
    global results
    try:
        results = function(**{**given, **changes})
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
        return type(error).__name__
    print("done")
    return "done"
"""


def says(code, function="layer_norm"):
    """What a call in a fresh process came to."""
    done = run_python(PRELUDE + code, function, **MMAP)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout.strip().splitlines()[-1]


FUNCTIONS = {
    "layer_norm": ("x", "weight", "bias", "out"),
    "layer_norm_forward": ("x", "weight", "bias", "out"),
    "layer_norm_backward": ("dy", "x", "mean", "rstd", "weight", "out"),
    "add_layer_norm": ("x", "residual", "weight", "bias", "out", "residual_out"),
    "add_layer_norm_backward": ("dy", "ds", "s", "mean", "rstd", "weight", "out"),
}
# What is found wrong first if x, or what goes by another name, has one element.
FIRST_AFTER = {
    "add_layer_norm": ("x", "residual"),
    "layer_norm_backward": ("x", "dy"),
    "add_layer_norm_backward": ("s", "dy"),
}
PAIRS = [(function, name) for function, names in FUNCTIONS.items() for name in names]

# What one argument does to another one while it is converted: each in turn to each other one.
DEEDS = {
    "makes it small": "other.resize(1, refcheck=False)",
    "makes it large": "other.resize(3 * other.size, refcheck=False)",
    "gives it another shape": "other.shape = (-1, 2) if other.ndim == 1 else (other.size // 2, 2)",
    "gives it another dtype": "other.dtype = np.int32",
    "gives it other strides": "other.strides = other.strides[::-1] if other.ndim > 1 else (0,)",
    "makes it read-only": "other.flags.writeable = False",
}


# Lies


@pytest.mark.parametrize(("function", "name"), PAIRS)
def test_the_array_is_asked_and_not_the_object(function, name):
    """One element that says it were as many as x."""
    said = says(f"call({name}=lying(np.zeros(1, np.float32)))", function)
    base, first = FIRST_AFTER.get(function, ("x", "weight"))
    refused = first if name == base else name
    assert said.startswith(f"ValueError {refused} must have shape ")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_read_only_out_that_says_it_is_writable_is_not_written(function):
    code = """
frozen = given["out"].copy()
before = frozen.tobytes()
frozen.flags.writeable = False
call(out=lying(frozen))
assert frozen.tobytes() == before
"""
    assert says(code, function) == "ValueError out must be writable, got a read-only array"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_out_that_overlaps_itself_and_denies_it_is_refused(function):
    code = "call(out=lying(np.lib.stride_tricks.as_strided(np.zeros(4 * COLS, np.float32), (ROWS, COLS), (0, 4))))"
    assert says(code, function).startswith("ValueError out must not overlap itself, got strides (0, 4)")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_arrays_that_lie_in_vain_are_used_as_they_are(function, order):
    """Nothing is wrong with these but what they say, and what is said is not asked for."""
    code = f"""
expected = function(**{{**given, "out": None}})
names = list(given)
given = {{name: lying(np.array(value, order="{order}")) for name, value in given.items()}}
call()
results, expected = (r if type(r) is tuple else (r,) for r in (results, expected))
for one, other in zip(results, expected, strict=True):
    same = one.tobytes() if type(one) is np.ndarray else np.ndarray.tobytes(one)
    assert same == other.tobytes()
"""
    assert says(code, function) == "done"


def test_a_class_that_pretends_to_be_an_array_is_none():
    for name in ("x", "weight", "out"):
        code = f"""
class Pretender:
    __class__ = np.ndarray
    dtype, shape, strides, ndim = np.dtype("f4"), (ROWS, COLS), (4 * COLS, 4), 2
call({name}=Pretender())
"""
        assert says(code).startswith("TypeError")


# Deeds


TRY_ALL = f"""
DEEDS = {DEEDS!r}
for deed, code in DEEDS.items():
    for victim in given:
        given = {{name: make() for name, make in ARGUMENTS[sys.argv[1]].items()}}
        print(victim, deed, flush=True)  # the last line of a process that ends here
        def act():
            exec(code, {{"other": given[victim], "np": np}})
        ended = attempt(act)
        assert ended in ("done", "ValueError", "TypeError"), ended
print("all")
"""


@pytest.mark.parametrize(("function", "name"), [pair for pair in PAIRS if "out" not in pair[1]])
def test_what_one_array_does_to_the_others_is_seen(function, name):
    code = f"""
def attempt(act):
    acting = Acting(given["{name}"], act)
    ended = call({name}=acting)
    assert acting.asked == 1
    return ended
"""
    assert says(code + TRY_ALL, function) == "all"


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        *[("layer_norm", argument) for argument in ("eps", "num_threads", "normalized_shape", "nested")],
        *[("layer_norm_backward", argument) for argument in ("output_mask", "num_threads", "normalized_shape")],
    ],
)
def test_what_a_number_does_to_the_arrays_is_seen(function, argument):
    make = {
        "eps": "ActingFloat(act)",
        "num_threads": "Acting(2, act)",
        "normalized_shape": "Acting(COLS, act)",
        "nested": "(Acting(COLS, act),)",
        "output_mask": "(Acting(True, act), True, True)",
    }[argument]
    code = f"""
from fastln._core import effort
effort.set_min_parallel_bytes(0)

def attempt(act):
    return call({"normalized_shape" if argument == "nested" else argument}={make})
"""
    assert says(code + TRY_ALL, function) == "all"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_a_warning_runs_is_over_before_arrays_are_read(function):
    code = """
import warnings
def show(*arguments, **options):
    given["x"].resize(1, refcheck=False)
warnings.showwarning = show
warnings.simplefilter("always")
call(weight=np.full(COLS, 1e300))
"""
    assert says(code, function).split()[0] in ("done", "ValueError")


def test_what_the_collector_runs_in_between_is_noticed():
    """Garbage with a finalizer, collected as soon as anything is allocated."""
    code = """
import gc
class Garbage:
    def __init__(self):
        self.itself = self
    def __del__(self):
        given["x"].resize(1, refcheck=False)
given["x"], strided = rows(), rows()[:, ::-1]
for threshold in range(1, 60):
    given["x"] = rows()
    gc.disable()
    Garbage()
    gc.set_threshold(threshold)
    gc.enable()
    call(out=strided)
    call()
"""
    assert says(code).split()[0] in ("done", "ValueError")


def test_num_threads_is_asked_once_and_first():
    events = []

    class Count:
        def __index__(self):
            events.append("num_threads")
            return 1

    class Rows:
        def __array__(self, dtype=None, copy=None):
            events.append("x")
            return np.ones((2, 3), np.float32)

    fastln.layer_norm(Rows(), num_threads=Count())
    assert events == ["num_threads", "x"]


# Objects


class Once:
    """An array that counts how often it is asked for."""

    def __init__(self, array):
        self.array, self.asked = array, 0

    def __array__(self, dtype=None, copy=None):
        self.asked += 1
        return self.array


def test_the_object_asks_once_for_x_and_saves_what_it_was_given():
    module = fastln.LayerNorm(5)
    x = np.linspace(0, 1, 15, dtype=np.float32).reshape(3, 5)
    once = Once(x)
    y, saved = module.forward(once)
    assert once.asked == 1
    assert_same_bits(y, module(x))
    assert saved.x is x


def test_parameters_of_an_object_that_act_are_seen():
    code = """
USES = {
    "call": lambda module, saved: module(x),
    "call with out": lambda module, saved: module(x, out=given["out"]),
    "forward": lambda module, saved: module.forward(x),
    "backward": lambda module, saved: module.backward(given["out"], saved),
}

def attempt(act):
    global x
    for use in USES.values():
        x = given["x"] = rows()
        module = fastln.LayerNorm(COLS)
        _, saved = module.forward(x)
        module.weight = Acting(parameter(), act)
        try:
            use(module, saved)
        except (TypeError, ValueError):
            pass
    return "done"
"""
    code = code.replace("x = rows()\n", 'x = given["x"] = rows()\n')
    assert says(code + TRY_ALL) == "all"
