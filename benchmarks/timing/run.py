"""A run: cell by cell, in a few visits, with progress, and with whatever is done kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import psutil

from ..contenders import FLOOR, NATIVE, SUBJECT, Contender, RefusedError
from ..grid.arrays import Prepared, make_arrays
from ..grid.cells import Cell
from ..grid.errors import exact_outputs
from ..grid.regimes import last_level_cache
from . import files, machine
from .measure import Effort, Evictor, measure
from .pauses import Pause, PausesError, measure_in_a_process
from .results import CellResult, Entry, Results
from .sweep import sweep_means

# Inputs, outputs and what libraries keep beside them, in arrays of the size of x: a cell that may not fit is skipped.
ARRAYS_IN_MEMORY = 20

# A file is written so often, in seconds, and at the end.
SAVE_EVERY = 10.0


class Progress(Protocol):
    """Whom a run tells how far it is."""

    def over(self, steps: int) -> AbstractContextManager[None]:
        """Run the body, which has so many steps."""

    def begin(self, text: str) -> None:
        """Name what is under way."""

    def done(self, result: CellResult | None) -> None:
        """Count a step, and say what it came to."""


class Plan(NamedTuple):
    """What to run."""

    cells: Sequence[Cell]
    contenders: Sequence[Contender]
    effort: Effort
    seed: int
    pauses: Sequence[Pause] = ()


def new_results(plan: Plan, command: str) -> Results:
    """Results without cells: settings, machine, and which library is there."""
    libraries: dict[str, Any] = {}
    for contender in plan.contenders:
        if contender.needs or contender.kind == NATIVE:
            missing = contender.missing()
            libraries[contender.name] = {"missing": missing} if missing else contender.versions()
    return Results(
        settings={
            **plan.effort.__dict__,
            "seed": plan.seed,
            "cells": [cell.to_json() for cell in plan.cells],
            "pauses": [list(pause) for pause in plan.pauses],
        },
        machine=machine.describe(),
        libraries=libraries,
        command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        before=machine.disturbances(),
    )


def execute(plan: Plan, results: Results, folder: Path, progress: Progress) -> bool:
    """Do what results do not have yet, and save it; False if Ctrl-C ended it early."""
    start = time.monotonic() - results.seconds
    failures: list[str] = []
    try:
        visits, pauses = visits_left(plan, results), pauses_left(plan, results)
        with progress.over(len(visits) + len(pauses) + (not results.errors)):
            visit_cells(visits, plan, results, folder, progress)
            failures += time_pauses(pauses, plan, results, progress)
            if not results.errors:
                find_errors(plan, results, progress)
        results.complete = True
    except KeyboardInterrupt:
        results.complete = False
    results.cells = [result for result in results.cells if result.visits or result.skipped]
    results.after = machine.disturbances()
    results.warnings = machine.warnings(results.before, results.after, results.machine) + failures
    save_all(results, folder, start)
    return results.complete


def save_all(results: Results, folder: Path, start: float) -> None:
    """Write both files, with the time since the start of the run."""
    results.seconds = time.monotonic() - start
    files.save(results, folder)
    files.save_times(results, folder)


def visits_left(plan: Plan, results: Results) -> list[tuple[Cell, int]]:
    """Cells and numbers of visits that results do not have yet: all cells once, then all again."""
    return [
        (cell, visit)
        for visit in range(plan.effort.visits)
        for cell in plan.cells
        if results.of(cell).visits <= visit and not results.of(cell).skipped
    ]


def visit_cells(
    visits: Sequence[tuple[Cell, int]], plan: Plan, results: Results, folder: Path, progress: Progress
) -> None:
    """Make the visits, and save what there is every now and then."""
    start = time.monotonic() - results.seconds
    saved = time.monotonic()
    threads = None
    for i, (cell, visit) in enumerate(visits):
        left = plan.effort.total_seconds - (time.monotonic() - start)
        effort = plan.effort.within(max(0.0, left) / (len(visits) - i))
        progress.begin(f"{cell}, visit {visit + 1}")
        if cell.threads != threads:
            threads = cell.threads
            evict = Evictor(last_level_cache(results.machine), threads)
            set_threads(plan.contenders, threads)
        visit_cell(cell, visit, plan._replace(effort=effort), results, evict)
        progress.done(results.of(cell))
        if time.monotonic() - saved > SAVE_EVERY:
            save_all(results, folder, start)
            saved = time.monotonic()


def pauses_left(plan: Plan, results: Results) -> list[Pause]:
    """Those that results do not have yet."""
    done = {(found.operation, found.rows, found.cols, found.pause) for found in results.pauses}
    return [pause for pause in plan.pauses if pause[:4] not in done]


def time_pauses(pauses: Sequence[Pause], plan: Plan, results: Results, progress: Progress) -> list[str]:
    """Time calls after pauses; why that ended early, if it did."""
    names = [contender.name for contender in plan.contenders]
    threads = sorted({cell.threads for cell in plan.cells})
    found = measure_in_a_process(pauses, names, threads, plan.seed)
    try:
        for pause in pauses:
            progress.begin(str(pause))
            results.pauses += next(found)
            progress.done(None)
    except PausesError as failure:
        return [str(failure)]
    return []


def find_errors(plan: Plan, results: Results, progress: Progress) -> None:
    """Find the errors against mean/std, on one thread."""
    progress.begin("errors against mean/std")
    set_threads(plan.contenders, 1)
    results.errors = sweep_means(plan.contenders)
    progress.done(None)


def set_threads(contenders: Sequence[Contender], threads: int) -> None:
    """Set the number of threads of every library that is there."""
    for contender in contenders:
        if not contender.missing():
            # A library that cannot be imported says so when its call is prepared, and that is recorded.
            with suppress(Exception):
                contender.set_threads(threads)


def visit_cell(cell: Cell, visit: int, plan: Plan, results: Results, evict: Callable[[], None]) -> None:
    """Prepare, check and time all contenders of a cell once."""
    result = results.of(cell)
    needed = ARRAYS_IN_MEMORY * cell.array_bytes
    if needed > (available := psutil.virtual_memory().available):
        result.skipped = f"needs about {needed / 2**30:.0f} GiB of memory, {available / 2**30:.0f} GiB are available"
        return
    arrays = make_arrays(cell, seed=plan.seed + visit)
    exact = exact_outputs(arrays)
    calls: dict[str, Prepared] = {}
    entries: dict[str, Entry] = {}
    for contender in plan.contenders:
        entry = entries[contender.name] = Entry(contender.kind)
        try:
            calls[contender.name], entry.error = contender.prepare_checked(arrays, exact)
        except RefusedError as refusal:
            entry.refused, entry.error = str(refusal), refusal.error
    order = np.random.default_rng((plan.seed, visit, *map(ord, str(cell))))
    beyond_caches = cell.bytes_moved > 4 * last_level_cache(results.machine)
    subject = next(contender.name for contender in plan.contenders if contender.kind == SUBJECT)
    cold = None if beyond_caches else evict
    samples = measure(calls, plan.effort, order, cold, settle=cell.threads > 1, subject=subject)
    if beyond_caches:
        samples.cold = samples.warm  # nothing is left of the last call when the next begins
    merge(result.entries, entries)
    result.add(samples)


def merge(entries: dict[str, Entry], found: dict[str, Entry]) -> None:
    """Take over the errors of another visit: the largest counts, and a refusal stays."""
    for name, entry in found.items():
        kept = entries.setdefault(name, entry)
        if kept.kind != FLOOR:
            kept.error = max((e for e in (kept.error, entry.error) if e is not None), default=None)
        kept.refused = kept.refused or entry.refused
