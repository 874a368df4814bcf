from collections.abc import Sequence
from typing import Literal, SupportsFloat, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastln.norms import _F, _Floats, _Lists, _Shape

_Yes: TypeAlias = Literal[True]
_No: TypeAlias = Literal[False]

@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _Yes] = (True, True, True),
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats, _Floats]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _No],
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats, None]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _No, _Yes],
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], None, _Floats]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _No, _No],
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], None, None]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _Yes, _Yes],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, _Floats, _Floats]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _Yes, _No],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, _Floats, None]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _No, _Yes],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, None, _Floats]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _No, _No],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, None, None]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: _Lists,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _Yes] = (True, True, True),
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _Yes] = (True, True, True),
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats, _Floats]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: Sequence[bool],
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats | None, _Floats | None, _Floats | None]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _Yes] = (True, True, True),
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats, _Floats]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _No],
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats, None]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _No, _Yes],
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], None, _Floats]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _No, _No],
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], None, None]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _Yes, _Yes],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, _Floats, _Floats]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _Yes, _No],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, _Floats, None]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _No, _Yes],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, None, _Floats]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _No, _No],
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, None, None]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: _Lists,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _Yes] = (True, True, True),
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes, _Yes] = (True, True, True),
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats, _Floats]: ...
@overload
def add_layer_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: Sequence[bool],
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats | None, _Floats | None, _Floats | None]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes] = (True, True),
    weight_offset: SupportsFloat = 0.0,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _No],
    weight_offset: SupportsFloat = 0.0,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], None]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _Yes],
    weight_offset: SupportsFloat = 0.0,
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, _Floats]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike,
    x: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _No],
    weight_offset: SupportsFloat = 0.0,
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, None]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike,
    x: _Lists,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes] = (True, True),
    weight_offset: SupportsFloat = 0.0,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes] = (True, True),
    weight_offset: SupportsFloat = 0.0,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: Sequence[bool],
    weight_offset: SupportsFloat = 0.0,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats | None, _Floats | None]: ...
@overload
def add_rms_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes] = (True, True),
    weight_offset: SupportsFloat = 0.0,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], _Floats]: ...
@overload
def add_rms_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _No],
    weight_offset: SupportsFloat = 0.0,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], None]: ...
@overload
def add_rms_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _Yes],
    weight_offset: SupportsFloat = 0.0,
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, _Floats]: ...
@overload
def add_rms_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: NDArray[_F],
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_No, _No],
    weight_offset: SupportsFloat = 0.0,
    out: None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[None, None]: ...
@overload
def add_rms_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: _Lists,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes] = (True, True),
    weight_offset: SupportsFloat = 0.0,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def add_rms_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: tuple[_Yes, _Yes] = (True, True),
    weight_offset: SupportsFloat = 0.0,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
@overload
def add_rms_norm_backward(
    dy: ArrayLike,
    ds: ArrayLike | None,
    s: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: _Shape = None,
    output_mask: Sequence[bool],
    weight_offset: SupportsFloat = 0.0,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats | None, _Floats | None]: ...
