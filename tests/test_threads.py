"""How many threads work, who decides it, and that threads and forks do not get in each other's way."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_all_same_bits, assert_same_bits, output_of
from internals import Waking, config
from operations import MIXED
from regimes import make_mixed_rows, make_rows

import fastln

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

COUNT = "import fastln; print(fastln.get_num_threads())"


@pytest.fixture(autouse=True)
def restored_count():
    """Leave the process with the number of threads that it had."""
    previous = fastln.get_num_threads()
    yield
    fastln.set_num_threads(previous)


# The default


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("3", 3), ("7", 7), ("2,4", 2)])
def test_omp_num_threads_sets_the_default(value, expected, openmp):
    assert int(output_of(COUNT, OMP_NUM_THREADS=value)) == expected


@linux
def test_affinity_limits_the_default():
    cpu = min(os.sched_getaffinity(0))
    assert int(output_of(f"import os; os.sched_setaffinity(0, [{cpu}]); {COUNT}")) == 1


def test_the_default_is_at_most_the_number_of_cpus():
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= int(output_of(COUNT)) <= cpus


@linux
def test_the_default_is_at_most_the_quota_of_the_container():
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        pytest.skip("no quota of control groups v2 is visible here")
    if quota == "max":
        pytest.skip("no quota is set here")
    assert int(output_of(COUNT)) <= max(1, -(-int(quota) // int(period)))


@pytest.mark.parametrize("value", ["", "0", "-2", "many"])
def test_a_bad_omp_num_threads_counts_as_unset(value, libgomp):
    assert int(output_of(COUNT, OMP_NUM_THREADS=value)) == int(output_of(COUNT))


# set, get, with


def test_set_num_threads_sets_what_get_num_threads_gets(openmp):
    for count in (1, 2, 5, np.int64(3)):
        fastln.set_num_threads(count)
        assert fastln.get_num_threads() == count
        assert type(fastln.get_num_threads()) is int


def test_threads_nest_and_restore(openmp):
    fastln.set_num_threads(4)
    with fastln.threads(3):
        assert fastln.get_num_threads() == 3
        with fastln.threads(1):
            assert fastln.get_num_threads() == 1
        assert fastln.get_num_threads() == 3
    assert fastln.get_num_threads() == 4


def test_threads_restore_after_an_exception(openmp):
    fastln.set_num_threads(2)
    with pytest.raises(KeyError), fastln.threads(5):
        raise KeyError
    assert fastln.get_num_threads() == 2


def test_one_scope_may_be_entered_again_and_nested(openmp):
    fastln.set_num_threads(2)
    three, five = fastln.threads(3), fastln.threads(5)
    for _ in range(2):
        with three:
            assert fastln.get_num_threads() == 3
            with five:
                with three:
                    assert fastln.get_num_threads() == 3
                assert fastln.get_num_threads() == 5
            with three, three:
                assert fastln.get_num_threads() == 3
            assert fastln.get_num_threads() == 3
        assert fastln.get_num_threads() == 2
    with pytest.raises(KeyError), three, three:
        raise KeyError
    assert fastln.get_num_threads() == 2


def test_one_scope_may_be_entered_in_many_threads_and_tasks_at_once(openmp):
    fastln.set_num_threads(2)
    three, five = fastln.threads(3), fastln.threads(5)
    meeting = threading.Barrier(2)

    def enter(outer, inner):
        seen = []
        with outer:
            meeting.wait()
            with inner:
                meeting.wait()
                seen.append(fastln.get_num_threads())
            seen.append(fastln.get_num_threads())
        return [*seen, fastln.get_num_threads()]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(enter, (three, five), (five, three)))
    assert found == [[5, 3, 2], [3, 5, 2]]

    async def task():
        with three:
            await asyncio.sleep(0)
            with five:
                await asyncio.sleep(0)
            return fastln.get_num_threads()

    async def both():
        return await asyncio.gather(task(), task())

    assert asyncio.run(both()) == [3, 3]


def test_a_scope_decorates_functions(openmp):
    fastln.set_num_threads(2)

    @fastln.threads(3)
    def count(depth):
        return [fastln.get_num_threads(), *(count(depth - 1) if depth else [])]

    assert count(3) == [3] * 4
    assert fastln.get_num_threads() == 2


def test_threads_hold_in_their_own_thread_only(openmp):
    fastln.set_num_threads(2)
    entered, asked = threading.Event(), threading.Event()
    seen = []

    def other():
        assert entered.wait(10)
        seen.append(fastln.get_num_threads())
        asked.set()

    thread = threading.Thread(target=other)
    thread.start()
    with fastln.threads(6):
        entered.set()
        assert asked.wait(10)
        assert fastln.get_num_threads() == 6
    thread.join()
    assert seen == [2]


BAD_COUNTS = [
    pytest.param(0, ValueError, id="0"),
    pytest.param(-1, ValueError, id="-1"),
    pytest.param(1.0, TypeError, id="1.0"),
    pytest.param("2", TypeError, id="str"),
    pytest.param(True, TypeError, id="True"),
    pytest.param([2], TypeError, id="list"),
]


@pytest.mark.parametrize(("count", "error"), BAD_COUNTS)
def test_bad_counts_are_refused_and_change_nothing(count, error):
    fastln.set_num_threads(2)
    before = fastln.get_num_threads()
    with pytest.raises(error, match=r"must be .*got"):
        fastln.set_num_threads(count)
    with pytest.raises(error, match=r"must be .*got"), fastln.threads(count):
        pass
    with pytest.raises(error, match=r"^num_threads must be .*got"):
        fastln.layer_norm(np.zeros((2, 3)), num_threads=count)
    assert fastln.get_num_threads() == before


def test_a_build_without_openmp_says_one_thread_whatever_is_set():
    if config()["build"]["openmp"]:
        pytest.skip("built with OpenMP")
    fastln.set_num_threads(3)
    with fastln.threads(2):
        assert fastln.get_num_threads() == 1
    assert config()["runtime"]["num_threads_reason"] == "built without OpenMP"


@pytest.mark.once_per_kernel
@pytest.mark.parametrize("rows", [0, 1, 3, 1000])
@pytest.mark.parametrize("count", [1, 2, 64, np.int32(3)])
def test_more_threads_than_rows_or_cpus_work(operation, count, rows, dtype, always_parallel):
    arguments = operation.make("mean 10", rows, 33, dtype)
    assert_all_same_bits(operation(**arguments, num_threads=count), operation(**arguments, num_threads=1))


# How many threads really run, seen from outside: the team of a fresh process stays alive after its work.
TEAM = r"""
import os, sys
import numpy as np
import fastln
from internals import set_min_parallel_bytes

