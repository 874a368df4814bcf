from typing import Any

from numpy.typing import NDArray

def run_backward_sequence(
    cell: str,
    dy: NDArray[Any] | None,
    dh: NDArray[Any],
    dc: NDArray[Any] | None,
    x: NDArray[Any],
    y: NDArray[Any],
    h0: NDArray[Any],
    c0: NDArray[Any] | None,
    weight_ih: NDArray[Any] | None,
    weight_hh: NDArray[Any] | None,
    bias: NDArray[Any] | None,
    norms: tuple[tuple[NDArray[Any] | None, NDArray[Any] | None], ...],
    eps: float,
    lengths: NDArray[Any] | None,
    reverse: bool,
    carry_normalized: bool,
    relu: bool,
    saved: tuple[NDArray[Any], ...],
    dx: NDArray[Any] | None,
    num_threads: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[tuple[NDArray[Any], NDArray[Any]], ...]]: ...
