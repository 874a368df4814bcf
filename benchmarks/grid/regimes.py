"""What bounds a cell: the call, or where its data are. Speed-ups are averaged within these regimes, never across them.

A mean over all cells says more about the choice of the cells than about the code: calls on a row or two are won by
factors, large arrays by tens of percent.

The rule, with the bytes that the operation reads and writes (x and y; dy, x and dx; x, the residual, y and the sum)
against the machine's caches:

- one call: at most ONE_CALL_ROWS rows, where these fit in the caches of one core;
- L1 or L2: what fits in the caches of one core, whatever the number of threads;
- L3: what fits in the last level cache;
- memory: all else.
"""

from __future__ import annotations

from typing import Any

from .cells import Cell

REGIMES = ONE_CALL, CORE, LAST_LEVEL, MEMORY = ("one call", "L1 or L2", "L3", "memory")

ONE_CALL_ROWS = 8

# Where the system does not say.
FALLBACK_CORE_CACHE_BYTES, FALLBACK_CACHE_BYTES = 2**20, 2**25


def regime(cell: Cell, machine: dict[str, Any]) -> str:
    """The regime of a cell on a machine, as machine.describe() tells of it."""
    if cell.bytes_moved <= core_cache(machine):
        return ONE_CALL if cell.rows <= ONE_CALL_ROWS else CORE
    return LAST_LEVEL if cell.bytes_moved <= last_level_cache(machine) else MEMORY


def core_cache(machine: dict[str, Any]) -> int:
    """Bytes of the larger of the caches that one core has for itself, L1d and L2, or a guess."""
    sizes = [size for level, size in machine["caches"].items() if level in ("L1d", "L2")]
    return max(sizes, default=FALLBACK_CORE_CACHE_BYTES)


def last_level_cache(machine: dict[str, Any]) -> int:
    """Its bytes, or a guess where the system does not say."""
    return max(machine["caches"].values(), default=FALLBACK_CACHE_BYTES)