set_min_parallel_bytes(0)
x = np.ones((64, 64), np.float32)


def team(call):
    before = len(os.listdir("/proc/self/task"))
    call()
    print(1 + len(os.listdir("/proc/self/task")) - before)
"""


CALLS = {
    "num_threads": ("team(lambda: fastln.layer_norm(x, num_threads=3))", 3),
    "forward": ("team(lambda: fastln.layer_norm_forward(x, num_threads=3))", 3),
    "set_num_threads": ("fastln.set_num_threads(3); team(lambda: fastln.layer_norm(x))", 3),
    "with threads": ("with fastln.threads(3): team(lambda: fastln.layer_norm(x))", 3),
    "the call decides": ("with fastln.threads(3): team(lambda: fastln.layer_norm(x, num_threads=1))", 1),
    "the default": ("team(lambda: fastln.layer_norm(x))", 4),
    "backward": ("team(lambda: fastln.layer_norm_backward(x, x, x[:, :1], x[:, :1], num_threads=3))", 3),
    "backward, few long rows": (
        "w = np.ones((5, 1 << 16)); team(lambda: fastln.layer_norm_backward(w, w, w[:, :1], w[:, :1], num_threads=3))",
        3,
    ),
    "backward, many short rows": (
        "t = np.ones((1 << 16, 5)); team(lambda: fastln.layer_norm_backward(t, t, t[:, :1], t[:, :1], num_threads=3))",
        3,
    ),
    "one row": ("team(lambda: fastln.layer_norm(x[0], num_threads=3))", 1),
    "one long row": ("row = np.ones(1 << 16); team(lambda: fastln.layer_norm(row, num_threads=3))", 3),
    "fewer long rows": ("w = np.ones((2, 1 << 16)); team(lambda: fastln.layer_norm(w, num_threads=3))", 3),
}


@linux
@pytest.mark.parametrize("call", CALLS)
def test_as_many_threads_run_as_were_asked_for(call, openmp):
    code, expected = CALLS[call]
    assert int(output_of(TEAM + code, OMP_NUM_THREADS=4, OPENBLAS_NUM_THREADS=1)) == expected


@linux
@pytest.mark.parametrize("setting", ["set_min_parallel_bytes(1 << 30)", ""])
def test_small_work_stays_serial(setting, openmp):
    bound = {} if setting else {"FASTLN_MIN_PARALLEL_BYTES": 1 << 30}
    code = TEAM.replace("set_min_parallel_bytes(0)", setting)
    assert int(output_of(code + "team(lambda: fastln.layer_norm(x, num_threads=3))", **bound)) == 1


@linux
def test_sharing_a_row_of_few_segments_ends_no_threads(openmp):
    code = (
        TEAM
        + r"""
