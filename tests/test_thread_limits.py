"""Limits of the number of threads: what is asked for, what the CPUs and the system allow, and what a fork leaves."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from helpers import assert_same_bits, output_of, run_python

import fastln

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

COUNT = "import fastln; print(fastln.get_num_threads())"
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
MOST = 8 * CPUS


@pytest.fixture(autouse=True)
def restored_count():
    """Leave the process with the number of threads that it had."""
    previous = fastln.get_num_threads()
    yield
    fastln.set_num_threads(previous)


# num_threads is asked once


class Counted:
    """An integer that counts how often it is asked, and says something else from the second time on."""

    def __init__(self, number):
        self.number = number
        self.asked = 0

    def __index__(self):
        self.asked += 1
        return self.number if self.asked == 1 else -1


@pytest.mark.parametrize("rows", [1, 1000])
def test_num_threads_is_asked_once(rows, always_parallel):
    x = np.random.default_rng(0).standard_normal((rows, 64))
    _, mean, rstd = fastln.layer_norm_forward(x)
    calls = (
        lambda count: fastln.layer_norm(x, num_threads=count),
        lambda count: fastln.layer_norm_forward(x, num_threads=count)[0],
        lambda count: fastln.layer_norm_backward(x, x, mean, rstd, num_threads=count)[0],
    )
    for call in calls:
        count = Counted(2)
        assert_same_bits(call(count), call(1))
        assert count.asked == 1


def test_set_num_threads_and_threads_ask_once():
    count = Counted(2)
    fastln.set_num_threads(count)
    assert count.asked == 1
    count = Counted(3)
    with fastln.threads(count):
        assert count.asked == 1


@pytest.mark.parametrize("count", [-(1 << 100), -(1 << 40), 0])
def test_however_negative_a_count_is_it_is_refused(count):
    with pytest.raises(ValueError, match=rf"^num_threads must be an int >= 1, got {count}$"):
        fastln.layer_norm(np.zeros((2, 3)), num_threads=count)


# The most threads


def test_huge_counts_are_taken_for_the_most(openmp):
    for count in (1 << 16, 1 << 31, 1 << 100):
        fastln.set_num_threads(count)
        assert fastln.get_num_threads() == MOST
        with fastln.threads(count):
            assert fastln.get_num_threads() == MOST


TEAM = r"""
import ctypes, os, resource, sys, threading, time
import numpy as np
import fastln
from fastln._core import effort

effort.set_min_parallel_bytes(0)
x = np.random.default_rng(0).standard_normal((70_000, 4)).astype(np.float32)
out = np.empty_like(x)
expected = fastln.layer_norm(x, num_threads=1).tobytes()


def tasks():
    return len(os.listdir("/proc/self/task"))


before = tasks()


def team(count):
    "The number of threads in the team after a call."
    fastln.layer_norm(x, out=out, num_threads=count)
    assert memoryview(out.reshape(-1)).cast("B") == expected  # without a copy: memory may be short
    end = time.monotonic() + 5
    while tasks() - before >= count and time.monotonic() < end:  # those that were left out are still ending
        time.sleep(0.001)
    return 1 + tasks() - before
