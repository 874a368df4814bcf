"""`python -m fastln`: facts about this installation, and a check of each instruction set that it can run."""

import argparse
import json
import sys
from typing import Any

import numpy as np

import fastln
from fastln._config import as_text, config

COLS = (1, 7, 16, 64, 65, 100, 768, 1000, 4096)
# Mean of rows with standard deviation 1: the size of the mean is what other layer norms lose digits to.
MEANS = (0.0, 1e3, 1e4)


def exact_layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> tuple[Any, Any]:
    """The result in long double, and the largest error that the numerical contract allows for each element."""
    wide = x.astype(np.longdouble)
    centered = wide - wide.mean(-1, keepdims=True)
    x_hat = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + np.longdouble(eps))
    size = abs(weight.astype(np.longdouble)) * abs(x_hat).max(-1, keepdims=True) + abs(bias)
    return x_hat * weight + bias, 2 * np.finfo(x.dtype).eps * size + np.finfo(x.dtype).smallest_subnormal / 2


def self_check() -> list[dict[str, Any]]:
    """The largest error of each available instruction set and dtype, in units of the contract's bound."""
    chosen = fastln.get_isa()
    results = []
    try:
        for isa in fastln.available_isas():
            fastln.set_isa(isa)
            for dtype in (np.float32, np.float64):
                results.append({"isa": isa, "dtype": np.dtype(dtype).name, "max_error": _largest_error(dtype)})
    finally:
        fastln.set_isa(chosen)
    for result in results:
        result["ok"] = result["max_error"] <= 1
    return results


def _largest_error(dtype: type) -> float:
    rng = np.random.default_rng(0)
    largest = 0.0
    for cols in COLS:
        weight, bias = (rng.standard_normal(cols).astype(dtype) for _ in range(2))
        for mean in MEANS:
            x = (rng.standard_normal((6, cols)) + mean).astype(dtype)
            exact, bound = exact_layer_norm(x, weight, bias, 1e-5)
            error = abs(fastln.layer_norm(x, cols, weight, bias) - exact) / bound
            largest = max(largest, float(error.max()))
    return largest


def main(argv: list[str] | None = None) -> int:
    """Print the report; 0 if every instruction set is within the bound, else 1."""
    parser = argparse.ArgumentParser(prog="python -m fastln", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, for bug reports")
    options = parser.parse_args(argv)
    facts, checks = config(), self_check()
    if options.json:
        print(json.dumps({**facts, "self_check": checks}, indent=2))
    else:
        print(as_text(facts))
        print("self-check: largest error, in units of the bound of the numerical contract (at most 1)")
        for check in checks:
            print(f"  {check['isa']:7} {check['dtype']:8} {check['max_error']:.3f} {'ok' if check['ok'] else 'FAILED'}")
    return 0 if all(check["ok"] for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
