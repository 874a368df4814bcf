"""Cases of recurrence forward and backward: an object, its arrays anywhere in memory, and what is promised of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastln

from . import CELLS, OBJECTS, Array, Rng, chance, pick
from .calls import OTHER_DTYPES, WRONG, spell
from .checks import as_tuple, bits_differ, on_isa, refusal_of, settings
from .memory import Memory, put
from .operations import FindingError
from .sequences import check_memory, make_sizes, spoil_values

SAVED = "saved"  # the argument of `backward` that is no array


@dataclass
class SequenceGradientsCase:
    """A call of `forward`, one of `backward` with what it saved, and the settings they are made under."""

    number: int
    isa: str
    network: Any
    values: dict[str, Any]  # contiguous arrays: x, dy; tuples of them: state, dstate; lengths. Some may be None
    num_threads: int | None
    min_parallel_bytes: int
    views: dict[str, Array] = field(default_factory=dict)
    memories: list[Memory] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)  # what stands for the values in the calls
    wrong: tuple[str, Any] | None = None

    def __str__(self) -> str:
        """All that decides what happens, but the values."""
        lines = [f"gradients on {self.isa} of {self.network}"]
        for name, view in self.views.items():
            lines.append(f"  {name}: {view.dtype.str} {view.shape}, strides {view.strides}")
        absent = [name for name, value in self.values.items() if value is None]
        lines.append(f"  lengths {self.values['lengths']}, None: {absent}")
        lines.append(f"  num_threads {self.num_threads}, threads from {self.min_parallel_bytes} bytes on")
        if self.wrong:
            lines.append(f"  wrong on purpose: {self.wrong[0]} = {self.wrong[1]!r:.200}")
        return "\n".join(lines)

    def call(self) -> dict[str, Array]:
        """The calls as they are."""
        return run_both(self.network, self.given, self.num_threads)


def run_both(network: Any, given: dict[str, Any], num_threads: int | None) -> dict[str, Array]:
    """The results of both calls by name."""
    forward, backward = dict(given), {}
    for name in ("dy", "dstate", SAVED):
        if name in forward:
            backward[name] = forward.pop(name)
    (y, state), saved = network.forward(**forward, num_threads=num_threads)
    found = network.backward(**({SAVED: saved} | backward), num_threads=num_threads)
    results = {"y": y, "dx": found.dx, **found.dparameters}
    for name, states in (("state", state), ("dstate", found.dstate)):
        results |= {f"{name} {place}": one for place, one in enumerate(as_tuple(states))}
    return results


def make_sequence_gradients_case(seed: int, number: int) -> SequenceGradientsCase:
    """The case of a seed and a number."""
    rng = np.random.default_rng([seed, number])
    cell, dtype = pick(rng, list(CELLS)), np.dtype(pick(rng, ("float32", "float64")))
    steps, batch, inputs, hidden = make_sizes(rng)
    layers, directions = int(pick(rng, (1, 1, 2))), int(pick(rng, (1, 1, 2)))
    network = make_network(rng, cell, inputs, hidden, layers, directions, dtype)
    lead = (batch, steps) if network.batch_first else (steps, batch)
    own = (layers * directions, batch, hidden)
    if chance(rng, 0.1):
        lead, own = (steps,), (layers * directions, hidden)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    states = 2 if cell.startswith("lstm") else 1
    values: dict[str, Any] = {
        "x": normal(*lead, inputs),
        "state": tuple(normal(*own) for _ in range(states)),
        "lengths": rng.integers(0, steps + 1, batch) if len(lead) > 1 and chance(rng, 0.4) else None,
        "dy": normal(*lead, directions * hidden),
        "dstate": tuple(normal(*own) for _ in range(states)),
    }
    spoil_values(rng, (values["x"], values["dy"], *values["state"], *values["dstate"]))
    for name in ("state", "dy", "dstate"):
        if chance(rng, 0.15):
            values[name] = None
    threads, least = pick(rng, (None, 1, 2, 3, 7)), pick(rng, (0, 0, 1000, 1 << 20))
    case = SequenceGradientsCase(number, pick(rng, fastln.available_isas()), network, values, threads, least)
    place(rng, case)
    if chance(rng, 0.2):
        spoil_call(rng, case)
    return case


def make_network(rng: Rng, cell: str, inputs: int, hidden: int, layers: int, directions: int, dtype: np.dtype) -> Any:
    """An object whose parameters are ordinary numbers, those of norms neither all 1 nor all 0."""
    kind, options = CELLS[cell]
    network = OBJECTS[kind](
        inputs,
        hidden,
        layers,
        bias=chance(rng, 0.8),
        batch_first=chance(rng, 0.4),
        bidirectional=directions == 2,
        eps=float(pick(rng, (1e-5, 1e-5, 1e-3, 1e-12))),
        norm_bias=chance(rng, 0.5),
        dtype=dtype,
        rng=rng,
        **options,
    )
    for array in network.parameters.values():
        if array.ndim == 1:
            array += 0.3 * rng.standard_normal(array.shape)
    return network


def place(rng: Rng, case: SequenceGradientsCase) -> None:
    """Puts all arrays somewhere in memory, with bytes or fences around them."""

    def placed(name: str, array: Array) -> Any:
        case.views[name] = put(rng, case.memories, array, 1)
        return spell(rng, case.views[name], True, name != "x")

    for name, value in case.values.items():
        if value is None or name == "lengths":
            case.given[name] = value
        elif isinstance(value, tuple):
            case.given[name] = alone(tuple(placed(f"{name} {index}", one) for index, one in enumerate(value)))
        else:
            case.given[name] = placed(name, value)


def alone(states: tuple[Any, ...] | None) -> Any:
    """A state as the objects take it."""
    return states[0] if states is not None and len(states) == 1 else states


def spoil_call(rng: Rng, case: SequenceGradientsCase) -> None:
    """Replaces one of the arguments of `backward` by a wrong one, or the number of threads."""
    name = pick(rng, ("dy", "dstate", SAVED, "num_threads"))
    of_arrays = [np.zeros((3, 2, 5), pick(rng, OTHER_DTYPES)), "word", object(), np.ma.zeros((3, 2, 5)), 1.0]
    of_arrays += [np.zeros((1, *case.values["x"].shape)), np.zeros((2, 2))]
    other = fastln.LayerNormRNN(case.network.input_size + 1, 1)
    _, saved = other.forward(np.zeros((1, 1, other.input_size)))
    wrong = {"dy": of_arrays, "dstate": [*of_arrays, (), (1, 2, 3)], SAVED: [None, (), "word", object(), saved]}
    value = pick(rng, wrong.get(name, WRONG.get(name, ())))
    case.wrong = name, value
    if name == "num_threads":
        case.num_threads = value
    else:
        case.given[name] = value


# Checks


def run_sequence_gradients_case(case: SequenceGradientsCase) -> None:
    """Everything about a case; a FindingError if something is wrong."""
    with on_isa(case.isa):
        (run_wrong if case.wrong else run_right)(case)


def run_wrong(case: SequenceGradientsCase) -> None:
    """A call with a wrong argument says so, in one line that names it, and writes nothing."""
    name, _ = case.wrong
    names = {"dstate": "dstate|dh0|dc0"}.get(name, name)
    with refusal_of(names), settings(case.min_parallel_bytes, None):
        case.call()
    check_memory(case, None)


def run_right(case: SequenceGradientsCase) -> None:
    """The calls give the bits of plain ones on contiguous copies and one thread, and touch nothing else."""
    plain = {name: alone(value) if isinstance(value, tuple) else value for name, value in case.values.items()}
    expected = run_both(case.network, plain, 1)
    with settings(case.min_parallel_bytes, None):
        found = case.call()
    if list(found) != list(expected):
        raise FindingError(f"the results are {list(found)} instead of {list(expected)}")
    for name, right in expected.items():
        one = found[name]
        if one.shape != right.shape or one.dtype != right.dtype or len(bits_differ(one, right)):
            raise FindingError(f"{name} is not that of contiguous copies on one thread")
    check_memory(case, None)
