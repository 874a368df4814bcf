"""A search for the calls with the largest errors, by kinds of rows that people have and that are hard.

Random restarts, then a local search around the worst ones, with steps that shrink. `python tests/adversary.py --minutes
10` prints the worst of each result, and where it is.

Errors are in units of what is promised (PROMISED in bounds.py, proved in docs/accuracy.md): 1 is the limit.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from bounds import PROMISED, half_subnormal
from regimes import DTYPES

import fastln

EPSILONS = (1e-5, 1e-4, 1e-3, 1e-2)


def wide_type(dtype):
    """What is exact enough next to the dtype: float64 for float32, which is much faster than long double."""
    return np.float64 if dtype == np.float32 else np.longdouble


class Normalized(NamedTuple):
    """Exact results of rows: xhat (rows, cols); the others (rows, 1)."""

    xhat: np.ndarray
    largest: np.ndarray  # |xhat| of the row
    mean: np.ndarray
    rstd: np.ndarray


def normalize(x, eps):
    """The exact results, in wide_type."""
    wide = x.astype(wide_type(x.dtype))
    high = wide.mean(axis=1, keepdims=True)
    centred = wide - high
    low = centred.mean(axis=1, keepdims=True)
    centred -= low
    rstd = 1 / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + eps)
    xhat = centred * rstd
    return Normalized(xhat, np.abs(xhat).max(axis=1, keepdims=True), high + low, rstd)


def promised(result, dtype):
    """How many eps of its size a result may be off; "y, weight" and the like are results y."""
    return PROMISED[np.dtype(dtype).name][result.split(",")[0]]


def excess(result, found, exact, size):
    """The largest error of each row (or of each sum over rows), in units of what is promised for its size."""
    bound = promised(result, found.dtype) * np.finfo(found.dtype).eps * size + half_subnormal(found.dtype)
    return (np.abs(found.astype(exact.dtype) - exact) / bound).reshape(len(found), -1).max(axis=1)


@dataclass(frozen=True)
class Kind:
    """Rows out of some numbers: make(numbers, cols) gives x (rows, cols) from numbers in [0, 1) of (rows, size)."""

    size: int
    make: Callable
    least_cols: int = 1


def spread(u, low, high):
    """Numbers between low and high, even in their logarithm."""
    return low * (high / low) ** u


def _equally_spaced(u, cols):
    step, start = spread(u[:, :1], 0.05, 8), 10 * u[:, 1:2] - 5
    return np.arange(cols) * step + start


def _periodic(u, cols):
    # Two values by turns of a power of two, and a third one where a shift is sampled.
    period = 2 ** np.floor(2 + 6 * u[:, :1])
    part = np.floor(1 + u[:, 1:2] * (period - 1))
    a, c = spread(u[:, 2:3], 0.5, 4), 4 * u[:, 3:4] - 2
    place = np.arange(cols)
    x = np.where(place % period < part, a, -a)
    return np.where(place % max(cols // 4, 1) < np.floor(u[:, 4:5] * period), c, x) + 3 * np.round(u[:, 5:6])


def _few_values(u, cols):
    # Three values, in shares, evenly mixed or in runs.
    values = 4 * u[:, :3] - 2
    first, second = u[:, 3:4], u[:, 4:5]
    run = 2 ** np.floor(7 * u[:, 5:6])
    turn = np.modf(np.floor(np.arange(cols) / run) * 0.6180339887498949)[0]
    choice = np.where(turn < first, 0, np.where(turn < first + (1 - first) * second, 1, 2))
    return np.take_along_axis(values, choice, axis=1)


def _two_values(u, cols):
    a, b = spread(u[:, :1], 0.5, 4), -spread(u[:, 1:2], 0.5, 4)
    run = 2 ** np.floor(7 * u[:, 2:3])
    share = np.where(u[:, 3:4] < 0.5, 0.5, u[:, 4:5])
    turn = np.modf(np.floor(np.arange(cols) / run) * np.where(u[:, 3:4] < 0.5, 0.5, 0.6180339887498949))[0]
    return np.where(turn < share, a, b)


def noise(seeds, cols):
    """Normal numbers of (rows, cols), the same for the same seed of a row in [0, 1)."""
    seeds = (np.asarray(seeds) * 2**20).astype(np.int64)
    return np.stack([np.random.default_rng(int(seed)).standard_normal(cols) for seed in seeds])


def _outlier(u, cols):
    x = noise(u[:, 0], cols)
    place = (u[:, 1] * (cols - 1)).astype(int)
    x[np.arange(len(u)), place] = spread(u[:, 2], 10, 1e4)
    return x


def _normal(u, cols):
    return spread(u[:, 1:2], 0.1, 10) * (noise(u[:, 0], cols) + 10 * np.floor(3 * u[:, 2:3]) * u[:, 3:4])


def _free(u, cols):
    # Every number on its own: for few columns.
    return 4 * np.resize(u.T, (cols, len(u))).T - 2


KINDS = {
    "equally spaced": Kind(2, _equally_spaced, 2),
    "periodic": Kind(6, _periodic, 16),
    "few values": Kind(6, _few_values, 3),
    "two values": Kind(5, _two_values, 2),
    "outlier": Kind(3, _outlier, 8),
    "normal": Kind(4, _normal, 2),
    "free": Kind(12, _free, 2),
}
SMALL = {"free": 12}  # most columns of a kind


def columns(rng, kind):
    """A number of columns: small ones, those around registers and powers of two, any up to 5000."""
    least, most = KINDS[kind].least_cols, SMALL.get(kind, 5000)
    near = int(2 ** rng.integers(1, 13)) + int(rng.integers(-1, 2))
    choice = (int(rng.integers(2, 80)), near, 2 ** int(rng.integers(5, 13)), int(spread(rng.random(), 2, 5000)))
    return int(np.clip(choice[rng.integers(4)], least, most))


class Place(NamedTuple):
    """What a local search keeps: the columns, eps and seed of the parameters; and moves: the numbers of a kind."""

    cols: int
    eps: float
    seed: int
    numbers: np.ndarray


def forward_errors(x, eps, seed):
    """{result: the error of each row}."""
    exact = normalize(x, eps)
    weight, bias = parameters(seed, x.shape[1], x.dtype)
    wide_weight, wide_bias = weight.astype(exact.xhat.dtype), bias.astype(exact.xhat.dtype)
    found, mean, rstd = fastln.layer_norm_forward(x, eps=eps, num_threads=1)
    spread_of_x = exact.largest / exact.rstd
    errors = {
        "y": excess("y", found, exact.xhat, exact.largest),
        "rstd": excess("rstd", rstd, exact.rstd, exact.rstd),
        "mean": excess("mean", mean, exact.mean, np.abs(exact.mean) + spread_of_x),
    }
    for name, w, b in (("weight", weight, None), ("bias", None, bias), ("weight+bias", weight, bias)):
        expected, size = exact.xhat, exact.largest
        if w is not None:
            expected, size = expected * wide_weight, size * np.abs(wide_weight)
        if b is not None:
            expected, size = expected + wide_bias, size + np.abs(wide_bias)
        y = fastln.layer_norm(x, weight=w, bias=b, eps=eps, num_threads=1)
        errors[f"y, {name}"] = excess("y", y, expected, size)
    return errors


def parameters(seed, cols, dtype):
    """Weight and bias of all sizes about 1, the bias mostly small: what is added then weighs least in the bound."""
    rng = np.random.default_rng(seed)
    weight = spread(rng.random(cols), 0.5, 2) * rng.choice([-1, 1], cols)
    bias = rng.standard_normal(cols) * 2.0 ** -rng.integers(0, 12)
    return weight.astype(dtype), bias.astype(dtype)


# Rows of one call of backward: mostly equal ones, whose roundings add up.
BACKWARD_ROWS = (1, 2, 3, 5, 8, 9, 16, 31, 33, 64, 100)


def backward_errors(x, eps, seed):
    """{result: the error for each row of x, taken as many times as the seed says as the rows of one call}."""
    rng = np.random.default_rng(seed)
    rows = int(rng.choice(BACKWARD_ROWS)) if x.shape[1] < 600 else int(rng.choice(BACKWARD_ROWS[:6]))
    weight = parameters(seed, x.shape[1], x.dtype)[0] if rng.random() < 0.5 else None
    equal_dy = rng.random() < 0.6
    errors = [one_backward(row, rows, eps, weight, equal_dy, seed + i) for i, row in enumerate(x[:32])]
    return {name: np.array([e[name] for e in errors]) for name in errors[0]}


def one_backward(row, rows, eps, weight, equal_dy, seed):
    """The errors of one call."""
    rng = np.random.default_rng(seed)
    x = np.repeat(row[None], rows, axis=0)
    dy = spread(rng.random((1 if equal_dy else rows, len(row))), 0.5, 2) * rng.choice([-1, 1], len(row))
    dy = np.ascontiguousarray(np.broadcast_to(dy, x.shape)).astype(x.dtype)
    _, mean, rstd = fastln.layer_norm_forward(x, eps=eps, num_threads=1)
    dx, dweight, dbias = fastln.layer_norm_backward(dy, x, mean, rstd, weight, num_threads=1)
    exact = normalize(row[None], eps)
    wide = dy.astype(exact.xhat.dtype)
    g = wide if weight is None else wide * weight.astype(wide.dtype)
    mean_g, mean_gx = g.mean(axis=1, keepdims=True), (g * exact.xhat).mean(axis=1, keepdims=True)
    along = exact.xhat * mean_gx
    size = np.abs(g).max(axis=1, keepdims=True) + exact.largest * np.sqrt(np.square(g).mean(axis=1, keepdims=True))
    all_dy = np.abs(wide).sum(axis=0)
    return {
        "dx": float(excess("dx", dx, exact.rstd * (g - mean_g - along), exact.rstd * size).max()),
        "dweight": float(excess("dweight", dweight, (wide * exact.xhat).sum(axis=0), all_dy * exact.largest[0]).max()),
        "dbias": float(excess("dbias", dbias, wide.sum(axis=0), all_dy).max()),
    }


OPERATIONS = {"forward": forward_errors, "backward": backward_errors}


class Worst(NamedTuple):
    """The largest error of a result that was found, and where."""

    error: float
    kind: str
    place: Place


def look(operation, kind, dtype, cols, eps, seed, numbers, worst):
    """The largest error of each row of numbers; the worst of each result goes into `worst`."""
    x = np.ascontiguousarray(KINDS[kind].make(numbers, cols)).astype(dtype)
    total = np.zeros(len(numbers))
    for result, errors in OPERATIONS[operation](x, eps, seed).items():
        n = len(errors)
        total[:n] = np.maximum(total[:n], errors)
        i = int(np.argmax(errors))
        known = worst.get(result, Worst(0, "", None)).error
        if errors[i] > known or np.isnan(errors[i]) > np.isnan(known):
            worst[result] = Worst(float(errors[i]), kind, Place(cols, eps, seed, numbers[i].copy()))
    return total


def search(operation, kind, dtype, rng, worst, starts=64, steps=6):
    """One restart: random places of one size, then steps that shrink around the best of them."""
    cols = columns(rng, kind)
    eps = float(rng.choice(EPSILONS))
    seed = int(rng.integers(1 << 30))
    starts = max(8, min(starts, 200_000 // cols))
    numbers = rng.random((starts, KINDS[kind].size))
    step = 0.05
    for _ in range(steps):
        errors = look(operation, kind, dtype, cols, eps, seed, numbers, worst)
        best = numbers[np.argsort(-errors)[:4]]
        moved = np.repeat(best, -(-starts // 4), axis=0)[:starts]
        change = step * rng.standard_normal(moved.shape) * (rng.random(moved.shape) < 0.5)
        change[:4] = 0
        numbers = np.clip(moved + change, 0, np.nextafter(1, 0))
        step /= 4
    return worst


def find_worst(isa, dtype, seed, seconds=None, restarts=None):
    """{result: Worst} of a search that takes turns through operations and kinds, for a time or a number of restarts."""
    previous = fastln.get_isa()
    fastln.set_isa(isa)
    rng = np.random.default_rng(seed)
    worst = {}
    end = time.monotonic() + seconds if seconds else None
    try:
        for i, (operation, kind) in enumerate(itertools.cycle(itertools.product(OPERATIONS, KINDS))):
            if (end and time.monotonic() > end) or (restarts and i >= restarts):
                return worst
            search(operation, kind, np.dtype(dtype), rng, worst)
    finally:
        fastln.set_isa(previous)
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of the whole search")
    parser.add_argument("--isa", action="append", help="instruction sets to search, all by default")
    parser.add_argument("--dtype", action="append", help="dtypes to search, both by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    isas, dtypes = options.isa or fastln.available_isas(), options.dtype or DTYPES
    seconds = options.minutes * 60 / len(isas) / len(dtypes)
    for isa, dtype in itertools.product(isas, dtypes):
        print(isa, dtype, flush=True)
        for result, worst in sorted(find_worst(isa, dtype, options.seed, seconds).items()):
            place = worst.place
            numbers = ", ".join(f"{number:.17g}" for number in place.numbers)
            print(
                f"  {result:14} {worst.error:6.3f} = {worst.error * promised(result, dtype):6.3f} eps  "
                f"{worst.kind}, {place.cols} columns, eps {place.eps:g}, "
                f"seed {place.seed}, numbers [{numbers}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