"""


@linux
def test_no_call_starts_more_threads_than_the_most(openmp):
    code = TEAM + "print(team(65536), team(1 << 40))"
    assert output_of(code, OPENBLAS_NUM_THREADS=1).split() == [str(MOST)] * 2


def test_omp_num_threads_is_limited_too(openmp):
    assert int(output_of(COUNT, OMP_NUM_THREADS=MOST + 1)) == MOST


@pytest.mark.parametrize("limit", [1, 2])
def test_omp_thread_limit_counts(limit, openmp):
    code = "import fastln._core.threads as t; print(t.threads_reason()); "
    code += COUNT + "; fastln.set_num_threads(5); print(fastln.get_num_threads())"
    reason, first, second = output_of(code, OMP_THREAD_LIMIT=limit, OMP_NUM_THREADS=3).splitlines()
    assert reason == "OMP_THREAD_LIMIT"
    assert int(first) == int(second) == limit


@linux
def test_no_call_starts_more_threads_than_omp_thread_limit(openmp):
    assert output_of(TEAM + "print(team(5))", OPENBLAS_NUM_THREADS=1, OMP_THREAD_LIMIT=3) == "3"


# Threads that are bound to CPUs: the runtime pins the thread that loads it too, which is no limit of the process.

BINDINGS = [
    {"OMP_PROC_BIND": "true"},
    {"OMP_PROC_BIND": "close"},
    {"OMP_PROC_BIND": "spread"},
    {"OMP_PROC_BIND": "master"},
    {"OMP_PLACES": "cores"},
    {"OMP_PLACES": "threads", "OMP_PROC_BIND": "true"},
    {"GOMP_CPU_AFFINITY": ",".join(map(str, range(1024)))},
]
BOUND = pytest.mark.parametrize("binding", BINDINGS, ids=lambda binding: "-".join(binding.values())[:12])


@linux
@BOUND
@pytest.mark.parametrize("first", ["fastln", "numpy"])
def test_bound_threads_do_not_limit_the_default(binding, first, openmp):
    assert int(output_of(f"import {first}; {COUNT}", **binding)) == CPUS


@linux
@pytest.mark.parametrize("order", ["torch, fastln", "fastln, torch"])
def test_bound_threads_do_not_limit_the_default_with_torch(order, libgomp, torch):
    assert int(output_of(f"import {order}; {COUNT}", OMP_PROC_BIND="true")) == CPUS


@linux
@BOUND
def test_affinity_limits_bound_threads(binding, openmp):
    cpu = min(os.sched_getaffinity(0))
    assert int(output_of(f"import os; os.sched_setaffinity(0, [{cpu}]); {COUNT}", **binding)) == 1


@linux
def test_places_limit_the_default(libgomp):
    cpu = min(os.sched_getaffinity(0))
    assert int(output_of(COUNT, GOMP_CPU_AFFINITY=cpu)) == 1
    assert int(output_of(COUNT, OMP_PLACES=f"{{{cpu}}}")) == 1


# Threads that the system refuses: the call runs on fewer

OTHER_USER = r"""
if os.getuid() == 0:
    os.setuid(50_000 + os.getpid() % 10_000)  # for whom the limit counts, and who has no other processes


def limit_threads(number):
    "Let the system refuse more than so many in this process."
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    resource.setrlimit(resource.RLIMIT_NPROC, (number, hard))


def thread_is_refused():
    try:
        thread = threading.Thread(target=int)
        thread.start()
    except RuntimeError:
        return True
    thread.join()
    return False
"""

ALONE = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="needs Linux and a user without other processes"
)


@linux
def test_a_system_that_starts_no_thread(openmp):
    code = TEAM + OTHER_USER + "limit_threads(1); assert thread_is_refused(); print(team(4), team(2), team(MOST))"
    code = code.replace("MOST", str(MOST))
    assert output_of(code, OPENBLAS_NUM_THREADS=1, timeout=60).split() == ["1", "1", "1"]


@ALONE
@pytest.mark.parametrize("limit", [2, 3, 5])
def test_a_system_that_starts_few_threads(limit, openmp):
    came = int(output_of(TEAM + OTHER_USER + f"limit_threads({limit}); print(team(8))", OPENBLAS_NUM_THREADS=1))
    assert limit - 1 <= came <= limit  # one is left for others


@ALONE
def test_gradients_where_few_threads_start(openmp):
    code = r"""
w = np.random.default_rng(1).standard_normal((5, 1 << 16))
for array in (x, w):
    _, mean, rstd = fastln.layer_norm_forward(array, num_threads=1)
    expected = [a.tobytes() for a in fastln.layer_norm_backward(array, array, mean, rstd, num_threads=1)]
    limit_threads(3)
    assert [a.tobytes() for a in fastln.layer_norm_backward(array, array, mean, rstd, num_threads=8)] == expected
    fastln.layer_norm(w, num_threads=8)
print("done")
"""
    assert output_of(TEAM + OTHER_USER + code, OPENBLAS_NUM_THREADS=1) == "done"


@ALONE
@pytest.mark.parametrize(
    "shrink",
    [
        "team(2)",
        "gomp.GOMP_parallel(ctypes.cast(libc.getpid, ctypes.c_void_p), None, 2, 0)",
        "gomp.omp_pause_resource_all(1)",
    ],
    ids=["fastln", "another library", "an ended team"],
)
def test_a_team_that_has_shrunk_is_tried_anew(shrink, libgomp):
    code = (
        TEAM
        + OTHER_USER
        + r"""
