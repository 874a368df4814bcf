from collections.abc import Sequence
from typing import Any, Literal, SupportsFloat, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Of x and what has its dtype. To type checkers bfloat16 is a generic: it is another package's. What is beside it may be
# of float32 where x has 16 bits, so of that they know that it is of floats.
_F = TypeVar("_F", bound=np.generic)
_Floats: TypeAlias = NDArray[np.floating[Any]]
# Of Python's floats: they become float64.
_Lists: TypeAlias = Sequence[float | _Lists]
_Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | None

@overload
def layer_norm(
    x: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[_F]: ...
@overload
def layer_norm(
    x: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.float64]: ...
@overload
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
@overload
def layer_norm_forward(
    x: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats, _Floats]: ...
@overload
def layer_norm_forward(
    x: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
@overload
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
@overload
def add_layer_norm(
    x: NDArray[_F],
    residual: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[_F] | None = None,
    residual_out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], NDArray[_F]]: ...
@overload
def add_layer_norm(
    x: _Lists,
    residual: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[np.float64] | None = None,
    residual_out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def add_layer_norm(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
@overload
def add_layer_norm_forward(
    x: NDArray[_F],
    residual: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[_F] | None = None,
    residual_out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], NDArray[_F], _Floats, _Floats]: ...
@overload
def add_layer_norm_forward(
    x: _Lists,
    residual: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: NDArray[np.float64] | None = None,
    residual_out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def add_layer_norm_forward(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: SupportsFloat = 1e-5,
    *,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats, _Floats, _Floats]: ...
@overload
def rms_norm(
    x: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[_F]: ...
@overload
def rms_norm(
    x: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.float64]: ...
@overload
def rms_norm(
    x: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Floats: ...
@overload
def rms_norm_forward(
    x: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats]: ...
@overload
def rms_norm_forward(
    x: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def rms_norm_forward(
    x: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
@overload
def add_rms_norm(
    x: NDArray[_F],
    residual: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[_F] | None = None,
    residual_out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], NDArray[_F]]: ...
@overload
def add_rms_norm(
    x: _Lists,
    residual: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[np.float64] | None = None,
    residual_out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def add_rms_norm(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
@overload
def add_rms_norm_forward(
    x: NDArray[_F],
    residual: NDArray[_F],
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[_F] | None = None,
    residual_out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], NDArray[_F], _Floats]: ...
@overload
def add_rms_norm_forward(
    x: _Lists,
    residual: _Lists,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: NDArray[np.float64] | None = None,
    residual_out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def add_rms_norm_forward(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: _Shape = None,
    weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None,
    *,
    weight_offset: SupportsFloat = 0.0,
    cast: Literal["llama", "gemma"] | None = None,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats, _Floats]: ...
