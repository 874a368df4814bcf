"""Calls after a pause: what one call costs when the process has slept, and the threads of its pool sleep too.

A benchmark that calls in a loop never sees it: there the threads still look for work when the next call begins.
Programs that wait between calls, for a request or a token, see little else. So the process sleeps, one call is timed,
and the contenders and their numbers of threads take turns. This is done in a process of its own, in which OpenMP's
threads spin after their work for as long as they do for everybody (see SPIN_COUNT), with no other libraries loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import SPIN_COUNT
from ..contenders import CONTENDERS, RefusedError
from ..grid.arrays import make_arrays
from ..grid.cells import Cell
from ..operations import LAYER_NORM, LAYER_NORM_BACKWARD, OPERATIONS

CONTENDERS_TIMED = ("fastln", "PyTorch")
DTYPE = "float32"
REPEATS = 15  # unless said otherwise


class Pause(NamedTuple):
    """What is done after a pause of so many seconds, and how many times for each contender and number of threads."""

    operation: str
    rows: int
    cols: int
    seconds: float
    repeats: int

    def __str__(self) -> str:
        """In words."""
        return f"{OPERATIONS[self.operation].title} {self.rows}x{self.cols} after {self.seconds:g} s"


def _grid(operations: Sequence[str], shapes: Sequence[tuple[int, int]], repeats: Mapping[float, int]) -> list[Pause]:
    return [Pause(o, *shape, *pause) for o in operations for shape in shapes for pause in repeats.items()]


BOTH = LAYER_NORM, LAYER_NORM_BACKWARD  # of all operations: they wake the threads of the others too

# Arrays of 1 to 64 MiB. What takes long is done a few times only, with the largest arrays still fewer, and pauses of a
# second come before two of the shapes: all of it takes less than three minutes.
PAUSES = {
    "quick": _grid([LAYER_NORM], [(1024, 768)], {0.1: REPEATS}),
    "standard": _grid([LAYER_NORM], [(1024, 768), (4096, 1024)], {0.1: REPEATS}),
    "full": [
        *_grid(BOTH, [(256, 1024), (1024, 768), (4096, 1024)], {0.002: 40, 0.02: 25, 0.1: REPEATS}),
        *_grid(BOTH, [(8192, 2048)], {0.002: 20, 0.02: 15, 0.1: 10}),
        *_grid(BOTH, [(1024, 768), (4096, 1024)], {1.0: 5}),
    ],
}


@dataclass(frozen=True)
class AfterPause:
    """What the calls of one contender on so many threads came to: seconds, median and 90th percentile."""

    operation: str
    rows: int
    cols: int
    pause: float
    contender: str
    threads: int
    repeats: int
    median: float
    percentile_90: float


class PausesError(Exception):
    """Why calls after pauses could not be timed, in one line."""


def median_and_90th(seconds: Sequence[float]) -> tuple[float, float]:
    """The median, and the smallest time that nine in ten calls do not exceed: one that occurred."""
    return float(np.median(seconds)), float(np.quantile(seconds, 0.9, method="inverted_cdf"))


def time_after_pauses(
    calls: Mapping[Hashable, tuple[Callable[[], object], Callable[[], object]]],
    pause: Pause,
    rng: np.random.Generator,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Hashable, list[float]]:
    """Seconds of each call after each of its pauses, the calls taking turns in random order.

    calls: what is done before the pause, untimed, and the call after it.
    """
    times: dict[Hashable, list[float]] = {key: [] for key in calls}
    keys = list(calls)
    for _ in range(pause.repeats):
        for key in (keys[i] for i in rng.permutation(len(keys))):
            before, call = calls[key]
            before()
            sleep(pause.seconds)
            start = clock()
            call()
            times[key].append(clock() - start)
    return times


def measure_in_a_process(
    pauses: Sequence[Pause], names: Sequence[str], threads: Sequence[int], seed: int
) -> Iterator[list[AfterPause]]:
    """What came out after each of the pauses, as soon as it is there.

    Raises
    ------
    PausesError
        If the process ended early.
    """
    work = {"pauses": pauses, "names": [n for n in names if n in CONTENDERS_TIMED], "threads": threads, "seed": seed}
    environment = {name: value for name, value in os.environ.items() if (name, value) != ("GOMP_SPINCOUNT", SPIN_COUNT)}
    command = [sys.executable, "-m", __name__, json.dumps(work)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root) as process:
        try:
            for line in process.stdout:
                yield [AfterPause(**found) for found in json.loads(line)]
        except BaseException:  # Ctrl-C, or nobody wants the rest
            process.kill()
            raise
    if process.returncode:
        raise PausesError(f"calls after pauses: their process ended with status {process.returncode}")


def _measure(pause: Pause, names: Sequence[str], threads: Sequence[int], rng: np.random.Generator) -> list[AfterPause]:
    contenders = [contender for contender in CONTENDERS if contender.name in names and not contender.missing()]
    cell = Cell(pause.operation, pause.rows, pause.cols, DTYPE, max(threads))
    arrays = make_arrays(cell)

    def set_threads(count: int) -> None:
        for contender in contenders:  # of all of them: where they share a runtime it has one limit for all
            contender.set_threads(count)

    calls = {}
    for contender in contenders:
        try:
            call = contender.prepare(arrays).call
        except RefusedError:  # it has been named, with its reason, in the cells
            continue
        for count in threads:
            set_threads(count)
            call()  # what is made at the first call is not timed
            calls[contender.name, count] = partial(set_threads, count), call
    times = time_after_pauses(calls, pause, rng)
    where = pause.operation, pause.rows, pause.cols, pause.seconds
    return [AfterPause(*where, *key, pause.repeats, *median_and_90th(found)) for key, found in times.items()]


def main() -> int:
    """Time what the command line asks for, as measure_in_a_process calls it: a line of JSON for each pause."""
    work = json.loads(sys.argv[1])
    rng = np.random.default_rng(work["seed"])
    try:
        for pause in work["pauses"]:
            found = _measure(Pause(*pause), work["names"], work["threads"], rng)
            print(json.dumps([asdict(result) for result in found]), flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
