"""The results of a run: as they are measured, as JSON, and what they come to, cell by cell and over all cells."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..contenders import PEER, SUBJECT
from ..grid.cells import OFFSETS, Cell
from ..grid.regimes import regime
from ..operations import find_operation
from .intervals import EVEN, FASTER, SLOWER, Ratio, geometric_mean, paired_ratio, time_with_interval
from .measure import Samples
from .pauses import AfterPause

# What a run came to, to be kept; and beside it every single time, which --resume goes on from.
FORMAT = 2
FILE, TIMES_FILE = "results.json", "times.json"
WARM, COLD = CACHES = ("warm", "cold")

# What fastln is compared with in means: the fastest peer of each cell, and contenders by name.
BEST_PEER = "best peer"
OVER = (BEST_PEER, "PyTorch", "NumPy", "oneDNN", "copy")


class ResultsError(Exception):
    """A file that holds no results, in one line."""


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

    def save(self, folder: Path) -> Path:
        """Write results.json, whole or not at all."""
        return _write(folder / FILE, _lines(_to_json(self)))

    def save_times(self, folder: Path) -> Path:
        """Write every single time, whole or not at all."""
        times = [[result.cell.to_json(), result.times] for result in self.cells]
        return _write(folder / TIMES_FILE, json.dumps({"format": FORMAT, "times": times}))  # with NaN, for Python alone


def load(path: Path) -> Results:
    """Read what `save` wrote, from the file or from its folder.

    Raises
    ------
    ResultsError
        If there is no such file, or it holds something else.
    """
    path = path / FILE if path.is_dir() else path
    found = _read(path)
    try:
        cells = [_cell_from_json(cell) for cell in found.pop("cells")]
        found.pop("means")  # they follow from the rest
        pauses = [AfterPause(**_renamed(pause)) for pause in found.pop("pauses")]
        for curve in found["errors"].values():
            curve.update({ratio: _number(error) for ratio, error in curve.items()})
        return Results(**found, cells=cells, pauses=pauses)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} must hold results of this benchmark, got {error}") from error


def load_with_times(folder: Path) -> Results:
    """Read what `save` and `save_times` wrote, to go on with.

    Raises
    ------
    ResultsError
        If there are no such files, or they hold something else.
    """
    results = load(folder)
    found = _read(folder / TIMES_FILE)
    try:
        times = {Cell(**_renamed(cell)): times for cell, times in found["times"]}
        for result in results.cells:
            result.times = times[result.cell]
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{folder / TIMES_FILE} must hold the times of {FILE}, got {error}") from error
    return results


def _read(path: Path) -> dict[str, Any]:
    """What a file holds, without its format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ResultsError(f"{path} must hold JSON, got {error}") from error
    if not isinstance(found, dict) or "format" not in found:
        raise ResultsError(f"{path} must hold results of this benchmark, got something else")
    if (version := found.pop("format")) != FORMAT:
        raise ResultsError(f"{path} must hold results of format {FORMAT} of this benchmark, got format {version}")
    return found


def _write(path: Path, text: str) -> Path:
    beside = path.with_suffix(".json.part")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)
    return path


def _lines(value: Any, depth: int = 0) -> str:
    """JSON, down to a contender of a cell on lines of their own."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if depth == 4 or not any(isinstance(child, dict | list) for child in children):
        return json.dumps(value, allow_nan=False)
    indent = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        inner = f",{indent}".join(f"{json.dumps(name)}: {_lines(child, depth + 1)}" for name, child in value.items())
        return f"{{{indent}{inner}{indent[:-1]}}}"
    return f"[{indent}{f',{indent}'.join(_lines(child, depth + 1) for child in value)}{indent[:-1]}]"


def _to_json(results: Results) -> dict[str, Any]:
    found = {name: value for name, value in vars(results).items() if name != "cells"}
    cells = [
        {
            "cell": result.cell.to_json(),
            "bytes_moved": result.cell.bytes_moved,
            "regime": regime(result.cell, results.machine),
            "visits": result.visits,
            "skipped": result.skipped,
            "contenders": {name: _entry_to_json(entry) for name, entry in result.entries.items()},
        }
        for result in results.cells
    ]
    return {"format": FORMAT, **found, "means": [asdict(mean) for mean in means(results)], "cells": cells} | {
        "errors": {name: {k: _finite(v) for k, v in curve.items()} for name, curve in results.errors.items()},
        "pauses": [asdict(pause) for pause in results.pauses],
    }


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    found = vars(entry) | {"error": _finite(entry.error)}
    return found | {cache: timing._asdict() if (timing := entry.timing(cache)) else None for cache in CACHES}


def _finite(value: float | None) -> float | str | None:
    """JSON has no NaN, and no infinity."""
    if value is None or math.isnan(value):
        return None
    return "infinite" if math.isinf(value) else value


def _number(value: float | str | None) -> float:
    return math.nan if value is None else math.inf if value == "infinite" else float(value)


def _cell_from_json(found: dict[str, Any]) -> CellResult:
    entries = {}
    for name, entry in found["contenders"].items():
        timings = {cache: _timing_from_json(entry[cache]) for cache in CACHES}
        error = None if entry["error"] is None else _number(entry["error"])
        entries[name] = Entry(**entry | timings | {"error": error})
    return CellResult(Cell(**_renamed(found["cell"])), found["visits"], entries, found["skipped"])


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    """With the operation under its name: files that were written before it had one have its title."""
    return found | {"operation": find_operation(found["operation"]).name}


def _timing_from_json(found: dict[str, Any] | None) -> Timing | None:
    if found is None:
        return None
    ratios = {name: Ratio(*found[name]) if found[name] else None for name in ("seconds", "speed_up")}
    return Timing(**found | ratios)


@dataclass(frozen=True)
class Mean:
    """A geometric mean of speed-ups over the cells of a regime, and how many of them were wins, draws and losses."""

    over: str
    cache: str
    operation: str
    offset: int
    regime: str
    value: float
    cells: int
    faster: int
    even: int
    slower: int


def means(results: Results) -> list[Mean]:
    """Over OVER, for each place of the arrays, operation and regime, warm and cold."""
    found: dict[tuple[Any, ...], list[Ratio]] = {}
    for cache in CACHES:
        for result in results.timed(cache):
            where = cache, result.cell.operation, result.cell.offset, regime(result.cell, results.machine)
            for over in OVER:
                if ratio := result.speed_up(result.best_peer(cache) if over == BEST_PEER else over, cache):
                    found.setdefault((over, *where), []).append(ratio)
    return [_mean(where, ratios) for where, ratios in found.items()]


def _mean(where: tuple[Any, ...], ratios: list[Ratio]) -> Mean:
    verdicts = [ratio.verdict for ratio in ratios]
    counts = (verdicts.count(verdict) for verdict in (FASTER, EVEN, SLOWER))
    return Mean(*where, geometric_mean(ratio.value for ratio in ratios), len(ratios), *counts)
