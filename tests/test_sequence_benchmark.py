"""The benchmark of sequences: who is judged by what, what a run comes to, and its command line."""

import json

import numpy as np
import pytest

import fastln

for _name in ("benchmarks", "rich", "psutil", "cpuinfo"):
    pytest.importorskip(_name, reason=f"{_name} is missing: run these tests from a clone, as make test does")

from benchmarks.contenders import SUBJECT, RefusedError  # noqa: E402
from benchmarks.grid.arrays import Prepared  # noqa: E402
from benchmarks.sequences import __main__ as command_line  # noqa: E402
from benchmarks.sequences import run  # noqa: E402
from benchmarks.sequences.cells import SEQUENCE, TRAINING, Cell, exact_outputs, make_arrays  # noqa: E402
from benchmarks.sequences.contenders import CONTENDERS, select  # noqa: E402

TINY = Cell(SEQUENCE, hidden=16, batch=2, threads=1, steps=4)


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = fastln.get_num_threads()
    yield
    fastln.set_num_threads(before)


@pytest.mark.parametrize("work", [SEQUENCE, TRAINING])
def test_fastln_and_numpy_are_right(work):
    arrays = make_arrays(Cell(work, 16, 2, 1, 4))
    for contender in CONTENDERS[:3]:
        if work == TRAINING and contender.name != "fastln":
            with pytest.raises(RefusedError, match="has no training"):
                contender.prepare_checked(arrays, exact_outputs(arrays))
            continue
        _, error = contender.prepare_checked(arrays, exact_outputs(arrays))
        assert error < 100


@pytest.mark.parametrize("work", [SEQUENCE, TRAINING])
def test_a_wrong_result_is_refused(work, monkeypatch):
    contender = next(contender for contender in CONTENDERS if contender.kind == SUBJECT)
    arrays = make_arrays(Cell(work, 16, 2, 1, 4))
    module, prepare = contender._module(), getattr(contender._module(), work)

    def spoiled(arrays):
        right = prepare(arrays)

        def outputs(found):
            *others, last = right.outputs(found)
            last = last.copy()
            last[0] += np.float32(0.1) * np.abs(last).max()
            return (*others, last)

        return Prepared(right.call, outputs)

    monkeypatch.setattr(module, work, spoiled)
    with pytest.raises(RefusedError, match="wrong result"):
        contender.prepare_checked(arrays, exact_outputs(arrays))


def times_of(**seconds):
    """A cell in which each contender has taken so long, in every round."""
    result = run.CellTimes(TINY, dict.fromkeys(seconds, "peer") | {"fastln": SUBJECT})
    result.visits = {name: [[value] * 5] for name, value in seconds.items()}
    return result


def test_means_are_over_cells_and_over_the_best_peer_of_each():
    results = [times_of(fastln=1.0, one=2.0, other=4.0), times_of(fastln=1.0, one=8.0, other=1.0)]
    means = run.means(results)
    assert means[SEQUENCE, 1, "one"] == pytest.approx(4)
    assert means[SEQUENCE, 1, "other"] == pytest.approx(2)
    assert means[SEQUENCE, 1, "best peer"] == pytest.approx(2**0.5)
    assert results[1].best_peer() == "other"


def test_a_run_says_and_saves_what_it_measured(tmp_path, capsys):
    arguments = ["--hidden", "16", "--batches", "2", "--threads", "1", "--rounds", "3", "--out", str(tmp_path)]
    assert command_line.main([*arguments, "--peers", "numpy-and-fastln.layer_norm"]) == 0
    out = capsys.readouterr().out
    assert "sequence, 16 units, batch 2, 1 thread: us a step: fastln " in out
    assert "geometric mean over best peer: " in out
    (cell,) = json.loads((tmp_path / "sequences.json").read_text())["cells"]
    assert len(cell["visits"]["fastln"]) == 3
    assert cell["errors"]["fastln"] < 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hidden", "0"], "argument --hidden: must be a whole number above 0, got '0'"),
        (["--peers", "cudnn"], "argument --peers: must be of numpy-and-fastln.layer_norm, onnx-runtime-scan"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit):
        command_line.main(arguments)
    assert words in capsys.readouterr().err


def test_contenders_are_selected_by_their_keys():
    assert [contender.name for contender in select(["numba"])] == ["fastln", "fastln frozen", "numba"]
    assert select(None) == list(CONTENDERS)
