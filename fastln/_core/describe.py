"""A value in a few words, for messages: never the numbers of an array, never the repr of somebody's object."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

MOST_CHARACTERS = 80
MOST_OF_A_STRING = 40
MOST_ITEMS = 4


def describe(value: Any, depth: int = 2) -> str:
    """Type, dtype and shape of an array, a short number, string or tuple itself, of anything else its type."""
    if isinstance(value, np.ndarray):
        # From the array itself: a subclass may have these lie, or raise.
        return describe_array(value, np.ndarray.dtype.__get__(value), np.ndarray.shape.__get__(value))
    if isinstance(value, (tuple, list)):
        return _describe_items(value, depth)
    if isinstance(value, type):
        return cut(value.__name__)
    if isinstance(value, np.dtype):
        return cut(str(value))
    if value is None or isinstance(value, (str, bytes, numbers.Number, np.generic)):
        return _describe_plain(value)
    try:
        return describe_array(value, value.dtype, tuple(value.shape))
    except Exception:  # not an array, or one that does not say
        return cut(type(value).__name__)


def describe_array(kind: Any, dtype: Any, shape: Any) -> str:
    """An array, or what one was made of, by its parts."""
    name = "array" if type(kind) is np.ndarray else type(kind).__name__
    return f"{cut(name)} of {cut(str(dtype))}, shape {cut(str(shape))}"


def cut(text: str, most: int = MOST_CHARACTERS) -> str:
    """The first line of it, without its middle if that is more than a message can take: the end tells keys apart."""
    line = text.partition("\n")[0]
    half = (most - 3) // 2
    return line if len(line) <= most else f"{line[:half]}...{line[-half:]}"


def _describe_items(value: tuple[Any, ...] | list[Any], depth: int) -> str:
    count = len(value)
    if count > MOST_ITEMS or depth == 0:
        return f"{cut(type(value).__name__)} of length {count}"
    items = ", ".join(describe(item, depth - 1) for item in value)
    return f"[{items}]" if isinstance(value, list) else f"({items},)" if count == 1 else f"({items})"


def _describe_plain(value: Any) -> str:
    if isinstance(value, (str, bytes)) and len(value) > MOST_CHARACTERS:
        return f"{cut(repr(value[:MOST_OF_A_STRING]))}... of length {len(value)}"
    try:
        return cut(repr(value))
    except Exception:  # an int of more digits than Python prints, or a repr that fails
        return cut(type(value).__name__)
