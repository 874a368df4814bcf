"""A seeded fuzzer of the public functions: calls that nobody would write, and what is promised of every call.

    python tools/fuzz.py --seconds 30 [--seed N]
    python tools/fuzz.py --seed N --case K

A case is one call, made from the seed and its number alone: an operation, an ISA, shapes, values, the memory of each
array, how `out` overlaps the others, threads, and the thresholds that choose threads and streaming stores. Checked are

- the documented bounds of the errors, against long double (docs/accuracy.md), for ordinary contiguous copies on one
  thread, and that rows alone have the same bits;
- that the call itself gives the bits of those copies, whatever the memory, the overlap, the threads and the thresholds;
- that no byte of any memory has changed but those of `out`'s elements;
- that a wrong argument is a TypeError or a ValueError with the words `NAME must ..., got ...`, and changes no byte;
- of sequences also that each has the bits that it has alone, and those of its steps in several calls;
- of their gradients the same bits and bytes, not the errors.

Half of the arrays have bytes around them that are compared afterwards; the others lie against a page without access,
or, in a build with the address sanitizer, in blocks of their own.

The cases run in a process of their own, so that one that ends it, or hangs, is named as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
from fuzzing import calls, checks
from fuzzing.calls import Case
from fuzzing.checks import LARGEST
from fuzzing.operations import FindingError
from fuzzing.sequence_gradients import (
    SequenceGradientsCase,
    make_sequence_gradients_case,
    run_sequence_gradients_case,
)
from fuzzing.sequences import SequenceCase, make_sequence_case, run_sequence_case

PATIENCE = 120  # seconds after which a case that has not ended counts as hanging
EVERY = 8  # of so many cases the last one is over a sequence, and the one in the middle has gradients of one

AnyCase = Case | SequenceCase | SequenceGradientsCase


def make_case(seed: int, number: int) -> AnyCase:
    """The case of a seed and a number."""
    if number % EVERY == EVERY - 1:
        return make_sequence_case(seed, number)
    if number % EVERY == EVERY // 2 - 1:
        return make_sequence_gradients_case(seed, number)
    return calls.make_case(seed, number)


def run_case(case: AnyCase) -> None:
    """Everything about a case; a FindingError if something is wrong."""
    if isinstance(case, SequenceCase):
        run_sequence_case(case)
    elif isinstance(case, SequenceGradientsCase):
        run_sequence_gradients_case(case)
    else:
        checks.run_case(case)


def report(seed: int, number: int, case: AnyCase | None, what: str) -> None:
    """The finding and the line that repeats it."""
    print(f"FINDING: {what}\n{case or ''}\nagain: python tools/fuzz.py --seed {seed} --case {number}", flush=True)


def run_one(seed: int, number: int) -> bool:
    """Whether the case shows nothing wrong."""
    case = None
    try:
        case = make_case(seed, number)
        run_case(case)
    except FindingError as finding:
        report(seed, number, case, str(finding))
        return False
    except Exception:
        report(seed, number, case, f"an exception\n{traceback.format_exc()}")
        return False
    return True


def run_cases(seed: int, seconds: float, progress: Path, keep_going: bool) -> int:
    """Cases until the time is over, each of which is written down before it begins."""
    started = np.memmap(progress, np.int64, "r+", shape=1)
    end = time.monotonic() + seconds
    number = findings = 0
    while time.monotonic() < end:
        started[0] = number
        if not run_one(seed, number):
            findings += 1
            if not keep_going:
                break
        number += 1
    largest = ", ".join(
        f"{result} {dtype} {error:.2f} (case {at})" for (result, dtype), (error, at) in sorted(LARGEST.items())
    )
    print(f"fuzz: seed {seed}: {number} cases, {findings} findings; largest errors of what is promised: {largest}")
    return min(findings, 1)


def supervise(seed: int, seconds: float, options: list[str]) -> int:
    """Cases in a process of their own; names the one that ended it, or that hangs."""
    environment = {"OMP_WAIT_POLICY": "passive"} | os.environ  # idle threads sleep: there are few CPUs and tiny calls
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "case"
        progress.write_bytes(bytes(8))
        command = [sys.executable, "-X", "faulthandler", __file__, "--seed", str(seed), "--seconds", str(seconds)]
        worker = subprocess.Popen([*command, "--progress", str(progress), *options], env=environment)
        last, since = -1, time.monotonic()
        while True:
            try:
                status = worker.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                number = int.from_bytes(progress.read_bytes(), sys.byteorder)
                if number != last:
                    last, since = number, time.monotonic()
                elif time.monotonic() > since + PATIENCE:
                    worker.kill()
        number = int.from_bytes(progress.read_bytes(), sys.byteorder)
    if status not in (0, 1):
        report(seed, number, None, f"the process ended with status {status}")
    return min(abs(status), 1)


def main() -> int:
    """Exit status 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Fuzz the public functions of fastln.")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="a case is made from the seed and its number (default: any)")
    parser.add_argument("--case", type=int, help="only this one, in this process")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first finding")
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Of NumPy: the values of a case, and bytes that stand for numbers where arrays overlap, may be any.
    warnings.simplefilter("ignore", RuntimeWarning)
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4))
    if options.case is not None:
        print(make_case(seed, options.case))
        return 0 if run_one(seed, options.case) else 1
    if options.progress:
        return run_cases(seed, options.seconds, options.progress, options.keep_going)
    print(f"fuzz: seed {seed}, {options.seconds:g} s", flush=True)
    return supervise(seed, options.seconds, ["--keep-going"] if options.keep_going else [])


if __name__ == "__main__":
    sys.exit(main())
