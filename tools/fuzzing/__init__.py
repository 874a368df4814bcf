"""What tools/fuzz.py is made of.

operations.py is the registry, whose entries are all that a new operation adds. From it come, in this order, the values
of a case (values.py), their places in memory (memory.py), the call (calls.py) and its checks (checks.py). Recurrence
has cases of its own: calls of the functions (sequences.py), and of the objects in both directions of time
(sequence_gradients.py).

Here is all that comes from the tests and from the private side of fastln.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from bounds import PROMISED, PROMISED_OF_RMS, USUAL, half_subnormal, half_unit
from fences import Room
from recurrent_cases import CELLS, OBJECTS, make_case, step_sizes
from regimes import BACKWARD_REGIMES, DY, ELEMENTS, REGIMES, computed, finfo, is_narrow, is_tried, stored

from fastln import _reference as exact
from fastln._core.effort import set_min_parallel_bytes, set_stream_bytes
from fastln._core.facts import config
from fastln._core.stores import forget as forget_streaming
from fastln._reference import long_double_suffices

IS_SANITIZED = "-fsanitize=" in str(config()["build"])

STEP_ERROR = USUAL["h and c"]

Rng = np.random.Generator
Array = np.ndarray

# x is of one of these; bfloat16 needs ml_dtypes.
FLOATS = tuple(np.dtype(name) for name in ELEMENTS if name != "bfloat16" or "ml_dtypes" in sys.modules)
# Arrays of these are refused.
OTHER_DTYPES = ("i4", "i8", "?", "c8", "O", "U3", "S3", "M8[s]")


def pick(rng, options, weights=None):
    """One of the options."""
    return options[rng.integers(len(options)) if weights is None else rng.choice(len(options), p=weights)]


def chance(rng, probability):
    """True with this probability."""
    return rng.random() < probability


__all__ = [
    "BACKWARD_REGIMES",
    "CELLS",
    "DY",
    "FLOATS",
    "IS_SANITIZED",
    "OBJECTS",
    "OTHER_DTYPES",
    "PROMISED",
    "PROMISED_OF_RMS",
    "REGIMES",
    "STEP_ERROR",
    "Array",
    "Rng",
    "Room",
    "chance",
    "computed",
    "exact",
    "finfo",
    "forget_streaming",
    "half_subnormal",
    "half_unit",
    "is_narrow",
    "is_tried",
    "long_double_suffices",
    "make_case",
    "pick",
    "set_min_parallel_bytes",
    "set_stream_bytes",
    "step_sizes",
    "stored",
]
