from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import Any, Generic, Literal, NamedTuple, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import TypeVar

from fastln.norms import _F, _Floats, _Lists

MOST_ELEMENTS: int

Array: TypeAlias = _Floats
Initializer: TypeAlias = float | ArrayLike | Callable[[tuple[int, ...]], ArrayLike]

# The float type of x, and what there is of weight and bias: an array or None.
_X = TypeVar("_X", bound=np.generic, default=np.floating[Any], covariant=True)
_W = TypeVar("_W", bound=Array | None, default=Array | None, covariant=True)
_B = TypeVar("_B", bound=Array | None, default=Array | None, covariant=True)

class StateError(KeyError): ...

class LayerNormSaved(NamedTuple, Generic[_X]):
    x: NDArray[_X]
    mean: _Floats
    rstd: _Floats

class RMSNormSaved(NamedTuple, Generic[_X]):
    x: NDArray[_X]
    rstd: _Floats

class LayerNormGradients(NamedTuple, Generic[_X, _W, _B]):
    dx: NDArray[_X]
    dweight: _W
    dbias: _B

class RMSNormGradients(NamedTuple, Generic[_X, _W]):
    dx: NDArray[_X]
    dweight: _W

class LayerNorm(Generic[_W, _B]):
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    @overload
    def __init__(
        self: LayerNorm[Array, Array],
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float = 1e-5,
        elementwise_affine: Literal[True] = True,
        bias: Literal[True] = True,
        *,
        weight_init: Initializer = 1.0,
        bias_init: Initializer = 0.0,
        dtype: DTypeLike = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: LayerNorm[Array, None],
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float = 1e-5,
        elementwise_affine: Literal[True] = True,
        *,
        bias: Literal[False],
        weight_init: Initializer = 1.0,
        bias_init: Initializer = 0.0,
        dtype: DTypeLike = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: LayerNorm[None, None],
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float = 1e-5,
        *,
        elementwise_affine: Literal[False],
        bias: bool = True,
        weight_init: Initializer = 1.0,
        bias_init: Initializer = 0.0,
        dtype: DTypeLike = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: LayerNorm[Array | None, Array | None],
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        weight_init: Initializer = 1.0,
        bias_init: Initializer = 0.0,
        dtype: DTypeLike = ...,
    ) -> None: ...
    @property
    def normalized_shape(self) -> tuple[int, ...]: ...
    @property
    def elementwise_affine(self) -> bool: ...
    @property
    def eps(self) -> float: ...
    @eps.setter
    def eps(self, value: float) -> None: ...
    @property
    def weight(self) -> _W: ...
    @weight.setter
    def weight(self, value: ArrayLike | None) -> None: ...
    @property
    def bias(self) -> _B: ...
    @bias.setter
    def bias(self, value: ArrayLike | None) -> None: ...
    @overload
    def __call__(
        self, x: NDArray[_F], *, out: NDArray[_F] | None = None, num_threads: SupportsIndex | None = None
    ) -> NDArray[_F]: ...
    @overload
    def __call__(
        self, x: _Lists, *, out: NDArray[np.float64] | None = None, num_threads: SupportsIndex | None = None
    ) -> NDArray[np.float64]: ...
    @overload
    def __call__(
        self, x: ArrayLike, *, out: _Floats | None = None, num_threads: SupportsIndex | None = None
    ) -> _Floats: ...
    @overload
    def forward(
        self, x: NDArray[_F], *, out: NDArray[_F] | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[NDArray[_F], LayerNormSaved[_F]]: ...
    @overload
    def forward(
        self, x: _Lists, *, out: NDArray[np.float64] | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[NDArray[np.float64], LayerNormSaved[np.float64]]: ...
    @overload
    def forward(
        self, x: ArrayLike, *, out: _Floats | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[_Floats, LayerNormSaved[np.floating[Any]]]: ...
    def backward(
        self,
        dy: ArrayLike,
        saved: LayerNormSaved[_X],
        *,
        out: NDArray[_X] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> LayerNormGradients[_X, _W, _B]: ...
    def state_dict(self) -> dict[str, Array]: ...
    def load_state_dict(self, state: Mapping[str, ArrayLike], prefix: str = "") -> None: ...

class RMSNorm(Generic[_W]):
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    @overload
    def __init__(
        self: RMSNorm[Array],
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float | None = None,
        elementwise_affine: Literal[True] = True,
        *,
        weight_offset: float = 0.0,
        cast: Literal["llama", "gemma"] | None = None,
        weight_init: Initializer | None = None,
        dtype: DTypeLike = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: RMSNorm[None],
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float | None = None,
        *,
        elementwise_affine: Literal[False],
        weight_offset: float = 0.0,
        cast: Literal["llama", "gemma"] | None = None,
        weight_init: Initializer | None = None,
        dtype: DTypeLike = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: RMSNorm[Array | None],
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        weight_offset: float = 0.0,
        cast: Literal["llama", "gemma"] | None = None,
        weight_init: Initializer | None = None,
        dtype: DTypeLike = ...,
    ) -> None: ...
    @property
    def normalized_shape(self) -> tuple[int, ...]: ...
    @property
    def elementwise_affine(self) -> bool: ...
    @property
    def eps(self) -> float | None: ...
    @eps.setter
    def eps(self, value: float | None) -> None: ...
    @property
    def weight_offset(self) -> float: ...
    @weight_offset.setter
    def weight_offset(self, value: float) -> None: ...
    @property
    def cast(self) -> Literal["llama", "gemma"] | None: ...
    @cast.setter
    def cast(self, value: Literal["llama", "gemma"] | None) -> None: ...
    @property
    def weight(self) -> _W: ...
    @weight.setter
    def weight(self, value: ArrayLike | None) -> None: ...
    @overload
    def __call__(
        self, x: NDArray[_F], *, out: NDArray[_F] | None = None, num_threads: SupportsIndex | None = None
    ) -> NDArray[_F]: ...
    @overload
    def __call__(
        self, x: _Lists, *, out: NDArray[np.float64] | None = None, num_threads: SupportsIndex | None = None
    ) -> NDArray[np.float64]: ...
    @overload
    def __call__(
        self, x: ArrayLike, *, out: _Floats | None = None, num_threads: SupportsIndex | None = None
    ) -> _Floats: ...
    @overload
    def forward(
        self, x: NDArray[_F], *, out: NDArray[_F] | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[NDArray[_F], RMSNormSaved[_F]]: ...
    @overload
    def forward(
        self, x: _Lists, *, out: NDArray[np.float64] | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[NDArray[np.float64], RMSNormSaved[np.float64]]: ...
    @overload
    def forward(
        self, x: ArrayLike, *, out: _Floats | None = None, num_threads: SupportsIndex | None = None
    ) -> tuple[_Floats, RMSNormSaved[np.floating[Any]]]: ...
    def backward(
        self,
        dy: ArrayLike,
        saved: RMSNormSaved[_X],
        *,
        out: NDArray[_X] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> RMSNormGradients[_X, _W]: ...
    def state_dict(self) -> dict[str, Array]: ...
    def load_state_dict(self, state: Mapping[str, ArrayLike], prefix: str = "") -> None: ...
