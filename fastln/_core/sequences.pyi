import numpy as np

def pack(weight_ih: np.ndarray, weight_hh: np.ndarray, num_threads: int = 0) -> tuple[np.ndarray, np.ndarray]: ...
def run_sequence(
    cell: str,
    x: np.ndarray,
    y: np.ndarray | None,
    h: np.ndarray,
    c: np.ndarray | None,
    weight_ih: np.ndarray | None,
    weight_hh: np.ndarray | None,
    packed: tuple[np.ndarray, np.ndarray] | None,
    bias: np.ndarray | None,
    norms: tuple[tuple[np.ndarray | None, np.ndarray | None], ...],
    eps: float,
    lengths: np.ndarray | None,
    reverse: bool,
    carry_normalized: bool,
    relu: bool,
    saved: tuple[np.ndarray | None, ...] | None,
    num_threads: int,
) -> None: ...
