"""tanh and sigmoid of the gates, for each instruction set: native where this machine has it, else under emulation."""

from __future__ import annotations

import subprocess

import pytest
from emulation import EMULATIONS, TESTS, driver_for

import fastln

ULPS = 2.5  # the promise; with every float, tanh is 2.498 and sigmoid 2.481 off at most
STRIDE = 9973  # of the floats that are tried here; with 1, which takes minutes, all of them


@pytest.fixture(scope="module")
def checksums():
    """Of the results, by instruction set, of those that have been tried."""
    return {}


@pytest.mark.parametrize("isa", ["scalar", "sse2", "avx2", "avx512", "neon"])
def test_functions_are_accurate_and_have_the_same_bits(isa, tmp_path, checksums):
    if isa not in EMULATIONS and isa not in fastln.available_isas():
        pytest.skip(f"{isa} is not available here, only {', '.join(fastln.available_isas())}")
    command = [*driver_for(isa, TESTS / "functions_driver.cpp", tmp_path / "driver"), str(STRIDE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["float64", "float32"]
    assert all(float(error) < ULPS for line in lines for error in line[1:3]), done.stdout
    if isa in ("avx2", "avx512", "neon"):  # those with an fma
        checksums[isa] = [line[3] for line in lines]
        assert checksums[isa] == next(iter(checksums.values()))
