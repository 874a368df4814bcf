"""Stored bits: some 40 calls of each operation and dtype, and the checksums of their results in golden.json.

Every other test of bits is relative: two ways to the same row must agree. These notice a change of all ways at once.
After one that is meant, `python tests/golden.py` stores the new checksums and names what changed; such a change is a
commit of its own and a line in the changelog.

Inputs are made by exact arithmetic from the raw output of a bit generator, which NumPy keeps the same for ever (the
streams of its distributions it does not), so the checksums hold for any version of NumPy and on any machine.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from helpers import in_wider_rows
from internals import min_parallel_bytes, stream_bytes
from operations import OPERATIONS, Kind
from regimes import COMBINATIONS, ELEMENTS, EPS, computed, finfo, is_narrow, used

import fastln

STORED = Path(__file__).with_name("golden.json")

# Instruction sets that promise the same bits share one column of the file.
COLUMNS = {"avx512": "fma", "avx2": "fma", "neon": "fma", "sse2": "sse2", "scalar": "scalar"}

# Rows, columns: around registers, steps, blocks, groups, segments and chunks, and models' sizes.
SHAPES = (
    (1, 1), (3, 2), (5, 7), (40, 8), (9, 15), (33, 16), (19, 17), (35, 24), (66, 32), (7, 33), (21, 48), (40, 64),
    (5, 65), (300, 10), (9, 96), (70, 100), (33, 128), (12, 200), (6, 255), (17, 256), (25, 300), (11, 384), (3, 511),
    (16, 512), (37, 768), (5, 1000), (9, 1024), (7, 1025), (64, 1280), (3, 2048), (5, 3072), (10, 4096), (9, 4100),
    (2, 8192), (3, 12345), (1, 16384), (2, 16385), (11, 20000), (3, 40000), (2, 65541), (2100, 24), (600, 260),
)  # fmt: skip


class Call(NamedTuple):
    """One call: a shape, what the rows hold, which parameters there are, how the rows lie, on how many threads."""

    operation: str
    dtype: str
    rows: int
    cols: int
    kind: str
    parameters: str
    layout: str
    threads: int

    @property
    def name(self):
        """What the file calls it."""
        return (
            f"{self.operation} {self.dtype} {self.rows}x{self.cols}, {self.kind}, {self.parameters}, "
            f"{self.layout}, threads {self.threads}"
        )


def uniform(call, count, what):
    """Numbers in [0, 1), always the same ones for the same arguments."""
    seed = zlib.crc32(f"{call.rows}x{call.cols} {what}".encode())
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) * 2.0**-53


def normal(call, what):
    """Nearly so, of the call's shape: sums of 6 uniform numbers, added in a fixed order."""
    parts = [uniform(call, call.rows * call.cols, f"{what} {i}") for i in range(6)]
    return (sum(parts) - 3.0).reshape(call.rows, call.cols)


def _few_values(call):
    choice = uniform(call, call.rows * call.cols, "values").reshape(call.rows, call.cols)
    return np.where(choice < 0.4, -0.4, np.where(choice < 0.8, 1.53, 0.6))