x = np.ones((9, 20_000), np.float32)  # the last row is shared, in two segments
fastln.layer_norm(x, num_threads=8)
team = set(os.listdir("/proc/self/task"))
for _ in range(20):
    fastln.layer_norm(x, num_threads=8)
print(len(team) >= 8 and team == set(os.listdir("/proc/self/task")))
"""
    )
    assert output_of(code, OPENBLAS_NUM_THREADS=1) == "True"


# Which calls get threads. The rule knows no clock, so it is asked about times that never were.

MB = 1 << 20
SLEEP, NAP, NONE = 1.0, 0.002, 1e-6  # pauses, in seconds: the threads sleep, may do so, do not


def waking(*, seconds_per_byte=100e-12, awake=None, drowsy=None, asleep=None):
    """A memory that has settled on these costs of two threads; None leaves what is taken for granted."""
    memory = Waking()
    for _ in range(10):
        memory.ran_alone(MB, 2, seconds_per_byte * MB, SLEEP, SLEEP)
    for pause, cost in ((NONE, awake), (NAP, drowsy), (SLEEP, asleep)):
        for _ in range(3 if cost is not None else 0):
            run_together(memory, cost, pause)
    assert memory.saved(MB, 2) == pytest.approx(seconds_per_byte * MB / 2)
    run_together(memory, memory.cost(SLEEP), SLEEP)  # spends what has been missed, and ends the succession
    return memory


def run_together(memory, cost, pause):
    memory.ran_together(2, 1000, 1e-3 + cost, 2e-3, pause)


def first_with_threads(memory, size, gap, pause, most):
    """Number of the call in a succession that gets threads, None if none of so many does."""
    for number in range(most):
        since_last = gap if number else pause
        if memory.is_worth(size, 2, since_last, pause):
            return number
        memory.ran_alone(size, 2, 100e-12 * size, since_last, pause)
    return None


def test_a_fresh_process_wakes_threads_for_large_calls_only():
    fresh = Waking()
    assert not fresh.is_worth(MB, 2, np.inf, np.inf)
    assert fresh.is_worth(16 * MB, 2, np.inf, np.inf)


def test_threads_that_are_awake_get_small_calls():
    assert waking(awake=1e-6).is_worth(MB // 4, 2, NONE, NONE)
    assert not waking(awake=100e-6).is_worth(MB // 4, 2, NONE, NONE)


@pytest.mark.parametrize("size", [MB, 16 * MB, 128 * MB])
@pytest.mark.parametrize("cost", [50e-6, 1e-3, 7e-3])
def test_a_call_after_a_pause_gets_threads_if_it_pays_for_waking_them(size, cost):
    memory = waking(asleep=cost)
    pays = memory.saved(size, 2) > 2 * cost
    assert memory.is_worth(size, 2, SLEEP, SLEEP) == pays


def test_pauses_of_one_kind_say_nothing_about_another():
    memory = waking(drowsy=7e-3, asleep=50e-6)
    assert not memory.is_worth(16 * MB, 2, NAP, NAP)
    assert memory.is_worth(16 * MB, 2, SLEEP, SLEEP)


def test_more_threads_save_more():
    memory = waking(asleep=120e-6)
    assert not memory.is_worth(4 * MB, 2, SLEEP, SLEEP)
    assert memory.is_worth(4 * MB, 8, SLEEP, SLEEP)


@pytest.mark.parametrize(("count", "parts"), [(2, 2), (2, 3), (2, 5), (4, 5), (4, 33)])
def test_parts_that_do_not_come_out_even_are_no_cost_of_waking(count, parts):
    memory = Waking()
    most = -(-parts // count)
    for _ in range(3):
        memory.ran_together(count, parts, most * 1e-3 + 40e-6, parts * 1e-3, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(40e-6)


def test_what_waking_costs_first_is_believed_until_the_next_time():
    memory = Waking()
    run_together(memory, 7e-3, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(7e-3)
    run_together(memory, 40e-6, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(40e-6)


def test_one_late_start_is_chance_and_two_are_the_rule():
    memory = waking(asleep=50e-6)
    run_together(memory, 7e-3, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(50e-6)
    run_together(memory, 6e-3, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(6e-3)
    run_together(memory, 50e-6, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(6e-3)
    run_together(memory, 50e-6, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(50e-6)


@pytest.mark.parametrize("gap", [NONE, NAP])
def test_a_succession_gets_threads_when_it_might_have_paid_for_waking_them(gap):
    memory = waking(awake=1e-6, drowsy=10e-6, asleep=7e-3)
    number = first_with_threads(memory, 4 * MB, gap, SLEEP, 100)
    assert 7e-3 <= (number + 1) * memory.saved(4 * MB, 2) < 7e-3 + memory.saved(4 * MB, 2)


def test_a_succession_stays_serial_where_threads_cost_more_even_then():
    # As where another pool spins on their cores between the calls.
    assert first_with_threads(waking(drowsy=7e-3, asleep=50e-6), MB // 2, NAP, SLEEP, 8) is None


def test_a_pause_ends_a_succession():
    memory = waking(asleep=7e-3)
    assert first_with_threads(memory, 4 * MB, SLEEP, SLEEP, 100) is None


def test_threads_that_cost_too_much_are_tried_again_now_and_then():
    memory = waking(asleep=7e-3)
    number = first_with_threads(memory, 4 * MB, SLEEP, SLEEP, 10_000)
    assert 8 * 7e-3 <= (number + 1) * memory.saved(4 * MB, 2) < 8 * 7e-3 + memory.saved(4 * MB, 2)
    run_together(memory, 50e-6, SLEEP)
    assert first_with_threads(memory, 4 * MB, SLEEP, SLEEP, 5) is not None  # the next trial follows soon
    run_together(memory, 50e-6, SLEEP)
    assert memory.cost(SLEEP) == pytest.approx(50e-6)


def test_a_trial_that_failed_is_not_repeated_soon():
    memory = waking(asleep=7e-3)
    assert first_with_threads(memory, 4 * MB, SLEEP, SLEEP, 10_000) is not None
    run_together(memory, 7e-3, SLEEP)
    assert first_with_threads(memory, 4 * MB, SLEEP, SLEEP, 200) is None


def calls_in_succession(memory, awake, asleep, number):
    """How many of the calls get threads that now cost so much."""
    alone, clock, last_region, together = 100e-12 * 4 * MB, 0.0, -np.inf, 0
    for _ in range(number):
        pause = clock - last_region
        if memory.is_worth(4 * MB, 2, NONE, pause):
            cost = awake if pause < 500e-6 else asleep
            memory.ran_together(2, 1000, alone / 2 + cost, alone, pause)
            clock = last_region = clock + alone / 2 + cost
            together += 1
        else:
            memory.ran_alone(4 * MB, 2, alone, NONE, pause)
            clock += alone
        clock += NONE
    return together


def test_a_succession_gets_its_threads_back_when_the_machine_is_quiet_again():
    memory = waking(awake=4e-3, drowsy=7e-3, asleep=7e-3)  # somebody else was busy on the cores
    calls_in_succession(memory, 1e-6, 7e-3, 2000)
    assert calls_in_succession(memory, 1e-6, 7e-3, 1000) > 960  # all but those that pay for waking them


def test_a_succession_stays_serial_while_others_are_busy_on_the_cores():
    memory = waking(awake=4e-3, drowsy=7e-3, asleep=7e-3)
    assert calls_in_succession(memory, 4e-3, 7e-3, 10_000) < 200


@pytest.mark.parametrize("size", [MB, 4 * MB, 32 * MB, 256 * MB])
@pytest.mark.parametrize("cost", [30e-6, 500e-6, 8e-3])
def test_isolated_calls_are_rarely_slower_than_on_one_thread(size, cost):
    memory = Waking()
    alone = 100e-12 * size
    ratios = []
    for _ in range(2000):
        if memory.is_worth(size, 2, SLEEP, SLEEP):
            memory.ran_together(2, 1000, alone / 2 + cost, alone, SLEEP)
            ratios.append((alone / 2 + cost) / alone)
        else:
            memory.ran_alone(size, 2, alone, SLEEP, SLEEP)
            ratios.append(1.0)
    assert np.median(ratios) <= 1
    assert np.quantile(ratios, 0.93) <= 1.5


def test_one_interrupted_call_does_not_make_calls_look_slow():
    memory = waking(asleep=1e-3)
    memory.ran_alone(MB, 2, 1, SLEEP, SLEEP)
    assert memory.saved(MB, 2) == pytest.approx(100e-12 * MB)


@linux
def test_middling_work_gets_threads_in_succession(openmp):
    code = r"""
