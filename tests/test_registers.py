"""The register layer by itself, for each instruction set: native where this machine has it, else under emulation."""

from __future__ import annotations

import re
import subprocess

import pytest
from emulation import EMULATIONS, TESTS, driver_for

import fastln

DRIVER = TESTS / "registers_driver.cpp"


@pytest.mark.parametrize("isa", ["scalar", "sse2", "avx2", "avx512", "neon"])
def test_registers_do_what_plain_code_does(isa, tmp_path):
    if isa not in EMULATIONS and isa not in fastln.available_isas():
        pytest.skip(f"{isa} is not available here, only {', '.join(fastln.available_isas())}")
    done = subprocess.run(driver_for(isa, DRIVER, tmp_path / "driver"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    checked = re.fullmatch(r"(\d+) checks, 0 failed\n", done.stdout)
    assert checked, done.stdout
    assert int(checked[1]) > 5000
