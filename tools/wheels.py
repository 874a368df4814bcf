"""`make wheels`: the sdist and, from it, a wheel for every CPython at hand, each tested in an empty environment.

Interpreters are looked for on PATH and among pyenv's versions. One of them, the newest, runs the whole suite against
its wheel, from outside the clone; the others run `python -m fastln --self-test` and the fast part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from repair_wheel import PLACE, RUNTIME, repair, run

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
# About a minute: what may differ between versions of Python, and the bits.
FAST = ("test_calls.py", "test_config.py", "test_dispatch.py", "test_golden.py", "test_modules.py", "test_self_test.py")

ABOUT = """
import json, os, sys, sysconfig
from importlib.util import find_spec
print(json.dumps({
    "kind": sys.implementation.name,
    "version": ".".join(map(str, sys.version_info[:3])),
    "final": sys.version_info.releaselevel == "final",
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "headers": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
    "venv": find_spec("ensurepip") is not None,
}))
"""


class Interpreter(NamedTuple):
    """A CPython that wheels can be built for."""

    path: Path
    version: tuple[int, ...]

    @property
    def tag(self) -> str:
        """What it is called in a wheel's name."""
        return f"cp{self.version[0]}{self.version[1]}"


def candidates() -> Iterator[Path]:
    """Everything on PATH and in pyenv that is called python3.N."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [*sorted(pyenv.glob("versions/*/bin")), *map(Path, os.get_exec_path())]
    for folder in folders:
        yield from sorted(path for path in folder.glob("python3.*") if re.fullmatch(r"python3\.\d+t?", path.name))


def reason_against(about: dict[str, object], wanted: SpecifierSet) -> str | None:
    """Why no wheel is built for an interpreter, or None."""
    if about["kind"] != "cpython":
        return "is not CPython"
    if str(about["version"]) not in wanted:
        return f"is not Python {wanted}"
    if about["free_threaded"]:
        return "is free-threaded, which fastln does not support yet"
    lacking = [name for name in ("final", "headers", "venv") if not about[name]]
    return f"lacks: {', '.join(lacking)}" if lacking else None


def wanted_pythons() -> SpecifierSet:
    """The versions of Python that pyproject.toml asks for."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return SpecifierSet(tomllib.load(file)["project"]["requires-python"])


def find_interpreters(paths: Iterable[Path], wanted: SpecifierSet) -> list[Interpreter]:
    """The newest one of each minor version, oldest first; says which were found and which are of no use."""
    found: dict[str, Interpreter] = {}
    seen = set()
    for path in paths:
        done = subprocess.run([path, "-c", ABOUT], capture_output=True, text=True)
        if done.returncode:  # pyenv's shims of versions that are not active
            continue
        about = json.loads(done.stdout)
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        reason = reason_against(about, wanted)
        if reason:
            say(f"passed over {path} ({about['version']}): it {reason}")
            continue
        version = tuple(map(int, about["version"].split(".")))
        interpreter = Interpreter(path, version)
        if interpreter.tag not in found or found[interpreter.tag].version < version:
            found[interpreter.tag] = interpreter
    interpreters = sorted(found.values(), key=lambda each: each.version)
    for interpreter in interpreters:
        say(f"found {interpreter.path} ({'.'.join(map(str, interpreter.version))})")
    return interpreters


def say(text: str) -> None:
    """Print at once."""
    print(f"wheels: {text}", flush=True)


def make_environment(interpreter: Interpreter, place: Path) -> Path:
    """An empty environment; its Python."""
    run(interpreter.path, "-m", "venv", place)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--upgrade", "pip")
    return python


def build_wheel(interpreter: Interpreter, sdist: Path, scratch: Path) -> Path:
    """The repaired wheel, in DIST."""
    python = make_environment(interpreter, scratch / "build")
    say(f"{interpreter.tag}: building (minutes, unless a compiler cache is on PATH)")
    raw = scratch / "raw"
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", raw, sdist)
    (wheel,) = raw.iterdir()
    repaired = repair(wheel, DIST)
    say(f"{interpreter.tag}: {repaired.name}, {repaired.stat().st_size / 1e6:.1f} MB")
    say(f"{interpreter.tag}: {why_no_older(repaired)}")
    return repaired