gomp, libc = ctypes.CDLL("libgomp.so.1"), ctypes.CDLL(None)
grown = team(6)
"""
    )
    code += (
        shrink
        + r"""
end = time.monotonic() + 20
while tasks() > before + 1 and time.monotonic() < end:
    time.sleep(0.001)
limit_threads(tasks())
print(grown, team(6) <= 2)
"""
    )
    assert output_of(code, OPENBLAS_NUM_THREADS=1).split() == ["6", "True"]


@ALONE
def test_refused_threads_are_tried_again_later(openmp):
    code = (
        TEAM
        + OTHER_USER
        + r"""
limit_threads(2)
print(team(4) < 4)
limit_threads(50)
end = time.monotonic() + 30
while team(4) < 4 and time.monotonic() < end:
    time.sleep(0.1)
print(team(4))
"""
    )
    assert output_of(code, OPENBLAS_NUM_THREADS=1, timeout=60).split() == ["True", "4"]


@ALONE
@pytest.mark.parametrize("limit", [7, 14])
def test_python_threads_whose_teams_grow_at_the_same_time(limit, openmp):
    code = (
        TEAM
        + OTHER_USER
        + r"""
failures = []


def work():
    try:
        mine = np.empty_like(x)
        start.wait(20)
        for count in (2, 3, 8, 2, 8, 3):
            fastln.layer_norm(x, out=mine, num_threads=count)
            assert mine.tobytes() == expected
    except BaseException as error:
        failures.append(error)


start = threading.Barrier(5)
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers:
    worker.start()
limit_threads(int(sys.argv[1]))
start.wait(20)
for worker in workers:
    worker.join()
