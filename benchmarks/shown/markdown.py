"""Results in Markdown, and the part of a document that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..timing.results import CACHES, Results
from . import report
from .pictures import NAMES, THEMES, file_name

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


class MarkersError(Exception):
    """A document without a place for results, in one line."""


def to_markdown(results: Results, folder: str = "") -> str:
    """Machine, means by regime, tables and pictures; `folder` is where pictures are, relative to the document."""
    return "\n".join(_lines(results, folder)) + "\n"


def _lines(results: Results, folder: str) -> Iterator[str]:
    yield f"`{results.command}`"
    yield ""
    yield from (f"- {line}" for line in report.machine_lines(results))
    yield from ("", report.HOW_TO_READ, "")
    yield from (report.regimes_in_words(results), "")
    for table in report.means_tables(results):
        yield from table_lines(table)
    for name, title in NAMES.items():
        yield from picture_lines(folder, name, title)
    for table in report.summary_tables(results):
        yield from table_lines(table)
    for table in report.floors_tables(results):
        yield from table_lines(table)
    for table in (report.pauses_table(results), report.errors_table(results)):
        if table:
            yield from table_lines(table)
    if lines := list(report.absences(results)):
        yield from ("Not compared:", "", *(f"- {line}" for line in lines), "")
    yield from ("<details><summary>The time of every contender</summary>", "")
    for cache in CACHES:
        for table in report.times_tables(results, cache):
            yield from table_lines(table)
    yield "</details>"


def table_lines(table: report.Table) -> Iterator[str]:
    """A table under its title, the first column left and the others right."""
    if not table.rows:
        return
    yield from (f"**{table.title}**", "")
    yield f"| {' | '.join(table.header)} |"
    yield f"|---|{'---:|' * (len(table.header) - 1)}"
    for row in table.rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def picture_lines(folder: str, name: str, title: str) -> Iterator[str]:
    """A picture that follows the reader's light or dark theme."""
    light, dark = (f"{folder}/{file_name(name, theme)}".lstrip("/") for theme in THEMES)
    yield "<picture>"
    yield f'  <source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    yield f'  <img alt="{title}" src="{light}">'
    yield "</picture>"
    yield ""


def fill(document: Path, text: str) -> None:
    """Replace what stands between the markers of a document.

    Raises
    ------
    MarkersError
        If it does not have them, once each, in order.
    """
    old = document.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise MarkersError(f"{document} must have the lines {BEGIN} and {END} once each")
    document.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")
