"""The training example: its gradients, what it trains on, what it reports, and its command line."""

import functools
import importlib.util
import json

import numpy as np
import pytest
from scripts import EXAMPLES, loaded, run_script, take_away

import fastln

SCRIPT = EXAMPLES / "train_digits.py"
if not SCRIPT.exists():
    pytest.skip("examples/ is not beside tests/: run these tests from a clone", allow_module_level=True)
for _name in ("sklearn", "matplotlib", "tqdm"):
    if importlib.util.find_spec(_name) is None:
        pytest.skip(f"{_name} is missing", allow_module_level=True)

EPS = np.finfo(np.float64).eps
SHORT = ["--steps", "30", "--hidden", "16", "--seeds", "1", "--lr", "3e-3"]


@pytest.fixture(scope="module")
def example():
    with loaded(SCRIPT) as module:
        yield module


@pytest.fixture(params=["layer norm", "batch norm", "batch norm on all layers"])
def norms(request, example):
    """norms(hidden, dtype): what make_norms returns, for each kind of network that the example trains."""
    kind, _, everywhere = request.param.partition(" on ")
    return lambda hidden, dtype: example.make_norms(kind, hidden, bool(everywhere), dtype)


def make_settings(example, **changed):
    settings = {"steps": 60, "batch_sizes": [128, 4], "hidden": 32, "lr": 1e-2, "seed": 0, "seeds": 1}
    return example.Settings(**(settings | {"batch_norm_softmax": False} | changed))


# The network


def test_gradients_match_central_differences(example, norms):
    rng = np.random.default_rng(0)
    network = example.Network(5, norms(6, np.float64), rng, np.float64)
    for p in network.parameters:
        p += 0.1 * rng.standard_normal(p.shape)  # weights of 1 and biases of 0 would hide mistakes
    batch = example.Images(rng.standard_normal((7, 5)), rng.integers(example.CLASSES, size=7))
    _, gradients = network.loss_and_gradients(batch)
    gradients = [g.copy() for g in gradients]

    def loss():
        return network.loss_and_gradients(batch)[0]

    # Central differences err by EPS / h from rounding and by h^2 times a third derivative from truncation,
    # and a norm of few units has large ones. Measured here: 22 h^2 (4e-11 is h^2).
    h = EPS ** (1 / 3)
    for p, gradient in zip(network.parameters, gradients, strict=True):
        assert p.shape == gradient.shape
        for index in np.ndindex(p.shape):
            value = p[index]
            p[index] = value + h
            above = loss()
            p[index] = value - h
            below = loss()
            p[index] = value
            assert abs((above - below) / (2 * h) - gradient[index]) < 100 * h**2, (p.shape, index)


def test_every_layer_norm_is_that_of_fastln(example, monkeypatch):
    calls = []

    class Counted(fastln.LayerNorm):
        def __call__(self, x, *args, **kwargs):
            calls.append("call")
            return super().__call__(x, *args, **kwargs)

        def forward(self, x, *args, **kwargs):
            calls.append("forward")
            return super().forward(x, *args, **kwargs)

        def backward(self, dy, saved, *args, **kwargs):
            calls.append("backward")
            return super().backward(dy, saved, *args, **kwargs)

    monkeypatch.setattr(fastln, "LayerNorm", Counted)
    rng = np.random.default_rng(0)
    network = example.Network(5, example.make_norms("layer norm", 6), rng)
    assert [type(norm) for norm in network.norms] == [Counted, Counted, example.Bias]
    images = example.Images(rng.standard_normal((7, 5), np.float32), rng.integers(example.CLASSES, size=7))
    network.loss_and_gradients(images)
    assert calls == ["forward", "forward", "backward", "backward"]
    calls.clear()
    example.evaluate(network, images)
    assert set(calls) <= {"call", "forward"}
    assert calls.count("call") == 2


