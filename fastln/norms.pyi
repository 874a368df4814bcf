from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats = NDArray[np.floating[Any]]
_Shape = SupportsIndex | Sequence[SupportsIndex] | None

def layer_norm(
    x: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Floats: ...
def layer_norm_forward(
    x: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats, _Floats]: ...
