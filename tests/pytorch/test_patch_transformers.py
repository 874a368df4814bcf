"""`fastln.torch.patch` against the RMS norms of transformers themselves, and a model of theirs.

Written with transformers 5.24.0. All its classes were looked through once: 199 are known, 4 more in float32 alone. What
stands here is of each way to write one, and of those that look like one and are not.
"""

from __future__ import annotations

import copy
import importlib
import pickle

import numpy as np
import pytest

import fastln

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="transformers, whose classes these are, is not installed")
fastln_torch = pytest.importorskip("fastln.torch", exc_type=ImportError)

from torch_calls import as_array  # noqa: E402

COLS = 64

# By class: its model, what is added to its weight, where it rounds 16 bits.
LLAMA, GEMMA, ONCE = ("llama", 0), ("gemma", 1), ("gemma", 0)
KNOWN = {
    "LlamaRMSNorm": ("llama", LLAMA),
    "MistralRMSNorm": ("mistral", LLAMA),
    "Qwen2RMSNorm": ("qwen2", LLAMA),
    "Qwen3RMSNorm": ("qwen3", LLAMA),
    "Phi3RMSNorm": ("phi3", LLAMA),
    "DeepseekV3RMSNorm": ("deepseek_v3", LLAMA),
    "Llama4TextRMSNorm": ("llama4", LLAMA),
    "T5LayerNorm": ("t5", LLAMA),
    "MT5LayerNorm": ("mt5", LLAMA),
    "LongT5LayerNorm": ("longt5", LLAMA),
    "IdeficsRMSNorm": ("idefics", LLAMA),
    "GemmaRMSNorm": ("gemma", GEMMA),
    "Gemma2RMSNorm": ("gemma2", GEMMA),
    "Gemma3RMSNorm": ("gemma3", GEMMA),
    "Qwen3NextRMSNorm": ("qwen3_next", GEMMA),
    "RecurrentGemmaRMSNorm": ("recurrent_gemma", GEMMA),
    "Gemma3nRMSNorm": ("gemma3n", ONCE),
    "Olmo2RMSNorm": ("olmo2", ONCE),
    "HeliumRMSNorm": ("helium", ONCE),
    "MoshiRMSNorm": ("moshi", ONCE),
    "Llama4TextL2Norm": ("llama4", ONCE),
}
UNKNOWN = {
    "MambaRMSNormGated": ("mamba2", (COLS, 8), "the arguments self, hidden_states, gate=None"),
    "Qwen4ExpTextRMSNorm": ("qwen4_exp", (COLS,), "self.group_size is not None"),
    "CohereLayerNorm": ("cohere", (COLS,), "hidden_states - mean"),
    "DoryL2Norm": ("dory", (), "its use of sum"),
    "HYV4UnweightedRMSNorm": ("hy_v4", (1e-6,), "the formula rsqrt(eps + mean(x*x))"),
    "MuseSparkTextInputScaledRMSNorm": (
        "muse_spark",
        (COLS,),
        "the formula (1 + w)*rsqrt(eps + mean((1 + w)*(1 + w)*x*x))*x",
    ),
}


def class_of(name, model):
    """The class, where this version of transformers has it."""
    try:
        return getattr(importlib.import_module(f"transformers.models.{model}.modeling_{model}"), name)
    except (ImportError, AttributeError):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")


def norm_of(name, model):
    kind = class_of(name, model)
    norm = kind(eps=1e-5) if name.endswith("L2Norm") else kind(COLS)
    generator = torch.Generator().manual_seed(1)
    for parameter in norm.parameters():
        parameter.data = torch.randn(COLS, generator=generator)
    return norm


def eps_of(norm):
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps


def differing(y, expected):
    """The share of numbers of 16 bits that differ, after a check that it is by one unit in the last place."""
    steps = (y.view(torch.int16).int() - expected.view(torch.int16).int()).abs()
    assert steps.max() <= 1
    return float((steps > 0).double().mean())


