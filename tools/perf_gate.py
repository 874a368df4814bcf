"""The regression gate that noise does not trip: instructions of a call, counted by callgrind, against stored figures.

    python tools/perf_gate.py [--update]

Each cell is one call of the public function on one thread: arguments and kernel. Small calls are counted without
`num_threads` too: as most are made, and with the question how many threads they get. The kernels are those of AVX2,
since valgrind does not know AVX-512. A cell fails if it needs more than TOLERANCE more instructions than the stored
figure; --update stores what was counted. Instructions depend on the compiler, on Python and on NumPy: figures are kept
for each set of their versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastln._core.facts import config

TOOLS = Path(__file__).parent
FIGURES = TOOLS / "perf_gate.json"
TOLERANCE = 0.03


class Cell(NamedTuple):
    """A call of a function of fastln, on one thread."""

    call: str
    rows: int
    cols: int
    dtype: str = "float32"
    # None: the call does not say. It must be so small that it stays on the calling thread.
    num_threads: int | None = 1

    def __str__(self) -> str:
        """layer_norm 1x768, and what is unusual."""
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.call} {self.rows}x{self.cols}{dtype}{'' if self.num_threads else ' without num_threads'}"


CELLS = [
    Cell("layer_norm", 1, 768),
    Cell("layer_norm", 1, 768, num_threads=None),
    Cell("layer_norm", 1, 768, "float64"),
    Cell("layer_norm", 128, 768),
    Cell("layer_norm", 1024, 64),
    Cell("layer_norm_backward", 1, 64),
    Cell("layer_norm_backward", 1, 64, num_threads=None),
    Cell("layer_norm_backward", 1, 768),
    Cell("layer_norm_backward", 1, 768, num_threads=None),
    Cell("layer_norm_backward", 1, 768, "float64"),
    Cell("layer_norm_backward", 128, 768),
    Cell("layer_norm_backward", 1024, 64),
    Cell("rms_norm", 1, 768),
    Cell("rms_norm", 1, 768, num_threads=None),
    Cell("rms_norm", 1, 768, "float64"),
    Cell("rms_norm", 128, 768),
    Cell("rms_norm", 1024, 64),
    Cell("add_layer_norm", 1, 768),
    Cell("add_layer_norm", 1, 768, num_threads=None),
    Cell("add_layer_norm", 128, 768),
    Cell("add_layer_norm", 1024, 64),
    Cell("add_layer_norm_backward", 1, 768),
    Cell("add_layer_norm_backward", 128, 768),
    Cell("add_rms_norm", 1, 768),
    Cell("add_rms_norm", 128, 768),
    Cell("rms_norm_backward", 1, 768),
    Cell("rms_norm_backward", 1, 768, "float64"),
    Cell("rms_norm_backward", 128, 768),
    Cell("rms_norm_backward", 1024, 64),
    Cell("layer_norm", 1, 768, "bfloat16"),
    Cell("layer_norm", 1, 768, "float16"),
    Cell("layer_norm", 128, 768, "bfloat16"),
    Cell("layer_norm_backward", 128, 768, "bfloat16"),
    Cell("rms_norm", 1, 768, "bfloat16"),
    Cell("add_layer_norm", 1, 768, "bfloat16"),
    Cell("add_rms_norm", 1, 768, "bfloat16"),
]
CALLS = 20  # counted for each cell, after as many that are not: these fill what caches there are
EMPTY = "nothing"  # the loop around the calls

# Runs under callgrind. sys.argv[1] is the library of callgrind_marks.c.
WORK = f"""
import ctypes
import sys
import numpy as np
import fastln

marks = ctypes.CDLL(sys.argv[1])
rng = np.random.default_rng(0)

def count(name, call, *arguments, **keywords):
    for _ in range({CALLS}):
        call(*arguments, **keywords)
    marks.counting_starts()
    for _ in range({CALLS}):
        call(*arguments, **keywords)
    marks.counting_ends(name.encode())

def placed(array):
    # A copy that begins 16 bytes into a cache line, as large arrays do: where rows begin decides how they are cut.
    room = np.empty(array.nbytes + 64, np.uint8)
    start = (16 - room.ctypes.data) % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy

