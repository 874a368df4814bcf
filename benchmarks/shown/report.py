"""What a run came to, as tables of text and lines: table.py shows them on a terminal, markdown.py in Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ..contenders import FLOOR, LARGEST_ERROR, NATIVE
from ..grid.cells import KINDS, Cell, threads_in_words
from ..grid.regimes import ONE_CALL_ROWS, REGIMES, core_cache, last_level_cache
from ..operations import OPERATIONS
from ..timing.intervals import BETWEEN_RUNS, CONFIDENCE
from ..timing.pauses import DTYPE, AfterPause
from ..timing.results import CACHES, COLD, OVER, WARM, CellResult, Mean, Results, means
from .units import duration, gigabytes_per_second, seconds, size, speed_up, three_digits


@dataclass
class Table:
    """Cells of text under headers; the first column is on the left, the others are on the right."""

    title: str
    header: list[str]
    rows: list[list[str]]
    # What each row says of fastln (FASTER, EVEN or SLOWER), or None.
    verdicts: list[str | None]


HOW_TO_READ = (
    f"Times are medians. Speed-up: the peer's time divided by fastln's, median of paired rounds, with its "
    f"{CONFIDENCE:.0%} interval, which is widened by {BETWEEN_RUNS - 1:.0%} on either side for what differs between "
    "runs. Where the interval spans 1, neither is called faster. Warm: data are in the nearest cache that holds "
    "them. Cold: the caches have been emptied before each call. Errors are the largest found, in eps of the dtype "
    f"times the size of the result; contenders beyond {LARGEST_ERROR:g} are refused."
)


def summary_tables(results: Results) -> Iterator[Table]:
    """Fastln, the floor and the best peer of each cell, warm and cold; a table an operation, dtype and threads."""
    header = ["rows x D", "copy", "fastln", "GB/s", "best peer", "its time", "speed-up", "cold fastln"]
    header += ["cold best peer", "its time", "cold speed-up"]
    for title, cells in groups(results):
        rows, verdicts = [], []
        for result in cells:
            warm, cold = (_against_best_peer(result, cache) for cache in CACHES)
            rate = gigabytes_per_second(result.cell.bytes_moved, result.seconds("fastln", WARM))
            floor = result.named(FLOOR)
            copy = seconds(result.seconds(floor[0], WARM)) if floor else "-"
            rows.append([result.cell.shape, copy, warm[0], three_digits(rate), *warm[1:], *cold])
            ratio = result.speed_up(result.best_peer(WARM), WARM)
            verdicts.append(ratio.verdict if ratio else None)
        yield Table(title, header, rows, verdicts)


def _against_best_peer(result: CellResult, cache: str) -> list[str]:
    if not result.timed(cache):
        return ["-"] * 4
    peer = result.best_peer(cache)
    own = seconds(result.seconds("fastln", cache))
    if peer is None:
        return [own, "-", "-", "-"]
    return [own, peer, seconds(result.seconds(peer, cache)), speed_up(result.speed_up(peer, cache))]


def times_tables(results: Results, cache: str) -> Iterator[Table]:
    """The time of every contender, and its largest error in parentheses."""
    names = results.names()
    for title, cells in groups(results):
        rows = [[result.cell.shape, *(_time_and_error(result, name, cache) for name in names)] for result in cells]
        yield Table(f"{title}, {cache}: time (largest error)", ["rows x D", *names], rows, [None] * len(rows))


def _time_and_error(result: CellResult, name: str, cache: str) -> str:
    entry = result.entries.get(name)
    if entry is None or entry.warm is None:
        return "refused" if entry is not None and entry.error is not None else "-"
    error = "" if entry.error is None else f" ({three_digits(entry.error)})"
    return f"{seconds(entry.seconds(cache))}{error}"


def groups(results: Results) -> Iterator[tuple[str, list[CellResult]]]:
    """Cells that differ in their shape only, with what they have in common."""
    found: dict[str, list[CellResult]] = {}
    for result in results.timed():
        found.setdefault(result.cell.group.capitalize(), []).append(result)
    yield from found.items()


def floors_tables(results: Results) -> Iterator[Table]:
    """Fastln beside what no Python user reaches: a copy of the same bytes, and oneDNN called from C++; data warm."""
    header = ["rows x D", "bytes into a line", "copy", "fastln", "fastln / copy", "oneDNN", "speed-up over oneDNN"]
    found: dict[str, list[CellResult]] = {}
    for result in results.timed():
        cell = result.cell
        title = f"{cell.title.capitalize()}, {cell.dtype}, {threads_in_words(cell.threads)}: beside the floors"
        found.setdefault(title, []).append(result)
    for title, cells in found.items():
        shapes = list(dict.fromkeys(result.cell.shape for result in cells))
        ordered = sorted(cells, key=lambda result: shapes.index(result.cell.shape))  # both places of a shape together
        rows = [floors_row(result) for result in ordered]
        yield Table(title, header, rows, [None] * len(rows))


def floors_row(result: CellResult) -> list[str]:
    """One of floors_tables."""
    copy, native = (next(iter(result.named(kind)), None) for kind in (FLOOR, NATIVE))
    times = [seconds(result.seconds(name, WARM)) if name else "-" for name in (copy, "fastln", native)]
    over_copy, over_native = (result.speed_up(name, WARM) for name in (copy, native))
    of_a_copy = speed_up(over_copy.inverse if over_copy else None)
    place = [result.cell.shape, str(result.cell.offset)]
    return [*place, times[0], times[1], of_a_copy, times[2], speed_up(over_native)]


def means_tables(results: Results) -> Iterator[Table]:
    """Geometric means over the cells of each regime: a table for each place of the arrays and kind of dtype."""
    found = {(m.offset, m.kind, m.operation, m.cache, m.over, m.regime): m for m in means(results)}
    for offset, kind in itertools.product(results.offsets(), KINDS):
        rows = []
        for operation, cache, over in itertools.product(OPERATIONS, CACHES, OVER):
            of_regimes = [found.get((offset, kind, operation, cache, over, name)) for name in REGIMES]
            if any(of_regimes):
                rows.append([f"{OPERATIONS[operation].title}, {cache}: over {over}", *map(mean_in_words, of_regimes)])
        if rows:
            title = "Geometric means of the speed-up in each regime (cells faster, even, slower); "
            yield Table(title + _cells_at(results, offset, kind), ["", *REGIMES], rows, [None] * len(rows))


def mean_in_words(mean: Mean | None) -> str:
    """1.42 (24, 3, 1)."""
    return f"{mean.value:.2f} ({mean.faster}, {mean.even}, {mean.slower})" if mean else "-"


def _cells_at(results: Results, offset: int, kind: str) -> str:
    cells = [result.cell for result in results.timed() if (result.cell.offset, result.cell.kind) == (offset, kind)]
    dtypes, threads = dict.fromkeys(c.dtype for c in cells), dict.fromkeys(c.threads for c in cells)
    return f"{cells[0].place}, {' and '.join(dtypes)}, {' and '.join(map(threads_in_words, threads))}"


def regimes_in_words(results: Results) -> str:
    """What the regimes are on this machine."""
    core, last = size(core_cache(results.machine)), size(last_level_cache(results.machine))
    return (
        f"Regimes, by the bytes that the operation reads and writes: one call (at most {ONE_CALL_ROWS} rows, up to "
        f"{core}), L1 or L2 (up to {core}, the cache of one core), L3 (up to {last}), memory."
    )


def pauses_table(results: Results) -> Table | None:
    """One call after a pause, on one thread and on all."""
    if not results.pauses:
        return None
    columns = list(dict.fromkeys((found.contender, found.threads) for found in results.pauses))
    groups: dict[tuple[object, ...], dict[tuple[str, int], AfterPause]] = {}
    for found in results.pauses:
        where = found.pause, found.operation, found.rows, found.cols
        groups.setdefault(where, {})[found.contender, found.threads] = found
    rows = []
    for (pause, operation, *shape), calls in sorted(groups.items(), key=lambda group: group[0][0]):
        x = Cell(operation, *shape, DTYPE, 1)
        name = f"{x.title} {x.shape}"
        times = [_after_pause(calls.get(column)) for column in columns]
        rows.append([name, size(x.array_bytes), seconds(pause), str(next(iter(calls.values())).repeats), *times])
    header = ["call", "x", "pause", "calls", *(f"{name}, {threads_in_words(count)}" for name, count in columns)]
    title = f"One call after a pause, {DTYPE}: median (90th percentile)"
    return Table(title, header, rows, [None] * len(rows))


def _after_pause(found: AfterPause | None) -> str:
    return f"{seconds(found.median)} ({seconds(found.percentile_90)})" if found else "-"


def errors_table(results: Results) -> Table | None:
    """The largest error of each library against mean/std."""
    if not results.errors:
        return None
    ratios = list(next(iter(results.errors.values())))
    rows = [[name, *(three_digits(curve[r]) for r in ratios)] for name, curve in results.errors.items()]
    title = "Largest error of the forward pass against the mean of the rows in standard deviations, float32, 128x768"
    return Table(title, ["mean/std", *ratios], rows, [None] * len(rows))


def absences(results: Results) -> Iterator[str]:
    """One line for each contender that is not there, was refused, or each cell that was skipped."""
    for name, library in results.libraries.items():
        if "missing" in library:
            yield f"{name}: {library['missing']}"
    missing = {name for name, library in results.libraries.items() if "missing" in library}
    for reason, cells in results.refusals().items():
        if reason.partition(":")[0] not in missing:
            yield f"{reason} ({cells[0]}{f' and {len(cells) - 1} more' if len(cells) > 1 else ''})"
    for result in results.cells:
        if result.skipped:
            yield f"{result.cell}: skipped, {result.skipped}"


def machine_lines(results: Results) -> Iterator[str]:
    """Where and with what the numbers were made."""
    machine, config = results.machine, results.machine["fastln"]
    caches = ", ".join(f"{level} {size(count)}" for level, count in machine["caches"].items())
    virtual = " (a virtual machine)" if machine["virtual"] else ""
    yield f"CPU: {machine['cpu']}, {machine['cpus']} CPUs{virtual}, {caches}; governor {machine['governor']}"
    at = f" at {machine['commit']}" if machine["commit"] else ""
    yield f"fastln {config['version']}{at}, {machine['isa']}, {config['build']['compiler']}; Python {machine['python']}"
    versions = {k: v for library in results.libraries.values() if "missing" not in library for k, v in library.items()}
    yield "Libraries: " + (", ".join(f"{name} {version}" for name, version in versions.items()) or "none")
    done = duration(results.seconds) + ("" if results.complete else ", ended early")
    yield f"{results.started}, {done}; load {results.before.get('load', 0):.2f} before the run"
    for warning in results.warnings:
        yield f"Warning: {warning}"


def has_cold(results: Results) -> bool:
    """Whether any cell has been timed with cold caches."""
    return bool(results.timed(COLD))
