"""Parameters of objects: arrays that are the caller's to change, and states to load them from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastln._core.arguments import as_any_floats, converted, reshaping
from fastln._core.describe import cut, describe
from fastln._core.elements import is_element
from fastln._core.names import explain_attribute, explain_keys, explain_state, explain_unexpected

Array = NDArray[np.floating[Any]]


class StateError(KeyError):
    """A KeyError whose words are shown as they are, and not as the repr of a key."""

    __module__ = "fastln.modules"  # where users find it

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class KnownAttributes:
    """What refuses to be given an attribute that nothing reads; a subclass may have whatever attributes it likes."""

    __slots__ = ("__weakref__",)  # no dict, in its own subclasses neither

    _SETTABLE: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except AttributeError:
            if hasattr(type(self), name):  # and cannot be set, or its own setter says so
                raise
            raise AttributeError(explain_attribute(name, self._SETTABLE)) from None

    def __getstate__(self) -> Any:
        return super().__getstate__()  # without a method of its own, protocols 0 and 1 would refuse a class with slots


def may_be_parameter(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether it is as the kernels take it, and can be changed in place."""
    return type(array) is np.ndarray and array.dtype == dtype and array.flags.carray and array.shape == shape


def as_parameter(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any], to_match: str) -> Array:
    """`value` itself if it may be the parameter, else a new array."""
    array = as_any_floats(name, value)
    return array if may_be_parameter(array, shape, dtype) else new_parameter(name, array, shape, dtype, to_match)


def new_parameter(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any], to_match: str) -> Array:
    """A copy of a parameter of this shape, which is that of what `to_match` names."""
    array = np.array(converted(name, as_any_floats(name, value), dtype.num), dtype, order="C")
    if array.shape != shape:
        advice = reshaping(name, shape, array.shape)
        raise ValueError(f"{name} must have shape {shape} to match {to_match}, got {array.shape}{advice}")
    return array


def load_parameters(parameters: Mapping[str, Array], loaded: Mapping[str, Array]) -> dict[str, Array]:
    """Write what was loaded into the parameters of its names; where that cannot be, those to take instead of them."""
    are_apart = not any(np.may_share_memory(*pair) for pair in itertools.combinations(parameters.values(), 2))
    fit = all(may_be_parameter(parameters[name], array.shape, array.dtype) for name, array in loaded.items())
    if not (are_apart and fit):
        return dict(loaded)
    for name, array in loaded.items():
        parameters[name][...] = array
    return {}


def without_gradient(value: Any) -> Any:
    """A tensor of PyTorch that takes part in no gradient, as NumPy wants it; anything else itself."""
    return value.detach() if getattr(type(value), "__module__", "").startswith("torch") else value


def as_float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        found = np.dtype(dtype)
    except Exception:  # of any type, since NumPy asks what it does not know for its repr
        found = None
    if found is None or not (is_element(found) and found.isnative):
        of_torch = str(getattr(type(dtype), "__module__", "")).startswith("torch")
        got = f"{dtype}: np.float32 and ml_dtypes.bfloat16 are NumPy's" if of_torch else describe(dtype)
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16, got {got}")
    return found


def as_bool(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        init = "bias_init gives its values" if name == "bias" else "weight_init gives the weight"
        advice = f": {init}" if name == "bias" or hasattr(type(value), "__array__") else ""
        raise TypeError(f"{name} must be True or False, got {describe(value)}{advice}")
    return bool(value)


def check_keys(state: Any, prefix: Any, names: tuple[str, ...], kind: str) -> None:
    """Whether the names with this prefix are those of the parameters."""
    if not isinstance(state, Mapping):
        advice = explain_state(state)
        raise TypeError(f"state must be a mapping of names to arrays, got {describe(state)}{advice}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {describe(prefix)}")
    keys = dict.fromkeys(state)
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"state must have strings as keys, got {describe(key)}")
    missing = [prefix + name for name in names if prefix + name not in keys]
    if missing:
        # Only of a dict: other mappings may read a file for a value.
        inner = [key for key, value in state.items() if isinstance(value, Mapping)] if isinstance(state, dict) else []
        advice = explain_keys(missing, prefix, names, keys, inner, kind)
        raise StateError(f"state must have the key {cut(missing[0])!r}, got {advice}")
    under = f"under {cut(prefix)!r} " if prefix else ""
    known = cut(" and ".join(names)) or "none"
    for key in sorted(keys):
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name not in names:
            advice = explain_unexpected(name, names, kind)
            raise StateError(f"state must have no key {under}but those of {known}, got {cut(key)!r}{advice}")
