"""Kinds of rows ("regimes") and of gradients that promises are tested on, and arguments made of them."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

with contextlib.suppress(ImportError):  # then NumPy has no bfloat16, and what needs it is skipped
    import ml_dtypes

# What the operations compute in; what they only store, and compute with in float32; both: what x may be of.
DTYPES = ("float32", "float64")
NARROW = ("bfloat16", "float16")
ELEMENTS = DTYPES + NARROW

EPS = 1e-5

# weight and bias are each optional on their own.
COMBINATIONS = {
    "plain": (False, False),
    "weight": (True, False),
    "bias": (False, True),
    "weight+bias": (True, True),
}

# Around every vector width and unroll step, then real model widths and their neighbours.
COLS = (*range(1, 131), 255, 256, 257, 512, 513, 768, 1000, 1023, 1024, 1025, 4096, 65536)
# The same, fewer.
EDGE_COLS = (
    *(1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257),
    *(768, 1023, 1025),
)


def is_narrow(dtype):
    """Whether it is only stored."""
    return np.dtype(dtype).itemsize == 2


def computed(dtype):
    """The dtype that is computed in."""
    return np.dtype(np.float32) if is_narrow(dtype) else np.dtype(dtype)


def finfo(dtype):
    """The limits of a dtype, bfloat16 too."""
    dtype = np.dtype(dtype)
    return np.finfo(dtype) if dtype.kind == "f" else ml_dtypes.finfo(dtype)


@dataclass(frozen=True)
class Regime:
    """Rows of one kind: make(rng, rows, cols, dtype) returns them in float64 or in dtype."""

    make: Callable
    eps: float = EPS


def _normal(mean=0.0, float32_scale=1.0, float64_scale=1.0, float16_scale=1.0):
    scales = {"float16": float16_scale, "float64": float64_scale}

    def make(rng, rows, cols, dtype):
        return scales.get(dtype.name, float32_scale) * (rng.standard_normal((rows, cols)) + mean)

    return make


def _outlier(place, sizes=(1e3, -1e6, 1e12, -1e30)):  # from one that fits to one whose square does not
    def make(rng, rows, cols, dtype):
        x = rng.standard_normal((rows, cols))
        x[:, int(place * (cols - 1))] = np.resize(sizes, rows)
        return x

    return make


def _near_max(rng, rows, cols, dtype):
    largest = float(finfo(dtype).max)
    x = rng.uniform(-1, 1, (rows, cols)) * largest
    x[1::4] = rng.uniform(0.5, 1, x[1::4].shape) * largest  # one sign: the sum overflows
    x[2::4] = np.where(rng.random(x[2::4].shape) < 0.5, -largest, largest)
    x[3::4] = -largest  # and one of the other sign: its distance from the mean overflows
    x[:, -1] = largest
    return x


def _subnormal(rng, rows, cols, dtype):
    info = finfo(dtype)
    return rng.integers(-(2**info.nmant), 2**info.nmant, (rows, cols)) * float(info.smallest_subnormal)


def _constant(rng, rows, cols, dtype):
    info = finfo(dtype)
    values = [
        0.0,
        1.1,
        -float(info.max),
        float(info.smallest_subnormal),
        1e5 / 3,
        -float(info.tiny),
        1e-5,
        7e9,
    ]
    return np.repeat(rng.choice(values, (rows, 1)), cols, axis=1)


def _lognormal(rng, rows, cols, dtype):
    return np.exp(2 * rng.standard_normal((rows, cols)))


def _two_valued(rng, rows, cols, dtype):
    # Every square rounds the same way, so a sum of them drifts instead of wandering.
    size = rng.uniform(1, 4, (rows, 1))
    low = np.where(np.arange(rows) % 2 == 0, -1, 0)[:, None]
    return np.where(rng.random((rows, cols)) < 0.5, low, 1) * size


def _ramp(rng, rows, cols, dtype):
    x = np.tile(np.arange(cols, dtype=np.float64), (rows, 1))
    x[1::4] *= -0.1
    x[2::4] = 1e4 + x[2::4] / cols
    x[3::4] = np.sort(rng.standard_normal(x[3::4].shape), axis=-1)
    return x


def _any_scale(rng, rows, cols, dtype):
    # Every power of two that the dtype has: no threshold between the usual and the careful path is missed.
    info = finfo(dtype)
    exponent = rng.integers(info.minexp - info.nmant // 2, info.maxexp - 4, (rows, 1))
    return np.ldexp(rng.standard_normal((rows, cols)), exponent)


REGIMES = {
    "normal": Regime(_normal()),
    "mean 10": Regime(_normal(mean=10.0)),
    "mean 1e3": Regime(_normal(mean=1e3)),
    "mean 1e4": Regime(_normal(mean=1e4)),
    "mean 1e5": Regime(_normal(mean=1e5)),
    "outlier first": Regime(_outlier(0.0)),
    "outlier middle": Regime(_outlier(0.5)),
    "outlier last": Regime(_outlier(1.0)),
    "near eps": Regime(_normal(float32_scale=EPS**0.5, float64_scale=EPS**0.5, float16_scale=EPS**0.5)),
    "tiny": Regime(_normal(float32_scale=1e-20, float64_scale=1e-160, float16_scale=1e-6)),
    "tiny, eps 0": Regime(_normal(float32_scale=1e-20, float64_scale=1e-160), eps=0.0),
    "tiny, mean 1e4, eps 0": Regime(_normal(mean=1e4, float32_scale=1e-20, float64_scale=1e-160), eps=0.0),
    "huge": Regime(_normal(float32_scale=1e20, float64_scale=1e160, float16_scale=1e4)),
    "huge, mean 1e4": Regime(_normal(mean=1e4, float32_scale=1e20, float64_scale=1e160)),
    "near max": Regime(_near_max),
    "subnormal": Regime(_subnormal),
    "subnormal, eps 0": Regime(_subnormal, eps=0.0),
    "any scale": Regime(_any_scale),
    "any scale, eps 0": Regime(_any_scale, eps=0.0),
    "constant": Regime(_constant),
    "lognormal": Regime(_lognormal),
    "two-valued": Regime(_two_valued),
    "ramp": Regime(_ramp),
}


# Those that numbers of 16 bits are tried on: sums and choices are those of float32, which all are tried on. Of float16
# they stay in its range, up to an outlier that makes x_hat as large as it can be.
NARROW_REGIMES = (
    *("normal", "mean 10", "mean 1e4", "outlier middle", "near eps", "tiny", "huge", "near max", "subnormal"),
    *("any scale", "any scale, eps 0", "constant", "ramp"),
)

# The rows that the backward pass is judged by. Left out are those of REGIMES that only forward's careful path can
# take: "huge", "near max", "subnormal", "any scale", "tiny" with eps 0 and the outlier of 1e30. There the product of
# two elements or of two rstd is out of range, or rstd itself is subnormal. Forward has to cope, since it is given any
# x; gradients of such rows are not promised. ("tiny" with the usual eps is here: its rstd is that of a row of zeros.)
BACKWARD_REGIMES = {
    name: REGIMES[name]
    for name in (
        "normal",
        "mean 10",
        "mean 1e3",
        "mean 1e4",
        "mean 1e5",
        "lognormal",
        "near eps",
        "tiny",
        "constant",
        "two-valued",
        "ramp",
    )
} | {
    "moderate outlier first": Regime(_outlier(0.0, (1e3, -1e6, 30.0, -1e12))),
    "moderate outlier last": Regime(_outlier(1.0, (1e3, -1e6, 30.0, -1e12))),
    "scale 1e10": Regime(_normal(float32_scale=1e10, float64_scale=1e10)),
    "scale 1e-10": Regime(_normal(float32_scale=1e-10, float64_scale=1e-10)),
    "scale 1e-10, eps 1e-30": Regime(_normal(float32_scale=1e-10, float64_scale=1e-10), eps=1e-30),
}


def _constant_dy(rng, x):
    # As the loss mean(y) gives it: every term of dbias and of each mean is the same, so their roundings add up.
    return np.broadcast_to(rng.choice([1.1, 1 / 3, -1 / 768, 0.7], (len(x), 1)), x.shape)


def _one_number(rng, x):
    return np.full(x.shape, 1.1)


def _along_xhat(rng, x):
    # What dx is orthogonal to: nearly everything cancels.
    centred = x - x.mean(axis=-1, keepdims=True)
    xhat = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPS)
    return 3 * xhat + 1e-3 * rng.standard_normal(x.shape)


def _normal_dy(mean=0.0, scale=1.0):
    def make(rng, x):
        return scale * (rng.standard_normal(x.shape) + mean)

    return make


def _dy_outliers(rng, x):
    dy = rng.standard_normal(x.shape)
    dy[np.arange(len(dy)), rng.integers(0, dy.shape[1], len(dy))] *= 1e6
    return dy


# {kind of dy: its maker, from the rows in float64}
DY = {
    "normal": _normal_dy(),
    "along xhat": _along_xhat,
    "mean 1e3": _normal_dy(mean=1e3),
    "outliers": _dy_outliers,
    "constant rows": _constant_dy,
    "one number": _one_number,
    "scale 1e10": _normal_dy(scale=1e10),
    "scale 1e-10": _normal_dy(scale=1e-10),
}

# {label: (regime of x, kind of dy)}
GRADIENT_REGIMES = {name: (name, "normal") for name in BACKWARD_REGIMES} | {
    f"{name}, dy {kind}": (name, kind) for name in ("normal", "mean 1e4") for kind in DY if kind != "normal"
}

NARROW_GRADIENT_REGIMES = (
    *("normal", "mean 10", "mean 1e4", "near eps", "constant", "ramp", "moderate outlier last"),
    *("normal, dy along xhat", "normal, dy mean 1e3", "normal, dy constant rows", "mean 1e4, dy one number"),
)

# Of those, the ones in which a column may have a single term that counts, or nearly none.
UNEVEN = ("ramp", "normal, dy outliers", "mean 1e4, dy outliers")


def find_regime(name):
    """The regime of a name, of forward's or of those that backward adds."""
    return REGIMES.get(name) or BACKWARD_REGIMES[name]


