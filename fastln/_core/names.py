"""What arguments and parameters are called elsewhere, and what a message says of a name that is not known here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

from fastln._core.describe import cut

_P = ParamSpec("_P")
_R = TypeVar("_R")

# By the name here, in small letters: those of PyTorch, ONNX, TensorFlow and Keras, Flax, tch-rs and of papers.
ELSEWHERE = {
    "x": ("input", "inputs", "input_tensor", "hidden_states", "data", "a", "arr", "array", "tensor"),
    "residual": ("skip", "residual_input", "residual_in", "prenorm_input", "shortcut"),
    "residual_out": ("input_skip_bias_sum", "residual_output", "out_residual", "prenorm_out", "sum_out"),
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
    "out": ("output", "y", "dst", "result", "inplace", "in_place"),
    "num_threads": ("threads", "n_threads", "nthreads", "n_jobs", "num_workers", "max_threads"),
    "dy": ("grad_output", "grad_out", "grad_y", "dout", "gy", "grad"),
    "ds": ("dresidual", "grad_residual", "dres", "grad_sum"),
    "s": ("residual_sum", "x_plus_residual"),
    "mean": ("mu", "saved_mean"),
    "rstd": ("invstd", "inv_std", "invstddev", "inv_std_dev", "saved_rstd", "saved_inv_std", "sigma", "std", "var"),
    "output_mask": ("mask", "grad_input_mask"),
    "weight_init": ("gamma_initializer", "scale_init", "ws_init"),
    "bias_init": ("beta_initializer", "bs_init"),
    "elementwise_affine": ("affine", "use_scale"),
    # Of recurrence.
    "state": ("hx", "initial_state", "initial_states", "init_state", "init_states"),
    "h0": ("h_0", "initial_h"),
    "lengths": ("sequence_lens", "sequence_length", "sequence_lengths", "seq_len", "seq_lens", "seq_lengths"),
    "reverse": ("go_backwards",),
    "batch_first": ("time_major",),
    "weight_ih": ("w_ih", "kernel"),
    "weight_hh": ("w_hh", "recurrent_kernel"),
    "input_size": ("input_dim", "in_features", "input_features"),
    "hidden_size": ("hidden_dim", "units", "num_units", "hidden_features"),
    "num_layers": ("n_layers", "layers"),
    "nonlinearity": ("activation",),
    "rng": ("seed", "generator", "random_state", "key"),
}
HERE = {name: here for here, names in ELSEWHERE.items() for name in names}

# Where the name alone would mislead: of a name here, or of one elsewhere.
REMARKS = {
    "normalized_shape": "the sizes of the trailing dimensions, x.shape[1:] for ONNX's axis=1. Leave axis=-1 out, the "
    "last dimension is the default; move another single axis to the end first, np.moveaxis(x, axis, -1)",
    "rstd": "1 / sqrt(var + eps)",
    "inplace": "out=x",
    "in_place": "out=x",
    "time_major": "it is the opposite, batch_first=False where the first axis is time",
}

# Keywords here that not every function has, and which are no slip of the pen where they are not.
OF_OTHERS = {
    "weight_offset": "rms_norm has it",
    "cast": "rms_norm has it",
    "residual": "add_layer_norm and add_rms_norm add one",
    "residual_out": "add_layer_norm and add_rms_norm add a residual",
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
    """The names most like this one, those that come first if several are equally so."""
    import difflib  # takes 5 ms, and most processes never need it

    matcher = difflib.SequenceMatcher(None, "", name)
    likeness = {}
    for other in names:
        matcher.set_seq1(other)
        if matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff and matcher.ratio() >= cutoff:
            likeness[other] = matcher.ratio()
    return sorted(likeness, key=lambda other: -likeness[other])[:most]


# Functions, keywords and attributes


def explain_public(module: str, name: str, names: Collection[str]) -> str:
    """What is wrong with a name that a module does not have, and what it is called here."""
    plain = {other.replace("_", "").lower(): other for other in names if other.islower()}
    objects = {other.lower(): other for other in names if not other.islower()}
    asked = name.replace("_", "").lower().replace("grad", "backward")
    for long in ("normalization", "normalisation", "normalize"):
        asked = asked.replace(long, "norm")
    first, second = (plain, objects) if name[:1].islower() else (objects, plain)
    here = first.get(asked) or second.get(asked)
    if here is None:  # a slip of the pen, and not a function that is not here
        alike = [other for other in names if abs(len(other) - len(name)) <= 1]
        here = next(iter(_nearest(name, alike, most=1, cutoff=0.85)), None)
    advice = f": the name here is {here}" if here else ""
    return f"module {module!r} has no attribute {cut(name)!r}{advice}"


def explain_attribute(name: str, names: Collection[str]) -> str:
    """The same of an attribute that is set, these being those that can be."""
    here = name_here(name, names)
    if here:
        return f"{here} must be set by this name, got {cut(name)}"
    return f"attributes must be among {', '.join(names)}, got {cut(name)}"


def explain_keyword(function: Callable[..., object], keyword: str) -> NoReturn:
    """Raise the TypeError for a keyword that a function does not know: what it is called here."""
    parameters = inspect.signature(function).parameters
    names = [name for name in parameters if name != "self"]
    known = ", ".join(names)
    if keyword == "dtype" and "x" in names:
        raise TypeError(
            f"x must have the dtype of the result, got the keyword dtype: x.astype(dtype); known are {known}"
        )
    here = None if keyword in OF_OTHERS else name_here(keyword, names)
    if here is None:
        advice = f": {OF_OTHERS[keyword]}" if keyword in OF_OTHERS else ""
        raise TypeError(f"keywords must be among {known}, got {cut(keyword)}{advice}")
    remark = REMARKS.get(keyword.lower()) or REMARKS.get(here)
    if here == "normalized_shape" and parameters[here].default is inspect.Parameter.empty:
        remark = "the sizes of the trailing dimensions, x.shape[-1] for axis=-1"
    advice = f": {remark}" if remark else ""
    raise TypeError(f"{here} must be given by this name, got the keyword {cut(keyword)}{advice}; known are {known}")


def explain_positions(function: Callable[..., object], most: int, given: int) -> NoReturn:
    """Raise the TypeError for more positional arguments than a function takes: which ones are keywords."""
    parameters = inspect.signature(function).parameters.values()
    keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    raise TypeError(
        f"{function.__name__}() must have at most {most} positional arguments, got {given}: "
        f"{', '.join(keywords[:-1])} and {keywords[-1]} are given by keyword"
    )


def call_explainer(*functions: Callable[..., object]) -> Callable[..., NoReturn]:
    """The same by the name of one of these functions, of a keyword or of the numbers of positional arguments."""
    named = {function.__name__: function for function in functions}

    def explain(function: str, *what: Any) -> NoReturn:
        if len(what) == 1:
            explain_keyword(named[function], *what)
        explain_positions(named[function], *what)

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


def explain_state(state: object) -> str:
    """What gives a mapping where there is something else."""
    if hasattr(type(state), "get_tensor"):
        return ": safetensors.numpy.load_file(path) gives one"
    if hasattr(type(state), "__next__"):
        return ": dict(...) of its pairs is one"
    return ": its state_dict() is one" if hasattr(type(state), "state_dict") else ""


def explain_keys(
    missing: Sequence[str], prefix: str, names: Sequence[str], keys: Collection[str], inner: Sequence[str], kind: str
) -> str:
    """What is wrong with a state that lacks keys, in few words however many keys it has, and what to change.

    `inner` are the keys of what is itself a mapping, `kind` is what the object is.
    """
    got = f"{len(keys)} other key{'s' if len(keys) != 1 else ''}"
    renamed = []
    for other in keys:
        here = _parameter_here(other.removeprefix(prefix)) if other.startswith(prefix) else None
        if here in names and f"{prefix}{here}" not in keys:
            renamed.append(f"{_quoted(other)} to {_quoted(f'{prefix}{here}')}")
    if renamed:
        return f"{got}: rename {' and '.join(renamed[:MOST_NEAR])}{_left_over(prefix, names, keys, kind)}"
    if inner:
        return f"{got}, {_quoted(inner[0])} a mapping itself: load state[{_quoted(inner[0])}], with a prefix within it"
    near = _nearest(missing[0], keys)
    if missing == [f"{prefix}bias"] and not _is_misspelt(prefix, names, near):
        weight = _quoted(f"{prefix}weight")
        return f"{weight} without it: fastln.RMSNorm has no bias, nor has LayerNorm(..., bias=False)"
    places = _places(names, keys)
    if f"{prefix}." in places:
        return f"{got}: prefix={_quoted(f'{prefix}.')}, with its last dot, has {' and '.join(names)}"
    if places:
        named = [_quoted(place) for place in _nearest(prefix, places, cutoff=0)]
        if len(places) == 1:
            return f"{got}: prefix={named[0]} has {' and '.join(names)}"
        among = "" if len(places) <= MOST_NEAR else ", among them"
        return f"{got}: {len(places)} prefixes fit{among} {', '.join(named)}"
    foreign = _foreign_places(names, keys)
    if foreign:
        named = [_quoted(place) for place in _nearest(prefix, foreign, cutoff=0)]
        there = f"{' and '.join(foreign[_nearest(prefix, foreign, most=1, cutoff=0)[0]])} for {' and '.join(names)}"
        if len(foreign) == 1:
            them, left_over = "them" if len(names) > 1 else "it", _left_over(next(iter(foreign)), names, keys, kind)
            return f"{got}: {named[0]} has {there}; rename {them}{left_over}"
        among = "," if len(foreign) <= MOST_NEAR else ", among them"
        return f"{got}: {len(foreign)} prefixes have {there}{among} {', '.join(named)}; rename them"
    return f"{got}, the nearest {', '.join(map(_quoted, near))}" if near else got


def explain_unexpected(name: str, names: Sequence[str], kind: str) -> str:
    """How to have the parameter that a state has, by whatever name, and an object of this kind has not."""
    name = _parameter_here(name) or name
    if name in names:
        return ""
    if name == "bias" and kind == "RMSNorm":
        return ": a fastln.LayerNorm has a bias, an RMSNorm has none"
    if name == "bias" and names:
        return f": {kind}(..., bias=True) has one"
    return f": {kind}(..., elementwise_affine=True) has it" if name in ("weight", "bias") and not names else ""


def _left_over(prefix: str, names: Sequence[str], keys: Collection[str], kind: str) -> str:
    """The first key with this prefix that is of a parameter which an object of this kind has not."""
    for key in keys:
        advice = explain_unexpected(key.removeprefix(prefix), names, kind) if key.startswith(prefix) else ""
        if advice:
            return f", but there is no place for {_quoted(key)}{advice}"
    return ""


def _is_misspelt(prefix: str, names: Sequence[str], near: Sequence[str]) -> bool:
    """Whether one of the keys that are near has the prefix, but none of the names."""
    return any(key.startswith(prefix) and key.removeprefix(prefix) not in names for key in near)


def _places(names: Sequence[str], keys: Collection[str]) -> list[str]:
    """The prefixes that have all the names, in the order of the keys; those of norms, if there are any."""
    first = [key.removesuffix(names[0]) for key in keys if key.endswith(names[0])]
    places = [place for place in first if place[-1:] in ("", ".", "/") and all(place + name in keys for name in names)]
    norms = [place for place in places if "norm" in place.lower() or "ln" in place.lower()]
    return norms or places


def _foreign_places(names: Sequence[str], keys: Collection[str]) -> dict[str, list[str]]:
    """The prefixes that have all of it under other names, as TensorFlow's do, and these names."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        last = key[max(key.rfind("."), key.rfind("/")) + 1 :]
        here = last if last in names else _parameter_here(last)
        if here is not None and here in names:
            found.setdefault(key.removesuffix(last), {})[here] = last
    return {place: [there[name] for name in names] for place, there in found.items() if len(there) == len(names)}


def _parameter_here(name: str) -> str | None:
    """What another library's name of a variable is here."""
    return HERE.get(name.removesuffix(":0").lower())


def _quoted(name: str) -> str:
    return repr(cut(name))
