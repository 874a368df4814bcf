"""The kernels for NEON and AVX-512, run under emulation, give the bits of AVX2."""

from __future__ import annotations

import itertools
import struct
import subprocess

import numpy as np
import pytest
from emulation import EMULATIONS, SOURCES, TESTS, emulated_program
from operations import split
from regimes import (
    COMBINATIONS,
    EDGE_COLS,
    ELEMENTS,
    GRADIENT_REGIMES,
    REGIMES,
    computed,
    find_regime,
    is_narrow,
    is_tried,
    make_gradient_inputs,
    make_parameters,
    make_rows,
)

import fastln

ROWS = 11  # two groups of four and three on their own; a whole block of the gradients and some of the next
SHORT_ROWS = 37  # of at most 64 columns: two groups of 16 or four of 8, one of 4, and one row

pytestmark = pytest.mark.skipif("avx2" not in fastln.available_isas(), reason="no avx2 here to compare with")


@pytest.fixture(scope="module", params=EMULATIONS)
def driver(request, tmp_path_factory):
    """The command that runs the driver with the kernels of an ISA."""
    isa = request.param
    program = tmp_path_factory.mktemp(isa) / "driver"
    kernels, table = SOURCES / f"target_{isa}.cpp", f"-DKERNELS=fln_kernels_{isa}"
    return emulated_program(isa, kernels, program, table, others=[TESTS / "isa_driver.cpp"])


FORWARD, BACKWARD = range(2)
LAYER_NORM, RMS_NORM = range(2)  # fln_norm
FORWARD_OF = (fastln.layer_norm_forward, fastln.rms_norm_forward)
BACKWARD_OF = (fastln.layer_norm_backward, fastln.rms_norm_backward)
ADD_FORWARD_OF = (fastln.add_layer_norm_forward, fastln.add_rms_norm_forward)
ADD_BACKWARD_OF = (fastln.add_layer_norm_backward, fastln.add_rms_norm_backward)
CASTS = (None, "gemma", "llama")

norms = pytest.mark.parametrize("norm", [LAYER_NORM, RMS_NORM], ids=["layer norm", "RMS norm"])


def pack(direction, norm, x, weight, bias, eps, *others, cast=None, residual=None):
    """One case as the driver reads it; `others` follow the parameters, and a residual x."""
    which = direction, norm, ELEMENTS.index(x.dtype.name)  # in the order of fln_element
    # What stands in for a missing parameter, as the caller of these kernels does it.
    if weight is None and (bias is not None or direction == BACKWARD or is_narrow(x.dtype)):
        weight = np.ones(x.shape[1], computed(x.dtype))
    if bias is None and norm == LAYER_NORM and direction == FORWARD and is_narrow(x.dtype):
        bias = np.full(x.shape[1], -0.0, computed(x.dtype))
    adds = residual is not None or (len(others) > 0 and others[1] is not None)
    has = weight is not None, bias is not None, cast == "llama", adds
    header = struct.pack("9qd", *which, *x.shape, *has, eps)
    return header + b"".join(a.tobytes() for a in (x, residual, weight, bias, *others) if a is not None)


def make_case(norm, regime, cols, dtype, combination, cast, adds=False):
    """One case of the forward pass: the bytes that the driver reads, and the arguments that fastln takes."""
    x = make_rows(regime, SHORT_ROWS if cols <= 64 else ROWS, cols, dtype)
    weight, bias = (
        p if used else None
        for p, used in zip(make_parameters(cols, computed(dtype)), COMBINATIONS[combination], strict=True)
    )
    eps = REGIMES[regime].eps
    x, residual = split(x) if adds else (x, None)
    rows = {"x": x, "residual": residual} if adds else {"x": x}
    if norm == RMS_NORM:
        arguments = {**rows, "weight": weight, "eps": eps, "cast": cast if is_narrow(dtype) else None}
        return pack(FORWARD, norm, x, weight, None, eps, cast=arguments["cast"], residual=residual), arguments
    arguments = {**rows, "weight": weight, "bias": bias, "eps": eps}
    return pack(FORWARD, norm, x, weight, bias, eps, residual=residual), arguments