def parts_of(label):
    """The regime of x and the kind of dy that a label stands for."""
    return GRADIENT_REGIMES.get(label, (label, "normal"))


def eps_of(label):
    """The eps that goes with a label."""
    return find_regime(parts_of(label)[0]).eps


def is_tried(label, dtype):
    """Whether rows of this label are tried with this dtype."""
    return not is_narrow(dtype) or label in NARROW_REGIMES or label in NARROW_GRADIENT_REGIMES


def stored(numbers, dtype):
    """Of this dtype; in float16 the largest ones are as large as they can be."""
    if dtype == np.float16:
        largest = float(finfo(dtype).max)
        numbers = np.clip(numbers, -largest, largest)
    return numbers.astype(dtype)


def make_rows(regime, rows, cols, dtype):
    """Rows of a named regime, always the same ones for the same arguments."""
    rng = np.random.default_rng([zlib.crc32(regime.encode()), rows, cols])
    return stored(find_regime(regime).make(rng, rows, cols, np.dtype(dtype)), np.dtype(dtype))


def make_parameters(cols, dtype):
    """A weight and a bias of ordinary size, both signs."""
    rng = np.random.default_rng([cols, 1])
    return rng.standard_normal(cols).astype(dtype), rng.standard_normal(cols).astype(dtype)


