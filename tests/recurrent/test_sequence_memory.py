"""Calls over sequences touch their results only, and take no memory that grows with the number of steps."""

from __future__ import annotations

import functools
import sys
import tracemalloc

import numpy as np
import pytest
from fences import needs_mprotect
from helpers import MALLOC, SEES_PEAKS, keeps_no_memory, output_of, run_python
from recurrent_cases import CELLS, OBJECTS, make_case

import fastln

GUARD_PAGES = r"""
import itertools, sys
import numpy as np
import fastln
from fences import Room
from helpers import assert_same_bits
from recurrent_cases import CELLS, OBJECTS, make_case

isa, dtype = sys.argv[1], np.dtype(sys.argv[2])
fastln.set_isa(isa)
rooms = {}


def place(name, array, at_end):
    room = rooms.setdefault(name, Room(1 << 18))
    return room.place(array.reshape(-1), at_end).reshape(array.shape)


def check(case, at_end, lengths):
    expected = case(lengths=lengths)
    x = place("x", case.x, at_end)
    state = tuple(place(f"state {i}", one, at_end) for i, one in enumerate(case.state))
    parameters = {name: place(name, value, at_end) for name, value in case.parameters.items()}
    y, after = case(x=x, state=state, parameters=parameters, lengths=lengths, out=place("y", expected[0], at_end))
    assert_same_bits(y.copy(), expected[0])
    network = OBJECTS[case.kind](x.shape[2], y.shape[2], norm_bias=case.kind == "rnn", dtype=dtype)
    for name in network.parameters:
        network.parameters[name] = place(name, network.parameters[name], at_end)
    (y, after), saved = network.forward(x, lengths=lengths)
    network.backward(place("dy", y, at_end), None, saved)


# Sizes around registers and panels, and batches around tiles.
sizes = [(1, 1, 1), (3, 17, 7), (16, 5, 1), (31, 32, 7), (33, 2, 1), (8, 8, 13), (65, 3, 2), (4, 259, 3)]
for cell, (hidden, inputs, batch), at_end in itertools.product(CELLS, sizes, (True, False)):
    print(cell, hidden, inputs, batch, "end" if at_end else "start", flush=True)
    case = make_case(cell, 3, batch, inputs, hidden, dtype)
    check(case, at_end, None if at_end else np.arange(batch) % 4)
print("done")
"""


@needs_mprotect
def test_nothing_is_touched_before_or_after_the_arrays(isa, dtype):
    done = run_python(GUARD_PAGES, isa, dtype)
    last = done.stdout.splitlines()[-1] if done.stdout else "the start"
    assert done.returncode == 0, f"exit status {done.returncode} at {last}\n{done.stderr[-3000:]}"
    assert last == "done"


def peak_of(call):
    """The most that was allocated at once, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cell", CELLS)
def test_memory_does_not_grow_with_the_steps(cell):
    """Beside the result, which goes where the caller wants it; of few rows, W_ih is packed as it is used."""
    peaks = []
    for steps in (200, 2000):
        case, y = make_case(cell, steps, 3, 16, 32), np.empty((steps, 3, 32), np.float32)
        peaks.append(peak_of(functools.partial(case, out=y)))
    assert peaks[1] <= peaks[0] + 4096  # of x alone 2000 steps have 384000 bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_no_allocation_that_python_does_not_see_grows_with_the_steps():
    """Of the process itself, whose largest size 40 times the steps must not move: gates of all of them are 80 MB."""
    code = """
import resource
import numpy as np
import fastln

def largest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

rng = np.random.default_rng(0)
x, y = np.zeros((2000, 40, 1), np.float32), np.zeros((2000, 40, 64), np.float32)
x[...] = rng.standard_normal(x.shape)
weights = rng.standard_normal((256, 1)), rng.standard_normal((256, 64))
fastln.layer_norm_lstm(x[:50], None, *weights, out=y[:50])
before = largest()
fastln.layer_norm_lstm(x, None, *weights, out=y)
print((largest() - before) / 1024)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np
import fastln
from internals import run_layers_back

network = fastln.LayerNormLSTM(64, 256)
x = np.random.default_rng(0).standard_normal((32, 16, 64), dtype=np.float32)
(y, state), saved = network.forward(x)


def gradients_of(dstate, dx):
    "What backward does once it has checked its arguments, into arrays that are seen from here."
    layers, settings = network._layers(x.dtype), network._settings()
    run_layers_back(saved.form.kind, layers, settings, y, dstate, saved.kept, None, dx, 1)


def refused(bytes):
    "Whether there is no memory for it, beside as many bytes as the process has."
    dstate, dx = tuple(one.copy() for one in state), np.ones_like(x)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + bytes, resource.RLIM_INFINITY))
    try:
        gradients_of(dstate, dx)
        return False
    except MemoryError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert all(np.array_equal(*pair) for pair in zip(dstate, state)) and (dx == 1).all(), bytes
    return True


step = 1 << 17
print(next(bytes for bytes in range(0, 1 << 28, step) if not refused(bytes)) // step)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
def test_gradients_for_which_there_is_no_memory_change_nothing():
    """Whichever allocation it is that fails: the process gets a little more each time, until it is enough."""
    done = run_python(SHORT_OF_MEMORY, OPENBLAS_NUM_THREADS=1, **MALLOC)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


ROOM = """
import numpy as np
import fastln
from helpers import growth_of_peak

x = np.random.default_rng(0).standard_normal((100, 32, 64), dtype=np.float32)
network = fastln.LayerNormLSTM(64, 64)
(y, state), saved = network.forward(x)
for call in (lambda: network(x), lambda: network.backward(y, state, saved)):
    call()
    print(growth_of_peak(call), growth_of_peak(lambda: [call() and None for _ in range(20)]))
"""


@pytest.mark.skipif(not SEES_PEAKS, reason="reads what Linux says of a process")
def test_room_of_a_call_is_given_back():
    for line in output_of(ROOM, **MALLOC).splitlines():
        one, twenty = map(int, line.split())
        assert twenty < one + 2048  # KiB: the room is 0.5 MiB forward, 8 MiB backward


def test_calls_and_objects_leave_nothing_behind():
    case = make_case("lstm", 3, 2, 4, 8)
    network = fastln.LayerNormGRU(4, 8, num_layers=2)

    def work():
        for _ in range(300):
            case()
            (y, state), saved = network.forward(case.x)
            network.backward(y, state, saved)
            network.freeze().step(case.x[0])
            with pytest.raises(ValueError, match=r"^x must"):
                network(case.x[..., :2])

    assert keeps_no_memory(work)


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_frozen_object_holds_a_copy(kind):
    network = OBJECTS[kind](4, 8)
    x = np.random.default_rng(0).standard_normal((5, 2, 4)).astype(np.float32)
    frozen, (before, _) = network.freeze(), network(x)
    for name in network.parameters:
        network.parameters[name] *= 1.5
    after, _ = network(x)
    assert not np.array_equal(after, before)
    assert np.array_equal(frozen(x)[0], before)
    assert np.array_equal(network.freeze()(x)[0], after)
