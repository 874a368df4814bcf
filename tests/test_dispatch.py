"""Which kernels are chosen: the best at import, or the one that FASTLN_ISA or set_isa names."""

from __future__ import annotations

import inspect
import platform

import numpy as np
import pytest
from conftest import ISAS
from helpers import output_of, run_python

import fastln

REPORT = """
import numpy as np, fastln
fastln.layer_norm(np.ones((3, 40), np.float32))
print(fastln.get_isa())
"""

# Best first, for each architecture that has kernels.
ORDER = {"x86_64": ["avx512", "avx2", "sse2", "scalar"], "aarch64": ["neon", "scalar"]}
MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def test_available_isas_are_known_and_best_first():
    available = list(fastln.available_isas())
    assert available == [name for name in ORDER.get(MACHINE, ["scalar"]) if name in available]
    assert available[-1] == "scalar"


def test_the_baseline_of_the_architecture_is_available():
    baseline = {"x86_64": "sse2", "aarch64": "neon"}.get(MACHINE, "scalar")
    assert baseline in fastln.available_isas()


def test_available_isas_are_those_that_the_cpu_reports():
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            flags = next((set(line.split()) for line in cpuinfo if line.startswith("flags")), None)
    except OSError:
        flags = None
    if flags is None:
        pytest.skip("needs the flags of /proc/cpuinfo")
    assert ("avx2" in fastln.available_isas()) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512" in fastln.available_isas()) == (
        {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags
    )


def test_the_best_is_chosen_at_import():
    assert output_of(REPORT) == fastln.available_isas()[0]


def test_fastln_isa_forces_each(isa):
    assert output_of(REPORT, FASTLN_ISA=isa) == isa


def unavailable():
    """Names that are not for this machine: unknown ones, and ISAs of another or a better one."""
    return ["avx1024", "AVX2", *(name for name in ISAS if name not in fastln.available_isas())]


@pytest.mark.parametrize("name", unavailable())
def test_fastln_isa_that_cannot_run_is_an_import_error(name):
    done = run_python("import fastln", FASTLN_ISA=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: FASTLN_ISA must be ")
    assert name in last
    for valid in fastln.available_isas():
        assert valid in last


def test_set_isa_sets_what_get_isa_gets(isa, dtype):
    assert fastln.get_isa() == isa
    x = np.linspace(-1, 1, 120, dtype=dtype).reshape(3, 40)
    np.testing.assert_allclose(fastln.layer_norm(x).mean(-1), 0, atol=8 * np.finfo(dtype).eps)
    assert fastln.get_isa() == isa


def test_set_isa_changes_the_kernels():
    # Without FMA and with it, some bit of some row differs: the name is not the only thing that changed.
    if not {"avx2", "sse2"} <= set(fastln.available_isas()):
        pytest.skip("needs avx2 and sse2")
    x = np.random.default_rng(0).standard_normal((50, 300)).astype(np.float32)
    weight, bias = x[0], x[1]
    results, previous = [], fastln.get_isa()
    try:
        for name in ("avx2", "sse2"):
            fastln.set_isa(name)
            results.append(fastln.layer_norm(x, None, weight, bias).tobytes())
    finally:
        fastln.set_isa(previous)
    assert results[0] != results[1]


@pytest.mark.parametrize("name", [*unavailable(), ""])
def test_set_isa_refuses_what_cannot_run(name):
    previous = fastln.get_isa()
    with pytest.raises(ValueError, match=r"must be .+, got ") as caught:
        fastln.set_isa(name)
    for valid in fastln.available_isas():
        assert valid in str(caught.value)
    assert fastln.get_isa() == previous


@pytest.mark.parametrize("name", [None, 2, b"avx2", ["avx2"]], ids=repr)
def test_set_isa_refuses_what_is_not_a_name(name):
    previous = fastln.get_isa()
    with pytest.raises(TypeError, match=r"must be .+, got "):
        fastln.set_isa(name)
    assert fastln.get_isa() == previous


def test_the_functions_take_what_their_names_say():
    assert list(inspect.signature(fastln.set_isa).parameters) == ["name"]
    assert not inspect.signature(fastln.get_isa).parameters
    assert not inspect.signature(fastln.available_isas).parameters
