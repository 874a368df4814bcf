"""fastln's kernels in PyTorch's dispatcher, and the process: threads, forks, memory, runtimes of OpenMP, symbols."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest
from helpers import assert_same_bits, output_of, run_python
from internals import config
from processes import wait_for
from torch_calls import as_array, counted, fastln_torch, torch

import fastln

functional = torch.nn.functional

HAS_OPENMP = bool(config()["build"]["openmp"])
needs_openmp = pytest.mark.skipif(not HAS_OPENMP, reason="this build has no OpenMP")


def resident_kilobytes():
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])


X = torch.randn(4, 64)
XG = torch.randn(4, 64, requires_grad=True)
WEIGHT = torch.randn(64, requires_grad=True)
NARROW = torch.randn(4, 64).bfloat16()


def failing(call):
    def fails():
        with pytest.raises((RuntimeError, NotImplementedError)):
            call()

    return fails


PATHS = {
    "layer_norm": lambda: functional.layer_norm(X, (64,), WEIGHT, WEIGHT),
    "without parameters": lambda: functional.layer_norm(X, (64,)),
    "bias alone": lambda: functional.layer_norm(X, (64,), None, WEIGHT),
    "16 bits": lambda: functional.layer_norm(NARROW, (64,), NARROW[0], NARROW[1]),
    "mixed": lambda: functional.layer_norm(NARROW, (64,), WEIGHT),
    "copied": lambda: functional.layer_norm(X.t(), (4,)),
    "rms_norm": lambda: functional.rms_norm(X, (64,), WEIGHT),
    "gradients": lambda: torch.autograd.grad(functional.layer_norm(XG, (64,), WEIGHT).sum(), (XG, WEIGHT)),
    "gradients of rms_norm": lambda: torch.autograd.grad(functional.rms_norm(XG, (64,)).sum(), XG),
    "passed on": lambda: functional.layer_norm(X[:0], (64,)),
    "gradients passed on": lambda: torch.autograd.grad(functional.rms_norm(XG[:0], (64,), WEIGHT).sum(), WEIGHT),
    "shape": failing(lambda: functional.layer_norm(X, (63,))),
    "dtype": failing(lambda: functional.layer_norm(X.int(), (64,))),
}


@pytest.mark.parametrize("path", PATHS)
def test_10000_calls_leave_nothing_behind(path):
    call = PATHS[path]
    with counted():
        for _ in range(500):
            call()
        before = resident_kilobytes()
        for _ in range(10_000):
            call()
        grown = resident_kilobytes() - before
    assert grown < 2000  # 200 bytes a call: the smallest tensor takes more


def test_switching_on_and_off_leaves_nothing_behind():
    for _ in range(200):
        with fastln_torch.enabled():
            pass
    before = resident_kilobytes()
    for _ in range(5000):
        with fastln_torch.enabled():
            pass
    assert resident_kilobytes() - before < 2000


TOGGLING = """
import sys, threading
import torch
import fastln.torch

x = torch.randn(8, 64, requires_grad=True)
norm, rms_norm = torch.nn.functional.layer_norm, torch.nn.functional.rms_norm
off = [norm(x, (64,)), rms_norm(x, (64,))]
with fastln.torch.enabled():
    on = [norm(x, (64,)), rms_norm(x, (64,))]
ended, failures, calls = threading.Event(), [], [0, 0]

def work(i):
    while not ended.is_set():
        for function, *known in zip((norm, rms_norm), off, on):
            y = function(x, (64,))
            y.sum().backward(inputs=[x])
            if not any(torch.equal(y, one) for one in known):
                failures.append(y)
            if not torch.is_tensor(y):
                failures.append(y)
        try:
            norm(x, (63,))
        except RuntimeError as error:
            if "normalized_shape=[63]" not in str(error):
                failures.append(error)
        calls[i] += 1

threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
sys.setswitchinterval(1e-5)
for thread in threads:
    thread.start()
for _ in range(3000):
    fastln.torch.enable()
    fastln.torch.disable()
while min(calls) < 200:
    fastln.torch.enable()
    fastln.torch.disable()
ended.set()
for thread in threads:
    thread.join()
assert not failures, failures[0]
counts = fastln.torch.show_calls()
assert counts.passed_on["switched off"] > 0, counts
assert torch.equal(norm(x, (64,)), off[0])
print("safe")
"""


def test_two_threads_call_while_a_third_switches():
    assert output_of(TOGGLING, timeout=120) == "safe"


@needs_openmp
def test_threads_are_those_that_fastln_allows_under_pytorchs_limit():
    used = """
import os, sys
import torch
import fastln, fastln.torch
from internals import set_min_parallel_bytes

