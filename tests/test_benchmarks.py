"""The benchmark: what its statistics say of synthetic timings, whom it refuses, what it writes, its command line."""

import ast
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

import fastln

for _name in ("benchmarks", "rich", "matplotlib", "psutil", "cpuinfo", "ml_dtypes"):
    pytest.importorskip(_name, reason=f"{_name} is missing: run these tests from a clone, as make test does")

from benchmarks import __main__ as command_line  # noqa: E402
from benchmarks import contenders  # noqa: E402
from benchmarks.grid import regimes, shapes  # noqa: E402
from benchmarks.grid.arrays import Prepared, make_arrays  # noqa: E402
from benchmarks.grid.cells import (  # noqa: E402
    CACHE_LINE,
    DTYPES,
    LINE_OFFSET,
    NUMPY_OFFSET,
    OFFSETS,
    SIXTEEN_BITS,
    Cell,
    as_dtype,
)
from benchmarks.grid.errors import OutputsError, exact_outputs, largest_error  # noqa: E402
from benchmarks.operations import (  # noqa: E402
    ADD_LAYER_NORM,
    ADD_LAYER_NORM_BACKWARD,
    ADD_RMS_NORM,
    ADD_RMS_NORM_BACKWARD,
    LAYER_NORM,
    LAYER_NORM_BACKWARD,
    OPERATIONS,
    RMS_NORM,
    RMS_NORM_BACKWARD,
    find_operation,
)
from benchmarks.peers import fastln_calls, memory_copy, onednn  # noqa: E402
from benchmarks.shown import compare, excerpt, markdown, pictures, report  # noqa: E402
from benchmarks.timing import files, intervals, measure, pauses, results, run  # noqa: E402

CELL = Cell(LAYER_NORM, 3, 64, "float32", 1)
TINY = ["--shapes", "2x64", "--rounds", "5", "--threads", "1", "--peers", "numpy"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def threads_as_before():  # of the module: fixtures of the module run the command, which sets them
    previous = fastln.get_num_threads()
    pools = [(pool, pool.num_threads) for pool in ThreadpoolController().lib_controllers]
    yield
    fastln.set_num_threads(previous)
    for pool, count in pools:  # oneDNN's number is that of the OpenMP runtime
        pool.set_num_threads(count)


# Its rooms, from the bottom up: a module imports from its own room and from those below.
ROOMS = ("", "operations", "grid", "contenders", "peers", "timing", "shown", "sequences", "suites", "__main__")


def test_every_arrow_points_down():
    for path in Path(command_line.__file__).parent.rglob("*.py"):
        module = path.relative_to(Path(command_line.__file__).parent).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = module[: len(module) - node.level]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    room = (*base, *name.split("."))[0]
                    room = room if room in ROOMS else ""
                    assert ROOMS.index(room) <= ROOMS.index(module[0] if module[0] in ROOMS else ""), (module, name)


# Synthetic timings: disturbances that last for rounds hit all contenders alike, and each sample scatters by itself.


def make_times(rng, ratio, visits=3, rounds=20, drift=0.3, scatter=0.05):
    """Times of a contender and of one that takes 1 / ratio as long."""
    shared = np.exp(drift * rng.standard_normal((visits, rounds)).cumsum(axis=1))
    slow, fast = (shared * np.exp(scatter * rng.standard_normal((visits, rounds))) for _ in range(2))
    return ratio * slow, fast


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.2, 3.0])
def test_a_known_ratio_is_found_through_drift(rng, ratio):
    found = intervals.paired_ratio(*make_times(rng, ratio))
    assert found.low < ratio < found.high
    assert found.value == pytest.approx(ratio, rel=0.05)
    assert found.verdict == ("faster" if ratio > 1 else "slower")


def test_noise_is_not_called_a_win_or_a_loss(rng):
    verdicts = [intervals.paired_ratio(*make_times(rng, 1.0)).verdict for _ in range(300)]
    assert verdicts.count("even") >= 297


def test_runs_of_equals_that_differ_by_their_layout_in_memory_do_not_contradict_each_other(rng):
    for _ in range(200):
        runs = [intervals.paired_ratio(*make_times(rng, 1 + 0.02 * rng.standard_normal())) for _ in range(2)]
        assert {"faster", "slower"} != {found.verdict for found in runs}


def test_the_interval_covers_the_ratio(rng):
    found = [intervals.paired_ratio(*make_times(rng, 1.3, scatter=0.1)) for _ in range(200)]
    assert np.mean([low < 1.3 < high for _, low, high in found]) > 0.95


def test_an_interval_holds_the_medians_of_both_visits():
    numerator, denominator = np.array([[1.0] * 9, [1.5] * 9]), np.ones((2, 9))
    low, high = intervals.paired_ratio(numerator, denominator)[1:]
    assert low <= 1.0 / intervals.BETWEEN_RUNS
    assert high >= 1.5 * intervals.BETWEEN_RUNS


def test_only_rounds_in_which_both_took_part_count():
    numerator = np.array([[2.0, 2.0, np.nan, np.nan]])
    denominator = np.array([[1.0, 1.0, 9.0, 9.0]])
    assert intervals.paired_ratio(numerator, denominator).value == 2
    assert intervals.paired_ratio(np.full((2, 4), np.nan), np.ones((2, 4))) is None
    assert intervals.paired_ratio(np.empty((0, 0)), np.empty((0, 0))) is None