import os, time
import numpy as np
import fastln

x = np.zeros((128, 768), np.float32)  # 0.8 MB read and written
tasks = lambda: len(os.listdir("/proc/self/task"))
before = tasks()
fastln.layer_norm(x, out=x, num_threads=2)
print(tasks() - before)
end = time.monotonic() + 5
while tasks() == before and time.monotonic() < end:
    for _ in range(50):
        fastln.layer_norm(x, out=x, num_threads=2)
print(tasks() - before)
"""
    assert output_of(code).split() == ["0", "1"]


def test_results_do_not_depend_on_what_the_rule_says(operation, dtype):
    arguments = operation.make(MIXED, 3000, 130, dtype)  # several calls of it get threads, the others do not
    expected = operation(**arguments, num_threads=1)
    for _ in range(40):
        assert_all_same_bits(operation(**arguments, num_threads=2), expected)


@linux
def test_other_users_of_openmp_keep_their_number_of_threads(openmp):
    code = r"""
import ctypes
import numpy as np
import fastln
from internals import set_min_parallel_bytes

set_min_parallel_bytes(0)
with open("/proc/self/maps") as maps:
    library = next((line.split()[-1] for line in maps if "omp" in line.rsplit("/", 1)[-1]), None)
assert library, "no OpenMP library is loaded"
omp = ctypes.CDLL(library)
before = omp.omp_get_max_threads()
fastln.set_num_threads(5)
fastln.layer_norm(np.ones((64, 64)))
with fastln.threads(3):
    fastln.layer_norm(np.ones((64, 64)), num_threads=2)
    assert omp.omp_get_max_threads() == before
