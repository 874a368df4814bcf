"""Results as JSON: what a run came to, and every single time."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..grid.cells import Cell
from ..grid.regimes import regime
from ..operations import find_operation
from .intervals import Ratio
from .pauses import AfterPause
from .results import CACHES, CellResult, Entry, Results, Timing, means

# What a run came to, to be kept; and beside it every single time, which --resume goes on from.
FORMAT = 2
FILE, TIMES_FILE = "results.json", "times.json"


class ResultsError(Exception):
    """A file that holds no results, in one line."""


def save(results: Results, folder: Path) -> Path:
    """Write results.json, whole or not at all."""
    return _write(folder / FILE, _lines(_to_json(results)))


def save_times(results: Results, folder: Path) -> Path:
    """Write every single time, whole or not at all."""
    times = [[result.cell.to_json(), result.times] for result in results.cells]
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
