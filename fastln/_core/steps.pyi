import numpy as np
from numpy.typing import DTypeLike

CELLS: tuple[str, ...]
GATES: tuple[int, ...]
NORMS: tuple[int, ...]

def make_saved(cell: str, rows: int, hidden: int, dtype: DTypeLike) -> tuple[np.ndarray | None, ...]: ...