assert omp.omp_get_max_threads() == before
"""
    output_of(code)


@linux
def test_limits_of_threadpoolctl_are_honoured(openmp):
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    code = (
        TEAM
        + r"""
from threadpoolctl import threadpool_limits
with threadpool_limits(limits=1):
    team(lambda: fastln.layer_norm(x))
    assert fastln.get_num_threads() == 1
with threadpool_limits(limits=2, user_api="openmp"):
    team(lambda: fastln.layer_norm(x))
team(lambda: fastln.layer_norm(x))
"""
    )
    # The last call adds to the team of two that is there already.
    assert output_of(code, OMP_NUM_THREADS=4, OPENBLAS_NUM_THREADS=1).split() == ["1", "2", "3"]


# Forks: libgomp's team does not survive one, and waiting for it would hang forever.

FORK = r"""
import os, sys, warnings
import numpy as np
import fastln
from internals import set_min_parallel_bytes
from processes import wait_for

warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tried here
set_min_parallel_bytes(0)
x = np.random.default_rng(0).standard_normal((256, 96)).astype(np.float32)
expected = fastln.layer_norm(x, num_threads=2).tobytes()


def gradients():
    found = fastln.layer_norm_backward(x, x, x[:, :1], x[:, 1:2], num_threads=2)
    return b"".join(gradient.tobytes() for gradient in found)