def test_a_time_has_an_interval_too():
    value, low, high = intervals.time_with_interval(np.array([[2.0, 2.0, 4.0], [2.0, 1.0, 1.0]]))
    assert value == 2
    assert low <= 1
    assert high >= 2
    assert intervals.time_with_interval(np.full((1, 3), np.nan)) is None


def test_the_mean_of_ratios_has_an_interval_and_an_inverse():
    mean = intervals.mean_ratio([intervals.Ratio(2.0, 1.0, 4.0), intervals.Ratio(0.5, 0.25, 1.0)])
    assert mean == pytest.approx((1.0, 0.5, 2.0))
    assert intervals.Ratio(2.0, 1.0, 4.0).inverse == (0.5, 0.25, 1.0)


def test_geometric_mean():
    assert intervals.geometric_mean([0.5, 2.0]) == pytest.approx(1)
    assert np.isnan(intervals.geometric_mean([]))


# Operations


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_a_function_of_fastln_and_known_by_its_title_too(name):
    operation = OPERATIONS[name]
    assert callable(getattr(fastln, name))
    assert find_operation(name) is find_operation(operation.title) is operation


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match=r"must be of layer_norm \(forward\), .*, got 'sideways'"):
        find_operation("sideways")


@pytest.mark.parametrize(
    ("name", "arrays_moved"),
    [
        (LAYER_NORM, 2),
        (LAYER_NORM_BACKWARD, 3),
        (RMS_NORM, 2),
        (RMS_NORM_BACKWARD, 3),
        (ADD_LAYER_NORM, 4),
        (ADD_LAYER_NORM_BACKWARD, 4),
        (ADD_RMS_NORM, 4),
        (ADD_RMS_NORM_BACKWARD, 4),
    ],
)
@pytest.mark.parametrize(("dtype", "size"), [*zip(DTYPES, (4, 8, 2, 2), strict=True)])
def test_the_bytes_moved_follow_from_what_is_read_and_written(name, arrays_moved, dtype, size):
    assert Cell(name, 3, 64, dtype, 1).bytes_moved == arrays_moved * 3 * 64 * size


@pytest.mark.parametrize("name", OPERATIONS)
def test_there_are_the_arrays_that_are_read_and_only_those(name):
    arrays, operation = make_arrays(Cell(name, 3, 64, "float32", 1)), OPERATIONS[name]
    assert all(getattr(arrays, array) is not None for array in operation.reads)
    others = {"residual", "dy", "ds", "mean", "rstd"} - {*operation.reads}
    assert all(getattr(arrays, array) is None for array in others)
    assert (arrays.sum is not None) == ("sum" in operation.writes)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (40, 64)])
def test_the_floor_copies_half_of_the_bytes_moved(name, shape, monkeypatch):
    copied = []
    monkeypatch.setattr(
        memory_copy, "ways_to_copy", lambda *_: [lambda x, y: copied.append((x, y)) or memory_copy._memcpy(x, y)]
    )
    cell = Cell(name, *shape, "float32", 1)
    arrays = make_arrays(cell)
    memory_copy.any_operation(arrays).call()
    assert np.array_equal(arrays.out, arrays.x)
    assert sum(target.nbytes for _, target in copied) == cell.bytes_moved // 2 // 4 * 4
    assert all(np.array_equal(source, target) for source, target in copied)


# Regimes

MACHINE = {"caches": {"L1d": 2**15, "L2": 2**20, "L3": 2**25}}


