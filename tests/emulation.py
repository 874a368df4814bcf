"""Building C++ programs for instruction sets that this machine may not have, and running them under emulation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from internals import build_info

from fastln import available_isas

TESTS = Path(__file__).resolve().parent
SOURCES = TESTS.parent / "src"
COMPILERS = ("c++", "g++", "clang++")
REGIONS = {"avx2": "FLN_AVX2", "avx512": "FLN_AVX512"}  # those of the others are the baseline


class Emulation(NamedTuple):
    """How code for one ISA is built and run on a machine with AVX2."""

    compilers: tuple[str, ...]  # the first that is there is taken
    flags: tuple[str, ...]
    header: str  # what the source needs beside the compiler
    emulators: tuple[str, ...]  # as the compilers; none where the program runs by itself
    install: str
    stand_in: Path | None = None  # a source that includes the one to be emulated, instead of it


EMULATIONS = {
    # Runs where there is AVX-512 too: there it tells whether the emulation is true.
    "avx512": Emulation(
        compilers=COMPILERS,
        flags=("-mavx2", "-mfma", "-mf16c", "-mbmi2", "-Wno-psabi"),
        header="simde/x86/avx512.h",
        emulators=(),
        install="apt-get install libsimde-dev",
        stand_in=TESTS / "avx512_on_simde.cpp",
    ),
    "neon": Emulation(
        compilers=("aarch64-linux-gnu-g++",),
        flags=("-static",),
        header="arm_neon.h",
        emulators=("qemu-aarch64-static", "qemu-aarch64"),
        install="apt-get install g++-aarch64-linux-gnu qemu-user-static",
    ),
}


def find_program(names):
    """The first of the programs that is installed, or None."""
    return next(filter(shutil.which, names), None)


def has_header(compiler, header):
    """Whether the compiler finds the header."""
    probe = f"#include <{header}>\n".encode()
    command = [compiler, "-E", "-x", "c++", "-"]
    return subprocess.run(command, input=probe, capture_output=True, check=False).returncode == 0


def build_program(compiler, sources, program, *flags):
    """Compile C++ sources of fastln to a program."""
    # The flags of this build that decide about arithmetic. How hard the compiler optimizes does not, and it takes a
    # tenth of the time where it neither optimizes nor inlines.
    arithmetic = [flag for flag in build_info()["flags"].split() if flag.startswith(("-std", "-ff", "-fno"))]
    options = ["-O0", "-DFLN_INLINE=inline", *flags, f"-I{SOURCES}", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *arithmetic, *options, *sources, "-o", program]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr


def emulated_program(isa, source, program, *flags, others=()):
    """The command that runs a source, built for this ISA together with others; skips where that cannot be done."""
    emulation = EMULATIONS[isa]
    compiler, emulator = find_program(emulation.compilers), find_program(emulation.emulators)
    if not compiler or not has_header(compiler, emulation.header) or (emulation.emulators and not emulator):
        pytest.skip(f"{isa} cannot be emulated here: {emulation.install}")
    skip_without_sources()
    if emulation.stand_in:
        flags = (f'-DEMULATED="{source}"', *flags)
    build_program(compiler, [emulation.stand_in or source, *others], program, *emulation.flags, *flags)
    return [emulator, program] if emulator else [program]


def driver_for(isa, source, program, *flags):
    """The command that runs a source of which the registers are those of an ISA: ISA_HEADER, in a region of it.

    Native where this machine has the ISA, else under emulation.
    """
    header = f'-DISA_HEADER="registers/{isa}.h"'
    if isa not in available_isas():
        return emulated_program(isa, source, program, header, *flags)
    skip_without_sources()
    compiler = find_program(COMPILERS)
    if not compiler:
        pytest.skip("no C++ compiler here")
    region = [f"-DISA_FEATURES={REGIONS[isa]}"] if isa in REGIONS else []
    build_program(compiler, [source], program, header, *region, *flags)
    return [program]


def skip_without_sources():
    """Skip the test where there are only tests."""
    if not SOURCES.is_dir():
        pytest.skip("run from a copy of the tests: the sources are not beside it")
