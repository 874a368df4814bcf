"""Scripts of examples/: loaded as modules, run as a user does, and without a module that they need."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import fastln

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@contextlib.contextmanager
def loaded(script):
    """The script as a module, with those beside it to import from, as where it is run."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module  # dataclasses look their module up there
    sys.path.insert(0, str(script.parent))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(script.parent))
        del sys.modules[script.stem]


def run_script(script, *args, **options):
    """Run it as a user does, with the fastln that these tests import, on a terminal of 110 columns."""
    path = os.pathsep.join(filter(None, [str(Path(fastln.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1", "COLUMNS": "110"}
    command = [sys.executable, str(script), *args]
    return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=60, check=False, **options)


class Absent:
    """A finder on sys.meta_path that knows one thing: this module is not installed."""

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def take_away(monkeypatch, name):
    """Have this module missing, as if it were not installed."""
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Absent(name), *sys.meta_path])
