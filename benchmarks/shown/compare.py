"""What changed from one run to another, beyond noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..contenders import SUBJECT, VARIANT
from ..timing.intervals import FASTER, SLOWER, Ratio, change, mean_ratio
from ..timing.results import CACHES, CellResult, Results, Timing
from .report import Table
from .units import speed_up


@dataclass(frozen=True)
class Change:
    """fastln's change in a cell: above 1, it got faster."""

    cell: str
    cache: str
    ratio: Ratio
    against: str


def compare(before: Results, after: Results) -> list[Change]:
    """The changes in all cells that both runs have.

    The machine may have been faster in one of the runs, so what is compared is not fastln's time but its ratio to the
    others that are in both runs: the geometric mean of its speed-ups over them. Only where there are none it is time.
    """
    return [_change(*both) for both in _in_both(before, after)]


def _in_both(before: Results, after: Results) -> Iterator[tuple[CellResult, CellResult, str]]:
    """The two results of a cell that both runs have timed, warm and cold."""
    for old in before.cells:
        for new in (result for result in after.cells if result.cell == old.cell):
            for cache in CACHES:
                if old.timed(cache) and new.timed(cache):
                    yield old, new, cache


def _change(old: CellResult, new: CellResult, cache: str) -> Change:
    common = [name for name in old.entries if _is_control(old, name, cache) and _is_control(new, name, cache)]
    ratios = [_speed_up(result, common, cache) for result in (old, new)]
    return Change(str(old.cell), cache, change(*ratios), ", ".join(common) or "its time alone")


def _is_control(result: CellResult, name: str, cache: str) -> bool:
    """A contender that is not fastln and took part in every round of fastln's."""
    entry = result.entries.get(name)
    if entry is None or entry.kind in (SUBJECT, VARIANT) or entry.timing(cache) is None:
        return False
    return entry.timing(cache).rounds == _own(result, cache).rounds


def _speed_up(result: CellResult, over: list[str], cache: str) -> Ratio:
    if not over:
        return _own(result, cache).seconds.inverse
    return mean_ratio(result.speed_up(name, cache) for name in over)


def _own(result: CellResult, cache: str) -> Timing:
    return result.entries[result.named(SUBJECT)[0]].timing(cache)


def contradictions(before: Results, after: Results) -> list[str]:
    """Cells in which one run finds fastln faster than a contender and the other slower."""
    found = []
    for old, new, cache in _in_both(before, after):
        for name in old.entries:
            ratios = [result.speed_up(name, cache) for result in (old, new)]
            if {FASTER, SLOWER} <= {ratio.verdict for ratio in ratios if ratio}:
                both = " and ".join(map(speed_up, ratios))
                found.append(f"{old.cell}, {cache}: fastln against {name}: {both}")
    return found


def regressions(changes: list[Change]) -> list[Change]:
    """Where fastln got slower beyond noise."""
    return [found for found in changes if found.ratio.verdict == SLOWER]


def changes_table(changes: list[Change]) -> Table:
    """The changes beyond noise, the worst first."""
    beyond = sorted((c for c in changes if c.ratio.verdict in (FASTER, SLOWER)), key=lambda c: c.ratio.value)
    rows = [[c.cell, c.cache, speed_up(c.ratio), c.against, c.ratio.verdict] for c in beyond]
    verdicts = [c.ratio.verdict for c in beyond]
    return Table("Changes beyond noise", ["cell", "caches", "speed-up", "measured against", "is"], rows, verdicts)
