"""A run over cells of sequences: contenders take turns, ratios have intervals, everything is saved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..contenders import PEER, SUBJECT, Contender, RefusedError
from ..grid.arrays import Prepared
from ..timing import machine
from ..timing.intervals import Ratio, geometric_mean, paired_ratio, time_with_interval
from ..timing.measure import Effort, measure
from ..timing.results import as_rounds
from .cells import Cell, exact_outputs, make_arrays


@dataclass
class CellTimes:
    """Seconds of each contender in each round of each visit; errors, and why some have no times."""

    cell: Cell
    kinds: dict[str, str] = field(default_factory=dict)
    visits: dict[str, list[list[float]]] = field(default_factory=dict)
    errors: dict[str, float | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Whom the others are compared with."""
        return next(name for name, kind in self.kinds.items() if kind == SUBJECT)

    def seconds(self, name: str) -> Ratio | None:
        """The median and its interval."""
        return time_with_interval(as_rounds(self.visits[name])) if name in self.visits else None

    def speed_up(self, over: str) -> Ratio | None:
        """The time of a contender divided by fastln's: above 1, fastln is faster."""
        if over not in self.visits or self.subject not in self.visits:
            return None
        return paired_ratio(as_rounds(self.visits[over]), as_rounds(self.visits[self.subject]))

    def best_peer(self) -> str | None:
        """The fastest of those that compute the same."""
        timed = [name for name, kind in self.kinds.items() if kind == PEER and name in self.visits]
        return min(timed, key=lambda name: self.seconds(name).value, default=None)


def visit(result: CellTimes, contenders: Sequence[Contender], effort: Effort, seed: int) -> None:
    """Prepare, check and time all contenders of a cell once."""
    arrays = make_arrays(result.cell, seed)
    exact = exact_outputs(arrays)
    calls: dict[str, Prepared] = {}
    for contender in contenders:
        result.kinds[contender.name] = contender.kind
        try:
            prepared, error = contender.prepare_checked(arrays, exact)
        except RefusedError as refusal:
            result.refused[contender.name] = str(refusal)
            continue
        calls[contender.name] = prepared
        result.errors[contender.name] = error
    rng = np.random.default_rng((seed, *map(ord, str(result.cell))))
    samples = measure(calls, effort, rng, None, settle=result.cell.threads > 1, subject=result.subject)
    for name, times in samples.warm.items():
        result.visits.setdefault(name, []).append(times)


def execute(
    cells: Sequence[Cell], contenders: Sequence[Contender], effort: Effort, seed: int, tell: Callable[[CellTimes], None]
) -> list[CellTimes]:
    """All cells once, then all again, so that what slows the machine for a while slows few visits of a cell."""
    results = [CellTimes(cell) for cell in cells]
    threads = None
    for number in range(effort.visits):
        for result in results:
            if result.cell.threads != threads:
                threads = result.cell.threads
                for contender in contenders:
                    if not contender.missing():
                        contender.set_threads(threads)
            visit(result, contenders, effort, seed + number)
            tell(result)
    return results


def means(results: Iterable[CellTimes]) -> dict[tuple[str, int, str], float]:
    """{(work, threads, over whom): geometric mean of the speed-ups over all cells}; the best peer is one of these."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for result in results:
        where = result.cell.work, result.cell.threads
        for over in (*result.visits, "best peer"):
            name = result.best_peer() if over == "best peer" else over
            ratio = result.speed_up(name) if name and name != result.subject else None
            if ratio:
                found.setdefault((*where, over), []).append(ratio.value)
    return {key: geometric_mean(values) for key, values in found.items()}


def save(results: Sequence[CellTimes], effort: Effort, folder: Path) -> Path:
    """All numbers as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sequences.json"
    content = {
        "machine": machine.describe(),
        "effort": asdict(effort),
        "cells": [asdict(result) for result in results],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path