def test_batch_norm_normalizes_by_the_batch_in_training_and_by_running_averages_in_testing(example):
    rng = np.random.default_rng(0)
    batches = rng.normal(3, 2, (200, 8, 5))
    norm = example.BatchNorm(5, eps=0, dtype=np.float64)
    mean, var = np.zeros(5), np.ones(5)
    for x in batches:
        y, _ = norm.forward(x)
        mean = 0.9 * mean + 0.1 * x.mean(axis=0)
        var = 0.9 * var + 0.1 * x.var(axis=0, ddof=1)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=16 * EPS)
    np.testing.assert_allclose(y.var(axis=0), 1, rtol=16 * EPS)
    # Both round some ten times a batch, and 0.9 forgets all but some ten batches.
    tolerance = 100 * EPS
    np.testing.assert_allclose(norm.running_mean, mean, rtol=tolerance)
    np.testing.assert_allclose(norm.running_var, var, rtol=tolerance)
    expected = (batches[0] - mean) / np.sqrt(var)
    np.testing.assert_allclose(norm(batches[0]), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(norm(batches[0][:1]), norm(batches[0])[:1])  # nor does a test look at its batch


def test_testing_changes_nothing(example, norms):
    rng = np.random.default_rng(0)
    network = example.Network(5, norms(6, np.float32), rng)
    images = example.Images(rng.standard_normal((7, 5), np.float32), rng.integers(example.CLASSES, size=7))
    before = example.evaluate(network, images)
    assert example.evaluate(network, images) == before
    network.loss_and_gradients(images)  # the running averages move
    changes = any(isinstance(norm, example.BatchNorm) for norm in network.norms)
    assert (example.evaluate(network, images) != before) == changes


def test_adam_is_that_of_the_paper(example):
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(50)
    p = theta.copy()
    adam = example.Adam([p], lr=0.01)
    m = v = np.zeros(50)
    for t in range(1, 101):
        g = rng.standard_normal(50)
        adam.step([g.copy()])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    # 1 - 0.999^t cancels three digits at first.
    np.testing.assert_allclose(p, theta, rtol=0, atol=1e4 * EPS)


# The images


def test_images_are_split_and_scaled_by_the_training_set_alone(example):
    from sklearn.datasets import load_digits

    training, test = example.load_images(np.random.default_rng(0))
    assert (training.x.shape, test.x.shape) == ((1297, 64), (500, 64))
    assert training.x.dtype == test.x.dtype == np.float32
    eps = float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(training.x.mean(axis=0), 0, atol=16 * eps)
    assert np.square(training.x).mean() == pytest.approx(1, rel=16 * eps)
    assert np.abs(test.x.mean(axis=0)).max() > 0.01
    digits = np.concatenate([training.labels, test.labels])
    np.testing.assert_array_equal(np.sort(digits), np.sort(load_digits().target))


def test_batches_take_each_image_once_an_epoch(example):
    images = example.Images(np.arange(10.0)[:, None], np.arange(10))
    endless = example.batches(images, 3, np.random.default_rng(0))
    epochs = [[next(endless) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert all(len(batch.labels) == 3 for batch in epoch)
        labels = np.concatenate([batch.labels for batch in epoch])
        assert len(set(labels.tolist())) == 9
        np.testing.assert_array_equal(np.concatenate([batch.x[:, 0] for batch in epoch]), labels)
    assert not np.array_equal(epochs[0][0].labels, epochs[1][0].labels)


# The experiment


def test_loss_falls_and_the_same_seed_gives_the_same_result(example):
    settings = make_settings(example)
    first, again = (example.run_experiment(settings) for _ in range(2))
    other = example.run_experiment(make_settings(example, seed=1))
    expected = [(norm, size) for size in (128, 4) for norm in ("layer norm", "batch norm")]
    assert [(r.norm, r.batch_size) for r in first] == expected
    for a, b, c in zip(first, again, other, strict=True):
        assert a.steps[0] == 1
        assert a.steps[-1] == 60
        for measure in ("train_nll", "test_nll", "test_error"):
            values = getattr(a, measure)
            assert values.shape == (1, len(a.steps))
            assert values[0, -1] < 0.8 * values[0, 0]
            np.testing.assert_array_equal(values, getattr(b, measure))
            assert not np.array_equal(values, getattr(c, measure))


def test_both_norms_start_from_the_same_weights_and_see_the_same_batches(example, monkeypatch):
    seen = []

    class Recorder(example.Network):
        def loss_and_gradients(self, batch):
            seen.append((self.weights[0].copy(), batch.x))
            return super().loss_and_gradients(batch)

    monkeypatch.setattr(example, "Network", Recorder)
    settings = make_settings(example, steps=2)
    for kind in example.KINDS:
        example.train(kind, 4, 0, settings, advance=lambda: None)
    layer, batch = seen[:2], seen[2:]
    np.testing.assert_array_equal(layer[0][0], batch[0][0])
    for i in range(2):
        np.testing.assert_array_equal(layer[i][1], batch[i][1])


def test_an_error_in_a_run_stops_the_others(example, monkeypatch):
    steps = []

    def evaluate(network, images):
        if isinstance(network.norms[0], example.BatchNorm):
            raise ZeroDivisionError
        steps.append(1)
        return 0.0, 0.0

    monkeypatch.setattr(example, "evaluate", evaluate)
    with pytest.raises(ZeroDivisionError):
        example.run_experiment(make_settings(example, steps=10**6, batch_sizes=[4]))
    assert len(steps) < len(example.choose_measured_steps(10**6))


# The report


def make_curves(example, norm, batch_size, steps_to_01, test_nll, seeds=1):
    """A training loss that is 0.1 after so many steps, and falls as 1 / steps."""
    steps = np.arange(1, 1001)
    train = np.tile(0.1 * steps_to_01 / steps, (seeds, 1))
    flat = np.full((seeds, len(steps)), float(test_nll))
    return example.Curves(norm, batch_size, steps, train, flat, 0.1 * flat)


def make_results(example, layer, batch):
    """Results at batch sizes 128 and 4 from (steps to 0.1, test NLL) of each norm at each."""
    return [
        make_curves(example, norm, size, *values)
        for size, pair in zip((128, 4), zip(layer, batch, strict=True), strict=True)
        for norm, values in zip(example.KINDS, pair, strict=True)
    ]


@pytest.mark.parametrize(
    ("layer", "batch", "robustness", "convergence"),
    [
        (
            [(50, 0.05), (100, 0.06)],
            [(100, 0.05), (400, 0.15)],
            "layer norm is robust to the batch size and batch norm degrades, as the paper found",
            ["layer norm converged faster, as the paper found"] * 2,
        ),
        (
            [(100, 0.05), (400, 0.15)],
            [(50, 0.05), (350, 0.06)],
            "layer norm degrades and batch norm does not, the opposite of what the paper found",
            [
                "batch norm converged faster, the opposite of what the paper found",
                "neither converged notably faster; in the paper layer norm does",
            ],
        ),
        (
            [(50, 0.05), (50, 0.05)],
            [(50, 0.05), (2000, 0.06)],
            "both are robust to the batch size; in the paper batch norm degrades",
            [
                "neither converged notably faster; in the paper layer norm does",
                "layer norm converged faster, as the paper found",
            ],
        ),
        (
            [(2000, 0.05), (2000, 0.5)],
            [(2000, 0.05), (50, 0.5)],
            "both degrade; in the paper layer norm is robust to the batch size",
            [
                "neither converged notably faster; in the paper layer norm does",
                "batch norm converged faster, the opposite of what the paper found",
            ],
        ),
    ],
    ids=["as the paper", "opposite", "both robust", "both degrade"],
)
def test_summary_follows_the_results(example, layer, batch, robustness, convergence):
    results = make_results(example, layer, batch)
    points = [" ".join(point.split()) for point in example.summarize(results).split("- ")[1:]]
    assert points[0] == (
        f"Batch size 128 -> 4: the test NLL went from {layer[0][1]:.4f} to {layer[1][1]:.4f} with layer norm "
        f"and from {batch[0][1]:.4f} to {batch[1][1]:.4f} with batch norm: {robustness}."
    )
    for i, (size, verdict) in enumerate(zip((128, 4), convergence, strict=True)):
        counts = [str(n[i][0]) if n[i][0] <= 1000 else "over 1000" for n in (layer, batch)]
        start = f"Batch size {size}: a training NLL of 0.1 took {counts[0]} steps with layer norm and {counts[1]}"
        assert points[1 + i].startswith(start)
        assert points[1 + i].endswith(f": {verdict}.")
    # The order of the batch sizes does not matter, and one alone says nothing of robustness.
    assert points[0] in " ".join(example.summarize(results[2:] + results[:2]).split())
    assert "->" not in example.summarize(results[:2])


def test_table_has_the_means_of_the_last_quarter_and_of_the_seeds(example):
    steps = np.array([1, 50, 80, 100])
    nll = np.array([[9.0, 0.05, 0.02, 0.04], [9.0, 0.09, 0.04, 0.06]])
    curves = example.Curves("layer norm", 4, steps, nll / 10, nll, nll / 2)
    row = example.format_table([curves]).splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("4", "layer norm", "2.00%", "0.0400", "4.0e-03", "50"),
    ]


def test_plot_is_drawn_for_any_number_of_batch_sizes_and_no_errors_at_all(example, tmp_path):
    for sizes in ([4], [128, 8, 4]):
        results = [make_curves(example, kind, s, 50, 0.1, seeds=2) for s in sizes for kind in example.KINDS]
        for result in results:
            result.test_error[:, 500:] = 0  # which have no logarithm
        example.plot(results, "a title", tmp_path / "curves.png")
        assert_is_a_picture(tmp_path / "curves.png")


def assert_is_a_picture(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) > 20_000


# The command line


run = functools.partial(run_script, SCRIPT)


def test_a_run_prints_and_saves_table_plot_and_numbers(tmp_path):
    folder = tmp_path / "new" / "results"
    result = run(*SHORT, "--batch-norm-softmax", "--out", str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    names = ["curves.png", "results.json", "table.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all(str(folder / name) in result.stdout.splitlines()[-1] for name in names)

    table = (folder / "table.md").read_text(encoding="utf-8")
    assert all(line in result.stdout.splitlines() for line in table.splitlines())
    assert "1797 images of 8x8 pixels, 1297 to train on and 500 to test on" in table
    assert "Network 64-16-16-10" in table
    assert [line.count("|") for line in table.splitlines() if line.startswith("|")] == [7] * 6
    assert_is_a_picture(folder / "curves.png")

    numbers = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert numbers["settings"]["steps"] == 30
    assert numbers["settings"]["batch_norm_softmax"] is True
    assert [(r["norm"], r["batch_size"]) for r in numbers["results"]][2:] == [
        ("layer norm", 4),
        ("batch norm", 4),
    ]
    for curves in numbers["results"]:
        assert np.shape(curves["test_error"]) == (1, len(curves["steps"]))


def test_nothing_is_saved_unasked(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert example.main([*SHORT, "--batch-sizes", "8"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "Batch size 8: a training NLL of 0.1 took " in capsys.readouterr().out


def test_quick_changes_the_defaults_and_not_what_is_asked_for(example):
    args = example.parse_args(["--quick", "--steps", "7"])
    assert (args.steps, args.hidden, args.seeds) == (7, example.QUICK["hidden"], example.QUICK["seeds"])
    args = example.parse_args(["--batch-sizes", "4", "8", "4"])
    assert (args.steps, args.hidden, args.batch_sizes) == (example.DEFAULTS["steps"], 1000, [4, 8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: must be a whole number above 0, got '0'"),
        (["--hidden", "x"], "argument --hidden: must be a whole number above 0, got 'x'"),
        (["--batch-sizes", "1"], "argument --batch-sizes: must be at least 2: batch norm needs the variance"),
        (["--lr", "nan"], "argument --lr: must be a number above 0, got 'nan'"),
        (["--lr", "fast"], "argument --lr: must be a number above 0, got 'fast'"),
        (["--seed", "-1"], "argument --seed: must not be negative, got -1"),
    ],
)
def test_bad_arguments_exit_with_status_2(example, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        example.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"train_digits.py: error: {message}")


def test_what_cannot_work_is_one_line_before_training(example, tmp_path, monkeypatch, capsys):
    def unexpected(settings):
        raise AssertionError("trained")

    monkeypatch.setattr(example, "run_experiment", unexpected)
    file = tmp_path / "file"
    file.write_text("")
    for arguments, message in (
        (["--batch-sizes", "4", "1298"], "a batch of 1298 is more than the 1297 images to train on"),
        (["--out", str(file)], f"cannot create {file}: File exists"),
        (["--out", str(file / "under")], f"cannot create {file / 'under'}: Not a directory"),
    ):
        assert example.main(arguments) == 2
        output = capsys.readouterr()
        assert (output.out, output.err) == ("", f"train_digits.py: error: {message}\n")


@pytest.mark.parametrize("name", ["matplotlib", "sklearn", "tqdm"])
def test_a_missing_module_is_one_line_that_says_how_to_install_it(example, tmp_path, monkeypatch, capsys, name):
    take_away(monkeypatch, name)
    assert example.main([*SHORT, "--out", str(tmp_path)]) == 2
    message = f"the module {name} is missing; to install it: {example.INSTALL[name]}"
    assert capsys.readouterr().err == f"train_digits.py: error: {message}\n"