@pytest.mark.parametrize(
    ("operation", "rows", "cols", "expected"),
    [
        (LAYER_NORM, 1, 64, regimes.ONE_CALL),
        (LAYER_NORM, 8, 768, regimes.ONE_CALL),
        (LAYER_NORM, 9, 64, regimes.CORE),
        (LAYER_NORM, 128, 1024, regimes.CORE),  # 1 MiB
        (LAYER_NORM_BACKWARD, 128, 1024, regimes.LAST_LEVEL),  # 1.5 MiB
        (LAYER_NORM, 4096, 1024, regimes.LAST_LEVEL),  # 32 MiB
        (LAYER_NORM, 4097, 1024, regimes.MEMORY),
        (LAYER_NORM, 4, 2**20, regimes.LAST_LEVEL),  # few rows that no core has room for
        (LAYER_NORM_BACKWARD, 4, 2**20, regimes.MEMORY),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_regime_goes_by_rows_and_bytes(operation, rows, cols, expected, threads):
    assert regimes.regime(Cell(operation, rows, cols, "float32", threads), MACHINE) == expected


def test_there_are_regimes_on_a_machine_that_does_not_tell_its_caches():
    rows = (1, 100, 2000, 10**6)
    found = [regimes.regime(Cell(LAYER_NORM, n, 768, "float32", 1), {"caches": {}}) for n in rows]
    assert found == list(regimes.REGIMES)


def cell_of_ratio(ratio, over="NumPy", kind=contenders.PEER, rows=1, **place):
    """A result in which fastln is so many times as fast."""
    found = results.CellResult(Cell(**{"operation": LAYER_NORM, "rows": rows, "cols": 768, "dtype": "float32",
                                       "threads": 1} | place))  # fmt: skip
    interval = intervals.Ratio(ratio, 0.9 * ratio, 1.1 * ratio)
    own = results.Timing(intervals.Ratio(1e-6, 9e-7, 2e-6), 9, intervals.Ratio(1.0, 1.0, 1.0))
    found.entries["fastln"] = results.Entry(contenders.SUBJECT, warm=own, cold=own)
    timing = results.Timing(intervals.Ratio(1e-6 * ratio, 1e-6, 2e-6), 9, interval)
    found.entries[over] = results.Entry(kind, warm=timing, cold=timing)
    return found


def results_of(*cells):
    found = results.Results(settings={}, machine=MACHINE, libraries={})
    found.cells += cells
    return found


def test_means_are_of_each_regime_and_place_alone():
    found = results_of(
        cell_of_ratio(9.0, rows=1),
        cell_of_ratio(4.0, rows=8),
        cell_of_ratio(1.0, rows=100),
        cell_of_ratio(0.5, rows=10**5),
        cell_of_ratio(2.0, rows=10**5, offset=LINE_OFFSET),
    )
    means = {(m.regime, m.offset): m for m in results.means(found) if (m.over, m.cache) == ("best peer", "warm")}
    assert {key: pytest.approx(mean.value) for key, mean in means.items()} == {
        (regimes.ONE_CALL, NUMPY_OFFSET): 6.0,
        (regimes.CORE, NUMPY_OFFSET): 1.0,
        (regimes.MEMORY, NUMPY_OFFSET): 0.5,
        (regimes.MEMORY, LINE_OFFSET): 2.0,
    }
    of_calls = means[regimes.ONE_CALL, NUMPY_OFFSET]
    assert (of_calls.cells, of_calls.faster, of_calls.even, of_calls.slower) == (2, 2, 0, 0)
    numpy_place, on_lines = report.means_tables(found)
    assert numpy_place.rows[0] == [
        "forward, warm: over best peer", "6.00 (2, 0, 0)", "1.00 (0, 1, 0)", "-", "0.50 (0, 0, 1)"
    ]  # fmt: skip
    assert on_lines.rows[0][1:] == ["-", "-", "-", "2.00 (1, 0, 0)"]


def test_means_of_sixteen_bits_have_tables_of_their_own():
    found = results_of(cell_of_ratio(2.0), cell_of_ratio(8.0, dtype="bfloat16"), cell_of_ratio(3.0, dtype="float64"))
    tables = list(report.means_tables(found))
    assert [table.rows[0][1] for table in tables] == ["2.45 (2, 0, 0)", "8.00 (1, 0, 0)"]
    assert "bfloat16, 1 thread" in tables[1].title
    assert "**bfloat16, one thread**" in excerpt.to_excerpt(found)


def test_onednn_is_compared_with_and_is_no_peer():
    found = results_of(cell_of_ratio(0.5, over="oneDNN", kind=contenders.NATIVE))
    assert found.cells[0].best_peer("warm") is None
    assert {mean.over for mean in results.means(found)} == {"oneDNN"}
    (table,) = report.floors_tables(found)
    assert table.rows[0][-1].startswith("0.50 [")


def test_the_excerpt_names_losses_and_quotes_regimes():
    lost = cell_of_ratio(0.5, rows=100)
    text = excerpt.to_excerpt(results_of(cell_of_ratio(2.0), lost))
    assert "| 1x768 | 1.00 us | 2.00 |" in text
    assert "| 100x768 | 1.00 us | **0.50** |" in text
    assert "one call | L1 or L2 | L3 | memory" in text
    assert "Slower than the fastest peer, forward: 1 of 2 cells: 100x768 float32 on 1 (NumPy, 0.50)" in text


# Where arrays are


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3), (7, 33), (300, 1000)])
def test_every_array_begins_where_the_cell_says(offset, operation, dtype, shape):
    arrays = make_arrays(Cell(operation, *shape, dtype, 1, offset))
    found = {name: value for name, value in vars(arrays).items() if isinstance(value, np.ndarray)}
    assert {name: value.ctypes.data % CACHE_LINE for name, value in found.items()} == dict.fromkeys(found, offset)
    assert all(value.flags.c_contiguous for value in found.values())
    moments = "float32" if dtype in SIXTEEN_BITS else dtype
    assert all(v.dtype == (moments if n in ("mean", "rstd") else as_dtype(dtype)) for n, v in found.items())


def test_numpys_own_large_arrays_begin_where_the_standard_says():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("other C libraries may place them elsewhere")
    # In a process of its own, since memory that was given back is given anew, from any place.
    asked = f"import numpy as np; print(np.empty(2**26, np.uint8).ctypes.data % {CACHE_LINE})"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert int(done.stdout) == NUMPY_OFFSET


def test_the_place_of_arrays_does_not_change_what_is_in_them():
    ours, others = (make_arrays(Cell(LAYER_NORM_BACKWARD, 5, 64, "float32", 1, offset)) for offset in OFFSETS)
    assert all(np.array_equal(a, b) for a, b in zip(vars(ours).values(), vars(others).values(), strict=True)
               if isinstance(a, np.ndarray))  # fmt: skip


