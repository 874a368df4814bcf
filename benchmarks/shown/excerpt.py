"""What README and docs/benchmarks.md quote of a run, in Markdown: tables of shapes, and the means of each regime."""

from __future__ import annotations

from collections.abc import Iterator

from ..operations import LAYER_NORM, OPERATIONS
from ..timing.intervals import EVEN, SLOWER, Ratio
from ..timing.results import BEST_PEER, WARM, CellResult, Results
from . import report
from .markdown import table_lines
from .report import Table
from .units import seconds

TITLES = [operation.title for operation in OPERATIONS.values()]
OVER_IN_ROWS = (BEST_PEER, "PyTorch")
DTYPES_SHOWN = ("float32", "bfloat16")

# The forward pass beside a copy: in L2, in L3, from memory, and the shortest rows.
BESIDE_A_COPY = ("32x768", "128x768", "512x1024", "4096x768", "131072x16")
PAUSE = 0.1


def to_excerpt(results: Results) -> str:
    """float32 on one thread, data warm; and the means over all cells."""
    return "\n".join(_lines(results)).strip()


def _lines(results: Results) -> Iterator[str]:
    yield from (report.regimes_in_words(results), "")
    for table in (*_means_tables(results), *shapes_tables(results), _copies_table(results), _pauses_table(results)):
        if table:
            yield from table_lines(table)
    yield from losses(results)


def shapes_tables(results: Results) -> Iterator[Table]:
    """A shape a row, two operations a table: fastln's times, and the times of others divided by them."""
    for dtype in DTYPES_SHOWN:
        cells = {
            (result.cell.title, result.cell.shape): result
            for result in results.standard()
            if (result.cell.dtype, result.cell.threads) == (dtype, 1)
        }
        found = [title for title in TITLES if any(key[0] == title for key in cells)]
        for operations in (found[i : i + 2] for i in range(0, len(found), 2)):
            header = ["rows x columns"]
            for operation in operations:
                others = (f"over {'the fastest peer' if over == BEST_PEER else over}" for over in OVER_IN_ROWS)
                header += [operation, *others]
            rows = [
                [shape, *(text for operation in operations for text in _of_shape(cells.get((operation, shape))))]
                for shape in dict.fromkeys(shape for title, shape in cells if title in operations)
            ]
            yield Table(f"{dtype}, one thread", header, rows, [None] * len(rows))


def _of_shape(result: CellResult | None) -> list[str]:
    if result is None:
        return ["-"] * (1 + len(OVER_IN_ROWS))
    others = (result.best_peer(WARM) if over == BEST_PEER else over for over in OVER_IN_ROWS)
    return [seconds(result.seconds("fastln", WARM)), *(_judged(result.speed_up(name, WARM)) for name in others)]


def _judged(ratio: Ratio | None) -> str:
    """1.42, 1.02 (even), or a loss in bold."""
    if ratio is None:
        return "-"
    text = f"{ratio.value:.2f}"
    return f"**{text}**" if ratio.verdict == SLOWER else f"{text} (even)" if ratio.verdict == EVEN else text


def _means_tables(results: Results) -> Iterator[Table]:
    for table in report.means_tables(results):
        rows = [row for row in table.rows if f", {WARM}" in row[0]]
        yield Table(table.title, table.header, rows, [None] * len(rows))


def _copies_table(results: Results) -> Table | None:
    for table in report.floors_tables(results):
        if table.title.lower().startswith(f"{OPERATIONS[LAYER_NORM].title}, float32, 1 thread:"):
            rows = [row for row in table.rows if row[0] in BESIDE_A_COPY]
            return Table(table.title, table.header, rows, [None] * len(rows))
    return None


def _pauses_table(results: Results) -> Table | None:
    table = report.pauses_table(results)
    if table is None:
        return None
    rows = [row for row in table.rows if row[2] == seconds(PAUSE)]
    return Table(table.title, table.header, rows, [None] * len(rows))


def losses(results: Results) -> Iterator[str]:
    """Where the fastest peer is faster than fastln, data warm, in a line for each operation."""
    for operation in TITLES:
        cells = [result for result in results.standard() if result.cell.title == operation]
        lost = [
            f"{result.cell.shape} {result.cell.dtype} on {result.cell.threads} ({peer}, {ratio.value:.2f})"
            for result in cells
            if (peer := result.best_peer(WARM)) and (ratio := result.speed_up(peer, WARM)).verdict == SLOWER
        ]
        if cells:
            title = f"Slower than the fastest peer, {operation}: {len(lost)} of {len(cells)} cells"
            yield f"{title}: {'; '.join(lost)}" if lost else title
