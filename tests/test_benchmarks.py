"""The benchmark: what its statistics say of synthetic timings, whom it refuses, what it writes, its command line."""

import json
import sys

import numpy as np
import pytest

for _name in ("benchmarks", "rich", "matplotlib", "psutil", "cpuinfo"):
    pytest.importorskip(_name, reason=f"{_name} is missing: run these tests from a clone, as make test does")

from benchmarks import __main__ as command_line  # noqa: E402
from benchmarks import (  # noqa: E402
    compare,
    contenders,
    intervals,
    markdown,
    measure,
    pictures,
    report,
    results,
    run,
    shapes,
)
from benchmarks.cells import BACKWARD, DTYPES, FORWARD, OPERATIONS, Cell, Prepared, make_arrays  # noqa: E402
from benchmarks.errors import OutputsError, exact_outputs, largest_error  # noqa: E402

CELL = Cell(FORWARD, 3, 64, "float32", 1)
TINY = ["--shapes", "2x64", "--rounds", "5", "--threads", "1", "--peers", "numpy"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def threads_as_before():  # of the module: fixtures of the module run the command, which sets them
    import fastln

    previous = fastln.get_num_threads()
    yield
    fastln.set_num_threads(previous)


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


def test_geometric_mean():
    assert intervals.geometric_mean([0.5, 2.0]) == pytest.approx(1)
    assert np.isnan(intervals.geometric_mean([]))


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


def broken(arrays):
    """A contender that forgets the bias."""
    y = (arrays.x - arrays.x.mean(-1, keepdims=True)) / arrays.x.std(-1, keepdims=True) * arrays.weight
    return Prepared(lambda: y, lambda y: (y,))


def failing(arrays):
    raise RuntimeError(f"cannot do {arrays.x.shape}\nwith details")


def set_threads(threads):
    """What the registry asks a module for."""


def make_contender(function="broken", **options):
    return contenders.Contender(
        "impostor", contenders.PEER, "tests.of_this_module", dict.fromkeys(OPERATIONS, function), **options
    )


@pytest.fixture(autouse=True)
def this_module_under_a_dotted_name(monkeypatch):
    """The registry looks functions up by the names of their modules."""
    monkeypatch.setitem(sys.modules, "tests", sys.modules[__name__])
    monkeypatch.setitem(sys.modules, "tests.of_this_module", sys.modules[__name__])


def execute(chosen, folder, cells=(CELL,), console=None, **changed):
    from rich.console import Console

    from benchmarks.progress import Progress

    plan = run.Plan(list(cells), chosen, measure.Effort(5, 2, 60, 60, 600), seed=1)
    found = run.new_results(plan, "a test")
    finished = run.execute(plan, found, folder, Progress(console or Console(quiet=True)))
    return found, finished


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 33), (40, 64)])
def test_fastln_and_numpy_are_right(operation, dtype, shape):
    arrays = make_arrays(Cell(operation, *shape, dtype, 1))
    exact = exact_outputs(operation, arrays)
    for contender in contenders.select(["numpy", "numpy-at-best"]):
        _, error = contender.prepare_checked(operation, arrays, exact)
        if contender.kind in (contenders.SUBJECT, contenders.VARIANT):
            assert error <= (2 if operation == FORWARD else 4)
        elif contender.kind == contenders.PEER:
            assert error < 100


def test_a_wrong_result_is_refused_with_its_error(tmp_path):
    found, _ = execute([*contenders.select([]), make_contender()], tmp_path)
    entry = found.cells[0].entries["impostor"]
    assert entry.error > contenders.LARGEST_ERROR
    assert not any(map(len, entry.warm))
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
        largest_error(outputs, exact_outputs(FORWARD, make_arrays(CELL)))


def test_nan_is_an_infinite_error():
    arrays = make_arrays(CELL)
    assert largest_error((np.full_like(arrays.x, np.nan),), exact_outputs(FORWARD, arrays)) == np.inf


def test_errors_of_the_gradients_are_seen_in_each_output():
    arrays = make_arrays(Cell(BACKWARD, 5, 64, "float64", 1))
    exact = exact_outputs(BACKWARD, arrays)
    right = [output.value.astype(np.float64) for output in exact.outputs]
    assert largest_error(tuple(right), exact) <= 0.5
    for i in range(3):
        wrong = [output.copy() for output in right]
        wrong[i].flat[0] += 1e-3
        assert largest_error(tuple(wrong), exact) > 1e6


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
    loaded = results.load(folder)
    loaded.save(tmp_path)
    assert (tmp_path / results.FILE).read_text() == (folder / results.FILE).read_text()
    assert results.means(loaded) == results.means(made)