def test_the_full_grid_has_cache_lines_for_float32_on_one_thread_only():
    plan = command_line.make_plan(command_line.parse_args(["run", "--full"]))
    places = {(cell.dtype, cell.threads) for cell in plan.cells if cell.offset == LINE_OFFSET}
    assert places == {("float32", 1)}
    assert {cell.shape for cell in plan.cells if cell.offset == LINE_OFFSET} == {cell.shape for cell in plan.cells}
    threads = [cell.threads for cell in plan.cells]
    assert threads == sorted(threads)  # libraries are set to another number as rarely as can be


def test_the_full_grid_has_all_shapes_of_what_is_used_most_and_the_quick_ones_of_the_rest():
    plan = command_line.make_plan(command_line.parse_args(["run", "--full"]))
    found = {(c.operation, c.dtype): {d.shape for d in plan.cells if (d.operation, d.dtype) == (c.operation, c.dtype)}
             for c in plan.cells}  # fmt: skip
    assert {*found} == {(operation, dtype) for operation in OPERATIONS for dtype in DTYPES}
    assert len(found[ADD_RMS_NORM, "bfloat16"]) == len(found[LAYER_NORM, "float16"]) == len(shapes.STANDARD)
    assert len(found[ADD_RMS_NORM, "float64"]) == len(shapes.QUICK)
    asked = ["run", "--full", "--operations", "add_rms_norm", "--dtypes", "float64"]
    assert len({cell.shape for cell in command_line.make_plan(command_line.parse_args(asked)).cells}) == 27


def test_a_quick_run_has_few_operations_and_what_is_asked_for():
    plan = command_line.make_plan(command_line.parse_args(["run", "--quick"]))
    assert {cell.operation for cell in plan.cells} == set(command_line.QUICK_OPERATIONS)
    plan = command_line.make_plan(command_line.parse_args(["run", "--quick", "--operations", "add_rms_norm"]))
    assert {cell.operation for cell in plan.cells} == {ADD_RMS_NORM}


def test_who_is_dear_to_prepare_sits_out_on_cache_lines():
    arrays = make_arrays(Cell(LAYER_NORM, 3, 64, "float32", 1, LINE_OFFSET))
    (numpy,) = (contender for contender in contenders.select(["numpy"]) if contender.kind == contenders.PEER)
    with pytest.raises(contenders.RefusedError, match="as NumPy places them only"):
        numpy.prepare(arrays)


# Calls after a pause