def used(parameters, combination):
    """The parameters that a combination of COMBINATIONS uses, None for the others."""
    return tuple(p if is_used else None for p, is_used in zip(parameters, COMBINATIONS[combination], strict=True))


def make_mixed_rows(rows, cols, dtype, regimes=tuple(REGIMES)):
    """Rows that take turns through every regime with the usual eps: fast and careful paths side by side."""
    names = [name for name in regimes if find_regime(name).eps == EPS and is_tried(name, dtype)]
    stack = np.stack([make_rows(name, -(-rows // len(names)), cols, dtype) for name in names], axis=1)
    return np.ascontiguousarray(stack.reshape(-1, cols)[:rows])


def make_dy(label, x):
    """The dy that goes with rows of a label, always the same one for rows of one shape."""
    rng = np.random.default_rng([zlib.crc32(label.encode()), *x.shape, 2])
    return stored(DY[parts_of(label)[1]](rng, x.astype(np.float64)), x.dtype)


def make_gradient_inputs(label, rows, cols, dtype):
    """Of a label: dy and x, always the same ones for the same arguments."""
    x = make_rows(parts_of(label)[0], rows, cols, dtype)
    return make_dy(label, x), x


def forward_shapes(label):
    """The (rows, cols) to try: every width for the most usual regimes; the others take turns between registers."""
    every, turn = label in ("normal", "mean 1e4"), tuple(REGIMES).index(label)
    return [(4, cols) for cols in COLS if every or cols in EDGE_COLS or cols > 130 or (cols + turn) % 3 == 0]


def gradient_shapes(label):
    """The (rows, cols) to try: every width for the most usual regimes, for the others those around registers."""
    every = GRADIENT_REGIMES[label] in (("normal", "normal"), ("mean 1e4", "normal"))
    cols = [cols for cols in COLS if every or cols < 5 or (cols % 16 in (15, 0, 1, 5) and cols <= 4096)]
    rows = (8, 33, 1, 9, 64, 3, 32, 5, 31)  # widths take turns
    return [(2 if size > 4096 else rows[i % len(rows)], size) for i, size in enumerate(cols)]
