from typing import Any, Literal, SupportsFloat, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastln.norms import _Floats, _Lists

# Of x, and so of all results.
_F = TypeVar("_F", bound=np.floating[Any])
_Norm: TypeAlias = tuple[ArrayLike | None, ArrayLike | None] | None
_Pair: TypeAlias = tuple[ArrayLike, ArrayLike] | None

@overload
def layer_norm_rnn(
    x: NDArray[_F],
    h0: ArrayLike | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    norm: _Norm = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], NDArray[_F]]: ...
@overload
def layer_norm_rnn(
    x: _Lists,
    h0: ArrayLike | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    norm: _Norm = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def layer_norm_rnn(
    x: ArrayLike,
    h0: ArrayLike | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    norm: _Norm = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
@overload
def layer_norm_lstm(
    x: NDArray[_F],
    state: _Pair,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    ih_norm: _Norm = None,
    hh_norm: _Norm = None,
    c_norm: _Norm = None,
    *,
    carry: Literal["cell", "normalized"] = "cell",
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], tuple[NDArray[_F], NDArray[_F]]]: ...
@overload
def layer_norm_lstm(
    x: _Lists,
    state: _Pair,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    ih_norm: _Norm = None,
    hh_norm: _Norm = None,
    c_norm: _Norm = None,
    *,
    carry: Literal["cell", "normalized"] = "cell",
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]]: ...
@overload
def layer_norm_lstm(
    x: ArrayLike,
    state: _Pair,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    ih_norm: _Norm = None,
    hh_norm: _Norm = None,
    c_norm: _Norm = None,
    *,
    carry: Literal["cell", "normalized"] = "cell",
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, tuple[_Floats, _Floats]]: ...
@overload
def layer_norm_gru(
    x: NDArray[_F],
    h0: ArrayLike | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    ih_norm: _Norm = None,
    hh_norm: _Norm = None,
    *,
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: NDArray[_F] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[_F], NDArray[_F]]: ...
@overload
def layer_norm_gru(
    x: _Lists,
    h0: ArrayLike | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    ih_norm: _Norm = None,
    hh_norm: _Norm = None,
    *,
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: NDArray[np.float64] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
@overload
def layer_norm_gru(
    x: ArrayLike,
    h0: ArrayLike | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
    ih_norm: _Norm = None,
    hh_norm: _Norm = None,
    *,
    eps: SupportsFloat = 1e-5,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