def test_the_percentile_is_a_time_that_occurred():
    assert pauses.median_and_90th([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 5.0)
    assert pauses.median_and_90th([float(i) for i in range(1, 11)]) == (5.5, 9.0)
    assert pauses.median_and_90th([7.0]) == (7.0, 7.0)


def test_every_call_comes_after_a_pause_of_its_own_and_pauses_are_not_timed(rng):
    now, slept = [0.0], []

    def passing(seconds):
        now[0] += seconds

    def sleep(seconds):
        slept.append(seconds)
        passing(seconds)

    calls = {"a": (lambda: passing(5.0), lambda: passing(1.0)), "b": (lambda: None, lambda: passing(2.0))}
    pause = pauses.Pause(LAYER_NORM, 2, 64, 0.5, 4)
    assert pauses.time_after_pauses(calls, pause, rng, sleep, lambda: now[0]) == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert slept == [0.5] * 8


def test_calls_after_pauses_are_timed_in_a_process_and_shown(tmp_path):
    asked = [pauses.Pause(operation, 2, 64, 0.001, 2) for operation in OPERATIONS]
    plan = run.Plan([CELL], contenders.select([]), measure.Effort(2, 1, 60, 60, 600), 1, asked)
    found = run.new_results(plan, "a test")
    assert run.time_pauses(asked, plan, found, quiet_progress()) == []
    expected = [("fastln", 1, 2, 0.001)] * len(OPERATIONS)
    assert [(p.contender, p.threads, p.repeats, p.pause) for p in found.pauses] == expected
    assert all(0 < p.median <= p.percentile_90 for p in found.pauses)
    assert run.pauses_left(plan, found) == []
    titles = [operation.title for operation in OPERATIONS.values()]
    assert [row[0] for row in report.pauses_table(found).rows] == [f"{title} 2x64" for title in titles]
    files.save(found, tmp_path)
    assert files.load(tmp_path).pauses == found.pauses


def test_a_process_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr(pauses.sys, "executable", "false")
    with pytest.raises(pauses.PausesError, match="ended with status 1"):
        list(pauses.measure_in_a_process([], [], [1], 1))


def test_the_full_run_pauses_for_less_than_three_minutes():
    contenders_and_threads = 2 * len(pauses.CONTENDERS_TIMED)
    assert contenders_and_threads * sum(p.seconds * p.repeats for p in pauses.PAUSES["full"]) < 160


# Measuring


def test_everyone_takes_part_until_clearly_slower(rng):
    seconds = {"fast": 1e-6, "close": 1.1e-6, "slow": 1e-4}
    times = measure.take_turns(list(seconds), seconds.get, "fast", rounds=12, seconds=60, rng=rng)
    assert [int(np.isfinite(times[name]).sum()) for name in seconds] == [12, 12, measure.FEW_ROUNDS]
    assert len(times["slow"]) == 12


def test_dear_calls_sit_out_after_one_round(rng):
    seconds = {"subject": 1.0, "close": 1.5, "dear": 10.0, "slow": 0.05}
    times = measure.take_turns(list(seconds), seconds.get, "subject", rounds=9, seconds=60, rng=rng)
    assert [int(np.isfinite(times[name]).sum()) for name in seconds] == [9, 9, 1, 9]


def test_a_fast_floor_sends_nobody_out(rng):
    seconds = {"floor": 0.01, "subject": 1.0, "peer": 1.5}
    times = measure.take_turns(list(seconds), seconds.get, "subject", rounds=12, seconds=60, rng=rng)
    assert all(np.isfinite(values).all() for values in times.values())


def test_the_order_is_random_in_each_round(rng):
    orders = []
    measure.take_turns(list("abcd"), lambda name: orders.append(name) or 1.0, "a", rounds=8, seconds=60, rng=rng)
    assert len({tuple(orders[i : i + 4]) for i in range(0, len(orders), 4)}) > 3


def test_rounds_end_when_the_time_is_up(rng):
    assert len(measure.take_turns(["a"], lambda _: 1.0, "a", rounds=10**6, seconds=1e-9, rng=rng)["a"]) == 1


def test_time_for_rounds_shrinks_when_preparing_takes_long():
    effort = command_line.EFFORTS["quick"]
    assert effort.within(1e9) == effort
    assert effort.within(1.0).seconds < effort.seconds


# Contenders: who is right, who is refused


def any_operation_broken(arrays):
    """A contender that forgets the bias."""
    y = (arrays.x - arrays.x.mean(-1, keepdims=True)) / arrays.x.std(-1, keepdims=True) * arrays.weight
    return Prepared(lambda: y, lambda y: (y,))


def any_operation_failing(arrays):
    raise RuntimeError(f"cannot do {arrays.x.shape}\nwith details")


def set_threads(threads):
    """What the registry asks a module for."""


def make_contender(way="broken", **options):
    return contenders.Contender("impostor", contenders.PEER, "tests.of_this_module", way, **options)


@pytest.fixture(autouse=True)
def this_module_under_a_dotted_name(monkeypatch):
    """The registry looks functions up by the names of their modules."""
    monkeypatch.setitem(sys.modules, "tests", sys.modules[__name__])
    monkeypatch.setitem(sys.modules, "tests.of_this_module", sys.modules[__name__])


def quiet_progress():
    from rich.console import Console

    from benchmarks.shown.progress import Progress

    progress = Progress(Console(quiet=True))
    progress.steps, progress.finished, progress.start = 1, 0, 0.0
    progress.task = progress.bar.add_task("")
    return progress


def execute(chosen, folder, cells=(CELL,)):
    plan = run.Plan(list(cells), chosen, measure.Effort(5, 2, 60, 60, 600), seed=1)
    found = run.new_results(plan, "a test")
    finished = run.execute(plan, found, folder, quiet_progress())
    return found, finished


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 33), (40, 64)])
def test_fastln_and_numpy_are_right(operation, dtype, shape):
    arrays = make_arrays(Cell(operation, *shape, dtype, 1))
    exact = exact_outputs(arrays)
    for contender in contenders.select(["numpy", "numpy-at-best"]):
        _, error = contender.prepare_checked(arrays, exact)
        if contender.kind in (contenders.SUBJECT, contenders.VARIANT):
            assert error <= (1 if dtype in SIXTEEN_BITS else 4 if "dx" in OPERATIONS[operation].writes else 2)
        elif contender.kind == contenders.PEER:
            assert error < 100


def test_fastln_is_called_by_position_as_fast_code_calls_it():
    arrays = make_arrays(Cell(LAYER_NORM_BACKWARD, 3, 64, "float32", 1))
    call = fastln_calls.any_operation(arrays).call
    expected = (arrays.dy, arrays.x, arrays.mean, arrays.rstd, arrays.weight)
    assert call.func is fastln.layer_norm_backward
    assert all(found is array for found, array in zip(call.args, expected, strict=True))
    assert set(call.keywords) == {"out"}


def test_fastln_writes_both_results_to_the_buffers_of_the_caller():
    arrays = make_arrays(Cell(ADD_LAYER_NORM, 3, 64, "float32", 1))
    prepared = fastln_calls.any_operation(arrays)
    y, s = prepared.outputs(prepared.call())
    assert y is arrays.out
    assert s is arrays.sum


def test_a_wrong_result_is_refused_with_its_error(tmp_path):
    found, _ = execute([*contenders.select([]), make_contender()], tmp_path)
    entry = found.cells[0].entries["impostor"]
    assert entry.error > contenders.LARGEST_ERROR
    assert entry.warm is None
    (line,) = report.absences(found)
    assert line.startswith("impostor: wrong result: largest error ")
    assert "refused" in markdown.to_markdown(found)


def test_a_failure_is_one_line(tmp_path):
    found, finished = execute([*contenders.select([]), make_contender("failing")], tmp_path)
    assert finished
    assert list(report.absences(found)) == [f"impostor: RuntimeError: cannot do (3, 64) ({CELL})"]


