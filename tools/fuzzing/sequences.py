"""Cases of recurrence: a call over a sequence, its arrays anywhere in memory, and what is promised of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastln

from . import CELLS, STEP_ERROR, Array, Rng, chance, long_double_suffices, pick, step_sizes
from . import make_case as make_values
from .calls import OTHER_DTYPES, WRONG, spell
from .checks import LARGEST, bits_differ, on_isa, refusal_of, settings
from .memory import Memory, put
from .operations import FindingError

# Multiplied together: so a case takes some milliseconds, most of them in the reference.
MOST_WORK = 200_000

Results = tuple[Array, ...]  # y and the states


@dataclass
class SequenceCase:
    """A call of one of the three functions, and the settings it is made under."""

    number: int
    isa: str
    values: Any  # a Case of recurrent_cases: contiguous arrays
    lengths: Array | None
    options: dict[str, Any]
    min_parallel_bytes: int
    views: dict[str, Array] = field(default_factory=dict)
    memories: list[Memory] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)  # what stands for the views in the call
    wrong: tuple[str, Any] | None = None

    def __str__(self) -> str:
        """All that decides what happens, but the values."""
        values = self.values
        hidden = values.state[0].shape[1]
        lines = [f"{values.cell} on {self.isa}, x {values.x.shape} of {values.x.dtype}, {hidden} units"]
        for name, view in self.views.items():
            lines.append(f"  {name}: {view.dtype.str} {view.shape}, strides {view.strides}")
        lines.append(f"  {self.options}, lengths {self.lengths}, threads from {self.min_parallel_bytes} bytes on")
        if self.wrong:
            lines.append(f"  wrong on purpose: {self.wrong[0]} = {self.wrong[1]!r:.200}")
        return "\n".join(lines)

    def call(self) -> Results:
        """The call as it is."""
        return as_results(self.values(**self.given, **self.options))


def as_results(found: tuple[Array, Results]) -> Results:
    """Y and the states in one tuple."""
    return found[0], *found[1]


def make_sequence_case(seed: int, number: int) -> SequenceCase:
    """The case of a seed and a number."""
    rng = np.random.default_rng([seed, number])
    cell, dtype = pick(rng, list(CELLS)), np.dtype(pick(rng, ("float32", "float64")))
    steps, batch, inputs, hidden = make_sizes(rng)
    absent = [name for name in ("bias", "ln_ih.weight", "ln_c.bias", "ln.bias", "ln_hh.weight") if chance(rng, 0.2)]
    values = make_values(cell, steps, batch, inputs, hidden, dtype, int(rng.integers(1 << 30)), absent)
    spoil_values(rng, (values.x, *values.state))
    lengths = rng.integers(0, steps + 1, batch) if chance(rng, 0.4) else None
    options = {
        "reverse": chance(rng, 0.3),
        "eps": float(pick(rng, (1e-5, 1e-5, 1e-3, 1e-12))),
        "num_threads": pick(rng, (None, 1, 2, 3, 7)),
    }
    case = SequenceCase(
        number, pick(rng, fastln.available_isas()), values, lengths, options, pick(rng, (0, 0, 1000, 1 << 20))
    )
    place(rng, case)
    if chance(rng, 0.2):
        spoil_call(rng, case)
    return case


def make_sizes(rng: Rng) -> tuple[int, int, int, int]:
    """Steps, batch, inputs and units."""
    inputs, hidden = make_size(rng), make_size(rng)
    batch = int(pick(rng, (0, 1, 1, 2, rng.integers(1, 10), rng.integers(1, 80)), [0.04, 0.2, 0.1, 0.16, 0.3, 0.2]))
    most = max(1, MOST_WORK // (max(batch, 1) * (inputs + hidden) * hidden * 4))
    steps = 0 if chance(rng, 0.03) else int(rng.integers(1, min(most, 9) + 1))
    return steps, batch, inputs, hidden


def make_size(rng: Rng) -> int:
    """Around registers, panels and blocks of products."""
    kinds = (
        rng.integers(1, 20),
        rng.integers(1, 70),
        16 * rng.integers(1, 9) + rng.integers(-1, 2),
        rng.integers(250, 265),
    )
    return max(1, int(pick(rng, kinds, [0.4, 0.3, 0.25, 0.05])))


def spoil_values(rng: Rng, arrays: tuple[Array, ...]) -> None:
    """Sizes that are not ordinary, or a number that is not finite, in one of these."""
    array = pick(rng, arrays)
    if chance(rng, 0.2):
        array *= 10.0 ** rng.integers(-6, 7)
    if array.size and chance(rng, 0.15):
        array.reshape(-1)[rng.integers(array.size)] = pick(rng, (np.nan, np.inf, -np.inf))


def place(rng: Rng, case: SequenceCase) -> None:
    """Puts all arrays somewhere in memory, with bytes or fences around them."""
    values, steps_first = case.values, not chance(rng, 0.4)
    case.options["batch_first"] = not steps_first

    def put_one(name: str, array: Array, block: int, repeats: bool = True) -> Array:
        case.views[name] = put(rng, case.memories, array, block, repeats)
        return case.views[name]

    def in_order(array: Array) -> Array:
        return array if steps_first else array.swapaxes(0, 1)

    x = put_one("x", np.ascontiguousarray(in_order(values.x)), 1)
    values.x[...] = in_order(x)
    case.given["x"] = spell(rng, x, True, False)
    case.given["state"] = tuple(
        spell(rng, put_one(name, one, 1), True, True) for name, one in zip(("h0", "c0"), values.state, strict=False)
    )
    case.given["parameters"] = {
        name: spell(rng, put_one(name, value, 0), True, True) for name, value in values.parameters.items()
    }
    case.options["lengths"] = case.lengths
    if chance(rng, 0.6):
        y = np.zeros((*values.x.shape[:2], values.state[0].shape[1]), values.x.dtype)
        case.options["out"] = put_one("out", np.ascontiguousarray(in_order(y)), 1, False)


def spoil_call(rng: Rng, case: SequenceCase) -> None:
    """Replaces one of the arguments by a wrong one."""
    name = pick(rng, ("x", "weight_ih", "weight_hh", "eps", "num_threads", "lengths", "out", "reverse", "batch_first"))
    steps, batch = case.values.x.shape[:2]
    of_arrays = [np.zeros((3, 2, 5), pick(rng, OTHER_DTYPES)), "word", object(), np.ma.zeros((3, 2, 5)), 1.0]
    wrong = {
        "x": [*of_arrays, None, np.zeros(4, "f4"), np.zeros((2, 3, 0)), np.zeros((2, 3, 4), "f2")],
        "weight_ih": [*of_arrays, None, np.zeros((2, 2), "f8")[:, :1]],
        "weight_hh": [*of_arrays, None, np.zeros((7, 5)), np.zeros((0, 0))],
        "lengths": [
            [steps + 1] * max(batch, 1),
            [-1] * max(batch, 1),
            np.zeros(batch),
            "word",
            np.zeros(batch + 1, int),
        ],
        "out": [np.zeros((1, 1)), "word", np.zeros(3, int), np.ma.zeros(3)],
        "reverse": [None, 1, "yes", np.ones(2)],
        "batch_first": [None, 1, "yes", np.ones(2)],
    }
    if batch == 0:
        wrong["lengths"] = ["word", np.zeros(1, int)]
    value = pick(rng, wrong.get(name, WRONG.get(name, ())))
    case.wrong = name, value
    if name == "x":
        case.given["x"] = value
    elif name in ("weight_ih", "weight_hh"):
        case.given["parameters"] = {**case.given["parameters"], name: value}
    else:
        case.options[name] = value


# Checks


def run_sequence_case(case: SequenceCase) -> None:
    """Everything about a case; a FindingError if something is wrong."""
    with on_isa(case.isa):
        (run_wrong if case.wrong else run_right)(case)


def run_wrong(case: SequenceCase) -> None:
    """A call with a wrong argument says so, in one line that names it, and writes nothing."""
    name, _ = case.wrong
    # A wrong matrix may be the one that does not fit the other one, or x.
    names = {"x": "x|weight_ih", "weight_hh": "weight_hh|weight_ih|bias|h0|.*norm.*"}.get(name, name)
    with refusal_of(names), settings(case.min_parallel_bytes, None):
        case.call()
    check_memory(case, None)


def run_right(case: SequenceCase) -> None:
    """A call gives the bits of the plain one on contiguous copies, of its rows alone and of its steps one by one."""
    plain = {name: case.options[name] for name in ("reverse", "eps")} | {"num_threads": 1}
    expected = as_results(case.values(lengths=case.lengths, **plain))
    judge(case, plain)
    with settings(case.min_parallel_bytes, None):
        found = case.call()
    if case.options["batch_first"]:
        found = found[0].swapaxes(0, 1), *found[1:]
    for name, one, right in zip(("y", "h", "c"), found, expected, strict=False):
        if one.shape != right.shape or len(bits_differ(np.array(one, right.dtype, subok=False), right)):
            raise FindingError(f"{name} is not that of contiguous copies on one thread")
    check_memory(case, expected[0])
    steps, batch = case.values.x.shape[:2]
    if batch > 1:
        check_alone(case, plain, expected, case.number % batch)
    if steps > 1 and case.lengths is None and not plain["reverse"]:
        check_steps(case, plain, expected)


def check_memory(case: SequenceCase, y: Array | None) -> None:
    """No byte differs from before, but those of the elements of out."""
    for memory in case.memories:
        expected = memory.before.copy()
        out = case.views.get("out")
        if y is not None and out is not None and np.may_share_memory(out, memory.bytes):
            offset = out.ctypes.data - memory.bytes.ctypes.data
            at = np.ndarray(out.shape, out.dtype, expected, offset, out.strides)
            at[...] = np.where(np.isnan(out), out, y.swapaxes(0, 1) if case.options["batch_first"] is True else y)
        if len(np.flatnonzero(expected != memory.bytes)):
            raise FindingError("bytes of a memory are not as they should be")


def check_alone(case: SequenceCase, plain: dict[str, Any], expected: Results, row: int) -> None:
    """A sequence by itself, without the steps after its length, has the bits that it has among the others."""
    values, length = case.values, len(case.values.x) if case.lengths is None else int(case.lengths[row])
    state = tuple(one[row : row + 1] for one in values.state)
    y, states = values(x=values.x[:length, row : row + 1], state=state, **plain)
    if len(bits_differ(y, expected[0][:length, row : row + 1])):
        raise FindingError(f"sequence {row} alone has other bits than among the others")
    if any(len(bits_differ(one, among[row : row + 1])) for one, among in zip(states, expected[1:], strict=True)):
        raise FindingError(f"the state of sequence {row} alone has other bits than among the others")


def check_steps(case: SequenceCase, plain: dict[str, Any], expected: Results) -> None:
    """A cut anywhere changes no bit."""
    cut = 1 + case.number % (len(case.values.x) - 1)
    first, state = case.values(x=case.values.x[:cut], **plain)
    second, state = case.values(x=case.values.x[cut:], state=state, **plain)
    if len(bits_differ(np.concatenate([first, second]), expected[0])):
        raise FindingError(f"the steps before and after {cut} have other bits than in one call")


def judge(case: SequenceCase, plain: dict[str, Any]) -> None:
    """The error of the first step, where all numbers are finite and an eps of what is computed is little."""
    values, dtype = case.values, case.values.x.dtype
    arrays = (values.x, *values.state, *values.parameters.values())
    if not len(values.x) or not values.x.shape[1] or not long_double_suffices(dtype):
        return
    if not all(np.isfinite(array).all() for array in arrays):
        return
    one = values._replace(x=values.x[:1])
    _, found = one(**plain | {"reverse": False})
    _, expected, saved = one.exact(eps=plain["eps"])
    (sizes,) = step_sizes(one, saved)
    eps = float(np.finfo(dtype).eps)
    for name, after, right, size in zip("hc", found, expected, sizes, strict=False):
        if float(size.max()) * eps > 1e-2:  # the sizes hold to first order
            continue
        error = float((np.abs(after - right) / (STEP_ERROR * eps * size)).max())
        key = name, dtype.name
        LARGEST[key] = max(LARGEST.get(key, (0.0, 0)), (error, case.number))
        if not error <= 1:
            raise FindingError(f"the error of {name} is {error:.3g} times what ordinary steps keep")
