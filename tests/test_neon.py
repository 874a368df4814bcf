"""The NEON kernels, cross-compiled and run under emulation, give the bits of AVX2."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import DTYPES, EDGE_COLS
from reference import (
    COMBINATIONS,
    GRADIENT_REGIMES,
    REGIMES,
    find_regime,
    make_gradient_inputs,
    make_parameters,
    make_rows,
)

import fastln
from fastln import _dispatch

COMPILER = "aarch64-linux-gnu-g++"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
INSTALL = "apt-get install g++-aarch64-linux-gnu qemu-user-static"
SOURCES = Path(__file__).resolve().parents[1] / "src"
FMA_ISAS = ("avx512", "avx2")
ROWS = 6  # a group of four, and two on their own


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The command that runs the driver."""
    emulator = next(filter(shutil.which, EMULATORS), None)
    if not (shutil.which(COMPILER) and emulator):
        pytest.skip(f"needs a cross compiler and an emulator: {INSTALL}")
    if not SOURCES.is_dir():
        pytest.skip("run from a copy of the tests: the sources are not beside it")
    program = tmp_path_factory.mktemp("neon") / "driver"
    # The flags of this build that decide about arithmetic. How hard the compiler optimizes does not: -O1 takes half as
    # long as -O3.
    flags = [flag for flag in _dispatch.build_info()["flags"].split() if flag.startswith(("-std", "-ff", "-fno"))]
    sources = [Path(__file__).with_name("neon_driver.cpp"), SOURCES / "target_neon.cpp"]
    command = [
        COMPILER,
        *flags,
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-static",
        f"-I{SOURCES}",
        *sources,
        "-o",
        program,
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return [emulator, program]


@pytest.fixture(scope="module")
def fma_isa():
    """An ISA with fused multiply-add that runs here."""
    isa = next((name for name in FMA_ISAS if name in fastln.available_isas()), None)
    if isa is None:
        pytest.skip("neither avx512 nor avx2 is available here to compare with")
    return isa


FORWARD, BACKWARD = range(2)


def pack(operation, x, weight, bias, eps, *others):
    """One case as the driver reads it."""
    header = struct.pack("6qd", operation, x.itemsize, *x.shape, weight is not None, bias is not None, eps)
    return header + b"".join(a.tobytes() for a in (x, weight, bias, *others) if a is not None)


def make_case(regime, cols, dtype, combination):
    """One case of the forward pass: the bytes that the driver reads, and the arguments that fastln takes."""
    x = make_rows(regime, ROWS, cols, dtype)
    weight, bias = (
        p if used else None for p, used in zip(make_parameters(cols, dtype), COMBINATIONS[combination], strict=True)
    )
    eps = REGIMES[regime].eps
    return pack(FORWARD, x, weight, bias, eps), (x, None, weight, bias, eps)


def make_backward_case(label, rows, cols, dtype, weighted):
    """One case of the backward pass: the bytes that the driver reads, and the arguments that fastln takes."""
    dy, x = make_gradient_inputs(label, rows, cols, dtype)
    weight = make_parameters(cols, dtype)[0] if weighted else None
    _, mean, rstd = fastln.layer_norm_forward(x, eps=find_regime(GRADIENT_REGIMES[label][0]).eps)
    return pack(BACKWARD, x, weight, None, 0.0, dy, mean, rstd), (dy, x, mean, rstd, weight)


@pytest.fixture
def use_fma(fma_isa):
    """Let fastln compute with fused multiply-add during the test."""
    previous = fastln.get_isa()
    fastln.set_isa(fma_isa)
    yield
    fastln.set_isa(previous)


def assert_driver_agrees(driver, dtype, function, cases):
    """The driver gives for all cases what function gives in this process."""
    done = subprocess.run(driver, input=b"".join(data for data, _ in cases), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    expected = [b"".join(part.tobytes() for part in function(*args)) for _, args in cases]
    assert len(done.stdout) == sum(map(len, expected))
    position = 0
    for (_, args), result in zip(cases, expected, strict=True):
        found = done.stdout[position : position + len(result)]
        position += len(result)
        # NaN payloads are not part of the promise.
        same = np.array_equal(np.frombuffer(found, dtype), np.frombuffer(result, dtype), equal_nan=True)
        assert same, f"{args[0].shape}, first element {args[0].flat[0]}, last argument {args[-1]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_neon_gives_the_same_bits(driver, use_fma, dtype):
    # Combinations take turns over the widths and regimes: each is met at many of both.
    turns = itertools.cycle(COMBINATIONS)
    cols = (*EDGE_COLS, 512, 513, 4096, 10_000)
    cases = [make_case(regime, size, np.dtype(dtype), next(turns)) for regime in REGIMES for size in cols]
    cases.append(make_case("mean 10", 40_000, np.dtype(dtype), next(turns)))
    assert_driver_agrees(driver, dtype, fastln.layer_norm_forward, cases)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neon_gives_the_same_gradients(driver, use_fma, dtype):
    turns = itertools.cycle((True, False))
    rows = itertools.cycle((1, 2, 7, 8, 9, 16, 33))  # in one chunk: how chunks are merged is not the kernels' matter
    cases = [
        make_backward_case(label, next(rows), cols, np.dtype(dtype), next(turns))
        for label in GRADIENT_REGIMES
        for cols in (*EDGE_COLS, 513)
    ]
    cases += [make_backward_case("normal", 9, cols, np.dtype(dtype), next(turns)) for cols in (4096, 10_000)]
    assert_driver_agrees(driver, dtype, fastln.layer_norm_backward, cases)
