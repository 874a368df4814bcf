"""What bounds a cell: the call, or where its data are. Speed-ups are averaged within these regimes, never across them.

A mean over all cells says more about the choice of the cells than about the code: calls on a row or two are won by
factors, large arrays by tens of percent.

The rule, with the bytes that the operation reads and writes (x and y; dy, x and dx) against the machine's caches:

- one call: at most ONE_CALL_ROWS rows, where these fit in the caches of one core;
- L1 or L2: what fits in the caches of one core, whatever the number of threads;
- L3: what fits in the last level cache;
- memory: all else.
"""

from __future__ import annotations

from typing import Any

from .cells import Cell
from .machine import core_cache, last_level_cache

REGIMES = ONE_CALL, CORE, LAST_LEVEL, MEMORY = ("one call", "L1 or L2", "L3", "memory")

ONE_CALL_ROWS = 8


def regime(cell: Cell, machine: dict[str, Any]) -> str:
    """The regime of a cell on a machine, as machine.describe() tells of it."""
    if cell.bytes_moved <= core_cache(machine):
        return ONE_CALL if cell.rows <= ONE_CALL_ROWS else CORE
    return LAST_LEVEL if cell.bytes_moved <= last_level_cache(machine) else MEMORY
