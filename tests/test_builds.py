"""setup.py with a compiler that only pretends: what is compiled again, and what is said. A folder that is not built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastln

ROOT = Path(__file__).resolve().parents[1]

# Writes down what it was asked for, and makes an empty file of the name that was asked for.
COMPILER = """#!/bin/sh
case " $* " in
  *" --version "*) echo "pretender $PRETENDED_VERSION"; exit 0 ;;
  *" -fopenmp "*) [ -z "$PRETENDS_NO_OPENMP" ] || { echo "no omp.h" >&2; exit 1; } ;;
esac
case "$*" in *probe*) ;; *) echo "$*" >> "$COMPILED" ;; esac
while [ "$1" != -o ]; do shift; done
: > "$2"
"""


class Project:
    """As much of a clone as setup.py needs."""

    def __init__(self, folder, compiler):
        self.folder = folder
        self.compiler = compiler
        self.log = folder / "compiled"

    def build(self, *command, **environment):
        """Run setup.py; keywords are set in its environment. The CompletedProcess."""
        self.log.write_text("")
        env = {name: value for name, value in os.environ.items() if not name.startswith(("FASTLN_", "CC", "CXX", "LD"))}
        env |= {"CXX": str(self.compiler), "COMPILED": str(self.log)} | environment
        return subprocess.run(
            [sys.executable, "setup.py", "-q", *(command or ("build_ext", "--inplace"))],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def compiled(self, *command, **environment):
        """The sources that a build compiles, which succeeds."""
        done = self.build(*command, **environment)
        assert done.returncode == 0, done.stderr
        return sorted(word for line in self.commands() for word in line.split() if word.endswith(".cpp"))

    def commands(self):
        return self.log.read_text().splitlines()


SETTINGS = """
[project]
name = "fastln"
version = "0"
dynamic = ["readme"]

[tool.setuptools]
packages = ["fastln", "fastln._core"]
"""

ALL = ["build/fastln/_core/isa.cpp", "build/fastln/calls.cpp", "src/target_avx2.cpp", "src/target_scalar.cpp"]


@pytest.fixture(scope="module")
def cythonized(tmp_path_factory):
    """A project whose modules are C++ already, which is what takes long."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    if not (ROOT / "setup.py").is_file():
        pytest.skip("run from a copy of the tests: setup.py is not beside it")
    folder = tmp_path_factory.mktemp("project")
    for name in ("setup.py", "README.md", "tools/index_readme.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "pyproject.toml").write_text(SETTINGS)
    for name in ("fastln/__init__.py", "fastln/_core/__init__.py", "fastln/_core/isa.pyx", "fastln/calls.pyx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "src").mkdir()
    for name in ("target_avx2.cpp", "target_scalar.cpp", "fastln.h"):
        (folder / "src" / name).write_text("")
    project = Project(folder, tmp_path_factory.mktemp("compiler") / "pretender")
    project.compiler.write_text(COMPILER)
    project.compiler.chmod(0o755)
    assert project.compiled() == ALL
    return project


@pytest.fixture
def project(cythonized, tmp_path):
    """A project that has been built in place, for one test."""
    shutil.copytree(cythonized.folder, tmp_path / "project")
    return Project(tmp_path / "project", cythonized.compiler)


@pytest.fixture
def own_compiler(project, tmp_path):
    """A copy of the compiler, which the test may change, and the project is built with it."""
    project.compiler = Path(shutil.copy(project.compiler, tmp_path))
    project.compiled()
    return project.compiler


def test_nothing_is_compiled_twice(project):
    assert project.compiled() == []


@pytest.mark.parametrize(
    "option",
    [
        {"FASTLN_OPENMP": "0"},
        {"FASTLN_STRICT": "1"},
        {"CXXFLAGS": "-O1"},
        {"PRETENDED_VERSION": "2"},
        {"PRETENDS_NO_OPENMP": "1"},
    ],
    ids=lambda option: "".join(option),
)
def test_a_changed_option_compiles_everything_again(option, project):
    assert project.compiled(**option) == ALL
    assert project.compiled(**option) == []


def test_another_compiler_compiles_everything_again(project, tmp_path):
    assert project.compiled(CXX=str(shutil.copy(project.compiler, tmp_path / "other"))) == ALL


def test_what_a_failed_build_left_is_compiled_again(project, own_compiler):
    working = own_compiler.read_text()
    own_compiler.write_text(working.replace("case", 'case "$*" in *calls.cpp*) exit 1 ;; esac\ncase', 1))
    assert project.build(FASTLN_OPENMP="0").returncode != 0
    own_compiler.write_text(working)
    assert "build/fastln/calls.cpp" in project.compiled(FASTLN_OPENMP="0")


def test_an_edit_compiles_its_module_again(project):
    os.utime(project.folder / "src/target_avx2.cpp")
    assert project.compiled() == [source for source in ALL if "calls" not in source]


def test_an_editable_install_is_built_once(project):
    command = ("editable_wheel", "--dist-dir", str(project.folder / "dist"))
    assert project.compiled(*command) == []
    os.utime(project.folder / "build/fastln/calls.cpp")
    assert project.compiled(*command) == ["build/fastln/calls.cpp"]
    assert project.compiled(*command) == []


def test_each_source_is_told_when_it_is_done(project):
    told = project.build(FASTLN_STRICT="1").stderr.splitlines()
    for source in ALL:
        assert sum(line.startswith(f"fastln: compiled {source} (") for line in told) == 1


def test_only_modules_that_use_openmp_are_built_with_it(project):
    project.compiled(FASTLN_STRICT="1")
    with_openmp = [line for line in project.commands() if "-fopenmp" in line.split()]
    assert with_openmp
    assert not any("isa" in line or "target" in line for line in with_openmp)


def test_a_compiler_without_openmp_is_told_in_one_line(project):
    done = project.build(PRETENDS_NO_OPENMP="1")
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "compiled" not in line]
    assert len(told) == 1
    assert told[0].startswith("fastln: the compiler does not take -fopenmp")
    assert not any("-fopenmp" in line.split() for line in project.commands())


def test_openmp_that_is_refused_is_not_asked_for(project):
    done = project.build(FASTLN_OPENMP="0")
    assert [line for line in done.stderr.splitlines() if "compiled" not in line] == []
    assert not any("-fopenmp" in line.split() for line in project.commands())


def test_no_compiler_is_one_sentence(project):
    done = project.build(CXX="no-such-compiler")
    assert done.returncode != 0
    assert done.stderr == (
        "fastln: a C++17 compiler is needed, and no-such-compiler is not there: install g++ or name one in CXX\n"
    )


def test_a_compiler_that_fails_is_one_sentence_below_what_it_says(project, own_compiler):
    own_compiler.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    said = project.build().stderr.splitlines()
    assert said[0] == "broken"
    assert said[-1].startswith("fastln: a C++17 compiler is needed, and ")
    assert not any("Traceback" in line for line in said)


def test_a_sanitized_build_in_place_is_refused(project):
    done = project.build(FASTLN_SANITIZE="address")
    assert done.returncode != 0
    assert done.stderr == "fastln: a sanitized build goes to build/sanitize/address: run python setup.py build\n"


def test_a_folder_that_is_not_built_says_so(tmp_path):
    package = Path(fastln.__file__).parent
    shutil.copytree(package, tmp_path / "fastln", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", "import fastln"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: fastln is not built in this folder for Python 3.")
    assert f"run `pip install -e .` in {tmp_path}" in last
    assert "circular" not in done.stderr
