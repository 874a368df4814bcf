"""Every operation is as accurate as ordinary rows are, on every ISA, for every dtype, regime and width."""

from __future__ import annotations

import functools
import hashlib
import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from bounds import USUAL
from regimes import EDGE_COLS, eps_of

pytestmark = pytest.mark.once_per_kernel


# Rows of so many elements cost as much to judge as all shorter ones: choices of parameters take turns there.
LONG = 50_000


class Case(NamedTuple):
    """Arguments without what a forward pass saves, and what judges the results."""

    data: dict[str, np.ndarray]
    eps: float
    absences: list[tuple[str, ...]]
    exact: Any
    judged: dict  # {(absent, bits of results): errors}: some ISAs have the same bits


def make_case(operation, label, rows, cols, dtype, eps=None):
    """Arguments of a label of regimes.py, and the exact results."""
    data = operation.data(label, rows, cols, dtype)
    eps = eps_of(label) if eps is None else eps
    absences = operation.absences
    if cols >= LONG:
        turn = zlib.crc32(f"{label} {np.dtype(dtype).name}".encode()) % len(absences)
        absences = absences[turn : turn + 1]
    return Case(data, eps, absences, operation.exact(data, eps, label), {})


@functools.lru_cache(maxsize=2)  # tests run through the ISAs innermost; the cases of a regime are about 10 MB
def make_cases(operation, what, dtype):
    """What operation.cases describes, computed once for all ISAs and choices of parameters."""
    label, shapes = operation.cases(dtype)[what]
    return [make_case(operation, label, *shape, dtype) for shape in shapes]


def errors_of(operation, case, arguments, absent):
    """{quantity: largest error in eps} of a call without these."""
    given = arguments | dict.fromkeys(absent)
    found = operation(**given)
    key = (absent, hashlib.sha256(b"".join(one.tobytes() for one in found.values())).digest())
    if key not in case.judged:
        case.judged[key] = operation.errors(found, given, case.exact)
    return case.judged[key]


def largest_errors(operation, cases):
    """{quantity: (largest error in eps, where)}; what a forward pass saves is fastln's own."""
    worst = {}
    for case in cases:
        arguments = operation.complete(case.data, case.eps)
        for absent in case.absences:
            where = f"x {arguments[operation.base].shape}, eps {case.eps}, without {absent}"
            for quantity, error in errors_of(operation, case, arguments, absent).items():
                worst[quantity] = max(worst.get(quantity, (0.0, "")), (error, where))
    return worst


def assert_usual(worst):
    """All are as small as those of ordinary rows."""
    assert all(error <= USUAL[quantity] for quantity, (error, _) in worst.items()), worst


def test_results_are_within_their_bounds(operation, case, judged_dtype, isa, record_error):
    worst = largest_errors(operation, make_cases(operation, case, judged_dtype))
    for quantity, (error, _) in worst.items():
        record_error(quantity, isa, judged_dtype, case, error)
    assert_usual(worst)


@pytest.mark.parametrize("eps", [1e-12, 1.0, 1e6])
def test_every_size_of_eps_is_within_the_bounds(operation, eps, judged_dtype, isa):
    label = "mean 10"
    cases = [make_case(operation, label, 33, cols, judged_dtype, eps) for cols in EDGE_COLS]
    assert_usual(largest_errors(operation, cases))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_element_spoils_the_results_of_its_row_only(operation, argument, bad, dtype, isa):
    if argument not in operation.by_row:
        pytest.skip("is of no row")
    for rows, cols in (*((5, cols) for cols in EDGE_COLS), (40, 33), (70, 129)):
        data = operation.data("mean 10", rows, cols, dtype)
        arguments = operation.complete(data)
        expected = operation.only_by_row(operation(**arguments))
        for column in {0, cols // 2, cols - 1}:
            spoiled = {name: array.copy() for name, array in arguments.items()}
            spoiled[argument][2, column if argument in data else 0] = bad
            if argument == operation.base:
                spoiled = operation.complete({name: spoiled[name] for name in data})
            for name, found in operation.only_by_row(operation(**spoiled)).items():
                where = f"{name}, rows={rows}, D={cols}, column {column}"
                if name in operation.by_element or argument in operation.by_element:
                    assert not np.isfinite(found[2, column]), where
                elif cols > 1 or argument != "dy":  # dx of one column is 0 whatever dy is, but for 0 times infinity
                    assert not np.isfinite(found[2]).any(), where
                assert np.delete(found, 2, 0).tobytes() == np.delete(expected[name], 2, 0).tobytes(), where