def _outlier(call):
    x = normal(call, "x")
    x[:, call.cols // 2] = 1e3
    return x


def _ramp(call):
    return np.arange(call.cols) * 0.5 + 1.4 + np.arange(call.rows)[:, None]


def _scaled(float32, float64, float16):
    def make(call):
        return normal(call, "x") * {"float64": float64, "float16": float16}.get(call.dtype, float32)

    return make


def _subnormal(call):
    info = finfo(call.dtype)
    return np.floor(normal(call, "x") * 2.0 ** (info.nmant - 4)) * float(info.smallest_subnormal)


def _mixed(call):
    """Ordinary rows beside those that take the careful paths."""
    x = normal(call, "x")
    x[1::7] = KINDS["huge"](call)[1::7]
    x[2::7] = 1.1
    x[3::7] = _subnormal(call)[3::7]
    x[4::7, 0] = np.nan
    x[5::7, -1] = np.inf
    return x


KINDS = {
    "normal": lambda call: normal(call, "x"),
    "mean 1e4": lambda call: normal(call, "x") + 1e4,
    "outlier": _outlier,
    "few values": _few_values,
    "ramp": _ramp,
    "constant": lambda call: np.broadcast_to((np.arange(call.rows) + 1.1)[:, None], (call.rows, call.cols)),
    "tiny": _scaled(2.0**-70, 2.0**-520, 2.0**-20),
    "huge": _scaled(2.0**70, 2.0**600, 2.0**12),
    "subnormal": _subnormal,
    "mixed": _mixed,
}
BACKWARD_KINDS = tuple(KINDS)[:6]  # gradients of the others are not promised

# {what the file calls an operation: the operation}
NAMES = {name.removeprefix("layer_norm_"): operation for name, operation in OPERATIONS.items() if not operation.kernel}
_RMS = OPERATIONS["rms_norm_forward"]
# The other rounding order, which changes bits of 16-bit numbers alone.
AS_LLAMA = {"rms_norm_forward as Llama": replace(_RMS, usual=_RMS.usual | {"cast": "llama"})}
NAMES |= AS_LLAMA
# Operation and dtype.
GROUPS = [group for group in itertools.product(NAMES, ELEMENTS) if group[0] not in AS_LLAMA or is_narrow(group[1])]


def make_calls():
    """All of them; what is not a shape takes turns, so that each is met with many shapes."""
    calls = []
    for operation, dtype in GROUPS:
        kinds = itertools.cycle(BACKWARD_KINDS if NAMES[operation].saved_by else KINDS)
        combinations = itertools.cycle(COMBINATIONS)
        layouts = itertools.cycle(("dense", "dense", "streamed", "wider rows", "in place"))
        threads = itertools.cycle((1, 2, 3))
        for rows, cols in SHAPES:
            turn = (next(kinds), next(combinations), next(layouts), next(threads))
            calls.append(Call(operation, dtype, rows, cols, *turn))
    return calls


def stats_of(x, has_mean):
    """Mean and rstd of each row as shape (rows, 1), by exact sums: gradients then depend on no other kernel."""
    wide = x.astype(np.float64)
    mean = np.array([[math.fsum(row) / len(row)] for row in wide]) if has_mean else np.zeros((len(x), 1))
    variance = np.array([[math.fsum(row) / len(row)] for row in np.square(wide - mean)])
    return mean.astype(computed(x.dtype)), (1 / np.sqrt(variance + EPS)).astype(computed(x.dtype))


def arguments_of(call):
    """By name."""
    operation, x = NAMES[call.operation], KINDS[call.kind](call).astype(call.dtype)
    weight, bias = (3 * uniform(call, call.cols, what).astype(call.dtype) - 1 for what in ("weight", "bias"))
    values = dict(zip(("weight", "bias"), used((weight, bias), call.parameters), strict=True))
    kinds = operation.arguments
    if Kind.STATS in kinds.values():
        values |= zip(("mean", "rstd"), stats_of(x, "mean" in kinds), strict=True)
    values |= {name: normal(call, name).astype(call.dtype) for name, kind in kinds.items() if kind is Kind.ROWS}
    if "ds" in kinds and "bias" not in call.parameters:  # which has no place in this call
        values["ds"] = None
    return {name: x if name == operation.base else values[name] for name in kinds}


def run(call):
    """What the call returns."""
    operation, arguments = NAMES[call.operation], arguments_of(call)
    if call.layout == "wider rows":
        arguments[operation.base] = in_wider_rows(arguments[operation.base])
    in_place = call.layout == "in place"
    buffers = dict(zip(operation.buffers, operation.in_place, strict=False)) if in_place else {}
    given = {option: arguments[name] for option, name in buffers.items()}
    return operation(**arguments, **given, num_threads=call.threads).values()


def find_results(call):
    """run(call), on as many threads as it says however small it is, and past the cache if it says so."""
    with min_parallel_bytes(0), stream_bytes(0 if call.layout == "streamed" else 1 << 40):
        return run(call)


def checksums(results):
    """One for each result. NaN is NaN: its payload is not part of the promise."""
    parts = (np.where(np.isnan(a), np.array(np.nan, a.dtype), a) for a in results)
    words = (a.view(f"u{a.itemsize}") for a in parts)
    return " ".join(hashlib.sha256(a.astype(a.dtype.newbyteorder("<")).tobytes()).hexdigest()[:12] for a in words)


def every_call():
    """{name: what gives the results of this call}: those of sequences too."""
    import golden_sequences as sequences  # which takes its numbers from here

    calls = {call.name: partial(find_results, call) for call in make_calls()}
    return calls | {call.name: partial(sequences.find_results, call) for call in sequences.make_calls()}


def store():
    """Writes the checksums of the instruction sets of this machine, and says which changed."""
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    for isa in fastln.available_isas():
        fastln.set_isa(isa)
        before = stored.get(COLUMNS[isa], {})
        found = {name: checksums(find()) for name, find in every_call().items()}
        changed = [name for name in found if found[name] != before.get(name)]
        print(f"{isa}: {len(changed)} of {len(found)} changed", *changed, sep="\n  ")
        stored[COLUMNS[isa]] = found
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=store.__doc__).parse_args()
    store()
