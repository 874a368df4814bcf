"""Facts about this build and this machine, for people and for bug reports."""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastln._core import effort, isa, threads
from fastln._version import __version__


def config() -> dict[str, Any]:
    """Everything that a bug report should hold, as plain Python values."""
    openmp = threads.openmp_version()
    return {
        "version": __version__,
        "platform": {
            "system": platform.platform(),
            "cpu": _cpu_name(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "build": {**isa.build_info(), "openmp": openmp or None},
        "runtime": {
            "isa": isa.get_isa(),
            "isa_reason": isa.isa_reason(),
            "available_isas": list(isa.available_isas()),
            "num_threads": threads.get_num_threads(),
            "num_threads_reason": threads.threads_reason(),
            "min_parallel_bytes": effort.get_min_parallel_bytes(),
            "stream_bytes": effort.get_stream_bytes(),
            "cgroup_quota": threads.cgroup_quota(),
            "openmp_library": _openmp_libraries() if openmp else [],
        },
    }


def show_config() -> None:
    """Print version, build and run-time facts: which instruction set runs and why, how many threads and why.

    `python -m fastln` prints the same and checks each instruction set against a reference; `--json` is for reports.

    Examples
    --------
    >>> import fastln
    >>> fastln.show_config()
    fastln ...
    platform:
      system: ...
    """
    print(as_text(config()))


def as_text(facts: Mapping[str, Any]) -> str:
    """The facts as indented `name: value` lines."""
    lines = [f"fastln {facts['version']}"]
    for section, entries in facts.items():
        if section == "version":
            continue
        lines.append(f"{section}:")
        for name, value in entries.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"  {name.replace('_', ' ')}: {'none' if shown in (None, '') else shown}")
    return "\n".join(lines)


def _cpu_name() -> str:
    if sys.platform.startswith("linux"):
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()


def _openmp_libraries() -> list[str]:
    """The OpenMP runtimes mapped into this process; more than one means more than one pool of threads."""
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if Path(path).name.startswith(("libgomp", "libomp", "libiomp")))