expected_gradients = gradients()


for number in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        good = fastln.layer_norm(x, num_threads=2).tobytes() == expected
        good = good and fastln.layer_norm(x).tobytes() == expected
        good = good and gradients() == expected_gradients
        if good and number == 0:  # and so does a child of the child
            grandchild = os.fork()
            if not grandchild:
                os._exit(0 if fastln.layer_norm(x, num_threads=2).tobytes() == expected else 1)
            good = wait_for(grandchild, 5) == 0
        os._exit(0 if good else 1)
    result = wait_for(child)
    if result != 0:
        sys.exit(f"child {number}: {result}")
    if fastln.layer_norm(x, num_threads=2).tobytes() != expected:
        sys.exit(f"the parent is wrong after child {number}")
print("done")
"""


@needs_fork
def test_fifty_forks_after_a_call_on_two_threads_do_not_hang():
    assert output_of(FORK, 50, timeout=60) == "done"


@needs_fork
def test_multiprocessing_with_fork_works():
    code = r"""
import multiprocessing, warnings
import numpy as np
import fastln
from internals import set_min_parallel_bytes

warnings.simplefilter("ignore", DeprecationWarning)
set_min_parallel_bytes(0)


def work(seed):
    x = np.random.default_rng(seed).standard_normal((64, 100))
    return fastln.layer_norm(x, num_threads=2).tobytes()


expected = [work(seed) for seed in range(8)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(work, range(8)).get(timeout=20) == expected
print("done")
"""
    assert output_of(code, timeout=60) == "done"


# Python threads


def test_eight_python_threads_on_one_input(operation, dtype, always_parallel):
    # Each call has sums of its own.
    arguments = operation.make(MIXED, 128, 130, dtype)
    expected = operation(**arguments, num_threads=1)

    def work(number):
        start.wait(10)
        for turn in range(30):
            assert_all_same_bits(operation(**arguments, num_threads=1 + (number + turn) % 3), expected)

    start = threading.Barrier(8)
    run_in_threads(work, 8)


def run_in_threads(work, count):
    """work(0), work(1) ... at once, each in a thread of Python."""
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, number) for number in range(count)]:
            future.result(timeout=60)


def test_python_threads_may_use_different_counts_and_errors(always_parallel, openmp):
    x = make_mixed_rows(50, 65, np.float64)
    expected = fastln.layer_norm(x)

    def work(number):
        start.wait(10)
        with fastln.threads(1 + number % 3):
            for _ in range(30):
                assert fastln.get_num_threads() == 1 + number % 3
                assert_same_bits(fastln.layer_norm(x), expected)
                with pytest.raises(ValueError, match=r"^eps must be"):
                    fastln.layer_norm(x, eps=-1)

    start = threading.Barrier(8)
    run_in_threads(work, 8)


def test_the_gil_is_released_during_long_work():
    # With so long a switch interval nobody is forced to let go of the GIL: the other thread, which does let
    # go after each tick, can only have ticked within the call if the call released it.
    x = make_rows("normal", 64, 65536, np.float32)
    out = np.empty_like(x)
    ticks, stop = [0], threading.Event()

    def tick():
        while not stop.wait(0.0005):
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    interval = sys.getswitchinterval()
    thread.start()
    try:
        sys.setswitchinterval(100)
        for _ in range(50):
            before = ticks[0]
            fastln.layer_norm(x, out=out, num_threads=1)
            after = ticks[0]
            if after > before:
                break
        assert after > before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
