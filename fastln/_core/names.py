"""What arguments and parameters are called elsewhere, and what a message says of a name that is not known here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn, ParamSpec, TypeVar

from fastln._core.describe import cut

_P = ParamSpec("_P")
_R = TypeVar("_R")

# By the name here, in small letters: those of PyTorch, ONNX, TensorFlow and Keras, Flax, tch-rs and of papers.
ELSEWHERE = {
    "x": ("input", "inputs", "input_tensor", "hidden_states", "data", "a", "arr", "array", "tensor"),
    "normalized_shape": (
        "axis",
        "axes",
        "dim",
        "dims",
        "normalized_dim",
        "normalized_dims",
        "normalized_axis",
        "normalized_axes",
        "begin_norm_axis",
        "reduction_axes",
        "feature_axes",
        "norm_shape",
        "hidden_size",
        "shape",
    ),
    "weight": ("gamma", "scale", "weights", "w", "ws", "g"),
    "bias": ("beta", "offset", "center", "shift", "b", "bs"),
    "eps": ("epsilon", "variance_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rms_norm_eps", "eps_"),
    "out": ("output", "y", "dst", "result"),
    "num_threads": ("threads", "n_threads", "nthreads", "n_jobs", "num_workers", "max_threads"),
    "dy": ("grad_output", "grad_out", "grad_y", "dout", "gy", "grad"),
    "mean": ("mu", "saved_mean"),
    "rstd": ("invstd", "inv_std", "invstddev", "inv_std_dev", "saved_rstd", "saved_inv_std", "sigma", "std", "var"),
    "output_mask": ("mask", "grad_input_mask"),
    "weight_init": ("gamma_initializer", "scale_init", "ws_init"),
    "bias_init": ("beta_initializer", "bs_init"),
    "elementwise_affine": ("affine", "use_scale"),
}
HERE = {name: here for here, names in ELSEWHERE.items() for name in names}

# Where the name alone would mislead.
REMARKS = {
    "normalized_shape": "sizes of the trailing dimensions and not axes: x.shape[axis:]",
    "rstd": "1 / sqrt(var + eps)",
}

MOST_NEAR = 3


def name_here(name: str, names: Collection[str]) -> str | None:
    """The one of these names that another name means, None if it means none of them."""
    here = HERE.get(name.lower(), name.lower())
    if here in names:
        return here
    near = _nearest(name.lower(), names, most=1)
    return near[0] if near else None


def _nearest(name: str, names: Collection[str], *, most: int = MOST_NEAR, cutoff: float = 0.6) -> list[str]:
    import difflib  # takes 5 ms, and most processes never need it

    return difflib.get_close_matches(name, list(names), most, cutoff)


# Keywords


def explain_keyword(function: Callable[..., object], keyword: str) -> NoReturn:
    """Raise the TypeError for a keyword that a function does not know: what it is called here."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    here = name_here(keyword, names)
    remark = f", {REMARKS[here]}" if here in REMARKS else ""
    advice = f": the name here is {here}{remark}" if here else ""
    raise TypeError(f"keywords must be among {', '.join(names)}, got {cut(keyword)}{advice}")


def keyword_explainer(*functions: Callable[..., object]) -> Callable[[str, str], NoReturn]:
    """The same by the name of one of these functions."""
    named = {function.__name__: function for function in functions}

    def explain(function: str, keyword: str) -> NoReturn:
        explain_keyword(named[function], keyword)

    return explain


def explains_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The same function of Python with such errors. A call costs more, so it is for those that are not called often."""
    names = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        for keyword in keywords:
            if keyword not in names:
                explain_keyword(function, keyword)
        return function(*arguments, **keywords)

    return call


# Keys of a state


def explain_keys(key: str, prefix: str, names: Sequence[str], keys: Collection[str]) -> str:
    """What is wrong with a state that lacks a key, in few words however many keys it has, and what to change."""
    got = f"{len(keys)} other key{'s' if len(keys) != 1 else ''}"
    renamed = []
    for other in keys:
        here = HERE.get(other.removeprefix(prefix).lower()) if other.startswith(prefix) else None
        if here in names and f"{prefix}{here}" not in keys:
            renamed.append(f"{_quoted(other)} to {_quoted(f'{prefix}{here}')}")
    if renamed:
        return f"{got}: rename {' and '.join(renamed[:MOST_NEAR])}"
    places = _places(prefix, names, keys)
    if places:
        return f"{got}: prefix={' or '.join(_quoted(place) for place in places)} has {' and '.join(names)}"
    near = _nearest(key, keys)
    return f"{got}, the nearest {', '.join(map(_quoted, near))}" if near else got


def _places(prefix: str, names: Sequence[str], keys: Collection[str]) -> list[str]:
    """The prefixes nearest to this one that have all the names, those of norms first."""
    first = [key.removesuffix(names[0]) for key in keys if key.endswith(names[0])]
    places = [place for place in first if place[-1:] in ("", ".", "/") and all(place + name in keys for name in names)]
    norms = [place for place in places if "norm" in place.lower() or "ln" in place.lower()]
    return _nearest(prefix, norms or places, cutoff=0)


def _quoted(name: str) -> str:
    return repr(cut(name))
