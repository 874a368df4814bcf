"""python -m fastln --self-test passes here, and each of its checks notices what it is there for."""

from __future__ import annotations

import json
import platform
import sys

import numpy as np
import pytest
from helpers import output_of, run_python

import fastln
from fastln import __main__ as command
from fastln import _self_test as self_test

MAIN = "import runpy, sys; sys.argv = ['fastln', *sys.argv[1:]]; runpy.run_module('fastln', run_name='__main__')"


def off_by(count, array):
    """Each number by so many eps too large."""
    return array * (1 + count * np.finfo(array.dtype).eps)


def nudged(array):
    """The same numbers, one of them by one unit in the last place off."""
    array = array.copy()
    array.flat[array.size // 2] = np.nextafter(array.flat[array.size // 2], np.inf)
    return array


def wrong_forward(change):
    """layer_norm and layer_norm_forward with change(y, x, options) for y, as a kernel would give it."""

    def replace(patch):
        forward = fastln.layer_norm_forward

        def layer_norm_forward(x, *arguments, **options):
            y, mean, rstd = forward(x, *arguments, **options)
            return change(y, x, options), mean, rstd

        def layer_norm(*arguments, out=None, **options):
            y = layer_norm_forward(*arguments, **options)[0]
            if out is None:
                return y
            out[...] = y
            return out

        patch.setattr(fastln, "layer_norm_forward", layer_norm_forward)
        patch.setattr(fastln, "layer_norm", layer_norm)

    return replace


def wrong_backward(change):
    """layer_norm_backward with change(gradients, dy, options) for its result."""

    def replace(patch):
        backward = fastln.layer_norm_backward
        patch.setattr(
            fastln,
            "layer_norm_backward",
            lambda dy, *arguments, **options: change(backward(dy, *arguments, **options), dy, options),
        )

    return replace


def nudging(function):
    """The same function with a wrong bit in its first result."""

    def call(*arguments, **options):
        first, *others = function(*arguments, **options)
        return nudged(first), *others

    return call


def only_on(isa, change):
    """The change, made by one instruction set alone."""
    return lambda result, *rest: change(result) if fastln.get_isa() == isa else result


def accepting(argument, exception):
    """layer_norm that swallows one error, having written to out."""

    def replace(patch):
        layer_norm = fastln.layer_norm

        def careless(*arguments, out=None, **options):
            try:
                return layer_norm(*arguments, out=out, **options)
            except exception as error:
                if argument not in str(error):
                    raise
                return None

        patch.setattr(fastln, "layer_norm", careless)

    return replace


def spreading_nan(y, x, options):
    """A NaN that its neighbours see."""
    bad = np.isnan(x).any(axis=-1)
    y[np.roll(bad, 1)] = np.nan
    return y


def wrong_network(name, change):
    """A recurrent object whose outputs are changed."""

    def replace(patch):
        call = getattr(fastln, name).__call__

        def changed(network, x, *arguments, **options):
            y, state = call(network, x, *arguments, **options)
            return change(y, options), state

        patch.setattr(getattr(fastln, name), "__call__", changed)

    return replace


def writes_before_it_checks(patch):
    """layer_norm that touches out first."""
    layer_norm = fastln.layer_norm

    def hasty(x, *arguments, out=None, **options):
        if out is not None and out.flags.writeable:
            out[...] = 0
        return layer_norm(x, *arguments, out=out, **options)

    patch.setattr(fastln, "layer_norm", hasty)


# What is wrong with the kernels or the binding, and the check that has to say so.
WRONG = {
    "dx of the last ISA is off by 5 eps": (
        wrong_backward(only_on("scalar", lambda found: (off_by(5, found[0]), *found[1:]))),
        "gradients are accurate",
    ),
    "dbias lacks a row": (
        wrong_backward(lambda found, dy, _: (*found[:2], found[2] - dy.reshape(-1, dy.shape[-1])[0])),
        "gradients are accurate",
    ),
    "the best ISA has a bit of its own": (
        wrong_forward(only_on(fastln.available_isas()[0], nudged)),
        "instruction sets give the stored bits",
    ),
    "y depends on the threads": (
        wrong_forward(lambda y, _, options: nudged(y) if options.get("num_threads") == 2 else y),
        "threads change no bit",
    ),
    "dweight depends on the threads": (
        wrong_backward(
            lambda found, _, options: (
                (found[0], nudged(found[1]), found[2]) if options.get("num_threads") == 3 else found
            )
        ),
        "threads change no bit",
    ),
    "a row alone is another row": (
        wrong_forward(lambda y, x, _: nudged(y) if x.shape[0] == 1 else y),
        "batches, layouts and buffers change no bit",
    ),
    "rows with a stride are other rows": (
        wrong_forward(lambda y, x, _: y if x.flags.c_contiguous else nudged(y)),
        "batches, layouts and buffers change no bit",
    ),
    "a residual is rounded otherwise": (
        lambda patch: patch.setattr(fastln, "add_rms_norm", nudging(fastln.add_rms_norm)),
        "sums with a residual have the bits of two calls",
    ),
    "float16 is rounded down": (
        wrong_forward(lambda y, x, _: nudged(y) if x.dtype == np.float16 else y),
        "float16 is computed in float32 and rounded once",
    ),
    "the GRU is another one": (
        wrong_network("LayerNormGRU", lambda y, options: off_by(300, y)),
        "sequences are the paper's, and step after step",
    ),
    "a sequence depends on the threads": (
        wrong_network("LayerNormLSTM", lambda y, options: nudged(y) if options.get("num_threads") == 3 else y),
        "sequences are the paper's, and step after step",
    ),
    "NaN spreads": (wrong_forward(spreading_nan), "NaN, Inf and constant rows"),
    "a wrong weight is accepted": (accepting("weight", ValueError), "wrong calls are refused"),
    "out is written to before it is checked": (writes_before_it_checks, "wrong calls are refused"),
}


@pytest.fixture(scope="module")
def report():
    """What python -m fastln --self-test prints."""
    return output_of(MAIN, "--self-test", timeout=300)


def test_it_passes_and_names_each_check(report):
    for name in self_test.CHECKS:
        assert f"  {name}: ok" in report.splitlines()
    assert "FAILED" not in report


def test_it_needs_nothing_but_numpy():
    code = (
        "import sys, fastln._self_test\n"
        "others = {name.split('.')[0] for name in sys.modules} & {'pytest', 'hypothesis', '_pytest'}\n"
        "print(sorted(others))"
    )
    assert output_of(code) == "[]"


def test_checks_leave_the_instruction_set_as_it_was():
    previous = fastln.get_isa()
    fastln.set_isa("scalar")
    try:
        for name, check in self_test.CHECKS.items():
            assert self_test.broken_promises(check) == [], name
            assert fastln.get_isa() == "scalar"
    finally:
        fastln.set_isa(previous)


@pytest.mark.parametrize("wrong", WRONG)
def test_it_fails_when_something_is_wrong(wrong, monkeypatch):
    breaks, check = WRONG[wrong]
    if wrong.startswith("the best") and fastln.available_isas()[0] not in self_test.FUSED:
        pytest.skip("no instruction set here whose bits are stored")
    breaks(monkeypatch)
    assert self_test.broken_promises(self_test.CHECKS[check])


def test_a_wrong_kernel_is_the_exit_status(monkeypatch, capsys):
    wrong_forward(only_on("scalar", lambda y: off_by(4, y)))(monkeypatch)
    monkeypatch.setattr(self_test, "CHECKS", {})
    assert command.main(["--self-test"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert [line.split(":")[0].strip() for line in lines] == ["scalar"]


def test_a_broken_promise_is_the_exit_status(monkeypatch, capsys):
    def broken():
        yield "the first"
        raise RuntimeError("and then it ended")

    monkeypatch.setattr(self_test, "CHECKS", {"a promise": broken})
    assert command.main(["--self-test"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == ["  a promise: FAILED", "    the first", "    RuntimeError: and then it ended"]
    assert command.main(["--self-test", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["self_test"]
    assert found == {"a promise": ["the first", "RuntimeError: and then it ended"]}
    assert command.main([]) == 0


def test_what_long_double_cannot_judge_is_said(monkeypatch, capsys):
    monkeypatch.setattr(self_test.reference, "long_double_suffices", lambda dtype: dtype == "float32")
    assert command.main([]) == 0
    text = capsys.readouterr().out
    assert "  not judged: float64 " in text
    assert not [line for line in text.splitlines() if line.startswith("  scalar:") and "float64" in line]
    assert self_test.broken_promises(self_test.check_gradients) == []


@pytest.mark.skipif(sys.platform != "linux", reason="sets the rounding of the machine through the C library of Linux")
def test_kernels_that_round_otherwise_are_noticed():
    # The kernels themselves compute other bits here: nothing of fastln is replaced.
    if not set(self_test.FUSED) & set(fastln.available_isas()):
        pytest.skip("no instruction set here whose bits are stored")
    upward = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())
    if upward is None:
        pytest.skip("needs the code of upward rounding for this architecture")
    code = f"""
import ctypes
from fastln import _self_test as self_test
check = self_test.CHECKS["instruction sets give the stored bits"]
assert self_test.broken_promises(check) == []
assert ctypes.CDLL("libm.so.6").fesetround({upward}) == 0
print(len(self_test.broken_promises(check)))
"""
    assert int(output_of(code, timeout=120)) >= 2


def test_unknown_checks_are_not_asked_for():
    assert run_python(MAIN, "--self-test=bits", timeout=60).returncode == 2
