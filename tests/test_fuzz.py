"""tools/fuzz.py finds nothing in a few cases, and what is wrong where something is."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastln

TOOLS = Path(__file__).resolve().parents[1] / "tools"
CASES = 100

pytestmark = [
    pytest.mark.skipif(not (TOOLS / "fuzz.py").exists(), reason="the tools are not here"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.fixture
def fuzz(monkeypatch):
    """The fuzzer as a module."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("fuzz")


@pytest.fixture
def findings(fuzz, capsys):
    """findings() runs some cases and gives what was reported."""

    def run():
        capsys.readouterr()
        for number in range(CASES):
            fuzz.run_one(2, number)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("FINDING")]

    return run


@pytest.fixture
def break_call(fuzz, monkeypatch):
    """break_call(change) lets change(arguments, results) spoil every call but the plain ones."""
    operations = importlib.import_module("fuzzing.operations").OPERATIONS

    def install(change):
        def broken(operation):
            def call(**arguments):
                return change(operation.call, arguments)

            return dataclasses.replace(operation, call=call)

        for name, operation in operations.items():
            monkeypatch.setitem(operations, name, broken(operation))

    return install


def first(result):
    """The first result that is there."""
    return next(one for one in (result if isinstance(result, tuple) else (result,)) if one is not None)


def test_there_is_nothing_to_find(findings):
    assert findings() == []


def test_a_case_depends_on_its_seed_and_number_alone(fuzz):
    one, _, other = fuzz.make_case(1, 6), fuzz.make_case(1, 7), fuzz.make_case(1, 6)
    assert one.name == other.name
    for name, array in one.problem.arrays.items():
        assert array is None or array.tobytes() == other.problem.arrays[name].tobytes()


def test_a_wrong_bit_is_found(findings, break_call):
    def flip(call, arguments):
        result = call(**arguments)
        array = first(result)
        if array.size:
            array.view(np.ndarray)[(-1,) * array.ndim] = np.nextafter(array[(-1,) * array.ndim], np.inf)
        return result

    break_call(flip)
    found = "\n".join(findings())
    assert "other bits" in found
    assert "bytes of a memory" in found


def test_a_byte_written_beside_an_array_is_found(fuzz, findings, break_call, monkeypatch):
    cases = []

    def make_case(*which, make=fuzz.make_case):
        cases.append(make(*which))
        return cases[-1]

    def write_beside(call, arguments):
        for memory in cases[-1].places.memories:
            memory.bytes[-1:] ^= 1
        return call(**arguments)

    monkeypatch.setattr(fuzz, "make_case", make_case)
    break_call(write_beside)
    assert any("bytes of a memory" in finding for finding in findings())


def test_a_larger_error_than_promised_is_found(findings, monkeypatch, fuzz):
    promised = importlib.import_module("fuzzing.operations").PROMISED
    monkeypatch.setitem(promised, "float32", dict.fromkeys(promised["float32"], 1e-3))
    found = "\n".join(findings())
    for result in ("y", "mean", "rstd", "dx", "dweight", "dbias"):
        assert f"the error of {result} is" in found


def test_a_wrong_argument_that_is_taken_is_found(findings, break_call):
    def take_anything(call, arguments):
        try:
            return call(**arguments)
        except (TypeError, ValueError):
            return None

    break_call(take_anything)
    assert any("no error" in finding for finding in findings())


@pytest.fixture
def break_sequences(fuzz, monkeypatch):
    """break_sequences(change) lets change(call, case) spoil every call over a sequence but the plain ones."""
    kinds = fuzz.SequenceCase, fuzz.SequenceGradientsCase

    def install(change):
        def broken(call):
            return lambda case: change(call, case)

        for kind in kinds:
            monkeypatch.setattr(kind, "call", broken(kind.call))

    return install


def flip_the_last_bit(call, case):
    found = call(case)
    for array in (found["dx"], found["weight_hh_l0"]) if isinstance(found, dict) else found[:1]:
        if array.size:
            array.view(np.ndarray)[(-1,) * array.ndim] += 1
    return found


def write_beside(call, case):
    case.memories[0].bytes[-1:] ^= 1
    return call(case)


def take_anything_for_a_sequence(call, case):
    try:
        return call(case)
    except (TypeError, ValueError):
        return None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flip_the_last_bit, "is not that of contiguous copies on one thread"),
        (write_beside, "bytes of a memory are not as they should be"),
        (take_anything_for_a_sequence, "no error"),
    ],
)
def test_what_is_wrong_with_a_sequence_is_found(fuzz, break_sequences, capsys, change, words):
    break_sequences(change)
    for first in (fuzz.EVERY - 1, fuzz.EVERY // 2 - 1):  # calls forward; both ways
        for number in range(first, CASES, fuzz.EVERY):
            fuzz.run_one(1, number)
        assert words in capsys.readouterr().out


def test_a_larger_error_of_a_step_is_found(findings, monkeypatch, fuzz):
    monkeypatch.setattr(importlib.import_module("fuzzing.sequences"), "STEP_ERROR", 1e-3)
    assert any("the error of h is" in finding for finding in findings())


def test_a_sequence_that_depends_on_its_batch_is_found(findings, monkeypatch, fuzz):
    cases = importlib.import_module("recurrent_cases")

    def broken(function):
        def call(x, state, *arguments, batch_first=False, **options):
            y, after = function(x, state, *arguments, batch_first=batch_first, **options)
            y[...] *= 1 + 1e-3 * x.shape[0 if batch_first else 1]
            return y, after

        return call

    monkeypatch.setattr(cases, "FUNCTIONS", {kind: broken(function) for kind, function in cases.FUNCTIONS.items()})
    assert any("alone has other bits than among the others" in finding for finding in findings())


@pytest.mark.skipif(os.name == "nt", reason="needs a signal")
def test_the_end_of_the_process_is_reported_with_its_case(tmp_path):
    site = tmp_path / "sitecustomize.py"
    site.write_text(
        "import os, sys\n"
        "if '--progress' in sys.argv:\n"
        "    import fastln\n"
        "    def end(*arguments, **keywords):\n"
        "        os.abort()\n"
        "    fastln.layer_norm_backward = end\n"
    )
    paths = [str(tmp_path), str(Path(fastln.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(TOOLS / "fuzz.py"), "--seed", "1", "--seconds", "60"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "the process ended with status -6" in done.stdout
    assert "again: python tools/fuzz.py --seed 1 --case" in done.stdout
