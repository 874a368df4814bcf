from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Generic, Literal, NamedTuple, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastln._core.forms import Form, Sized
from fastln._core.layers import Kept
from fastln._core.sequence_arguments import Lengths
from fastln.frozen import FrozenRecurrent
from fastln.norms import _Floats, _Lists
from fastln.recurrent import _F

MOST_ELEMENTS: int
SIZES: str

State: TypeAlias = _Floats | tuple[_Floats, ...]
Rng: TypeAlias = np.random.Generator | SupportsIndex | None
_State = TypeVar("_State")
_Pair: TypeAlias = tuple[ArrayLike, ArrayLike]

class RecurrentSaved(NamedTuple):
    x: _Floats
    y: _Floats
    lengths: Lengths | None
    form: Form
    kept: list[list[Kept]]

class RecurrentGradients(NamedTuple, Generic[_State]):
    dx: _Floats
    dstate: _State
    dparameters: dict[str, _Floats]

class Parameters(MutableMapping[str, _Floats]):
    def __init__(self, arrays: dict[str, _Floats], dtype: np.dtype[Any]) -> None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, name: str) -> _Floats: ...
    def __setitem__(self, name: str, value: ArrayLike) -> None: ...
    def __delitem__(self, name: str) -> None: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...

class _Recurrent(Sized):
    @property
    def bidirectional(self) -> bool: ...
    @property
    def bias(self) -> bool: ...
    @property
    def norm_bias(self) -> bool: ...
    @property
    def eps(self) -> float: ...
    @eps.setter
    def eps(self, value: float) -> None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def parameters(self) -> Parameters: ...
    # The types of these are those of a kind of cell.
    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        out: Any = None,
        num_threads: SupportsIndex | None = None,
    ) -> Any: ...
    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> Any: ...
    def backward(
        self,
        dy: ArrayLike | None,
        dstate: Any,
        saved: RecurrentSaved,
        *,
        num_threads: SupportsIndex | None = None,
    ) -> Any: ...
    def freeze(self) -> Any: ...
    def state_dict(self) -> dict[str, _Floats]: ...
    def load_state_dict(self, state: Mapping[str, ArrayLike], prefix: str = "") -> None: ...

class LayerNormRNN(_Recurrent):
    def __init__(
        self,
        input_size: SupportsIndex,
        hidden_size: SupportsIndex,
        num_layers: SupportsIndex = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        eps: float = 1e-5,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        norm_bias: bool = True,
        dtype: DTypeLike = ...,
        rng: Rng = None,
    ) -> None: ...
    @property
    def nonlinearity(self) -> Literal["tanh", "relu"]: ...
    @overload
    def __call__(
        self,
        x: NDArray[_F],
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: NDArray[_F] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[_F], NDArray[_F]]: ...
    @overload
    def __call__(
        self,
        x: _Lists,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: NDArray[np.float64] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: _Floats | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[_Floats, _Floats]: ...
    @overload
    def forward(
        self,
        x: NDArray[_F],
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[NDArray[_F], NDArray[_F]], RecurrentSaved]: ...
    @overload
    def forward(
        self,
        x: _Lists,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], RecurrentSaved]: ...
    @overload
    def forward(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[_Floats, _Floats], RecurrentSaved]: ...
    def backward(
        self,
        dy: ArrayLike | None,
        dstate: ArrayLike | None,
        saved: RecurrentSaved,
        *,
        num_threads: SupportsIndex | None = None,
    ) -> RecurrentGradients[_Floats]: ...
    def freeze(self) -> FrozenRecurrent[ArrayLike, _Floats]: ...

class LayerNormLSTM(_Recurrent):
    def __init__(
        self,
        input_size: SupportsIndex,
        hidden_size: SupportsIndex,
        num_layers: SupportsIndex = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        eps: float = 1e-5,
        *,
        carry: Literal["cell", "normalized"] = "cell",
        norm_bias: bool = True,
        dtype: DTypeLike = ...,
        rng: Rng = None,
    ) -> None: ...
    @property
    def carry(self) -> Literal["cell", "normalized"]: ...
    @overload
    def __call__(
        self,
        x: NDArray[_F],
        state: _Pair | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: NDArray[_F] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[_F], tuple[NDArray[_F], NDArray[_F]]]: ...
    @overload
    def __call__(
        self,
        x: _Lists,
        state: _Pair | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: NDArray[np.float64] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: _Pair | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: _Floats | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[_Floats, tuple[_Floats, _Floats]]: ...
    @overload
    def forward(
        self,
        x: NDArray[_F],
        state: _Pair | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[NDArray[_F], tuple[NDArray[_F], NDArray[_F]]], RecurrentSaved]: ...
    @overload
    def forward(
        self,
        x: _Lists,
        state: _Pair | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]], RecurrentSaved]: ...
    @overload
    def forward(
        self,
        x: ArrayLike,
        state: _Pair | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[_Floats, tuple[_Floats, _Floats]], RecurrentSaved]: ...
    def backward(
        self,
        dy: ArrayLike | None,
        dstate: _Pair | None,
        saved: RecurrentSaved,
        *,
        num_threads: SupportsIndex | None = None,
    ) -> RecurrentGradients[tuple[_Floats, _Floats]]: ...
    def freeze(self) -> FrozenRecurrent[_Pair, tuple[_Floats, _Floats]]: ...

class LayerNormGRU(_Recurrent):
    def __init__(
        self,
        input_size: SupportsIndex,
        hidden_size: SupportsIndex,
        num_layers: SupportsIndex = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        eps: float = 1e-5,
        *,
        norm_bias: bool = True,
        dtype: DTypeLike = ...,
        rng: Rng = None,
    ) -> None: ...
    @overload
    def __call__(
        self,
        x: NDArray[_F],
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: NDArray[_F] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[_F], NDArray[_F]]: ...
    @overload
    def __call__(
        self,
        x: _Lists,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: NDArray[np.float64] | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: _Floats | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[_Floats, _Floats]: ...
    @overload
    def forward(
        self,
        x: NDArray[_F],
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[NDArray[_F], NDArray[_F]], RecurrentSaved]: ...
    @overload
    def forward(
        self,
        x: _Lists,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], RecurrentSaved]: ...
    @overload
    def forward(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[tuple[_Floats, _Floats], RecurrentSaved]: ...
    def backward(
        self,
        dy: ArrayLike | None,
        dstate: ArrayLike | None,
        saved: RecurrentSaved,
        *,
        num_threads: SupportsIndex | None = None,
    ) -> RecurrentGradients[_Floats]: ...
    def freeze(self) -> FrozenRecurrent[ArrayLike, _Floats]: ...
