from typing import Any

from numpy.typing import NDArray

def pack(
    weight_ih: NDArray[Any] | None, weight_hh: NDArray[Any] | None, num_threads: int = 0
) -> tuple[NDArray[Any], ...]: ...
def run_sequence(
    cell: str,
    x: NDArray[Any],
    y: NDArray[Any] | None,
    h: NDArray[Any],
    c: NDArray[Any] | None,
    weight_ih: NDArray[Any] | None,
    weight_hh: NDArray[Any] | None,
    packed: tuple[NDArray[Any], ...] | None,
    bias: NDArray[Any] | None,
    norms: tuple[tuple[NDArray[Any] | None, NDArray[Any] | None], ...],
    eps: float,
    lengths: NDArray[Any] | None,
    reverse: bool,
    carry_normalized: bool,
    relu: bool,
    saved: tuple[NDArray[Any], ...] | None,
    num_threads: int,
) -> None: ...
