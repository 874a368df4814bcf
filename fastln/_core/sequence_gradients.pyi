import numpy as np

def run_backward_sequence(
    cell: str,
    dy: np.ndarray | None,
    dh: np.ndarray,
    dc: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray | None,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray | None,
    norms: tuple[tuple[np.ndarray | None, np.ndarray | None], ...],
    eps: float,
    lengths: np.ndarray | None,
    reverse: bool,
    carry_normalized: bool,
    relu: bool,
    saved: tuple[np.ndarray | None, ...],
    dx: np.ndarray | None,
    num_threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[tuple[np.ndarray, np.ndarray], ...]]: ...