def test_a_missing_peer_is_one_line(tmp_path):
    absent = make_contender(needs=("no_such_module",))
    found, finished = execute([*contenders.select([]), absent], tmp_path)
    assert finished
    assert list(report.absences(found)) == ["impostor: not installed: pip install no_such_module"]


def test_who_has_no_function_of_the_name_has_no_such_operation(tmp_path):
    found, finished = execute([*contenders.select([]), make_contender("absent")], tmp_path)
    assert finished
    assert list(report.absences(found)) == [f"impostor: has no layer_norm ({CELL})"]


def test_who_computes_in_fewer_dtypes_says_so():
    with pytest.raises(contenders.RefusedError, match="computes in float32 only"):
        make_contender(dtypes=("float32",)).prepare(make_arrays(Cell(LAYER_NORM, 3, 64, "float64", 1)))


def test_a_missing_onednn_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(onednn, "_load", lambda: (None, onednn.INSTALL))
    found, finished = execute(contenders.select(["onednn"]), tmp_path, [CELL, Cell(LAYER_NORM, 3, 65, "float32", 1)])
    assert finished
    assert list(report.absences(found)) == ["oneDNN: not installed: apt-get install libdnnl-dev"]


def test_onednn_that_cannot_be_compiled_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(onednn, "LIBRARY", tmp_path / "new" / "onednn.so")
    monkeypatch.setenv("CXX", "no-such-compiler")
    onednn._load.cache_clear()
    try:
        assert onednn.missing() == "not built: no-such-compiler: No such file or directory"
    finally:
        onednn._load.cache_clear()


@pytest.mark.parametrize("operation", [LAYER_NORM, LAYER_NORM_BACKWARD])
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("shape", [(1, 33), (40, 64)])
def test_onednn_is_right_where_it_is_installed(operation, offset, shape):
    if reason := onednn.missing():
        pytest.skip(reason)
    arrays = make_arrays(Cell(operation, *shape, "float32", 1, offset))
    (contender,) = (found for found in contenders.CONTENDERS if found.kind == contenders.NATIVE)
    contender.set_threads(1)
    assert contender.prepare_checked(arrays, exact_outputs(arrays))[1] < 100


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((), "outputs must be y, got 0"),
        ((np.zeros((3, 63), np.float32),), "y must be float32 of shape"),
        ((np.zeros((3, 64)),), "got float64"),
    ],
)
def test_outputs_that_cannot_be_judged_are_named(outputs, message):
    with pytest.raises(OutputsError, match=message):
        largest_error(outputs, exact_outputs(make_arrays(CELL)))


def test_nan_is_an_infinite_error():
    arrays = make_arrays(CELL)
    assert largest_error((np.full_like(arrays.x, np.nan),), exact_outputs(arrays)) == np.inf


def test_errors_of_the_gradients_are_seen_in_each_output():
    arrays = make_arrays(Cell(LAYER_NORM_BACKWARD, 5, 64, "float64", 1))
    exact = exact_outputs(arrays)
    right = [output.value.astype(np.float64) for output in exact.outputs]
    assert largest_error(tuple(right), exact) <= 0.5
    for i in range(3):
        wrong = [output.copy() for output in right]
        wrong[i].flat[0] += 1e-3
        assert largest_error(tuple(wrong), exact) > 1e6


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_is_judged_and_what_is_normalized_is_the_rounded_one(dtype):
    arrays = make_arrays(Cell(ADD_LAYER_NORM, 5, 64, dtype, 1))
    arrays.x[:] = 1024 * arrays.x  # so that most of the residual is rounded away in 16 bits
    y, _ = exact_outputs(arrays).outputs
    rounded = arrays.x + arrays.residual
    plain = make_arrays(Cell(LAYER_NORM, 5, 64, dtype, 1))
    plain.x[:], plain.weight[:], plain.bias[:] = rounded, arrays.weight, arrays.bias
    np.testing.assert_array_equal(y.value, exact_outputs(plain).outputs[0].value)
    assert largest_error((y.value.astype(rounded.dtype), rounded), exact_outputs(arrays)) <= 0.5
    wrong = rounded.copy()
    wrong[2, 3] *= 2
    assert largest_error((y.value.astype(rounded.dtype), wrong), exact_outputs(arrays)) > 10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", [ADD_LAYER_NORM_BACKWARD, ADD_RMS_NORM_BACKWARD])
def test_what_flows_back_beside_the_norm_is_part_of_dx(operation, dtype):
    arrays = make_arrays(Cell(operation, 5, 64, dtype, 1))
    dx, *_ = exact_outputs(arrays).outputs
    arrays.ds[:] = 0
    without, *_ = exact_outputs(arrays).outputs
    added = make_arrays(Cell(operation, 5, 64, dtype, 1)).ds.astype(dx.value.dtype)
    np.testing.assert_allclose(dx.value - without.value, added, rtol=0, atol=1e-9)


def test_the_sweep_finds_fastln_exact_and_leaves_out_who_fails(tmp_path):
    found, _ = execute([*contenders.select(["numpy"]), make_contender("failing")], tmp_path)
    assert set(found.errors) == {"fastln", "NumPy"}
    assert max(found.errors["fastln"].values()) <= 2
    assert max(found.errors["NumPy"].values()) > 100


