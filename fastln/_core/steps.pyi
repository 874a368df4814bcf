from typing import Any

from numpy.typing import NDArray

CELLS: tuple[str, ...]
GATES: tuple[int, ...]
NORMS: tuple[int, ...]

def make_saved(cell: str, rows: int, hidden: int, dtype: Any) -> tuple[NDArray[Any], ...]: ...
