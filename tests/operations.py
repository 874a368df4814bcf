"""The operations: each is described once, by the kinds of its arguments and results, and tested for every promise.

An operation joins the suite by an entry in OPERATIONS. The tests of bits, accuracy, memory, calls, streaming and
threads run for each of them, each ISA and each dtype; what only one promises has a module of its own in norms/.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

import numpy as np
from bounds import gradient_errors, judge_gradients, mean_error, output_error, rstd_error
from helpers import at_offset
from regimes import (
    EDGE_COLS,
    EPS,
    GRADIENT_REGIMES,
    REGIMES,
    UNEVEN,
    computed,
    eps_of,
    finfo,
    forward_shapes,
    gradient_shapes,
    is_narrow,
    is_tried,
    make_dy,
    make_mixed_rows,
    make_parameters,
    make_rows,
    parts_of,
)

import fastln
from fastln._reference import normalize, normalize_by_rms


class Kind(Enum):
    """How the shape of an argument or a result follows from that of x, which is (*leading, *normalized)."""

    ROWS = "(rows, cols)"
    COLS = "(cols,)"
    STATS = "(rows, 1)"

    def shape(self, leading, normalized):
        """The shape for an x of (*leading, *normalized)."""
        match self:
            case Kind.ROWS:
                return (*leading, *normalized)
            case Kind.COLS:
                return tuple(normalized)
            case Kind.STATS:
                return (*leading, *(1,) * len(normalized))


# Instead of a label of regimes.py: rows that take turns through all regimes with the usual eps.
MIXED = "mixed"


@dataclass(frozen=True, eq=False)
class Operation:
    """A public function of fastln, and what is promised of it. Called by names, it returns its results by name."""

    name: str
    arguments: Mapping[str, Kind]  # in their order; options follow
    results: Mapping[str, Kind]  # in their order; out= is the buffer of the first
    exact: Callable  # exact(arguments, eps, label): what `errors` needs, whatever is absent, in long double
    errors: Callable  # errors(found, arguments, exact): {quantity: largest error in eps}
    regimes: Sequence[str]  # labels of regimes.py: in these it is as accurate as ordinary rows are
    shapes: Callable  # shapes(label): the (rows, cols) that are tried of a regime
    large: Mapping[str, tuple] = field(default_factory=dict)  # {what: (label, shapes)}: where lengths matter most
    optional: Sequence[str] = ()  # arguments that may be None, each on its own
    in_place: Sequence[str] = ("x",)  # arguments whose array out=, or the buffer of another result, may be
    base: str = "x"  # the argument that has the rows which are normalized: their dtype is that of the results
    like_base: Sequence[str] = ()  # arguments that must have its dtype: they are not converted
    by_element: Sequence[str] = ()  # arguments and results of rows whose numbers meet nothing else of their row
    more_buffers: Mapping[str, str] = field(default_factory=dict)  # {option: the result whose buffer it is}
    saved_by: str | None = None  # the operation whose results are the arguments of kind STATS
    takes_eps: bool = False
    usual: Mapping[str, object] = field(default_factory=dict)  # what it is called with if a call does not say other
    others: Mapping[str, object] = field(default_factory=dict)  # {argument: a good value}: what only it takes
    has_mask: bool = False  # output_mask= says which results are wanted; the others are None
    kernel: str | None = None  # the operation that runs on the same kernel and is tested where one is enough

    def __str__(self):
        return self.name

    def __call__(self, **arguments):
        """The results by name, without those that are None."""
        found = getattr(fastln, self.name)(**{**self.usual, **arguments})
        if len(self.results) == 1:
            found = (found,)
        assert type(found) is tuple
        return {name: one for name, one in zip(self.results, found, strict=True) if one is not None}

    @property
    def result(self):
        """The name of the result whose buffer out= is."""
        return next(iter(self.results))

    @property
    def buffers(self):
        """{option: the result whose buffer it is}."""
        return {"out": self.result, **self.more_buffers}

    @property
    def by_row(self):
        """Names of the arguments and results that have something for each row; the results depend on nothing else."""
        kinds = {**self.arguments, **self.results}
        return [name for name, kind in kinds.items() if kind is not Kind.COLS]

    @property
    def absences(self):
        """Every choice of optional arguments to leave out."""
        count = len(self.optional)
        return [names for n in range(count + 1) for names in itertools.combinations(self.optional, n)]

    @property
    def masks(self):
        """Every output_mask, all results first; of an operation that has none, no mask."""
        return list(itertools.product((True, False), repeat=len(self.results))) if self.has_mask else []

    @property
    def some_masks(self):
        """Options of a call: for all results, the first one alone and all but the first, where that can be said."""
        count = len(self.results) - 1
        masks = ((True, *(others,) * count) if first else (False, *(True,) * count) for first, others in _SOME_MASKS)
        return [{"output_mask": mask} for mask in masks] if self.has_mask else [{}]

    def cases(self, dtype):
        """{what: (label, shapes)} that its accuracy is tested on."""
        every = {label: (label, self.shapes(label)) for label in self.regimes if is_tried(label, dtype)}
        if not is_narrow(dtype):
            return every | dict(self.large)
        # Numbers of 16 bits go through the same sums: what differs are loads and stores, which depend on the width.
        large = {what: case for what, case in self.large.items() if is_tried(case[0], dtype)}
        few = {what: (label, shapes[:: 1 if label == "normal" else 4]) for what, (label, shapes) in every.items()}
        return few | dict(list(large.items())[::4])

    def result_dtype(self, name, dtype):
        """That of a result by name, for an x and parameters of this one."""
        return computed(dtype) if self.results[name] is Kind.STATS else np.dtype(dtype)

    # Arguments

    def data(self, label, rows, cols, dtype):
        """Arguments by name, always the same ones, but for those that another operation saves: see `complete`."""
        return {name: a.copy() for name, a in _make_data(self, label, rows, cols, np.dtype(dtype)).items()}

    def complete(self, data, eps=EPS):
        """The same arguments with what saved_by saves for that x and eps, and eps where it is not the default."""
        rows, options = data[self.base], {} if eps == EPS else {"eps": eps}
        saved = OPERATIONS[self.saved_by](x=rows, **options) if self.saved_by else {}
        arguments = {name: saved[name] if kind is Kind.STATS else data[name] for name, kind in self.arguments.items()}
        return {**arguments, "eps": eps} if self.takes_eps and eps != EPS else arguments

    def make(self, label, rows, cols, dtype, absent=()):
        """All arguments by name: always the same ones, of a label of regimes.py or MIXED; those absent are None."""
        eps = EPS if label == MIXED else eps_of(label)
        return self.complete(self.data(label, rows, cols, dtype), eps) | dict.fromkeys(absent)

    def change_rows(self, data, index, change):
        """Have other rows normalized: change(rows) for those of an index."""
        rows = data[self.base]
        if "residual" in data:
            rows[index] += data["residual"][index]
            data["residual"][index] = 0
        rows[index] = change(rows[index])

    def rows_of(self, values, index):
        """The same arguments or results for some of the rows."""
        return {
            name: value[index] if name in self.by_row and value is not None else value for name, value in values.items()
        }

    def only_by_row(self, results):
        """Those of the results that are not sums over the rows."""
        return {name: one for name, one in results.items() if name in self.by_row}

    def reshaped(self, values, leading, normalized):
        """Arguments or results of these shapes."""
        kinds = {**self.arguments, **self.results}
        return {
            name: value if value is None else value.reshape(kinds[name].shape(leading, normalized))
            for name, value in values.items()
        }

    # Calls

    def alone(self, arguments):
        """The results by row, from one call a row: contiguous, aligned, serial. All other ways must give these bits."""
        own = {name: value for name, value in arguments.items() if name in self.by_row and value is not None}
        shared = {name: value for name, value in arguments.items() if name not in own}
        calls = (
            self(**{name: at_offset(value[i]) for name, value in own.items()}, **shared, num_threads=1)
            for i in range(len(arguments[self.base]))
        )
        found = [self.only_by_row(results) for results in calls]
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def in_the_place_of(self, name, arguments, buffer="out", **options):
        """The results of a call whose out=, or that other buffer, is one of its own arguments."""
        found = self(**arguments, **{buffer: arguments[name]}, **options)
        assert found[self.buffers[buffer]] is arguments[name]
        return found

    def into(self, make, arguments, **options):
        """The results of a call that writes all that it can to buffers of its own, which make(rows) makes."""
        given = {buffer: make(np.zeros_like(arguments[self.base])) for buffer in self.buffers}
        found = self(**arguments, **given, **options)
        for buffer, result in self.buffers.items():
            assert found[result] is given[buffer]
        return found


_SOME_MASKS = ((True, True), (True, False), (False, True))


@functools.lru_cache(maxsize=64)
def _make_data(operation, label, rows, cols, dtype):
    """What Operation.data gives, for all ISAs and tests that want the same."""
    regimes = tuple(dict.fromkeys(parts_of(label)[0] for label in operation.regimes))
    if label == MIXED:
        x = make_mixed_rows(rows, cols, dtype, regimes)
    else:
        x = make_rows(parts_of(label)[0], rows, cols, dtype)
    parameters = dict(zip(("weight", "bias"), make_parameters(cols, dtype), strict=True))
    data = {}
    for name, kind in operation.arguments.items():
        if name == operation.base:
            data[name] = x
        elif name == "residual":
            data[operation.base], data[name] = split(x)
        elif name == "dy" and label != MIXED:
            data[name] = make_dy(label, x)
        elif kind is Kind.ROWS:
            # Sizes that differ by a few bits: another order of a sum over rows shows.
            numbers = np.random.default_rng([zlib.crc32(name.encode()), rows, cols]).standard_normal((rows, cols))
            data[name] = (numbers * np.exp2(np.arange(rows) % 5)[:, None]).astype(dtype)
        elif kind is Kind.COLS:
            data[name] = parameters[name]
    return data


def split(sums):
    """Rows of x and residual: the even ones have these sums, the odd ones nearly so, as additions are rounded."""
    rng = np.random.default_rng(sums.shape)
    x = np.where(rng.random(sums.shape) < 0.5, sums, sums.dtype.type(0))
    part = sums[1::2] * rng.random(sums[1::2].shape).astype(sums.dtype)
    is_small = np.abs(sums[1::2]) < sums.dtype.type(float(finfo(sums.dtype).max) / 2)  # the others may overflow
    x[1::2] = np.where(is_small, part, sums[1::2])
    return x, sums - x


# Norms


def _sums_of(arguments):
    """The rows that are normalized."""
    residual = arguments.get("residual")
    return arguments["x"] if residual is None else arguments["x"] + residual  # rounded to their dtype


def _forward_errors(found, arguments, exact):
    errors = {"y": output_error(found["y"], exact, arguments["weight"], arguments.get("bias"))}
    if "mean" in found:
        errors["mean"] = mean_error(found["mean"], _sums_of(arguments), exact)
    if "rstd" in found:
        errors["rstd"] = rstd_error(found["rstd"], exact)
    return errors


def _exact_gradients_of(norm):
    def exact_gradients(arguments, eps, label):
        dy, weight, ds = arguments["dy"], arguments["weight"], arguments.get("ds")
        exact = norm(arguments["s" if "s" in arguments else "x"], eps)
        even = label not in UNEVEN
        return {
            _absent({"weight": w, "ds": beside}): judge_gradients(dy, exact, w, even, beside)
            for w, beside in itertools.product((weight, None), (None,) if ds is None else (ds, None))
        }

    return exact_gradients


def _absent(arguments):
    """Those of weight and ds that are not there."""
    return frozenset(name for name in ("weight", "ds") if arguments.get(name) is None)


def _gradient_errors(found, arguments, exact):
    return gradient_errors(tuple(found.values()), exact[_absent(arguments)])


def _tall_shapes(rows):
    cols = (1, 2, 3, 8, 15, 16, 17, 33, 63, 64, 65, 129, 257)
    return [(rows, size) for size in (cols if rows > 65 else (*cols, 768, 4096))]


_ANY_FORWARD = {
    "takes_eps": True,
    "errors": _forward_errors,
    "regimes": tuple(REGIMES),
    "shapes": forward_shapes,
    "large": {f"{label}, D=1e6": (label, [(1, 1_000_000)]) for label in ("normal", "mean 1e5", "ramp", "two-valued")},
}
_FORWARD = _ANY_FORWARD | {
    "arguments": {"x": Kind.ROWS, "weight": Kind.COLS, "bias": Kind.COLS},
    "optional": ("weight", "bias"),
    "exact": lambda arguments, eps, label: normalize(_sums_of(arguments), eps),
}
_RMS_FORWARD = _ANY_FORWARD | {
    "arguments": {"x": Kind.ROWS, "weight": Kind.COLS},
    "optional": ("weight",),
    "usual": {"eps": EPS},
    "others": {"weight_offset": 0.0, "cast": "llama"},
    "exact": lambda arguments, eps, label: normalize_by_rms(_sums_of(arguments), eps),
}
# Of the sum the results have the bits that they have of rows, which test_add_norms.py tests: few regimes are enough.
_FEW = {"regimes": ("normal", "mean 1e4", "huge", "constant"), "shapes": lambda label: [(4, c) for c in EDGE_COLS]}
_ADD = {
    "in_place": ("x", "residual"),
    "like_base": ("residual",),
    "by_element": ("s",),
    "more_buffers": {"residual_out": "s"},
    "large": {},
    **_FEW,
}


def _with_residual(forward):
    """The same of the sum of x and a residual."""
    rest = {name: kind for name, kind in forward["arguments"].items() if name != "x"}
    return forward | _ADD | {"arguments": {"x": Kind.ROWS, "residual": Kind.ROWS, **rest}}


_BACKWARD = {
    "optional": ("weight",),
    "in_place": ("dy", "x"),
    "has_mask": True,
    "errors": _gradient_errors,
    "regimes": tuple(GRADIENT_REGIMES),
    "shapes": gradient_shapes,
    "large": {
        f"{label}, {rows} rows": (label, _tall_shapes(rows))
        for label in ("normal", "mean 1e4, dy constant rows")
        for rows in (1, 8, 9, 31, 32, 33, 63, 64, 65, 1000)
    }
    | {
        f"{label}, 200003 rows": (label, [(200_003, 3)])
        for label in ("normal", "normal, dy mean 1e3", "normal, dy one number")
    }
    | {f"{label}, D=3e5": (label, [(2, 300_000)]) for label in ("mean 1e4", "normal, dy one number")},
}

_ADD_BACKWARD = _BACKWARD | {
    "optional": ("ds", "weight"),
    "in_place": ("dy", "ds", "s"),
    "base": "s",
    "by_element": ("ds",),
    "regimes": ("normal", "mean 1e4", "normal, dy mean 1e3"),
    "shapes": lambda label: [(9, cols) for cols in EDGE_COLS],
    "large": {},
}

_LIST = (
    Operation("layer_norm", results={"y": Kind.ROWS}, kernel="layer_norm_forward", **_FORWARD),
    Operation("layer_norm_forward", results={"y": Kind.ROWS, "mean": Kind.STATS, "rstd": Kind.STATS}, **_FORWARD),
    Operation(
        "layer_norm_backward",
        arguments={"dy": Kind.ROWS, "x": Kind.ROWS, "mean": Kind.STATS, "rstd": Kind.STATS, "weight": Kind.COLS},
        results={"dx": Kind.ROWS, "dweight": Kind.COLS, "dbias": Kind.COLS},
        saved_by="layer_norm_forward",
        exact=_exact_gradients_of(normalize),
        **_BACKWARD,
    ),
    Operation(
        "add_layer_norm",
        results={"y": Kind.ROWS, "s": Kind.ROWS},
        kernel="add_layer_norm_forward",
        **_with_residual(_FORWARD),
    ),
    Operation(
        "add_layer_norm_forward",
        results={"y": Kind.ROWS, "s": Kind.ROWS, "mean": Kind.STATS, "rstd": Kind.STATS},
        **_with_residual(_FORWARD),
    ),
    Operation(
        "add_layer_norm_backward",
        arguments={
            **dict.fromkeys(("dy", "ds", "s"), Kind.ROWS),
            "mean": Kind.STATS,
            "rstd": Kind.STATS,
            "weight": Kind.COLS,
        },
        results={"dx": Kind.ROWS, "dweight": Kind.COLS, "dbias": Kind.COLS},
        saved_by="layer_norm_forward",
        exact=_exact_gradients_of(normalize),
        **_ADD_BACKWARD,
    ),
    Operation("rms_norm", results={"y": Kind.ROWS}, kernel="rms_norm_forward", **_RMS_FORWARD),
    Operation("rms_norm_forward", results={"y": Kind.ROWS, "rstd": Kind.STATS}, **_RMS_FORWARD),
    Operation(
        "rms_norm_backward",
        arguments={"dy": Kind.ROWS, "x": Kind.ROWS, "rstd": Kind.STATS, "weight": Kind.COLS},
        results={"dx": Kind.ROWS, "dweight": Kind.COLS},
        saved_by="rms_norm_forward",
        others={"weight_offset": 0.0},
        exact=_exact_gradients_of(normalize_by_rms),
        **_BACKWARD,
    ),
    Operation(
        "add_rms_norm",
        results={"y": Kind.ROWS, "s": Kind.ROWS},
        kernel="add_rms_norm_forward",
        **_with_residual(_RMS_FORWARD),
    ),
    Operation(
        "add_rms_norm_forward",
        results={"y": Kind.ROWS, "s": Kind.ROWS, "rstd": Kind.STATS},
        **_with_residual(_RMS_FORWARD),
    ),
    Operation(
        "add_rms_norm_backward",
        arguments={**dict.fromkeys(("dy", "ds", "s"), Kind.ROWS), "rstd": Kind.STATS, "weight": Kind.COLS},
        results={"dx": Kind.ROWS, "dweight": Kind.COLS},
        saved_by="rms_norm_forward",
        others={"weight_offset": 0.0},
        exact=_exact_gradients_of(normalize_by_rms),
        **_ADD_BACKWARD,
    ),
)

OPERATIONS = MappingProxyType({operation.name: operation for operation in _LIST})