# Shapes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("128x768", (128, 768)),
        ("bert-base@128", (128, 768)),
        ("bert-base@8x128", (1024, 768)),
        ("vit-large", (197, 1024)),
        ("llama-7b@1", (1, 4096)),
    ],
)
def test_shapes_are_parsed(text, expected):
    assert shapes.parse_shape(text) == expected


@pytest.mark.parametrize(
    "text", ["", "768", "0x768", "3x-1", "bert-base@", "bert-base@0", "bart@128", "999999999x999999"]
)
def test_a_bad_shape_is_named(text):
    with pytest.raises(ValueError, match=r"must .*, got '"):
        shapes.parse_shape(text)


# Files


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the results of a small run, and these results."""
    folder = tmp_path_factory.mktemp("saved")
    cells = [Cell(operation, rows, 64, "float32", 1) for operation in OPERATIONS for rows in (1, 5)]
    return folder, execute(contenders.select(["numpy"]), folder, cells)[0]


@pytest.fixture
def small_results(saved):
    return saved[1]


def test_results_survive_a_round_trip(saved, tmp_path):
    folder, made = saved
    loaded = files.load(folder)
    files.save(loaded, tmp_path)
    assert (tmp_path / files.FILE).read_text() == (folder / files.FILE).read_text()
    assert results.means(loaded) == results.means(made)


def test_results_hold_medians_and_intervals_and_no_single_times(saved):
    text = (saved[0] / files.FILE).read_text()
    entry = json.loads(text)["cells"][0]["contenders"]["fastln"]
    for cache, rounds in (("warm", 15), ("cold", 6)):
        assert set(entry[cache]) == {"seconds", "rounds", "speed_up"}
        assert entry[cache]["rounds"] == rounds
        value, low, high = entry[cache]["seconds"]
        assert low < value < high
        assert entry[cache]["speed_up"][0] == 1
    assert sum(line.lstrip().startswith('"NumPy": {') for line in text.splitlines()) >= 4  # a contender is a line


def test_every_single_time_is_beside_them_to_go_on_from(saved):
    folder, made = saved
    loaded = files.load_with_times(folder)
    assert [len(visit) for visit in loaded.cells[0].times["warm"]["fastln"]] == [5, 5, 5]
    for result in loaded.cells:
        result.sum_up()
    assert results.means(loaded) == results.means(made)


def test_results_without_their_times_cannot_be_gone_on_with(saved, tmp_path):
    files.save(saved[1], tmp_path)
    with pytest.raises(files.ResultsError, match=r"cannot read .*times\.json"):
        files.load_with_times(tmp_path)


def test_operations_may_go_by_their_titles_as_they_once_did(saved, tmp_path):
    folder, made = saved
    for name in (files.FILE, files.TIMES_FILE):
        text = (folder / name).read_text()
        for operation in reversed(OPERATIONS.values()):  # the longer name first
            text = text.replace(f'"{operation.name}"', f'"{operation.title}"')
        (tmp_path / name).write_text(text)
    former = files.load_with_times(tmp_path)
    assert [result.cell for result in former.cells] == [result.cell for result in made.cells]
    assert results.means(former) == results.means(made)


def test_the_former_format_is_named(tmp_path):
    (tmp_path / "results.json").write_text('{"format": 1, "cells": []}')
    with pytest.raises(files.ResultsError, match="must hold results of format 2 of this benchmark, got format 1"):
        files.load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 99, "cells": []}'])
def test_a_file_without_results_is_named(tmp_path, content):
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(files.ResultsError, match=r"some.json must hold"):
        files.load(path)


def test_markdown_fills_a_document_between_its_markers(small_results, tmp_path):
    document = tmp_path / "DOCUMENT.md"
    document.write_text(f"before\n{markdown.BEGIN}\nstale\n{markdown.END}\nafter\n")
    for _ in range(2):
        markdown.fill(document, markdown.to_markdown(small_results, "results"))
        text = document.read_text()
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "stale" not in text
        assert text.count("| 5x64 |") >= 2
        assert 'srcset="results/pictures/speed_ups-dark.png"' in text
    document.write_text("no markers")
    with pytest.raises(markdown.MarkersError, match="must have the lines"):
        markdown.fill(document, "text")


def test_tables_in_markdown_have_as_many_cells_in_each_row(small_results):
    tables = [report.summary_tables, report.floors_tables, report.means_tables]
    for table in (table for tables_of in tables for table in tables_of(small_results)):
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_pictures_are_drawn_light_and_dark(small_results, tmp_path):
    drawn = pictures.draw_all(small_results, tmp_path)
    names = {path.name for path in drawn}
    assert {"errors-light.png", "errors-dark.png", "roofline-light.png", "speed_ups-dark.png"} <= names
    assert all(path.stat().st_size > 5000 for path in drawn)


# Comparing two runs


def synthetic_results(rng, fastln=1.0):
    """Make fastln take so many times as long as NumPy."""
    found = results.Results(settings={}, machine=MACHINE, libraries={})
    peer, own = make_times(rng, 1.0, scatter=0.02)
    kinds = {"fastln": contenders.SUBJECT, "NumPy": contenders.PEER}
    cell = results.CellResult(CELL, entries={name: results.Entry(kind) for name, kind in kinds.items()})
    for visit in zip((own * fastln).tolist(), peer.tolist(), strict=True):
        times = dict(zip(kinds, visit, strict=True))
        cell.add(measure.Samples(warm=times, cold=times))
    found.cells.append(cell)
    return found


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.5, 1), (1 / 1.5, 0)])
def test_compare_exits_with_1_on_a_regression_only(rng, tmp_path, capsys, factor, status):
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder, slower in zip(folders, (1.0, factor), strict=True):
        folder.mkdir()
        files.save(synthetic_results(rng, slower), folder)
    assert command_line.main(["compare", *map(str, folders)]) == status
    expected = {1.0: "0 faster, 0 slower", 1.5: "0 faster, 2 slower"}.get(factor, "2 faster, 0 slower")
    assert expected in capsys.readouterr().out


def test_compare_takes_visits_of_different_lengths_and_refused_contenders(rng):
    before, after = synthetic_results(rng), synthetic_results(rng)
    (cell,) = after.cells
    for visits in cell.times["warm"].values():
        del visits[1][7:]
    cell.sum_up()
    for found in (before, after):
        found.cells[0].entries["refused"] = results.Entry(contenders.PEER, refused="why")
    assert {found.against for found in compare.compare(before, after)} == {"NumPy"}
    assert compare.contradictions(before, after) == []


def test_compare_falls_back_to_times_where_nobody_else_is_in_both_runs():
    before, after = (results_of(cell_of_ratio(2.0, over=name)) for name in ("NumPy", "PyTorch"))
    for change in compare.compare(before, after):
        assert change.against == "its time alone"
        assert change.ratio == pytest.approx((1.0, 0.45, 1 / 0.45))


def test_contradictions_are_found(rng):
    faster, slower = (synthetic_results(rng, factor) for factor in (0.7, 1.5))
    assert compare.contradictions(faster, faster) == []
    assert len(compare.contradictions(faster, slower)) == 2


# The command line


def test_a_tiny_run_leaves_everything_in_one_folder(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert command_line.main(["run", *TINY, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed.replace("\n", "")
    assert "speed-up" in printed
    assert {path.name for path in out.iterdir()} == {"results.json", "times.json", "results.md", "pictures"}
    assert files.load(out).complete
    document = tmp_path / "DOCUMENT.md"
    document.write_text(f"{markdown.BEGIN}\n{markdown.END}\n")
    assert command_line.main(["report", str(out), "--into", str(document)]) == 0
    assert "2x64" in document.read_text()
    capsys.readouterr()
    assert command_line.main(["report", str(out), "--excerpt"]) == 0
    assert capsys.readouterr().out.startswith("Regimes, ")


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(tmp_path, capsys, monkeypatch):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure.measure(*arguments, **options)

    monkeypatch.setattr(run, "measure", interrupted)
    arguments = ["run", *TINY, "--shapes", "2x64", "3x64", "--operations", "forward", "--out", str(tmp_path)]
    assert command_line.main(arguments) == 130
    kept = files.load(tmp_path)
    assert not kept.complete
    assert [cell.visits for cell in kept.cells] == [1, 1]
    assert "Ended early" in capsys.readouterr().out
    assert (tmp_path / "results.md").exists()

    assert command_line.main([*arguments, "--resume"]) == 0
    assert len(calls) == 3 + 4
    whole = files.load(tmp_path)
    assert whole.complete
    assert [cell.visits for cell in whole.cells] == [3, 3]
    assert command_line.main(["run", *TINY, "--resume", "--out", str(tmp_path)]) == 2
    assert "--resume must be" in capsys.readouterr().err


def test_operations_are_asked_for_by_name_or_title():
    asked = command_line.parse_args(["run", "--operations", "forward", "layer_norm_backward"])
    assert asked.operations == [LAYER_NORM, LAYER_NORM_BACKWARD]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--shapes", "12"], "--shapes: must be"),
        (["run", "--threads", "0"], "--threads: must be"),
        (["run", "--threads", "many"], "--threads: must be"),
        (["run", "--dtypes", "int8"], "--dtypes: must be"),
        (["run", "--operations", "sideways"], "--operations: must be"),
        (["run", "--peers", "abacus"], "--peers: must be"),
        (["run", "--rounds", "-1"], "--rounds: must be"),
        (["run", "--offsets", "8"], "--offsets: must be 16 or 0, got '8'"),
        (["run", "--pauses", "0"], "--pauses: must be"),
        (["run", "--quick", "--full"], "not allowed with"),
        (["walk"], "invalid choice"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(arguments)
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last


@pytest.mark.parametrize(
    "command", [["compare", "no", "where"], ["report", "nowhere"], ["run", "--out", "/dev/null/x"]]
)
def test_bad_files_are_one_line_and_status_2(capsys, command):
    assert command_line.main(command) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_readme_quotes_the_results_that_are_kept():
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks" / "results").is_dir():
        pytest.skip("the kept results are not beside tests/: run these tests from a clone")
    text = excerpt.to_excerpt(files.load(root / "benchmarks" / "results")).replace(
        "over best peer", "over the fastest peer"
    )
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for line in lines if line.startswith("| ") and ", over " in line]
    assert len(quoted) == 12
    for line in quoted:
        assert line.replace(", over", ", warm: over") in text
