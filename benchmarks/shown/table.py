"""Tables on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from ..timing.intervals import FASTER, SLOWER
from ..timing.results import WARM, Results
from . import report

COLOURS = {FASTER: "green", SLOWER: "red"}

# Where there is no terminal to ask: wide enough for every contender.
WIDTH_OF_A_FILE = 200


def make_console(**options: object) -> Console:
    """A console for results: as wide as the terminal, or wide enough for any table."""
    console = Console(**options)
    return console if console.is_terminal else Console(width=WIDTH_OF_A_FILE, **options)


def print_results(results: Results, console: Console) -> None:
    """Everything that the run came to."""
    for line in report.machine_lines(results):
        console.print(line, markup=False, highlight=False)
    for table in report.times_tables(results, WARM):
        print_table(table, console)
    for table in report.summary_tables(results):
        print_table(table, console)
    for table in report.floors_tables(results):
        print_table(table, console)
    for table in (report.errors_table(results), report.pauses_table(results)):
        if table:
            print_table(table, console)
    for table in report.means_tables(results):
        print_table(table, console)
    for text in (report.regimes_in_words(results), report.HOW_TO_READ):
        console.print(text, markup=False, highlight=False)
    for line in report.absences(results):
        console.print(f"Not compared: {line}", markup=False, highlight=False)


def print_table(table: report.Table, console: Console) -> None:
    """One table; rows that fastln wins are green, those that it loses are red."""
    if not table.rows:
        return
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(table.header):
        shown.add_column(name, justify="right" if i else "left", overflow="fold")
    for row, verdict in zip(table.rows, table.verdicts, strict=True):
        shown.add_row(*row, style=COLOURS.get(verdict))
    console.print(shown)
