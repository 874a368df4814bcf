from typing import Any, Generic, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastln._core.forms import Form, Sized
from fastln._core.sequence_arguments import Layer, Settings
from fastln.norms import _Floats

# What is given for a state, and what comes back: an array, or of an LSTM two.
_Given = TypeVar("_Given")
_State = TypeVar("_State")

class FrozenRecurrent(Sized, Generic[_Given, _State]):
    def __init__(self, form: Form, settings: Settings, layers: list[list[Layer]], dtype: np.dtype[Any]) -> None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __call__(
        self,
        x: ArrayLike,
        state: _Given | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: _Floats | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> tuple[_Floats, _State]: ...
    def step(
        self, x_t: ArrayLike, state: _Given | None = None, *, num_threads: SupportsIndex | None = None
    ) -> _State: ...
