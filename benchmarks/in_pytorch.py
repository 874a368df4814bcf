"""PyTorch's norms without fastln and with it: python -m benchmarks.in_pytorch prints a Markdown table.

Off and on take turns in one process, so that they meet the same neighbours; times are medians, the ratios those of
pairs, in brackets their 25th and 75th percentile. Forward plus backward goes through autograd.

Results are allocated in each call. Large ones glibc takes from the system and gives back, or keeps, as chance has it;
the system clears them first, which takes longer than the norm and falls to one side or the other: of layer norm,
4096x768, the quartiles of the ratio were 0.15 and 8.1. So glibc is told to keep what is freed, for both sides.
`--default-allocator` leaves it as it is, and is needed where the C library is another one.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch.nn import functional

import fastln.torch

SHAPES = ((1, 64), (1, 768), (8, 768), (128, 768), (512, 1024), (4096, 768), (32768, 64), (2048, 4096))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NORMS = ("layer_norm", "rms_norm")
SAMPLE_SECONDS = 5e-3

# Of mallopt, in malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Tell glibc to take no memory from the system for a single allocation, and to give none back."""
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        raise OSError("mallopt refused")


def make_call(norm: str, shape: tuple[int, int], dtype: torch.dtype, trains: bool) -> Callable[[], object]:
    """A call of the norm, or of the norm and its gradients."""
    x = torch.randn(shape).to(dtype).requires_grad_(trains)
    parameters = [
        torch.randn(shape[1]).to(dtype).requires_grad_(trains) for _ in range(2 if norm == "layer_norm" else 1)
    ]
    dy = torch.randn(shape).to(dtype)
    function = getattr(functional, norm)

    def forward() -> object:
        return function(x, shape[1:], *parameters, eps=1e-5)

    return (lambda: torch.autograd.grad(forward(), (x, *parameters), dy)) if trains else forward


def seconds(call: Callable[[], object], number: int) -> float:
    """Of one of so many calls."""
    began = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - began) / number


def measure(call: Callable[[], object], rounds: int) -> np.ndarray:
    """Seconds, (rounds, 2): off, on."""
    number = max(1, round(SAMPLE_SECONDS / max(seconds(call, 3), 1e-6)))
    times = []
    for turn in range(rounds):
        pair = {}
        for is_on in ((False, True), (True, False))[turn % 2]:
            with fastln.torch.enabled() if is_on else nullcontext():
                seconds(call, max(number // 4, 1))  # untimed
                pair[is_on] = seconds(call, number)
        times.append((pair[False], pair[True]))
    return np.array(times)


def lines(rounds: int) -> Iterator[str]:
    """The table."""
    yield "| call | threads | " + " | ".join(f"{rows}x{cols}" for rows, cols in SHAPES) + " |"
    yield "|---|---|" + "---:|" * len(SHAPES)
    for norm, trains, dtype, threads in itertools.product(NORMS, (False, True), DTYPES, (1, 2)):
        torch.set_num_threads(threads)
        found = []
        for shape in SHAPES:
            with torch.set_grad_enabled(trains):
                times = measure(make_call(norm, shape, DTYPES[dtype], trains), rounds)
            low, middle, high = np.percentile(times[:, 0] / times[:, 1], (25, 50, 75))
            off, on = np.median(times, axis=0) * 1e6
            found.append(f"{off:.3g} → {on:.3g}: {middle:.2f} [{low:.2f}, {high:.2f}]")
        what = f"{norm}{' and backward' if trains else ''}, {dtype}"
        yield f"| {what} | {threads} | " + " | ".join(found) + " |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Times PyTorch's norms without fastln and with it, in microseconds.")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of samples (default: %(default)s)")
    parser.add_argument("--default-allocator", action="store_true", help="leave glibc's allocator as it is")
    arguments = parser.parse_args()
    if not arguments.default_allocator:
        keep_freed_memory()
    for line in lines(arguments.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
