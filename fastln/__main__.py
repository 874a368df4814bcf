"""`python -m fastln`: facts about this installation, and a check of each instruction set that it can run."""

import argparse
import json
import sys
from typing import Any

import numpy as np

import fastln
from fastln import _reference as reference
from fastln._core.facts import as_text, config

COLS = (1, 7, 16, 64, 65, 100, 768, 1000, 4096)
# What ordinary rows keep, in eps of the dtype: see docs/accuracy.md.
USUAL = 2
# Mean of rows with standard deviation 1: the size of the mean is what other layer norms lose digits to.
MEANS = (0.0, 1e3, 1e4)


def self_check() -> dict[str, dict[str, float]]:
    """The largest error of each available instruction set and dtype, in eps."""
    chosen = fastln.get_isa()
    errors = {}
    try:
        for isa in fastln.available_isas():
            fastln.set_isa(isa)
            errors[isa] = {dtype: _largest_error(np.dtype(dtype)) for dtype in ("float32", "float64")}
    finally:
        fastln.set_isa(chosen)
    return errors


def _largest_error(dtype: np.dtype[Any]) -> float:
    rng = np.random.default_rng(0)
    largest = 0.0
    for cols in COLS:
        weight, bias = (rng.standard_normal(cols).astype(dtype) for _ in range(2))
        for mean in MEANS:
            x = (rng.standard_normal((6, cols)) + mean).astype(dtype)
            x_hat = reference.normalize(x).x_hat
            size = reference.output_size(x_hat, weight, bias)
            error = fastln.layer_norm(x, cols, weight, bias) - reference.scale_and_shift(x_hat, weight, bias)
            largest = max(largest, float((abs(error) / size).max()))
    return largest / float(np.finfo(dtype).eps)


def main(argv: list[str] | None = None) -> int:
    """Print the report; 0 if every instruction set is as accurate as it should be, else 1."""
    parser = argparse.ArgumentParser(prog="python -m fastln", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, for bug reports")
    options = parser.parse_args(argv)
    facts, errors = config(), self_check()
    good = all(error <= USUAL for by_dtype in errors.values() for error in by_dtype.values())
    if options.json:
        print(json.dumps({**facts, "self_check": errors}, indent=2))
    else:
        print(as_text(facts))
        print(f"self-check (largest error, in eps of the dtype times the size of the result; at most {USUAL}):")
        for isa, by_dtype in errors.items():
            cells = ", ".join(f"{dtype} {error:.3f}" for dtype, error in by_dtype.items())
            print(f"  {isa}: {cells}{'' if max(by_dtype.values()) <= USUAL else '  FAILED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
