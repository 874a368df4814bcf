"""The register layer by itself, for each instruction set: native where this machine has it, else under emulation."""

from __future__ import annotations

import re
import subprocess

import pytest
from emulation import COMPILERS, EMULATIONS, TESTS, build_program, emulated_program, find_program, skip_without_sources

import fastln

DRIVER = TESTS / "registers_driver.cpp"
REGIONS = {"avx2": "FLN_AVX2", "avx512": "FLN_AVX512"}  # those of the others are the baseline


def driver_for(isa, program):
    """The command that runs the checks of an ISA's registers."""
    header = f'-DISA_HEADER="registers/{isa}.h"'
    if isa not in fastln.available_isas():
        return emulated_program(isa, DRIVER, program, header)
    skip_without_sources()
    compiler = find_program(COMPILERS)
    if not compiler:
        pytest.skip("no C++ compiler here")
    region = [f"-DISA_FEATURES={REGIONS[isa]}"] if isa in REGIONS else []
    build_program(compiler, [DRIVER], program, header, *region)
    return [program]


@pytest.mark.parametrize("isa", ["scalar", "sse2", "avx2", "avx512", "neon"])
def test_registers_do_what_plain_code_does(isa, tmp_path):
    if isa not in EMULATIONS and isa not in fastln.available_isas():
        pytest.skip(f"{isa} is not available here, only {', '.join(fastln.available_isas())}")
    done = subprocess.run(driver_for(isa, tmp_path / "driver"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    checked = re.fullmatch(r"(\d+) checks, 0 failed\n", done.stdout)
    assert checked, done.stdout
    assert int(checked[1]) > 5000
