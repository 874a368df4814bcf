"""python -m fastln and show_config tell how the package was built and what it does here."""

from __future__ import annotations

import json
import re
from importlib import metadata, resources

import pytest
from helpers import output_of

import fastln

MAIN = "import runpy, sys; sys.argv = ['fastln', *sys.argv[1:]]; runpy.run_module('fastln', run_name='__main__')"


@pytest.fixture(scope="module")
def report():
    """What python -m fastln prints."""
    return output_of(MAIN, timeout=60)


@pytest.fixture(scope="module")
def facts():
    """What python -m fastln --json prints, parsed."""
    return json.loads(output_of(MAIN, "--json", timeout=60))


def flatten(value):
    """Every number, word and truth in nested dicts and lists."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in flatten(item)]


def test_the_report_names_the_version_and_the_isa(report):
    assert fastln.__version__ in report
    assert fastln.available_isas()[0] in report


@pytest.mark.parametrize("word", ["compiler", "flags", "openmp", "isa", "threads", "cgroup"])
def test_the_report_tells_the_facts(word, report):
    assert word in report.lower()


def test_the_self_check_has_a_line_for_each_isa(report):
    for name in fastln.available_isas():
        lines = [line for line in report.splitlines() if re.search(rf"\b{name}\b", line)]
        errors = [float(number) for line in lines for number in re.findall(r"\d+\.\d+(?:e[-+]?\d+)?", line)]
        assert errors, f"no line with an error for {name}"


def test_json_tells_the_same(facts):
    assert facts["version"] == fastln.__version__
    assert {"version", "build", "runtime", "self_check"} <= set(facts)
    assert {"compiler", "flags"} <= set(facts["build"])
    assert fastln.available_isas()[0] in flatten(facts["runtime"])


def test_the_self_check_passes_for_each_isa(facts):
    assert set(facts["self_check"]) == set(fastln.available_isas())
    for name, found in facts["self_check"].items():
        numbers = [leaf for leaf in flatten(found) if isinstance(leaf, float)]
        assert numbers, name
        assert all(0 <= number <= 2 for number in numbers), name


def test_a_forced_isa_is_reported():
    facts = json.loads(output_of(MAIN, "--json", FASTLN_ISA="scalar", OMP_NUM_THREADS="3", timeout=60))
    assert "scalar" in flatten(facts["runtime"])
    assert facts["runtime"]["num_threads"] == (3 if facts["build"]["openmp"] else 1)


def test_show_config_prints_the_facts(capsys, facts):
    fastln.show_config()
    text = capsys.readouterr().out
    assert fastln.__version__ in text
    assert str(facts["build"]["compiler"]) in text


def test_unknown_options_are_refused():
    with pytest.raises(AssertionError, match="exit status 2"):
        output_of(MAIN, "--no-such-option", timeout=60)


def test_the_version_is_that_of_the_distribution():
    try:
        installed = metadata.version("fastln")
    except metadata.PackageNotFoundError:
        pytest.skip("run from the clone: no distribution is installed")
    assert installed == fastln.__version__


@pytest.mark.parametrize("name", ["py.typed", "norms.pyi", "_core/isa.pyi", "_core/effort.pyi"])
def test_types_are_shipped(name):
    assert resources.files("fastln").joinpath(name).is_file()


def test_every_public_name_exists():
    expected = {
        "LayerNorm",
        "layer_norm",
        "layer_norm_backward",
        "layer_norm_forward",
        "set_num_threads",
        "get_num_threads",
        "threads",
        "get_isa",
        "set_isa",
        "available_isas",
        "show_config",
    }
    assert expected <= set(fastln.__all__)
    for name in fastln.__all__:
        assert getattr(fastln, name) is not None


def test_import_needs_nothing_but_numpy():
    code = """
import sys, numpy
before = set(sys.modules)
import fastln
allowed = set(sys.stdlib_module_names) | {"fastln", "numpy"}
extra = {name.split(".")[0] for name in set(sys.modules) - before} - allowed
print(sorted(name for name in extra if not name.startswith(("_cython", "cython_runtime"))))
"""
    assert output_of(code) == "[]"