def test_raw_times_of_all_visits_are_in_the_json(saved):
    cell = json.loads((saved[0] / results.FILE).read_text())["cells"][0]
    assert [len(visit) for visit in cell["contenders"]["fastln"]["warm"]] == [5, 5, 5]
    assert [len(visit) for visit in cell["contenders"]["fastln"]["cold"]] == [2, 2, 2]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 99, "cells": []}'])
def test_a_file_without_results_is_named(tmp_path, content):
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(results.ResultsError, match=r"some.json must hold"):
        results.load(path)


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
        assert 'srcset="results/pictures/heat_map-dark.png"' in text
    document.write_text("no markers")
    with pytest.raises(markdown.MarkersError, match="must have the lines"):
        markdown.fill(document, "text")


def test_tables_in_markdown_have_as_many_cells_in_each_row(small_results):
    tables = [*report.summary_tables(small_results), report.means_table(small_results)]
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_pictures_are_drawn_light_and_dark(small_results, tmp_path):
    drawn = pictures.draw_all(small_results, tmp_path)
    names = {path.name for path in drawn}
    assert {"errors-light.png", "errors-dark.png", "roofline-light.png", "heat_map-dark.png"} <= names
    assert all(path.stat().st_size > 5000 for path in drawn)


# Comparing two runs


def synthetic_results(rng, fastln=1.0):
    """Make fastln take so many times as long as NumPy."""
    found = results.Results(settings={}, machine={}, libraries={})
    peer, own = make_times(rng, 1.0, scatter=0.02)
    kinds = {"fastln": contenders.SUBJECT, "NumPy": contenders.PEER}
    entries = {
        name: results.Entry(kinds[name], warm=times.tolist(), cold=times.tolist())
        for name, times in (("fastln", own * fastln), ("NumPy", peer))
    }
    found.cells.append(results.CellResult(CELL, 2, entries))
    return found


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.5, 1), (1 / 1.5, 0)])
def test_compare_exits_with_1_on_a_regression_only(rng, tmp_path, capsys, factor, status):
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder, slower in zip(folders, (1.0, factor), strict=True):
        folder.mkdir()
        synthetic_results(rng, slower).save(folder)
    assert command_line.main(["compare", *map(str, folders)]) == status
    expected = {1.0: "0 faster, 0 slower", 1.5: "0 faster, 2 slower"}.get(factor, "2 faster, 0 slower")
    assert expected in capsys.readouterr().out


def test_compare_takes_visits_of_different_lengths_and_refused_contenders(rng):
    before, after = synthetic_results(rng), synthetic_results(rng)
    for entry in after.cells[0].entries.values():
        del entry.warm[1][7:]
    for found in (before, after):
        found.cells[0].entries["refused"] = results.Entry(contenders.PEER, refused="why", warm=[[], []], cold=[[], []])
    assert {found.against for found in compare.compare(before, after)} == {"NumPy"}
    assert compare.contradictions(before, after) == []


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
    assert {path.name for path in out.iterdir()} == {"results.json", "results.md", "pictures"}
    assert results.load(out).complete
    document = tmp_path / "DOCUMENT.md"
    document.write_text(f"{markdown.BEGIN}\n{markdown.END}\n")
    assert command_line.main(["report", str(out), "--into", str(document)]) == 0
    assert "2x64" in document.read_text()


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
    kept = results.load(tmp_path)
    assert not kept.complete
    assert [cell.visits for cell in kept.cells] == [1, 1]
    assert "Ended early" in capsys.readouterr().out
    assert (tmp_path / "results.md").exists()

    assert command_line.main([*arguments, "--resume"]) == 0
    assert len(calls) == 3 + 4
    whole = results.load(tmp_path)
    assert whole.complete
    assert [cell.visits for cell in whole.cells] == [3, 3]
    assert command_line.main(["run", *TINY, "--resume", "--out", str(tmp_path)]) == 2
    assert "--resume must be" in capsys.readouterr().err


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
