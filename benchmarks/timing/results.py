"""The results of a run: as they are measured, and what they come to, cell by cell and over all cells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..contenders import PEER, SUBJECT
from ..grid.cells import OFFSETS, Cell
from ..grid.regimes import regime
from .intervals import EVEN, FASTER, SLOWER, Ratio, geometric_mean, paired_ratio, time_with_interval
from .measure import Samples
from .pauses import AfterPause

WARM, COLD = CACHES = ("warm", "cold")

# What fastln is compared with in means: the fastest peer of each cell, and contenders by name.
BEST_PEER = "best peer"
OVER = (BEST_PEER, "PyTorch", "NumPy", "oneDNN", "copy")


class Timing(NamedTuple):
    """What the rounds of a contender came to: its time in seconds, over how many rounds, and over fastln's time.

    `speed_up` is None where fastln took part in none of them.
    """

    seconds: Ratio
    rounds: int
    speed_up: Ratio | None


@dataclass
class Entry:
    """What one contender did in one cell: its largest error, what its times came to, or why there are none."""

    kind: str
    error: float | None = None
    refused: str | None = None
    warm: Timing | None = None
    cold: Timing | None = None

    def timing(self, cache: str) -> Timing | None:
        """Warm or cold."""
        return getattr(self, cache)

    def seconds(self, cache: str) -> float:
        """The median, or NaN."""
        timing = self.timing(cache)
        return timing.seconds.value if timing else math.nan


@dataclass
class CellResult:
    """All contenders of a cell by name; and while it is being measured, every time: cache -> name -> visits."""

    cell: Cell
    visits: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    skipped: str | None = None
    times: dict[str, dict[str, list[list[float]]]] = field(default_factory=lambda: {cache: {} for cache in CACHES})

    def add(self, samples: Samples) -> None:
        """Append the times of a visit, in more digits than are steady, and sum up."""
        for cache in CACHES:
            found = getattr(samples, cache)
            for name in self.entries:
                times = [float(f"{t:.5g}") for t in found.get(name, [])]
                self.times[cache].setdefault(name, []).append(times)
        self.visits += 1
        self.sum_up()

    def sum_up(self) -> None:
        """Medians and intervals of the times so far."""
        subject = next((name for name, entry in self.entries.items() if entry.kind == SUBJECT), None)
        for cache in CACHES:
            own = as_rounds(self.times[cache].get(subject, []))
            for name, entry in self.entries.items():
                setattr(entry, cache, _timing(as_rounds(self.times[cache].get(name, [])), own))

    def named(self, kind: str) -> list[str]:
        """The contenders of a kind that have been timed."""
        return [name for name, entry in self.entries.items() if entry.kind == kind and entry.warm]

    def timed(self, cache: str) -> bool:
        """Whether there is anything to show."""
        return bool(self.named(SUBJECT)) and not math.isnan(self.seconds(self.named(SUBJECT)[0], cache))

    def seconds(self, name: str, cache: str) -> float:
        """The median time of a contender."""
        return self.entries[name].seconds(cache)

    def best_peer(self, cache: str) -> str | None:
        """The fastest of the peers."""
        peers = [name for name in self.named(PEER) if not math.isnan(self.seconds(name, cache))]
        return min(peers, key=lambda name: self.seconds(name, cache), default=None)

    def speed_up(self, over: str | None, cache: str) -> Ratio | None:
        """The time of a contender divided by fastln's: above 1, fastln is faster."""
        entry = self.entries.get(over) if over else None
        timing = entry.timing(cache) if entry else None
        return timing.speed_up if timing else None


def as_rounds(visits: list[list[float]]) -> np.ndarray:
    """Seconds, (visits, rounds), NaN where it sat out."""
    times = np.full((len(visits), max(map(len, visits), default=0)), np.nan)
    for row, visit in zip(times, visits, strict=True):
        row[: len(visit)] = visit
    return times


def _timing(times: np.ndarray, own: np.ndarray) -> Timing | None:
    """What the times of a contender and of fastln come to, in more digits than are steady."""
    found = time_with_interval(times)
    if found is None:
        return None
    speed_up = paired_ratio(times, own)
    return Timing(_rounded(found), int(np.isfinite(times).sum()), _rounded(speed_up) if speed_up else None)


def _rounded(ratio: Ratio) -> Ratio:
    return Ratio(*(float(f"{value:.5g}") for value in ratio))


@dataclass
class Results:
    """A run."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    libraries: dict[str, Any]
    command: str = ""
    started: str = ""
    seconds: float = 0.0
    complete: bool = False
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    cells: list[CellResult] = field(default_factory=list)
    # Contender -> {mean/std: largest error}; see sweep.py.
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    pauses: list[AfterPause] = field(default_factory=list)

    def of(self, cell: Cell) -> CellResult:
        """The result of a cell, new if there is none."""
        for result in self.cells:
            if result.cell == cell:
                return result
        self.cells.append(CellResult(cell))
        return self.cells[-1]

    def timed(self, cache: str = WARM) -> list[CellResult]:
        """The cells in which fastln has been timed."""
        return [result for result in self.cells if result.timed(cache)]

    def offsets(self) -> list[int]:
        """Where the arrays of cells begin, NumPy's place first."""
        found = {result.cell.offset for result in self.timed()}
        return [offset for offset in OFFSETS if offset in found]

    def standard(self) -> list[CellResult]:
        """The cells in which fastln has been timed on arrays where NumPy places them, or where all of them are."""
        first = self.offsets()[:1]
        return [result for result in self.timed() if result.cell.offset in first]

    def names(self) -> list[str]:
        """Every contender that has been timed anywhere, in the order of the registry."""
        return list(dict.fromkeys(name for result in self.timed() for name in result.entries))

    def refusals(self) -> dict[str, list[str]]:
        """`contender: reason` -> the cells in which it was so."""
        found: dict[str, list[str]] = {}
        for result in self.cells:
            for name, entry in result.entries.items():
                if entry.refused:
                    found.setdefault(f"{name}: {entry.refused}", []).append(str(result.cell))
        return found


@dataclass(frozen=True)
class Mean:
    """A geometric mean of speed-ups over the cells of a regime, and how many of them were wins, draws and losses."""

    over: str
    cache: str
    operation: str
    kind: str
    offset: int
    regime: str
    value: float
    cells: int
    faster: int
    even: int
    slower: int


def means(results: Results) -> list[Mean]:
    """Over OVER, for each kind of dtype, place of the arrays, operation and regime, warm and cold."""
    found: dict[tuple[Any, ...], list[Ratio]] = {}
    for cache in CACHES:
        for result in results.timed(cache):
            cell = result.cell
            where = cache, cell.operation, cell.kind, cell.offset, regime(cell, results.machine)
            for over in OVER:
                if ratio := result.speed_up(result.best_peer(cache) if over == BEST_PEER else over, cache):
                    found.setdefault((over, *where), []).append(ratio)
    return [_mean(where, ratios) for where, ratios in found.items()]


def _mean(where: tuple[Any, ...], ratios: list[Ratio]) -> Mean:
    verdicts = [ratio.verdict for ratio in ratios]
    counts = (verdicts.count(verdict) for verdict in (FASTER, EVEN, SLOWER))
    return Mean(*where, geometric_mean(ratio.value for ratio in ratios), len(ratios), *counts)
