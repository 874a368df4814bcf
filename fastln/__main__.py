"""`python -m fastln`: facts about this installation, and a check of each instruction set that it can run."""

import argparse
import json
import sys

from fastln import _reference as reference
from fastln import _self_test as self_test
from fastln._core.facts import as_text, config

MOST = self_test.USUAL["y"]


def main(argv: list[str] | None = None) -> int:
    """Print the report; 0 if every instruction set is as accurate as it should be and no check fails, else 1."""
    parser = argparse.ArgumentParser(prog="python -m fastln", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, for bug reports")
    parser.add_argument("--self-test", action="store_true", help="check every promise on this machine, for seconds")
    options = parser.parse_args(argv)
    checks = self_test.CHECKS if options.self_test else {}
    facts, errors = config(), self_test.forward_errors()
    good = all(error <= MOST for by_dtype in errors.values() for error in by_dtype.values())
    if options.json:
        broken = {name: self_test.broken_promises(check) for name, check in checks.items()}
        print(json.dumps({**facts, "self_check": errors, **({"self_test": broken} if checks else {})}, indent=2))
        return 0 if good and not any(broken.values()) else 1
    print(as_text(facts))
    print(f"self-check (largest error, in eps of the dtype times the size of the result; at most {MOST}):")
    for isa, by_dtype in errors.items():
        cells = ", ".join(f"{dtype} {error:.3f}" for dtype, error in by_dtype.items())
        print(f"  {isa}: {cells}{'' if max(by_dtype.values()) <= MOST else '  FAILED'}")
    unjudged = [dtype for dtype in self_test.DTYPES if not reference.long_double_suffices(dtype)]
    if unjudged:
        print(f"  not judged: {', '.join(unjudged)} (long double has no more digits here)")
    if checks:
        print("self-test:", flush=True)
    for name, check in checks.items():
        problems = self_test.broken_promises(check)
        print("\n    ".join([f"  {name}: {'FAILED' if problems else 'ok'}", *problems]), flush=True)
        good = good and not problems
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
