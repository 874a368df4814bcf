"""The machine and the software that a result belongs to, and what disturbed it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

import fastln
from fastln._core.facts import config

from ..grid.cells import available_cpus

CPUS = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")

# Above this share of the CPUs others are at work.
BUSY_LOAD = 0.25


def describe() -> dict[str, Any]:
    """Facts that do not change during a run."""
    import cpuinfo

    cpu = cpuinfo.get_cpu_info()
    return {
        "cpu": cpu.get("brand_raw", platform.processor()),
        "cpus": available_cpus(),
        "isa": fastln.get_isa(),
        "caches": caches(),
        "memory_bytes": psutil.virtual_memory().total,
        "governor": read_text(CPUS / "cpu0/cpufreq/scaling_governor") or "not readable",
        "virtual": "hypervisor" in cpu.get("flags", ()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "fastln": config(),
        "commit": commit(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(("OMP_", "GOMP_", "FASTLN_"))
        },
    }


def disturbances() -> dict[str, Any]:
    """Load and counters, to be read before and after a run."""
    counters = {"load": psutil.getloadavg()[0], "steal_seconds": getattr(psutil.cpu_times(), "steal", 0.0)}
    for path in (CGROUPS / "cpu.stat", CGROUPS / "cpu/cpu.stat"):
        for name, _, value in (line.partition(" ") for line in read_text(path).splitlines()):
            if name in ("nr_throttled", "throttled_usec", "throttled_time"):
                counters[name] = int(value)
    return counters


def warnings(before: dict[str, Any], after: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    """What may have disturbed the measurement, a line each."""
    found = []
    if before["load"] > BUSY_LOAD * machine["cpus"]:
        found.append(f"load average {before['load']:.1f} before the run: other programs were at work")
    if (steal := after["steal_seconds"] - before["steal_seconds"]) > 1:
        found.append(f"{steal:.1f} s of CPU time went to other virtual machines")
    if (throttled := after.get("nr_throttled", 0) - before.get("nr_throttled", 0)) > 0:
        found.append(f"throttled {throttled} times by the control group")
    if machine["governor"] not in ("performance", "not readable"):
        found.append(f"CPU frequency governor {machine['governor']}: performance gives steadier times")
    return found


def caches() -> dict[str, int]:
    """Bytes of each level of the caches that CPU 0 uses, {"L1d": ..., "L2": ..., "L3": ...}.

    One instance of each, not their sum over the CPUs, which is what lscpu shows.
    """
    found = {}
    for folder in sorted(CPUS.glob("cpu0/cache/index*")):
        kind, level, size = (read_text(folder / name) for name in ("type", "level", "size"))
        if kind in ("Data", "Unified") and size.endswith("K"):
            found[f"L{level}" + ("d" if kind == "Data" else "")] = int(size[:-1]) * 1024
    return found


def commit() -> str:
    """The commit of the clone, with a + if anything has been changed since; empty outside a clone."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    if not (root / ".git").exists():
        return ""
    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


def read_text(path: Path) -> str:
    """What a file says, or nothing."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def command_line(argv: list[str]) -> str:
    """The command as one types it."""
    return " ".join(["python -m benchmarks", *argv] if argv else ["python -m benchmarks", *sys.argv[1:]])