def make_backward_case(norm, label, rows, cols, dtype, weighted, adds=False):
    """One case of the backward pass: the bytes that the driver reads, and the arguments that fastln takes."""
    dy, x = make_gradient_inputs(label, rows, cols, dtype)
    weight = make_parameters(cols, computed(dtype))[0] if weighted else None
    _, *saved = FORWARD_OF[norm](x, eps=find_regime(GRADIENT_REGIMES[label][0]).eps)
    if weight is None and is_narrow(dtype):  # whose dtype is that of dweight and dbias
        weight = np.ones(cols, computed(dtype))
    ds = dy[::-1, ::-1].copy() if adds else None
    names = ("rstd",) if norm == RMS_NORM else ("mean", "rstd")
    rows = {"dy": dy, "ds": ds, "s": x} if adds else {"dy": dy, "x": x}
    arguments = {**rows, **dict(zip(names, saved, strict=True)), "weight": weight}
    return pack(BACKWARD, norm, x, weight, None, 0.0, dy, ds, *saved), arguments


@pytest.fixture
def use_avx2():
    """Let fastln compute with AVX2 during the test."""
    previous = fastln.get_isa()
    fastln.set_isa("avx2")
    yield
    fastln.set_isa(previous)


def assert_driver_agrees(driver, function, cases):
    """The driver gives for all cases what function gives in this process."""
    done = subprocess.run(driver, input=b"".join(data for data, _ in cases), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    position = 0
    for _, arguments in cases:
        for which, result in enumerate(function(**arguments)):
            found = np.frombuffer(done.stdout, result.dtype, result.size, position).reshape(result.shape)
            position += result.nbytes
            # NaN payloads are not part of the promise.
            same = (found == result) | (np.isnan(found) & np.isnan(result))
            assert same.all(), f"result {which} of {arguments}"
    assert len(done.stdout) == position


@norms
@pytest.mark.parametrize("dtype", ELEMENTS, indirect=True)
def test_emulated_kernels_give_the_same_bits(driver, use_avx2, norm, dtype):
    # Combinations take turns over the widths and regimes: each is met at many of both.
    turns, casts = itertools.cycle(COMBINATIONS), itertools.cycle(CASTS)
    cols = (*EDGE_COLS, 512, 513, 4096, 10_000)
    rows = [(regime, size) for regime in REGIMES if is_tried(regime, dtype) for size in cols]
    cases = [make_case(norm, *one, dtype, next(turns), next(casts)) for one in (*rows, ("mean 10", 40_000))]
    assert_driver_agrees(driver, FORWARD_OF[norm], cases)


@norms
@pytest.mark.parametrize("dtype", ELEMENTS, indirect=True)
def test_emulated_kernels_give_the_same_gradients(driver, use_avx2, norm, dtype):
    turns = itertools.cycle((True, False))
    rows = itertools.cycle((1, 2, 7, 8, 9, 16, 33, 130))  # of one block, of one chunk and of three
    cases = [
        make_backward_case(norm, label, next(rows), cols, dtype, next(turns))
        for label in GRADIENT_REGIMES
        if is_tried(label, dtype)
        for cols in (*EDGE_COLS, 513)
    ]
    cases += [make_backward_case(norm, "normal", 9, cols, dtype, next(turns)) for cols in (4096, 10_000)]
    assert_driver_agrees(driver, BACKWARD_OF[norm], cases)


@norms
@pytest.mark.parametrize("dtype", ELEMENTS, indirect=True)
def test_emulated_kernels_add_to_the_same_bits(driver, use_avx2, norm, dtype):
    turns, casts = itertools.cycle(COMBINATIONS), itertools.cycle(CASTS)
    cols = (*EDGE_COLS, 513, 4096, 5000)
    rows = [(regime, size) for regime in ("normal", "mean 1e4", "huge", "constant") for size in cols]
    cases = [make_case(norm, *one, dtype, next(turns), next(casts), True) for one in (*rows, ("mean 10", 40_000))]
    assert_driver_agrees(driver, ADD_FORWARD_OF[norm], cases)
    rows = itertools.cycle((1, 2, 7, 8, 9, 16, 33, 130))
    cases = [
        make_backward_case(norm, "normal", next(rows), size, dtype, weighted, True)
        for size in (*EDGE_COLS, 513, 5000)
        for weighted in (True, False)
    ]
    assert_driver_agrees(driver, ADD_BACKWARD_OF[norm], cases)
