from typing import Any

from numpy.typing import NDArray

def make_saved(cell: str, rows: int, hidden: int, dtype: Any) -> tuple[NDArray[Any], ...]: ...
