"""layer_norm_backward touches its arrays only: not the bytes around them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fences import needs_mprotect
from helpers import DTYPES, EDGE_COLS, run_python
from reference import make_parameters, make_rows

import fastln

SENTINEL = 0xA5

GUARD_PAGES = r"""
import itertools, sys
import numpy as np
import fastln
from fences import Room
from reference import make_parameters, make_rows

MASKS = list(itertools.product((True, False), repeat=3))
rooms = {name: Room(33 * 140 * 8) for name in ("dy", "x", "mean", "rstd", "weight", "out")}


def check(rows, gap, cols, weighted, at_end, turn):
    x, dy = make_rows("mean 10", rows, cols, dtype), make_rows("normal", rows, cols, dtype)
    _, mean, rstd = fastln.layer_norm_forward(x)
    arguments = {"dy": dy, "x": x, "mean": mean, "rstd": rstd}
    if weighted:
        arguments["weight"] = make_parameters(cols, dtype)[0]
    expected = [one.tobytes() for one in fastln.layer_norm_backward(**arguments)]
    gaps = {"dy": gap, "x": gap}
    fenced = {name: rooms[name].place(a, at_end, gaps.get(name, 0)) for name, a in arguments.items()}
    out = rooms["out"].place(np.zeros_like(x), at_end, gap)
    mask = MASKS[turn % len(MASKS)]  # masks take turns: what is masked off need not be read
    for options in ({}, {"output_mask": mask}, {"out": out}, {"out": fenced[("dy", "x")[turn % 2]]}):
        found = fastln.layer_norm_backward(**fenced, **options)
        for one, other in zip(found, expected):
            assert one is None or one.tobytes() == other, options


isa, dtype = sys.argv[1], np.dtype(sys.argv[2])
fastln.set_isa(isa)
if sys.argv[3:] == ["touch the fence"]:
    rooms["dy"].touch_the_fence()
for rows, gap in ((1, 0), (2, 0), (5, 0), (8, 0), (33, 0), (3, 7)):
    for turn, (cols, weighted, at_end) in enumerate(itertools.product(range(1, 131), (True, False), (True, False))):
        print(f"rows={rows} gap={gap} D={cols} weight={weighted} {'end' if at_end else 'start'}", flush=True)
        check(rows, gap, cols, weighted, at_end, turn)
print("done")
"""


@needs_mprotect
@pytest.mark.parametrize("dtype_name", DTYPES)
def test_nothing_is_touched_before_or_after_the_arrays(isa, dtype_name):
    done = run_python(GUARD_PAGES, isa, dtype_name)
    last = done.stdout.splitlines()[-1] if done.stdout else "the start"
    assert done.returncode == 0, f"exit status {done.returncode} at {last}\n{done.stderr[-3000:]}"
    assert last == "done"


@needs_mprotect
def test_the_guard_pages_do_guard():
    done = run_python(GUARD_PAGES, fastln.get_isa(), "float32", "touch the fence")
    assert done.returncode < 0, "reading the fence must end the process by a signal"


@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "plain"])
@pytest.mark.parametrize("gap", [0, 1, 9])
def test_bytes_around_out_stay_as_they_are(gap, weighted, dtype, isa, always_parallel):
    for rows, cols in itertools.product((7, 33), EDGE_COLS):
        x, dy = make_rows("mean 10", rows, cols, dtype), make_rows("normal", rows, cols, dtype)
        _, mean, rstd = fastln.layer_norm_forward(x)
        weight = make_parameters(cols, dtype)[0] if weighted else None
        buffer = np.full((rows + 2, cols + gap + 2), 0, dtype)
        buffer.view(np.uint8)[...] = SENTINEL
        untouched = np.ones(buffer.shape, bool)
        untouched[1:-1, 1 : 1 + cols] = False
        fastln.layer_norm_backward(dy, x, mean, rstd, weight, out=buffer[1:-1, 1 : 1 + cols], num_threads=3)
        assert (np.ascontiguousarray(buffer[untouched]).view(np.uint8) == SENTINEL).all(), f"rows={rows}, D={cols}"


def test_subnormal_numbers_are_not_flushed(dtype, isa):
    # Gradients of rows of +1 and -1 by a subnormal dy, of which rstd is nearly 1 and dweight the sum.
    tiny = float(np.finfo(dtype).tiny)
    x = np.tile(np.array([1, -1], dtype), (8, 32))
    dy = np.where(np.arange(64) % 3 == 0, tiny / 8, 0).astype(dtype) * np.ones((8, 1), dtype)
    _, mean, rstd = fastln.layer_norm_forward(x)
    dx, dweight, dbias = fastln.layer_norm_backward(dy, x, mean, rstd)
    touched = np.arange(64) % 3 == 0
    assert (np.abs(dx) > tiny / 1000).all()
    for gradient in (np.abs(dweight), dbias):
        np.testing.assert_allclose(gradient[touched] / tiny, 1, rtol=1e-4)
        assert (gradient[~touched] == 0).all()
