"""The version, the changelog, and the interpreters that make wheels builds for."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

import fastln

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "CHANGELOG.md").exists(), reason="run from a copy of the tests: the changelog is not beside it"
)


@pytest.fixture
def tool(monkeypatch):
    """A module of tools/, by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


def test_this_tree_is_under_development_or_a_release(tool):
    changelog = (ROOT / "CHANGELOG.md").read_text()
    if fastln.__version__.endswith(".dev0"):
        headings = [line for line in changelog.splitlines() if line.startswith("## ")]
        assert headings[0] == "## [Unreleased]"
        assert not any(fastln.__version__.removesuffix(".dev0") in heading for heading in headings)
    else:
        assert tool("check_release").problems(fastln.__version__, changelog) == []


def test_a_release_is_accepted(tool):
    changelog = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2030-01-31\n\n## [1.2.2] - 2029-12-01\n"
    assert tool("check_release").problems("1.2.3", changelog, "v1.2.3") == []


@pytest.mark.parametrize(
    ("version", "heading", "tag", "said"),
    [
        ("1.2.3.dev0", "## [1.2.3.dev0] - 2030-01-31", None, "the version of a release must be"),
        ("1.2.3", "## [1.2.3] - 2030-01-31", "v1.2.4", "the tag must be v1.2.3, got v1.2.4"),
        ("1.2.3", "## [1.2.2] - 2030-01-31", "v1.2.3", "CHANGELOG.md must have a heading"),
        ("1.2.3", "## [1.2.3]", "v1.2.3", "CHANGELOG.md must have a heading"),
        ("1.2.3", "## [1.2.3] - 2030-02-31", "v1.2.3", "the date of 1.2.3"),
        ("1.2.3", "## [1.2.3] - 20300131", "v1.2.3", "the date of 1.2.3"),
    ],
)
def test_what_is_not_a_release_is_refused(version, heading, tag, said, tool):
    found = tool("check_release").problems(version, f"# Changelog\n\n{heading}\n", tag)
    assert len(found) == 1
    assert said in found[0]


def test_the_version_of_the_citation_is_not_stated_twice():
    assert not re.search(r"^(version|date-released):", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)


GOOD = {"kind": "cpython", "version": "3.12.4", "final": True, "free_threaded": False, "headers": True, "venv": True}


def make_python(folder, name, **facts):
    """A program that answers like an interpreter; one without facts fails, as pyenv's shims do."""
    path = folder / name
    folder.mkdir(exist_ok=True)
    answer = f"echo '{json.dumps({**GOOD, **facts})}'" if facts else "exit 127"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return path


def test_the_newest_of_each_version_is_built_for(tool, tmp_path, capsys):
    wheels = tool("wheels")
    pythons = [
        make_python(tmp_path / "a", "python3.13", version="3.13.0"),
        make_python(tmp_path / "a", "python3.12", version="3.12.4"),
        make_python(tmp_path / "b", "python3.12", version="3.12.11"),
        make_python(tmp_path / "c", "python3.12", version="3.12.9"),
        make_python(tmp_path / "c", "python3.11"),
    ]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "python3.13").symlink_to(pythons[0])
    found = wheels.find_interpreters([*pythons, tmp_path / "d" / "python3.13"], wheels.wanted_pythons())
    assert [(each.tag, each.version, each.path) for each in found] == [
        ("cp312", (3, 12, 11), pythons[2]),
        ("cp313", (3, 13, 0), pythons[0]),
    ]
    assert capsys.readouterr().out.splitlines() == [
        f"wheels: found {pythons[2]} (3.12.11)",
        f"wheels: found {pythons[0]} (3.13.0)",
    ]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"kind": "pypy"}, "it is not CPython"),
        ({"version": "3.10.14"}, "it is not Python >=3.11"),
        ({"free_threaded": True}, "it is free-threaded"),
        ({"final": False}, "it lacks: final"),
        ({"headers": False, "venv": False}, "it lacks: headers, venv"),
    ],
)
def test_what_no_wheel_can_be_built_for_is_said(facts, said, tool, tmp_path, capsys):
    wheels = tool("wheels")
    python = make_python(tmp_path, "python3.12", **facts)
    assert wheels.find_interpreters([python], wheels.wanted_pythons()) == []
    assert said in capsys.readouterr().out


def test_interpreters_are_looked_for_on_path_and_in_pyenv(tool, tmp_path, monkeypatch):
    make_python(tmp_path / "path", "python3.12", kind="cpython")
    make_python(tmp_path / "path", "python3.12-config", kind="cpython")
    versions = tmp_path / "pyenv" / "versions" / "3.13.1"
    versions.mkdir(parents=True)
    make_python(versions / "bin", "python3.13", kind="cpython")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert list(tool("wheels").candidates()) == [versions / "bin" / "python3.13", tmp_path / "path" / "python3.12"]


def test_a_wheel_with_the_runtime_carries_its_licence(tool, tmp_path, monkeypatch):
    repair_wheel = tool("repair_wheel")
    terms = tmp_path / "COPYING"
    terms.write_text("the terms\n")
    monkeypatch.setattr(repair_wheel, "LICENCES", (str(tmp_path / "absent"), str(terms)))
    assert "the terms" in repair_wheel.terms_of_runtime()
    monkeypatch.setattr(repair_wheel, "LICENCES", (str(tmp_path / "absent"),))
    with pytest.raises(SystemExit, match="must carry its licence"):
        repair_wheel.terms_of_runtime()