set_min_parallel_bytes(0)  # every call gets what it may have
of_torch, of_fastln = map(int, sys.argv[1:])
torch.set_num_threads(of_torch)
fastln.set_num_threads(of_fastln)
fastln.torch.enable()
before = len(os.listdir("/proc/self/task"))
x = torch.randn(96, 256, requires_grad=True)  # too small for threads of PyTorch's own operators
y = torch.nn.functional.layer_norm(x, (256,))
y.backward(torch.ones_like(y))
print(len(os.listdir("/proc/self/task")) - before + 1)
"""
    for of_torch, of_fastln, expected in ((1, 4, 1), (4, 1, 1), (3, 4, 3), (4, 2, 2)):
        assert int(output_of(used, of_torch, of_fastln)) == expected


FORKED = """
import os, sys, threading
import torch
import fastln.torch
from internals import set_min_parallel_bytes
from processes import wait_for

set_min_parallel_bytes(0)
fastln.torch.enable()
x = torch.randn(96, 256, requires_grad=True)  # too small for threads of PyTorch's own, which do not survive a fork

def gradient():
    y = torch.nn.functional.layer_norm(x, (256,))
    return torch.autograd.grad(y, x, torch.ones_like(y).cumsum(-1))[0], y

expected = gradient() if sys.argv[1] == "after" else None
child = os.fork()
if child == 0:
    found = gradient()
    assert expected is None or all((one == other).all() for one, other in zip(found, expected))
    fastln.torch.disable()
    assert torch.nn.functional.layer_norm(x[:1], (256,)).isfinite().all()
    os._exit(0)
print(wait_for(child, 60))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forked_child_normalizes(when):
    assert output_of(FORKED, when) == "0"


def test_a_child_can_switch_though_another_thread_held_the_lock():
    from fastln.torch import switching

    entered, done = threading.Event(), threading.Event()

    def hold():
        with switching._lock:
            entered.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    try:
        child = os.fork()
        if child == 0:
            fastln_torch.enable()
            fastln_torch.disable()
            os._exit(0)
        assert wait_for(child) == 0
    finally:
        done.set()
        thread.join()


LOADED = """
import torch
import fastln.torch
from torch.utils.data import DataLoader, Dataset

class Rows(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.nn.functional.layer_norm(torch.arange(8.0) + i * i, (8,))

if __name__ == "__main__":
    fastln.torch.enable()
    expected = [Rows()[i] for i in range(8)]
    found = torch.cat(list(DataLoader(Rows(), batch_size=2, num_workers=2, multiprocessing_context="fork")))
    assert torch.equal(found, torch.stack(expected))
    print("loaded")
"""


@pytest.mark.filterwarnings("ignore")
def test_workers_of_a_data_loader():
    assert output_of(LOADED) == "loaded"


RUNTIMES = """
import json, os, sys, importlib
for name in sys.argv[1].split():
    importlib.import_module(name)
import torch, fastln, fastln.torch
fastln.torch.enable()
x = torch.randn(1024, 768)
for _ in range(5):
    torch.nn.functional.layer_norm(x @ torch.eye(768), (768,))
lines = open("/proc/self/maps").read().splitlines()
print(json.dumps(sorted({os.path.realpath(line.split()[-1]) for line in lines if "gomp" in line.split()[-1]})))
"""


@needs_openmp
@pytest.mark.parametrize("order", ["torch fastln.torch", "fastln torch", "fastln.torch"])
def test_there_is_one_runtime_of_openmp(order):
    assert len(json.loads(output_of(RUNTIMES, order))) == 1


def undefined_symbols(module):
    from elftools.elf.elffile import ELFFile

    with open(module, "rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        return {symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
def test_the_module_asks_for_nothing_of_pytorch():
    pytest.importorskip("elftools", reason="pyelftools is not installed")
    from fastln.torch import _kernels

    symbols = undefined_symbols(_kernels.__file__)
    assert "PyModule_Create2" in symbols or "PyModuleDef_Init" in symbols
    assert not [name for name in symbols if re.search(r"torch|aoti|c10|3at", name)]


WITHOUT = """
import sys, types
if sys.argv[1] == "none":
    sys.modules["torch"] = None
else:
    sys.modules["torch"] = types.ModuleType("torch")
    if sys.argv[1] == "old":
        sys.modules["torch"].__version__ = "2.9.1"
import fastln
try:
    import fastln.torch
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("none", "torch must be PyTorch 2.10 or newer, got none: pip install torch"),
        ("folder", "torch must be PyTorch 2.10 or newer, got none: pip install torch"),
        ("old", "torch must be PyTorch 2.10 or newer, got 2.9.1, which lacks libtorch_cpu.so"),
    ],
)
def test_without_pytorch_the_import_says_what_is_needed(which, message):
    # What has been freed is overwritten: the message holds nothing of it.
    assert output_of(WITHOUT, which, PYTHONMALLOC="malloc_debug") == message


def test_fastln_by_itself_does_not_import_pytorch():
    done = run_python("import sys, fastln; assert 'torch' not in sys.modules; assert not hasattr(fastln, 'torch')")
    assert done.returncode == 0, done.stderr


def test_calls_with_an_instruction_set_of_ones_own():
    x = torch.randn(5, 40)
    best = fastln.get_isa()
    try:
        for isa in fastln.available_isas():
            fastln.set_isa(isa)
            with counted():
                y = functional.layer_norm(x, (40,))
            assert_same_bits(as_array(y), fastln.layer_norm(as_array(x)))
    finally:
        fastln.set_isa(best)