def nothing(*arguments, **keywords):
    pass

count({EMPTY!r}, nothing)
for name, (call, rows, cols, dtype, num_threads) in {[(str(cell), tuple(cell)) for cell in CELLS]!r}:
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16 as dtype
    x, dy = map(placed, rng.standard_normal((2, rows, cols)).astype(dtype))
    weight, bias = map(placed, rng.standard_normal((2, cols)).astype(dtype))
    # On one thread: others would spin for a while, and are counted too.
    _, mean, rstd = fastln.layer_norm_forward(x, cols, weight, bias, num_threads=1)
    out = placed(x)
    arguments = {{
        "layer_norm": (x, cols, weight, bias),
        "layer_norm_backward": (dy, x, mean, rstd, weight),
        "rms_norm": (x, cols, weight),
        "rms_norm_backward": (dy, x, rstd, weight),
        "add_layer_norm": (x, dy, cols, weight, bias),
        "add_layer_norm_backward": (dy, dy, x, mean, rstd, weight),
        "add_rms_norm": (x, dy, cols, weight),
    }}[call]
    keywords = {{"num_threads": num_threads}} if num_threads else {{}}
    if call in ("add_layer_norm", "add_rms_norm"):
        keywords["residual_out"] = placed(x)
    count(name, getattr(fastln, call), *arguments, out=out, **keywords)
"""


def run(command: list[str], **environment: str) -> None:
    """Run a command; a failure ends the gate with what the command said."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout)[-2000:]
        raise SystemExit(f"perf gate: {command[0]} ended with status {done.returncode}\n{said}")


def count_instructions() -> dict[str, int]:
    """Instructions of one call of each cell."""
    with tempfile.TemporaryDirectory() as folder:
        marks, profile = f"{folder}/marks.so", f"{folder}/profile"
        run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", marks, str(TOOLS / "callgrind_marks.c")])
        run(
            [
                "valgrind",
                "--tool=callgrind",
                "--instr-atstart=no",
                f"--callgrind-out-file={profile}",
                sys.executable,
                "-c",
                WORK,
                marks,
            ],
            FASTLN_ISA="avx2",
            PYTHONHASHSEED="0",
            OPENBLAS_NUM_THREADS="1",
        )
        totals = dict(read_dump(path) for path in Path(folder).glob("profile.*"))
    loop = totals.pop(EMPTY)
    return {str(cell): (totals[str(cell)] - loop) // CALLS for cell in CELLS}


def read_dump(path: Path) -> tuple[str, int]:
    """Name and instructions of one dump."""
    text = path.read_text()
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    return (name[1] if name else path.name), (int(total[1]) if total else 0)


def compare(counted: dict[str, int], stored: dict[str, int]) -> bool:
    """Print each cell; whether none needs more than TOLERANCE more than before."""
    within = True
    for name, count in counted.items():
        before = stored.get(name)
        change = count / before - 1 if before else 0.0
        too_many = change > TOLERANCE
        within = within and not too_many
        print(f"{name:46} {count:12,} {f'{change:+8.2%}' if before else '':8}{'  TOO MANY' if too_many else ''}")
    return within


def main() -> int:
    """Exit status 1 if a cell needs more instructions than it may, 2 if there is nothing to compare with."""
    parser = argparse.ArgumentParser(description="Count instructions and compare them with the stored figures.")
    parser.add_argument("--update", action="store_true", help="store what is counted")
    update = parser.parse_args().update
    if not shutil.which("valgrind"):
        raise SystemExit("perf gate: valgrind must be installed, it counts the instructions")
    versions = f"{config()['build']['compiler']}, Python {platform.python_version()}, NumPy {np.__version__}"
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    counted = count_instructions()
    within = compare(counted, figures.get(versions, {}))
    if update:
        FIGURES.write_text(json.dumps(figures | {versions: counted}, indent=2) + "\n")
        return 0
    if versions not in figures:
        print(f"perf gate: no figures for {versions} yet; --update stores these", file=sys.stderr)
        return 2
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
