from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats = NDArray[np.floating[Any]]

def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex] | None = None,
    output_mask: Sequence[bool] = (True, True, True),
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats | None, _Floats | None, _Floats | None]: ...
