"""The decoder example: what it computes, the checkpoints that it reads, what it prints."""

import functools
import json
import re

import numpy as np
import pytest
from scripts import EXAMPLES, loaded, run_script, take_away

import fastln

SCRIPT = EXAMPLES / "llama_block.py"
if not SCRIPT.exists():
    pytest.skip("examples/ is not beside tests/: run these tests from a clone", allow_module_level=True)
ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}
SMALL = ["--layers", "2", "--hidden", "32", "--heads", "4", "--shared", "2", "--inner", "48", "--vocabulary", "64"]
SHORT = ["--prompt", "9", "--tokens", "3", "--repeats", "1"]


@pytest.fixture(scope="module")
def example():
    with loaded(SCRIPT) as module:
        yield module


@pytest.fixture(scope="module")
def model(example):
    return example.random_model(example.Config(**SIZES), seed=0)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(SIZES["vocab_size"], size=11)


def decode(example, model, ids, norms, dtype, parts=()):
    """The logits of ids, given in one pass or in parts."""
    decoder = example.Decoder(model, norms, dtype)
    cache = decoder.new_cache(len(ids))
    return np.concatenate([decoder.forward(part, cache) for part in np.split(ids, parts)])


# The decoder


def slow_decoder(model, ids):
    """Token by token and head by head in float64, the rotation as a product of complex numbers: as it is defined."""
    c, size = model.config, model.config.head_size
    w = {name.removesuffix(".weight"): weight.astype(np.float64) for name, weight in model.weights.items()}
    turn = np.exp(1j * np.outer(np.arange(len(ids)), c.rope_theta ** -(2 * np.arange(size // 2) / size)))

    def norm(x, name):
        return x / np.sqrt(np.mean(x * x) + c.rms_norm_eps) * w[name]

    def rotated(x, token):
        turned = (x[: size // 2] + 1j * x[size // 2 :]) * turn[token]
        return np.concatenate([turned.real, turned.imag])

    stream = [w["model.embed_tokens"][i] for i in ids]
    for layer in range(c.num_hidden_layers):
        at = f"model.layers.{layer}."
        y = [norm(x, f"{at}input_layernorm") for x in stream]
        keys, values = ([np.split(w[f"{at}self_attn.{p}_proj"] @ x, c.num_key_value_heads) for x in y] for p in "kv")
        for token, x in enumerate(y):
            found = []
            for head, query in enumerate(np.split(w[f"{at}self_attn.q_proj"] @ x, c.num_attention_heads)):
                of = head * c.num_key_value_heads // c.num_attention_heads
                turned = rotated(query, token)
                share = np.exp([turned @ rotated(keys[t][of], t) / np.sqrt(size) for t in range(token + 1)])
                found.append(share @ [values[t][of] for t in range(token + 1)] / share.sum())
            stream[token] = stream[token] + w[f"{at}self_attn.o_proj"] @ np.concatenate(found)
        for token, x in enumerate(stream):
            x = norm(x, f"{at}post_attention_layernorm")
            gate = w[f"{at}mlp.gate_proj"] @ x
            inner = gate / (1 + np.exp(-gate)) * (w[f"{at}mlp.up_proj"] @ x)
            stream[token] = stream[token] + w[f"{at}mlp.down_proj"] @ inner
    return np.array([w["lm_head"] @ norm(x, "model.norm") for x in stream])


@pytest.mark.parametrize("parts", [(), (4,), range(1, 11)], ids=["one pass", "two", "token by token"])
def test_in_float64_it_is_the_decoder_as_it_is_defined(example, model, ids, parts):
    found = decode(example, model, ids, example.NUMPY_NORMS, np.float64, parts)
    np.testing.assert_allclose(found, slow_decoder(model, ids), rtol=0, atol=1e-12)


def test_fastlns_norms_give_float64_its_digits(example, model, ids):
    fast = decode(example, model, ids, example.fastln_norms(), np.float64)
    np.testing.assert_allclose(fast, slow_decoder(model, ids), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["fastln", "NumPy"])
def test_in_bfloat16_it_is_as_near_as_is_said(example, model, ids, name):
    norms = {"fastln": example.fastln_norms(), "NumPy": example.NUMPY_NORMS}[name]
    found = decode(example, model, ids, norms, example.bfloat16(), (8,))
    difference = example.largest_difference(found, slow_decoder(model, ids))
    assert example.allowed_difference(model.config) / 20 < difference < example.allowed_difference(model.config)


def test_every_norm_is_fastlns_in_place_and_rounded_as_llamas(example, model, ids, monkeypatch):
    calls = []

    def counted(name):
        function = getattr(fastln, name)

        def call(x, *given, **options):
            dtypes = x.dtype.name, given[-2].dtype.name
            places = options.get("out") is x, "residual_out" in options and options["residual_out"] is given[0]
            calls.append((name, *dtypes, options["cast"], *places))
            return function(x, *given, **options)

        monkeypatch.setattr(fastln, name, call)

    counted("rms_norm")
    counted("add_rms_norm")
    decode(example, model, ids, example.fastln_norms(), example.bfloat16())
    assert calls[:1] == [("rms_norm", "bfloat16", "float32", "llama", False, False)]
    assert calls[1:] == [("add_rms_norm", "bfloat16", "float32", "llama", True, True)] * 6


def test_the_tokens_are_the_likeliest(example, model, ids):
    decoder = example.Decoder(model, example.NUMPY_NORMS, np.float64)
    tokens = example.choose_tokens(decoder, ids, 4)
    logits = slow_decoder(model, np.concatenate([ids, tokens]))
    assert tokens.tolist() == logits[len(ids) - 1 : -1].argmax(axis=1).tolist()


# Checkpoints


@pytest.fixture
def folder(example, model, tmp_path):
    """A checkpoint of the model in bfloat16, its norms in float32."""
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    state = {n: w if w.ndim == 1 else w.astype(ml_dtypes.bfloat16) for n, w in model.weights.items()}
    first = {name: state.pop(name) for name in list(state)[:3]}
    safetensors.save_file(first, tmp_path / "model-00001-of-00002.safetensors")
    safetensors.save_file(state, tmp_path / "model-00002-of-00002.safetensors")
    write_config(tmp_path)
    return tmp_path


def write_config(folder, **changed):
    config = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_scaling": None, **SIZES, **changed}
    present = {name: value for name, value in config.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(present))


def test_a_checkpoint_is_read_as_it_is(example, model, folder):
    found = example.load_model(folder)
    assert found.config == model.config
    assert set(found.weights) == set(model.weights)
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(found.weights[name], weight)
        assert found.weights[name].dtype == np.float32


def test_the_last_matrix_may_be_the_first(example, model, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    tied = {name: weight for name, weight in model.weights.items() if name != "lm_head.weight"}
    safetensors.save_file(tied, tmp_path / "model.safetensors")
    write_config(tmp_path)
    found = example.load_model(tmp_path / "model.safetensors").weights
    np.testing.assert_array_equal(found["lm_head.weight"], model.weights["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gemma"}, r"model_type in .* must be llama or mistral, got 'gemma'"),
        ({"rope_scaling": {"factor": 8}}, r"rope_scaling in .* must be absent, got \{'factor': 8\}"),
        ({"attention_bias": True}, r"attention_bias in .* must be absent, got True"),
        ({"vocab_size": "absent"}, r"vocab_size in .* must be a whole number, got None"),
        ({"head_dim": 8}, r"head_dim in .* must be 4, got 8"),
        ({"num_attention_heads": 7}, r"hidden_size must be a multiple of twice num_attention_heads \(7\), got 24"),
        ({"num_key_value_heads": 4}, r"num_attention_heads must be a multiple of num_key_value_heads \(4\), got 6"),
        ({"num_hidden_layers": 4}, r"model\.layers\.3\.input_layernorm\.weight must have shape \(24,\), .* got none"),
        ({"vocab_size": 51}, r"model\.embed_tokens\.weight must have shape \(51, 24\), .*, got \(50, 24\)"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(example, folder, changed, message):
    write_config(folder, **changed)
    with pytest.raises(example.InputError, match=f"^{message}$"):
        example.load_model(folder)


def test_a_file_that_cannot_be_read_is_one_line(example, folder):
    (folder / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(example.InputError, match=r"^cannot read .*broken\.safetensors: "):
        example.load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(example.InputError, match=r"^.*config\.json must hold JSON, got "):
        example.load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(example.InputError, match=r"^cannot read .*config\.json: No such file or directory$"):
        example.load_model(folder)


# The command line


run = functools.partial(run_script, SCRIPT)


@pytest.fixture(scope="module")
def installed(example):
    """Skip where a module that the script needs is absent."""
    for name, command in example.INSTALL.items():
        pytest.importorskip(name, reason=f"{name} is missing: {command}")


@pytest.mark.usefixtures("installed")
def test_a_short_run_prints_times_and_what_float64_says():
    result = run(*SMALL, *SHORT)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Llama-style decoder, random weights of seed 0: 2 layers, 32 wide, 4 heads that share 2")
    assert lines[2] == "A prompt of 9 tokens in one pass, then 3 tokens one by one."
    table = {line[:17].rstrip(): line[17:].split() for line in lines[5:-2]}
    for name in ("prompt, NumPy", "prompt, fastln", "one token, NumPy", "one token, fastln"):
        norms, _, whole, _, share = table[name]
        assert 0 < float(norms) < float(whole)
        assert share.endswith("%")
    found = re.fullmatch(r"largest difference .*: NumPy (\S+), fastln (\S+) \(allowed: (\S+)\)", lines[-1])
    assert max(map(float, found.groups()[:2])) < float(found[3])


@pytest.mark.usefixtures("installed")
def test_a_run_with_weights_from_a_file(folder):
    result = run("--weights", str(folder), *SHORT)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Llama-style decoder, {folder}: 3 layers, 24 wide")


@pytest.mark.usefixtures("installed")
def test_logits_that_are_off_are_told_and_end_with_status_1(example, monkeypatch, capsys):
    monkeypatch.setattr(example, "TOLERANCE", 1e-6)
    assert example.main([*SMALL, *SHORT]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("largest difference ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0"], "argument --layers: must be a whole number above 0, got '0'"),
        (["--weights", "here", "--hidden", "64"], "--hidden must be left out with --weights: config.json has it"),
        (["--seed", "-1"], "argument --seed: must not be negative, got -1"),
    ],
)
def test_bad_arguments_exit_with_status_2(example, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        example.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"\nllama_block.py: error: {message}\n")


@pytest.mark.usefixtures("installed")
def test_unusable_input_is_one_line(example, tmp_path, capsys):
    write_config(tmp_path)
    assert example.main(["--weights", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"llama_block.py: error: {tmp_path} must hold *.safetensors, got none\n"
    assert example.main(["--heads", "5"]) == 2
    assert capsys.readouterr().err.startswith("llama_block.py: error: hidden_size must be a multiple of twice")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["ml_dtypes", "tqdm"])
def test_a_missing_module_is_one_line_that_says_how_to_install_it(example, monkeypatch, capsys, name):
    take_away(monkeypatch, name)
    assert example.main([*SMALL, *SHORT]) == 2
    message = f"the module {name} is missing; to install it: {example.INSTALL[name]}"
    assert capsys.readouterr().err == f"llama_block.py: error: {message}\n"
