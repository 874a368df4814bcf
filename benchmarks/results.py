"""The results of a run: as they are measured, as JSON, and what they come to, cell by cell and over all cells."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .cells import Cell
from .contenders import FLOOR, PEER, SUBJECT
from .intervals import EVEN, FASTER, SLOWER, Ratio, geometric_mean, median_time, paired_ratio
from .measure import Samples

FORMAT = 1
FILE = "results.json"
WARM, COLD = CACHES = ("warm", "cold")


class ResultsError(Exception):
    """A file that holds no results, in one line."""


@dataclass
class Entry:
    """What one contender did in one cell: its largest error, its times by visit and round, or why there are none."""

    kind: str
    error: float | None = None
    refused: str | None = None
    warm: list[list[float]] = field(default_factory=list)
    cold: list[list[float]] = field(default_factory=list)

    def times(self, cache: str) -> np.ndarray:
        """Seconds, (visits, rounds), NaN where it sat out."""
        visits = getattr(self, cache)
        times = np.full((len(visits), max(map(len, visits), default=0)), np.nan)
        for row, visit in zip(times, visits, strict=True):
            row[: len(visit)] = visit
        return times

    def seconds(self, cache: str) -> float:
        """The median, or NaN."""
        return median_time(self.times(cache))


@dataclass
class CellResult:
    """All contenders of a cell by name."""

    cell: Cell
    visits: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    skipped: str | None = None

    def add(self, samples: Samples) -> None:
        """Append the times of a visit, in more digits than are steady."""
        for name, entry in self.entries.items():
            for cache in CACHES:
                getattr(entry, cache).append([float(f"{t:.5g}") for t in getattr(samples, cache).get(name, [])])
        self.visits += 1

    def named(self, kind: str) -> list[str]:
        """The contenders of a kind that have been timed."""
        return [name for name, entry in self.entries.items() if entry.kind == kind and any(map(len, entry.warm))]

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
        subjects = self.named(SUBJECT)
        if over not in self.entries or not subjects:
            return None
        return paired_ratio(*(self.entries[name].times(cache) for name in (over, subjects[0])))


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
        path = folder / FILE
        beside = path.with_suffix(".json.part")
        text = json.dumps(_to_json(self), indent=1, allow_nan=False)
        text = re.sub(r"\[[^][{}]*\]", lambda plain: " ".join(plain[0].split()), text)  # a list of numbers on a line
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)
        return path


def load(path: Path) -> Results:
    """Read what `save` wrote, from the file or from its folder.

    Raises
    ------
    ResultsError
        If there is no such file, or it holds something else.
    """
    path = path / FILE if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ResultsError(f"{path} must hold JSON, got {error}") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ResultsError(f"{path} must hold results of format {FORMAT} of this benchmark, got something else")
    try:
        cells = [_cell_from_json(cell) for cell in found.pop("cells")]
        found.pop("means")  # they follow from the rest
        for curve in found["errors"].values():
            curve.update({ratio: _number(error) for ratio, error in curve.items()})
        return Results(**found, cells=cells)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} must hold results of this benchmark, got {error}") from error


def _to_json(results: Results) -> dict[str, Any]:
    found = {name: value for name, value in vars(results).items() if name != "cells"}
    cells = [
        {
            **result.cell.to_json(),
            "bytes_moved": result.cell.bytes_moved,
            "visits": result.visits,
            "skipped": result.skipped,
            "contenders": {name: _entry_to_json(entry) for name, entry in result.entries.items()},
        }
        for result in results.cells
    ]
    return {"format": FORMAT, **found, "means": [asdict(mean) for mean in means(results)], "cells": cells} | {
        "errors": {name: {k: _finite(v) for k, v in curve.items()} for name, curve in results.errors.items()}
    }


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    found = asdict(entry) | {"error": _finite(entry.error)}
    for cache in CACHES:
        found[cache] = [[_finite(t) for t in visit] for visit in getattr(entry, cache)]
    return found


def _finite(value: float | None) -> float | str | None:
    """JSON has no NaN, and no infinity."""
    if value is None or math.isnan(value):
        return None
    return "infinite" if math.isinf(value) else value


def _number(value: float | str | None) -> float:
    return math.nan if value is None else math.inf if value == "infinite" else float(value)


def _cell_from_json(found: dict[str, Any]) -> CellResult:
    cell = Cell(**{name: found[name] for name in Cell.__dataclass_fields__})
    entries = {}
    for name, entry in found["contenders"].items():
        times = {cache: [[_number(t) for t in visit] for visit in entry[cache]] for cache in CACHES}
        error = None if entry["error"] is None else _number(entry["error"])
        entries[name] = Entry(**entry | times | {"error": error})
    return CellResult(cell, found["visits"], entries, found["skipped"])


@dataclass(frozen=True)
class Mean:
    """A geometric mean of speed-ups over cells, and how many of them were wins, draws and losses."""

    over: str
    cache: str
    operation: str
    value: float
    cells: int
    faster: int
    even: int
    slower: int


def means(results: Results) -> list[Mean]:
    """Against the best peer of each cell, PyTorch, NumPy and the floor, for each operation, warm and cold."""
    found = []
    operations = dict.fromkeys(result.cell.operation for result in results.cells)
    for cache in CACHES:
        for operation in operations:
            cells = [result for result in results.timed(cache) if result.cell.operation == operation]
            for over in ("best peer", "PyTorch", "NumPy", FLOOR):
                ratios = [result.speed_up(_over(result, over, cache), cache) for result in cells]
                if ratios := [ratio for ratio in ratios if ratio]:
                    found.append(_mean(over, cache, operation, ratios))
    return found


def _over(result: CellResult, over: str, cache: str) -> str | None:
    if over == "best peer":
        return result.best_peer(cache)
    return next(iter(result.named(FLOOR)), None) if over == FLOOR else over


def _mean(over: str, cache: str, operation: str, ratios: Iterable[Ratio]) -> Mean:
    ratios = list(ratios)
    verdicts = [ratio.verdict for ratio in ratios]
    counts = (verdicts.count(verdict) for verdict in (FASTER, EVEN, SLOWER))
    return Mean(
        "a copy" if over == FLOOR else over,
        cache,
        operation,
        geometric_mean(ratio.value for ratio in ratios),
        len(ratios),
        *counts,
    )
