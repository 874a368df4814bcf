"""Timing: contenders of a cell take turns, round by round, in random order.

Warm: a sample is a batch of calls of about SAMPLE_SECONDS, after calls that are not timed, so data are in the nearest
cache that holds them. Cold: a sample is one call after more than the last level cache has been read, on all threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from timeit import Timer

import numpy as np

from ..grid.arrays import Prepared

SAMPLE_SECONDS = 5e-4

# The share of a batch that is repeated before it, untimed.
WARM_UP = 0.25

# Threads of OpenMP and of other pools look for work for a while before they sleep, on CPUs that the next contender
# needs. __main__.py limits that of OpenMP to about 1 ms; by then those of the others sleep too.
SETTLE_SECONDS = 2e-3

# Who takes so many times as long as the subject sits out after a few rounds of a visit: the ratio is clear, the rounds
# are dear. After the first if a call takes DEAR_SECONDS; such a call needs no warm-up either, no cache holds its data.
CLEARLY_SLOWER, FEW_ROUNDS, DEAR_SECONDS = 4.0, 3, 0.1

# The shares of a visit that rounds may take when time runs short; preparing and checking take the rest.
WARM_SHARE, COLD_SHARE = 0.4, 0.25

# The eviction reads so many times the last level cache.
EVICTED_CACHES = 2
SMALLEST_EVICTION = 2**25


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    rounds, cold_rounds : int
        In each visit to a cell.
    seconds, cold_seconds : float
        The rounds of a visit end early after so long, but not before FEW_ROUNDS.
    total_seconds : float
        What a run is to take; where preparing takes long, the time for rounds shrinks.
    visits : int
        To each cell.
    """

    rounds: int
    cold_rounds: int
    seconds: float
    cold_seconds: float
    total_seconds: float
    visits: int = 3

    def within(self, seconds: float) -> Effort:
        """The same, for a visit that is to take so long with preparing."""
        rounds = min(self.seconds, WARM_SHARE * seconds)
        return replace(self, seconds=rounds, cold_seconds=min(self.cold_seconds, COLD_SHARE * seconds))


@dataclass
class Samples:
    """Seconds of a call in each round, by contender; NaN where it sat out."""

    warm: dict[str, list[float]] = field(default_factory=dict)
    cold: dict[str, list[float]] = field(default_factory=dict)


class Evictor:
    """Empties the caches of all CPUs that the threads may use, by reading other memory."""

    def __init__(self, cache_bytes: int, threads: int):
        size = max(EVICTED_CACHES * cache_bytes, SMALLEST_EVICTION) // 8
        self.parts = np.array_split(np.ones(size), threads)
        self.pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def __call__(self) -> None:
        """Read everything once, each thread its part."""
        futures = [self.pool.submit(part.sum) for part in self.parts[1:]] if self.pool else []
        self.parts[0].sum()
        for future in futures:
            future.result()


def calibrate(prepared: Prepared) -> tuple[int, int]:
    """The number of calls that take SAMPLE_SECONDS, and how many to do before them."""
    number, timer = 1, Timer(prepared.call)
    with prepared.within():
        while (seconds := timer.timeit(number)) < SAMPLE_SECONDS / 2:
            number = min(10 * number, int(number * SAMPLE_SECONDS / max(seconds, 1e-9)) + 1)
    if seconds > DEAR_SECONDS:
        return 1, 0
    number = max(1, round(number * SAMPLE_SECONDS / seconds))
    return number, max(1, int(WARM_UP * number))


def measure(
    calls: Mapping[str, Prepared],
    effort: Effort,
    rng: np.random.Generator,
    evict: Callable[[], None] | None,
    settle: bool,
    subject: str,
) -> Samples:
    """One visit to a cell.

    Parameters
    ----------
    calls : mapping
        Name -> what to time, and within what.
    effort : Effort
        The number of rounds and the time limit.
    rng : Generator
        For the order in each round.
    evict : callable or None
        Empties the caches; None: cold calls are not timed.
    settle : bool
        Wait before each sample until the threads of others sleep.
    subject : str
        Whom the others are compared with: the one who is clearly faster than those who sit out.
    """
    timers = {name: Timer(prepared.call) for name, prepared in calls.items()}
    numbers = {name: calibrate(prepared) for name, prepared in calls.items()}

    def warm(name: str) -> float:
        if settle:
            time.sleep(SETTLE_SECONDS)
        number, before = numbers[name]
        with calls[name].within():
            timers[name].timeit(before)
            return timers[name].timeit(number) / number

    def cold(name: str) -> float:
        evict()
        if settle:
            time.sleep(SETTLE_SECONDS)
        with calls[name].within():
            return timers[name].timeit(1)

    samples = Samples(warm=take_turns(list(calls), warm, subject, effort.rounds, effort.seconds, rng))
    if evict is not None:
        samples.cold = take_turns(list(calls), cold, subject, effort.cold_rounds, effort.cold_seconds, rng)
    return samples


def take_turns(
    names: list[str],
    sample: Callable[[str], float],
    subject: str,
    rounds: int,
    seconds: float,
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    """Samples of each name, one a round, in an order that is random in each round.

    Ends early after `seconds`, with FEW_ROUNDS at least; with one, if that has taken twice as long.
    """
    times: dict[str, list[float]] = {name: [] for name in names}
    deadline = time.monotonic() + seconds
    for done in range(rounds):
        late = time.monotonic() - deadline
        if late > (0 if done >= FEW_ROUNDS else seconds) and done:
            break
        dear = DEAR_SECONDS if done < FEW_ROUNDS else 0.0
        taking_part = set(without_clearly_slower(times, subject, dear) if done else names)
        order = rng.permutation(len(names))
        for name in (names[i] for i in order):
            times[name].append(sample(name) if name in taking_part else float("nan"))
    return times


def without_clearly_slower(times: Mapping[str, list[float]], subject: str, dear: float) -> list[str]:
    """Who takes less than `dear` seconds, or is not clearly slower than the subject.

    If the subject has been refused, the fastest stands for it.
    """
    medians = {name: float(np.nanmedian(values)) for name, values in times.items()}
    limit = max(dear, CLEARLY_SLOWER * medians.get(subject, min(medians.values())))
    return [name for name, median in medians.items() if median <= limit]
