"""The kernels of recurrence without Python: NEON, run under emulation, gives the bits of AVX2."""

from __future__ import annotations

import subprocess

import pytest
from emulation import TESTS, driver_for

import fastln


@pytest.mark.skipif("avx2" not in fastln.available_isas(), reason="no avx2 here to compare with")
def test_products_and_cells_have_the_same_bits_on_neon(tmp_path):
    """Whether the bits depend on rows and panels that are taken together, the driver says itself."""
    found = {}
    for isa in ("avx2", "neon"):
        command = driver_for(isa, TESTS / "cells_driver.cpp", tmp_path / isa)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{isa}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        found[isa] = done.stdout.splitlines()
    assert [line.split()[0] for line in found["avx2"]] == ["float32", "float64"]
    assert found["neon"] == found["avx2"]