@pytest.mark.parametrize("name", KNOWN)
def test_the_known_ones_round_where_fastln_does(name):
    model, (cast, offset) = KNOWN[name]
    norm = norm_of(name, model)
    mine = copy.deepcopy(norm)
    assert [entry.kind for entry in fastln_torch.patch(mine).replaced] == [type(norm).__name__]
    x = 3 * torch.randn(400, COLS, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        norm, mine, given = norm.to(dtype), mine.to(dtype), x.to(dtype)
        with torch.no_grad():
            y, expected = mine(given), norm(given)
        weight = next(norm.parameters(), None)
        options = {} if weight is None else {"weight": as_array(weight), "weight_offset": offset}
        array = fastln.rms_norm(as_array(given), eps=eps_of(norm), cast=cast, **options)
        assert y.dtype == expected.dtype
        assert as_array(y).tobytes() == array.tobytes()
        with_gradients = mine(given.requires_grad_())
        assert with_gradients.grad_fn is not None
        if dtype == torch.float32:
            bound = 4 * np.finfo(np.float32).eps * (1 + expected.abs())
            assert ((y - expected).abs() <= bound).all()
            assert ((with_gradients - expected).abs() <= bound).all()
            continue
        # The two float32 results of one formula are so near that few lie on both sides of a middle.
        assert differing(y, expected) <= 1e-3
        assert differing(with_gradients.detach(), expected) <= 1e-3
        if weight is not None:  # the other order is another result
            other = fastln.rms_norm(
                as_array(given), eps=eps_of(norm), cast="gemma" if cast == "llama" else "llama", **options
            )
            assert (other != as_array(expected)).mean() > 0.05


@pytest.mark.parametrize("name", UNKNOWN)
def test_others_are_left_alone(name):
    model, arguments, reason = UNKNOWN[name]
    norm = class_of(name, model)(*arguments)
    report = fastln_torch.patch(norm)
    assert report.replaced == ()
    assert reason in report.left[0].note


def test_another_rounding_is_taken_in_float32_alone():
    """One adds 1 in 16 bits, one rounds the root."""
    for name, model, arguments in (
        ("MuseSparkTextCenteredRMSNorm", "muse_spark", (COLS,)),
        ("DeepseekV4UnweightedRMSNorm", "deepseek_v4", (1e-6,)),
    ):
        norm = class_of(name, model)(*arguments)
        mine = copy.deepcopy(norm)
        (entry,) = fastln_torch.patch(mine).replaced
        assert entry.note == "float32 alone: rounds 16 bits in an order that fastln has not"
        x = torch.randn(50, COLS, dtype=torch.bfloat16)
        assert torch.equal(mine.bfloat16()(x), norm.bfloat16()(x))


def test_16_bits_beside_float32_are_what_the_original_makes_of_them():
    """Some promote where x and weight have two dtypes, some do not."""
    x = torch.randn(50, COLS)
    for name in ("LlamaRMSNorm", "T5LayerNorm", "GemmaRMSNorm", "Olmo2RMSNorm", "Gemma3nRMSNorm"):
        norm = norm_of(name, KNOWN[name][0])
        mine = copy.deepcopy(norm)
        fastln_torch.patch(mine)
        for of_x, of_weight in (
            (torch.bfloat16, torch.float32),
            (torch.float32, torch.bfloat16),
            (torch.float16, torch.bfloat16),
            (torch.float64, torch.float32),
        ):
            with torch.no_grad():
                y, expected = mine.to(of_weight)(x.to(of_x)), norm.to(of_weight)(x.to(of_x))
            assert y.dtype == expected.dtype
            if y.dtype.itemsize == 2:
                assert differing(y, expected) <= 1e-3
            else:
                torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=COLS, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.LlamaForCausalLM(config).eval()


def test_a_model_gives_the_same_and_is_pickled_as_before(model):
    mine = copy.deepcopy(model)
    before = pickle.dumps(mine)
    report = fastln_torch.patch(mine)
    assert repr(report) == (
        "fastln.torch.patch: replaced 5 of 5 norms\n"
        "  replaced  5 LlamaRMSNorm: round(x_hat) * weight, rounded again "
        "(model.layers.0.input_layernorm, model.layers.0.post_attention_layernorm, "
        "model.layers.1.input_layernorm, ...)"
    )
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(mine(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    losses = [one(ids, labels=ids).loss for one in (mine, model)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    for one, other in zip(mine.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    mine.zero_grad()
    assert pickle.dumps(mine) == before
    fastln_torch.unpatch(mine)
    with torch.no_grad():
        assert torch.equal(mine(ids).logits, model(ids).logits)
