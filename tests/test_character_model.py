"""The character model: its LSTM's gradients, what it trains on, what it reports and writes, and its command line."""

import importlib.util
import json

import numpy as np
import pytest
from scripts import EXAMPLES, loaded, run_script, take_away

SCRIPT = EXAMPLES / "character_model.py"
if not SCRIPT.exists():
    pytest.skip("examples/ is not beside tests/: run these tests from a clone", allow_module_level=True)
for _name in ("matplotlib", "threadpoolctl", "tqdm"):
    if importlib.util.find_spec(_name) is None:
        pytest.skip(f"{_name} is missing", allow_module_level=True)

SHORT = ["--steps", "6", "--hidden", "8", "--seeds", "2", "--length", "10", "--batch", "4", "--characters", "20"]


@pytest.fixture(scope="module")
def example():
    with loaded(SCRIPT) as module:
        yield module


@pytest.mark.parametrize("kind", ["LSTM", "LN-LSTM"])
def test_gradients_match_central_differences(example, kind):
    rng = np.random.default_rng(0)
    model = example.CharacterModel(kind, 5, 4, rng, np.float64)
    for p in model.parameters.values():
        p += 0.1 * rng.standard_normal(p.shape)
    numbers = rng.integers(5, size=(4, 3))
    state = tuple(rng.standard_normal((1, 3, 4)) for _ in range(2))
    _, gradients, _ = model.loss_and_gradients(numbers, state)
    assert list(gradients) == list(model.parameters)
    h = np.finfo(np.float64).eps ** (1 / 3)
    for name, p in model.parameters.items():
        way = rng.standard_normal(p.shape)
        p += h * way
        above = model.loss_and_gradients(numbers, state)[0]
        p -= 2 * h * way
        below = model.loss_and_gradients(numbers, state)[0]
        p += h * way
        slope = (above - below) / (2 * h) * np.log(2)
        assert abs(slope - (gradients[name] * way).sum()) < 1000 * h**2, name


def test_the_lstm_is_pytorchs(example):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(0)
    ours, theirs = example.LSTM(3, 5, rng, np.float64), torch.nn.LSTM(3, 5, dtype=torch.float64)
    named = ours.parameters
    state = {name: torch.tensor(named[name]) for name in ("weight_ih_l0", "weight_hh_l0")}
    state |= {"bias_ih_l0": torch.tensor(named["bias_l0"] + 0.5), "bias_hh_l0": torch.full((20,), -0.5)}
    theirs.load_state_dict(state)
    x, first = rng.standard_normal((6, 2, 3)), tuple(rng.standard_normal((1, 2, 5)) for _ in range(2))
    (y, (h, c)), _ = ours.forward(x, first)
    with torch.no_grad():
        expected, (last_h, last_c) = theirs(torch.tensor(x), tuple(map(torch.tensor, first)))
    for one, right in ((y, expected), (h, last_h), (c, last_c)):
        np.testing.assert_allclose(one, right.numpy(), rtol=0, atol=20 * np.finfo(np.float64).eps)


def test_batches_read_every_character_once_and_in_order(example):
    text = example.Text(np.arange(1000), "")
    batches = example.cut_into_batches(text, length=7, batch=4)
    assert batches.shape == (35, 8, 4)
    read = batches[:, :-1].transpose(2, 0, 1).reshape(4, -1)
    np.testing.assert_array_equal(read.ravel(), np.arange(980))
    np.testing.assert_array_equal(batches[:, 1:], batches[:, :-1] + 1)


def test_the_text_is_that_of_the_standard_library(example):
    text = example.load_text()
    assert len(text.numbers) > 400_000
    assert 80 < len(text.alphabet) < 200
    assert "".join(text.alphabet[i] for i in text.numbers[:4000]).count(" the ") > 10


def test_text_is_written_step_by_step_as_one_call_would_predict(example):
    rng = np.random.default_rng(0)
    model = example.CharacterModel("LN-LSTM", 4, 6, rng)
    written = example.write_text(model, "abcd", "ab", 12, np.random.default_rng(1))
    assert written[:2] == "ab"
    assert len(written) == 14
    numbers = np.array(["abcd".index(c) for c in written])
    y, _ = model.network(model.rows[numbers[:-1]])
    p = np.exp(example.log_softmax(y @ model.weight.T + model.bias)).astype(np.float64)
    draw = np.random.default_rng(1)
    again = [draw.choice(4, p=row / row.sum()) for row in p[1:]]
    assert again == numbers[2:].tolist()


def test_a_short_run_learns_and_saves_everything(tmp_path):
    done = run_script(SCRIPT, *SHORT, "--steps", "30", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for words in (
        "| LSTM ",
        "| LN-LSTM ",
        "- Each at its best rate",
        "- From the best rate",
        "LN-LSTM writes:\n\nThe ",
    ):
        assert words in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "bits" in (tmp_path / "table.md").read_text()
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["settings"]["rates"] == [0.003, 0.01, 0.03]
    assert len(saved["results"]) == 6
    for run in saved["results"]:
        bits = np.array(run["bits"])
        assert bits.shape == (2, 30)
        assert (bits[:, :2] > 6).all()  # of some hundred characters a guess takes 6.7
        assert (bits[:, -5:].mean(axis=1) < bits[:, :5].mean(axis=1)).all()


def test_seeds_decide_everything(example):
    settings = example.Settings(steps=3, hidden=8, seeds=1, rates=[0.01], length=5, batch=2, seed=4)
    text = example.load_text()
    runs = [example.run_experiment(settings, text)[0] for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.bits, other.bits)


def curve(example, kind, rate, bits):
    return example.Curve(kind, rate, np.full((1, 40), bits))


def test_the_summary_says_what_the_results_say(example):
    curves = [curve(example, "LSTM", 1, 3.0), curve(example, "LSTM", 2, 2.0)]
    curves += [curve(example, "LN-LSTM", 1, 2.1), curve(example, "LN-LSTM", 2, 1.9)]
    assert example.summarize(curves).splitlines() == [
        "- Each at its best rate: 2.00 bits (LSTM), 1.90 (LN-LSTM): LN-LSTM is ahead by 0.10.",
        "- From the best rate to the worst: 1.00 bits with LSTM, 0.20 bits with LN-LSTM: "
        "LN-LSTM depends less on the rate.",
    ]
    even = [curve(example, kind, 1, 2.0) for kind in ("LSTM", "LN-LSTM")]
    assert example.summarize(even) == (
        "- Each at its best rate: 2.00 bits (LSTM), 2.00 (LN-LSTM): that is no notable difference."
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "argument --steps: must be a whole number above 0, got '0'"),
        (["--rates", "0.1", "-1"], "argument --rates: must be a number above 0, got '-1'"),
        (["--seed", "-1"], "argument --seed: must not be negative, got -1"),
        (["--steps", "100000"], "character_model.py: error: the text has"),
        (["--quick", "--out", __file__], "character_model.py: error: cannot create"),
    ],
)
def test_mistakes_are_said_in_one_line(example, capsys, arguments, words):
    try:
        status = example.main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert words in capsys.readouterr().err


def test_a_missing_module_is_named_with_its_installation(example, capsys, monkeypatch):
    take_away(monkeypatch, "tqdm")
    assert example.main(SHORT) == 2
    assert "the module tqdm is missing; to install it: pip install tqdm" in capsys.readouterr().err