def why_no_older(wheel: Path) -> str:
    """Which symbols of which files keep the wheel from an older glibc."""
    shown = json.loads(run(sys.executable, "-m", "auditwheel", "show", "--json", wheel))
    newest = max(
        (version for version in shown["versioned_symbols"]["libc.so.6"] if re.fullmatch(r"GLIBC_[\d.]+", version)),
        key=lambda version: tuple(map(int, re.findall(r"\d+", version))),
    )
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        wanting = []
        for file in sorted(Path(scratch).glob("fastln*/**/*.so*")):
            listed = run("nm", "--dynamic", "--undefined-only", "--with-symbol-versions", file)
            symbols = sorted(set(re.findall(rf"(\S+)@{re.escape(newest)}$", listed, re.MULTILINE)))
            if symbols:
                wanting.append(f"{file.name.partition('.')[0]}: {', '.join(symbols)}")
    return f"{shown['overall_tag']}, for {newest} ({'; '.join(wanting)})"


def check_wheel(interpreter: Interpreter, wheel: Path, whole: bool, scratch: Path) -> bool:
    """Install the wheel in an empty environment and test it from outside the clone."""
    python = make_environment(interpreter, scratch / "venv")
    place = scratch / "outside"
    place.mkdir()
    shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    run(python, "-m", "pip", "install", "-q", wheel)
    say(f"{interpreter.tag}: self-test, with nothing but NumPy there")
    if subprocess.run([python, "-m", "fastln", "--self-test"], cwd=place).returncode:
        return False
    runtimes = json.loads(run(python, "-m", "fastln", "--json", cwd=place))["runtime"]["openmp_library"]
    if [Path(runtime).parts[-2:] for runtime in runtimes] != [(PLACE, RUNTIME)]:
        say(f"{interpreter.tag}: the OpenMP runtime must be the wheel's own, got {runtimes}")
        return False
    subprocess.run([python, "-m", "pip", "install", "-q", "--group", "test"], cwd=place, check=True)
    say(f"{interpreter.tag}: {'the whole suite' if whole else 'the fast part of the suite'}")
    tests = [] if whole else [f"tests/{name}" for name in FAST]
    return (
        subprocess.run(
            [python, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *tests], cwd=place
        ).returncode
        == 0
    )


def main() -> int:
    """Build and test; 0 if every wheel passes."""
    parser = argparse.ArgumentParser(prog="make wheels", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TAG", help="these interpreters alone, e.g. cp312")
    parser.add_argument("--fast", action="store_true", help="the whole suite for none of them")
    options = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("wheels: make wheels is for Linux; pip wheel . builds one for this machine")
    found = find_interpreters(candidates(), wanted_pythons())
    interpreters = [each for each in found if not options.only or each.tag in options.only]
    if not interpreters:
        raise SystemExit("wheels: no interpreter to build for")
    shutil.rmtree(DIST, ignore_errors=True)
    # Not in an environment of its own: setup.py runs Cython in this folder, and what a build with another NumPy leaves
    # in build/ would be taken for the clone's own.
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", DIST, ROOT)
    (sdist,) = DIST.iterdir()
    say(f"{sdist.name}, {sdist.stat().st_size / 1e6:.1f} MB")
    failed = []
    for interpreter in interpreters:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = build_wheel(interpreter, sdist, Path(scratch))
            whole = interpreter is interpreters[-1] and not options.fast
            if not check_wheel(interpreter, wheel, whole, Path(scratch)):
                failed.append(interpreter.tag)
                say(f"{interpreter.tag}: FAILED")
    say(f"failed: {', '.join(failed)}" if failed else f"{len(interpreters)} wheels in dist, all tested")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