print(failures)
"""
    )
    for _ in range(2):
        assert output_of(code, limit, OPENBLAS_NUM_THREADS=1, timeout=60) == "[]"


MEMORY = r"""
def limit_memory(megabytes):
    "Leave the process so much more address space than it has."
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    size = pages * resource.getpagesize() + megabytes * (1 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
"""


@linux
@pytest.mark.parametrize("megabytes", [0, 9, 30, 200])
@pytest.mark.parametrize("stack", [None, "2M", "16384"])
def test_memory_for_the_stacks_of_few_threads(megabytes, stack, libgomp):
    code = (
        TEAM
        + MEMORY
        + f"""
limit_memory({megabytes})
try:
    found = team(8), team(3)
except MemoryError:  # of Python's own, since nothing is left
    found = 1, 1
limit_memory(1000)
print(*found)
"""
    )
    first, second = map(int, output_of(code, OPENBLAS_NUM_THREADS=1, OMP_STACKSIZE=stack, timeout=60).split())
    assert 1 <= first <= 8
    assert second <= 3
    if megabytes == 200:
        assert first == 8


# Forks: a thread that has led a team, in this library or in another, leaves its child a team without threads.

OTHERS = r"""
import ctypes, multiprocessing, os, sys, threading, time, warnings
from processes import wait_for

warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tried here
gomp, libc = ctypes.CDLL("libgomp.so.1"), ctypes.CDLL(None)


def another_library(count):
    "A parallel region of somebody else's on the same runtime."
    gomp.GOMP_parallel(ctypes.cast(libc.getpid, ctypes.c_void_p), None, count, 0)


def another_library_elsewhere(count):
    "The same led by a thread that has ended, and its team with it."
    # A member that ends may load a library then, and a child forked meanwhile has half of it: ld.so ends that child.
    before = len(os.listdir("/proc/self/task"))
    leader = threading.Thread(target=another_library, args=(count,))
    leader.start()
    leader.join()
    end = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < end:
        time.sleep(0.001)


def in_child(call, seconds=10):
    "What call returns in a forked child: a small int, or why there is none."
    child = os.fork()
    if not child:
        try:
            os._exit(call())
        finally:
            os._exit(99)
    return wait_for(child, seconds)


def large_call():
    "The number of threads that it says it would use."
    import numpy as np
    import fastln
    from fastln._core import effort

    effort.set_min_parallel_bytes(0)
    x = np.random.default_rng(0).standard_normal((256, 96))
    for count in (3, None, 2):
        assert fastln.layer_norm(x, num_threads=count).tobytes() == fastln.layer_norm(x, num_threads=1).tobytes()
    return fastln.get_num_threads()


def stubborn_call():
    import fastln

    fastln.set_num_threads(3)
    with fastln.threads(2):
        return large_call()
"""

IMPORTED = ["import numpy, fastln", ""]


def forked(code, **environment):
    """The words that code prints. What children say as they die is printed, for pytest to show with a failure."""
    done = run_python(OTHERS + code, timeout=60, OMP_NUM_THREADS=3, OPENBLAS_NUM_THREADS=2, **environment)
    print(done.stderr)
    assert done.returncode == 0
    return done.stdout.split()


@linux
@pytest.mark.parametrize("first", IMPORTED, ids=["imported before", "imported in the child"])
def test_a_child_is_serial_where_another_library_ran_in_parallel(first, libgomp):
    code = first + "\nanother_library(2)\n"
    code += "print(in_child(large_call), in_child(stubborn_call), in_child(lambda: in_child(large_call)))"
    assert forked(code) == ["1", "1", "1"]


@linux
@pytest.mark.parametrize("first", IMPORTED, ids=["imported before", "imported in the child"])
def test_workers_of_a_pool_are_serial_where_another_library_ran_in_parallel(first, libgomp):
    code = (
        first
        + r"""
another_library(2)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(*pool.map_async(lambda_free, range(4)).get(timeout=20))
"""
    )
    code = "def lambda_free(_): return large_call()\n" + code
    assert forked(code) == ["1"] * 4


@linux
def test_a_child_is_serial_where_torch_ran_in_parallel(libgomp, torch):
    code = r"""
import torch
print(in_child(large_call) > 1)  # torch has not run yet
torch.set_num_threads(2)
torch.ones(4_000_000).exp()
print(in_child(large_call))
import fastln
print(in_child(large_call))
"""
    assert forked(code) == ["True", "1", "1"]


@linux
@pytest.mark.parametrize("first", IMPORTED, ids=["imported before", "imported in the child"])
@pytest.mark.parametrize(
    "use",
    [
        "",
        "gomp.omp_set_num_threads(3)",
        "another_library_elsewhere(2)",
    ],
    ids=["loaded", "set", "used by another thread"],
)
def test_a_child_that_inherits_no_team_has_threads(first, use, libgomp):
    assert forked(f"{first}\n{use}\nprint(in_child(large_call))") == ["3"]


@linux
def test_a_child_of_a_child_with_threads_is_serial(libgomp):
    code = r"""
def child():
    count = large_call()
    return 10 * count + in_child(large_call)


print(in_child(child))
"""
    assert forked(code) == ["31"]


@linux
def test_a_child_that_loads_everything_itself_has_threads(libgomp):
    code = r"""
import os
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    code = "import sys\n" + code + OTHERS + "gomp.omp_set_num_threads(3)\nprint(large_call())"
    assert output_of(code, timeout=60, OMP_NUM_THREADS=3, OPENBLAS_NUM_THREADS=2) == "3"


@linux
def test_programs_that_are_started_anew_have_threads(libgomp):
    code = r"""
import subprocess
import fastln
another_library(2)
large_call()
count = "import fastln; print(fastln.get_num_threads())"
for options in ({}, {"close_fds": False}, {"preexec_fn": os.getpid}, {"shell": True}):
    command = f"{sys.executable} -c '{count}'" if options.get("shell") else [sys.executable, "-c", count]
    print(subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.strip())
"""
    assert forked(code) == ["3"] * 4


# Stacks

SMALL_STACKS = """
import threading
import numpy as np
import fastln
from internals import set_min_parallel_bytes, set_stream_bytes

set_min_parallel_bytes(0)
set_stream_bytes(0)  # past the cache, results wait on the stack

def run():
    for isa in fastln.available_isas():
        fastln.set_isa(isa)
        for shape in ((64, 768), (200, 8), (1000, 1), (3, 40000), (40, 4096), (33, 1001)):
            for dtype in ("f2", "f8"):
                x = np.ones(shape, dtype)
                weight = x[0].astype("f4")  # converted for "f8", which takes some more
                y, s, mean, rstd = fastln.add_layer_norm_forward(x, x, weight=weight, bias=weight)
                fastln.layer_norm_backward(y, s, mean, rstd, weight)

threading.stack_size(256 * 1024)
for threads in (1, 2):
    fastln.set_num_threads(threads)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
print("done")
"""


def test_stacks_of_256_kib_are_enough():
    # As the docstring of layer_norm_backward says.
    assert output_of(SMALL_STACKS, OMP_STACKSIZE="256K") == "done"
