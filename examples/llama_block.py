"""A Llama-style decoder in NumPy whose every norm is fastln's, with the residual that comes before it.

Pre-norm blocks: RMS norm, attention with rotary positions, RMS norm, SwiGLU. Activations are bfloat16, the
weights of the norms float32. The weights are random, or those of a checkpoint in Hugging Face's format.
What comes out is compared with the same decoder in float64, and the time in norms with NumPy's.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from command_line import InputError, exit_status, format_table, positive, progress_bar

import fastln

INSTALL = {  # module -> what to type when it is missing
    "ml_dtypes": "pip install ml_dtypes",
    "safetensors": "pip install safetensors",
    "tqdm": "pip install tqdm",
}

# What the logits may differ from those in float64, as a share of the largest one: so many times the spacing of
# bfloat16 at 1, which is 2**-7, and the square root of the number of layers, for their errors are independent.
TOLERANCE = 2.0

EPILOG = """\
examples:
  llama_block.py                                   random weights: 4 layers, 768 wide
  llama_block.py --layers 16 --hidden 2048         a larger one
  llama_block.py --prompt 512 --tokens 64          a longer prompt, more tokens after it
  llama_block.py --weights ~/models/TinyLlama      config.json and *.safetensors, as Hugging Face has them
"""


def bfloat16() -> np.dtype:
    """The dtype of the package ml_dtypes."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


# --------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class Config:
    """The sizes and settings of a model, under the names that config.json of a checkpoint has for them."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self):
        if self.hidden_size % (2 * self.num_attention_heads):
            heads = f"a multiple of twice num_attention_heads ({self.num_attention_heads})"
            raise InputError(f"hidden_size must be {heads}, got {self.hidden_size}")
        if self.num_attention_heads % self.num_key_value_heads:
            heads = f"a multiple of num_key_value_heads ({self.num_key_value_heads})"
            raise InputError(f"num_attention_heads must be {heads}, got {self.num_attention_heads}")

    @property
    def head_size(self) -> int:
        """Numbers of a head; half of them turn with the other half."""
        return self.hidden_size // self.num_attention_heads


class Model(NamedTuple):
    """The weights under the names of a checkpoint, as float32, which holds every bfloat16."""

    config: Config
    weights: Mapping[str, np.ndarray]
    origin: str


def shapes_of(config: Config) -> dict[str, tuple[int, ...]]:
    """The names of the weights and their shapes; matrices are (outputs, inputs)."""
    wide, inner = config.hidden_size, config.intermediate_size
    shared = config.num_key_value_heads * config.head_size
    block = {
        "input_layernorm": (wide,),
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (shared, wide),
        "self_attn.v_proj": (shared, wide),
        "self_attn.o_proj": (wide, wide),
        "post_attention_layernorm": (wide,),
        "mlp.gate_proj": (inner, wide),
        "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner),
    }
    words = (config.vocab_size, wide)
    ends = {"model.embed_tokens": words, "model.norm": (wide,), "lm_head": words}
    blocks = {f"model.layers.{i}.{name}": s for i in range(config.num_hidden_layers) for name, s in block.items()}
    return {f"{name}.weight": shape for name, shape in (ends | blocks).items()}


def random_model(config: Config, seed: int) -> Model:
    """Matrices in bfloat16 that keep the size of what passes through them; weights of norms around 1, in float32."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes_of(config).items():
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 1:
            weights[name] = 1 + values / 8
        else:
            values *= 1 if name == "model.embed_tokens.weight" else shape[-1] ** -0.5
            weights[name] = values.astype(bfloat16()).astype(np.float32)
    return Model(config, weights, f"random weights of seed {seed}")


def load_model(path: Path) -> Model:
    """A checkpoint in Hugging Face's format: its folder, or its one file of safetensors, with config.json beside it."""
    from safetensors.numpy import load_file

    bfloat16()  # or safetensors could not read it
    folder = path if path.is_dir() else path.parent
    config = read_config(folder / "config.json")
    files = sorted(folder.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{folder} must hold *.safetensors, got none")
    found: dict[str, np.ndarray] = {}
    for file in files:
        try:
            found |= load_file(file)
        except Exception as error:  # a file that is absent or broken: safetensors has types of its own for it
            raise InputError(f"cannot read {file}: {error}") from error
    if "lm_head.weight" not in found and "model.embed_tokens.weight" in found:
        found["lm_head.weight"] = found["model.embed_tokens.weight"]  # the two are one
    return Model(config, check_weights(found, config), str(path))


def check_weights(found: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """The weights that the decoder takes, as float32."""
    weights = {}
    for name, shape in shapes_of(config).items():
        got = found[name].shape if name in found else "none"
        if got != shape:
            raise InputError(f"{name} must have shape {shape}, as config.json says, got {got}")
        weights[name] = found[name].astype(np.float32)
    return weights


def read_config(path: Path) -> Config:
    """What matters here of config.json. What this decoder does not do is refused, not left out."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} must hold JSON, got {error}") from error
    if found.get("model_type") not in ("llama", "mistral"):
        raise InputError(f"model_type in {path} must be llama or mistral, got {found.get('model_type')!r}")
    for name in ("rope_scaling", "attention_bias", "mlp_bias", "sliding_window"):
        if found.get(name):
            raise InputError(f"{name} in {path} must be absent, got {found[name]!r}")
    found.setdefault("num_key_value_heads", found.get("num_attention_heads"))
    known = [field.name for field in fields(Config)]
    if absent := [name for name in known[:6] if not isinstance(found.get(name), int)]:
        raise InputError(f"{absent[0]} in {path} must be a whole number, got {found.get(absent[0])!r}")
    config = Config(**{name: found[name] for name in known if name in found})
    if found.get("head_dim") not in (None, config.head_size):
        raise InputError(f"head_dim in {path} must be {config.head_size}, got {found['head_dim']!r}")
    return config


# --------------------------------------------------------------------------- norms


class Norms(NamedTuple):
    """What a decoder normalizes with.

    norm(x, normalized_shape, weight, eps) gives y. add_norm(x, residual, normalized_shape, weight, eps) gives y and
    s = x + residual; it may write to x and residual, which nobody reads again.
    """

    norm: Callable[..., np.ndarray]
    add_norm: Callable[..., tuple[np.ndarray, np.ndarray]]


def fastln_norms(threads: int | None = None) -> Norms:
    """Those of fastln, rounded as Llama's own: x_hat to bfloat16, its product with the weight again."""
    llama = {"cast": "llama", "num_threads": threads}

    def add_norm(x: np.ndarray, residual: np.ndarray, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        return fastln.add_rms_norm(x, residual, *rest, out=x, residual_out=residual, **llama)

    return Norms(functools.partial(fastln.rms_norm, **llama), add_norm)


def numpy_norm(x: np.ndarray, normalized_shape: int, weight: np.ndarray, eps: float) -> np.ndarray:
    """The same in NumPy, in few passes. Of float64 rows all of it is float64."""
    wide = x.astype(computed(x.dtype))
    mean_square = np.vecdot(wide, wide)[..., None] / normalized_shape
    wide *= 1 / np.sqrt(mean_square + wide.dtype.type(eps))
    x_hat = wide.astype(x.dtype, copy=False)
    return np.multiply(x_hat, weight, out=wide).astype(x.dtype, copy=False)


def numpy_add_norm(x: np.ndarray, residual: np.ndarray, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sum in the place of the residual, and its norm."""
    residual += x
    return numpy_norm(residual, *rest), residual


NUMPY_NORMS = Norms(numpy_norm, numpy_add_norm)


def computed(dtype: np.dtype) -> np.dtype:
    """What numbers of a dtype are computed with: float32 where they are bfloat16."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


# --------------------------------------------------------------------------- the decoder


class Cache:
    """The keys and values of the tokens so far, (layers, heads, tokens, head size)."""

    def __init__(self, config: Config, longest: int, dtype: np.dtype):
        shape = (config.num_hidden_layers, config.num_key_value_heads, longest, config.head_size)
        self.keys, self.values = np.empty(shape, dtype), np.empty(shape, dtype)
        self.length = 0


class Decoder:
    """Llama (Touvron et al. 2023, arXiv:2302.13971) with grouped queries, forward only.

    Activations are stored in `dtype` and computed with in float32, or in float64 if that is what is stored.
    """

    def __init__(self, model: Model, norms: Norms, dtype: np.dtype):
        self.config = model.config
        self.weights = model.weights
        self.norms = norms
        self.dtype = np.dtype(dtype)
        self.computed = computed(self.dtype)

    def new_cache(self, longest: int) -> Cache:
        """For so many tokens."""
        return Cache(self.config, longest, self.dtype)

    def forward(self, ids: np.ndarray, cache: Cache) -> np.ndarray:
        """The logits (tokens, vocabulary) of the next token after each of ids, which follow those in the cache."""
        layers = self.config.num_hidden_layers
        h = self.weight("model.embed_tokens")[ids].astype(self.dtype)
        y = self.norms.norm(h, *self.norm_of("model.layers.0.input_layernorm"))
        for i in range(layers):
            name = f"model.layers.{i}"
            h, x = self.add_and_norm(self.attention(y, cache, i), h, f"{name}.post_attention_layernorm")
            # The norm that follows on the feed-forward is the first one of the next block, or the last one of all.
            following = f"model.layers.{i + 1}.input_layernorm" if i + 1 < layers else "model.norm"
            h, y = self.add_and_norm(self.feed_forward(x, name), h, following)
        cache.length += len(ids)
        return self.wide(y) @ self.weight("lm_head").T

    def add_and_norm(self, x: np.ndarray, h: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Add x to the stream h: the new stream, and its norm."""
        y, h = self.norms.add_norm(x, h, *self.norm_of(name))
        return h, y

    def attention(self, y: np.ndarray, cache: Cache, layer: int) -> np.ndarray:
        """Every token looks at itself and at those before it, once a head; several heads share keys and values."""
        name, start, end = f"model.layers.{layer}.self_attn", cache.length, cache.length + len(y)
        turns = self.turns(start, end)
        cache.keys[layer, :, start:end] = rotate(self.heads(y, f"{name}.k_proj"), turns)
        cache.values[layer, :, start:end] = self.heads(y, f"{name}.v_proj")
        keys, values = (self.wide(kept[layer, :, None, :end]) for kept in (cache.keys, cache.values))
        query = rotate(self.heads(y, f"{name}.q_proj"), turns).astype(self.dtype).astype(self.computed)
        query = query.reshape(len(keys), -1, *query.shape[1:])  # (heads of keys, heads that share them, tokens, size)
        scores = query @ keys.swapaxes(-1, -2)
        scores *= 1 / math.sqrt(self.config.head_size)
        scores += np.where(np.arange(end) <= np.arange(start, end)[:, None], 0, -np.inf).astype(self.computed)
        context = softmax(scores) @ values
        context = np.moveaxis(context.reshape(-1, *context.shape[2:]), 0, 1).reshape(len(y), -1)
        return self.linear(context.astype(self.dtype), f"{name}.o_proj")

    def heads(self, y: np.ndarray, name: str) -> np.ndarray:
        """A projection, as computed: (heads, tokens, head size)."""
        projected = self.linear(y, name).reshape(len(y), -1, self.config.head_size)
        return self.wide(np.moveaxis(projected, 1, 0))

    def turns(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine of the angles of each token, (tokens, half of a head)."""
        half = np.arange(self.config.head_size // 2) * 2 / self.config.head_size
        angles = np.arange(start, end)[:, None] * self.config.rope_theta**-half
        return np.cos(angles).astype(self.computed), np.sin(angles).astype(self.computed)

    def feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        """SwiGLU (Shazeer 2020, arXiv:2002.05202), each token by itself."""
        gate, up = (self.wide(self.linear(x, f"{name}.mlp.{part}_proj")) for part in ("gate", "up"))
        with np.errstate(over="ignore"):  # exp(-gate) is Inf where gate is far below 0, and the quotient then 0
            gate = gate / (1 + np.exp(-gate))
        return self.linear((gate * up).astype(self.dtype), f"{name}.mlp.down_proj")

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """X @ weight.T, rounded to what is stored."""
        return (self.wide(x) @ self.weight(name).T).astype(self.dtype)

    def norm_of(self, name: str) -> tuple[int, np.ndarray, float]:
        """What a norm takes beside its rows."""
        return self.config.hidden_size, self.weight(name), self.config.rms_norm_eps

    def weight(self, name: str) -> np.ndarray:
        """As it is computed with."""
        return self.weights[f"{name}.weight"].astype(self.computed, copy=False)

    def wide(self, x: np.ndarray) -> np.ndarray:
        """What is stored, as it is computed with."""
        return x.astype(self.computed, copy=False)


def rotate(x: np.ndarray, turns: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): number i of a head turns with number i + half."""
    (cos, sin), (first, second) = turns, np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax of the last axis, in place. The maximum is subtracted so that exp cannot overflow."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


# --------------------------------------------------------------------------- comparing


class Timed:
    """A function that adds up the time spent in it."""

    def __init__(self, function: Callable):
        self.function = function
        self.seconds = 0.0

    def __call__(self, *args, **kwargs):
        start = perf_counter()
        result = self.function(*args, **kwargs)
        self.seconds += perf_counter() - start
        return result


class Timing(NamedTuple):
    """Seconds in norms, and altogether."""

    norms: float
    whole: float


class Run(NamedTuple):
    """What the prompt took, what a token after it took, and the logits (tokens, vocabulary) of all of them."""

    prompt: Timing
    token: Timing
    logits: np.ndarray


def choose_tokens(decoder: Decoder, prompt: np.ndarray, count: int) -> np.ndarray:
    """The likeliest tokens after the prompt, one after the other."""
    cache = decoder.new_cache(len(prompt) + count)
    logits = decoder.forward(prompt, cache)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(logits[-1].argmax()))
        logits = decoder.forward(np.array(chosen[-1:]), cache)
    return np.array(chosen)


def time_run(model: Model, norms: Norms, dtype: np.dtype, prompt: np.ndarray, tokens: np.ndarray) -> Run:
    """The prompt in one pass, then one token after the other, with a stopwatch around the norms."""
    timed = Norms(*map(Timed, norms))
    decoder = Decoder(model, timed, dtype)
    cache = decoder.new_cache(len(prompt) + len(tokens))

    def time_passes(parts: Sequence[np.ndarray]) -> tuple[Timing, list[np.ndarray]]:
        before, start = sum(f.seconds for f in timed), perf_counter()
        logits = [decoder.forward(part, cache) for part in parts]
        whole = perf_counter() - start
        return Timing((sum(f.seconds for f in timed) - before) / len(parts), whole / len(parts)), logits

    (prompt_took, first), (token_took, others) = time_passes([prompt]), time_passes(np.split(tokens, len(tokens)))
    return Run(prompt_took, token_took, np.concatenate(first + others))


def compare(model: Model, contenders: Mapping[str, Norms], prompt: np.ndarray, tokens: np.ndarray, repeats: int):
    """The same passes with the norms of each: Run by name, with medians, after a run of each that is left out."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    with progress_bar((1 + repeats) * len(contenders), "timed runs") as bar:
        for _ in range(1 + repeats):
            # In turns, so that whatever else the machine does meanwhile falls on both.
            for name, norms in contenders.items():
                runs[name].append(time_run(model, norms, bfloat16(), prompt, tokens))
                bar.update()
    return {name: medians(found[1:]) for name, found in runs.items()}


def medians(runs: Sequence[Run]) -> Run:
    """The median of each figure, and the logits, which are the same in each."""
    prompt, token, logits = zip(*runs, strict=True)
    return Run(*(Timing(*map(median, zip(*timings, strict=True))) for timings in (prompt, token)), logits[-1])


def largest_difference(logits: np.ndarray, exact: np.ndarray) -> float:
    """As a share of the largest of the exact ones."""
    return float(np.abs(logits - exact).max() / np.abs(exact).max())


def allowed_difference(config: Config) -> float:
    """What bfloat16 may cost."""
    return TOLERANCE * 2.0**-7 * math.sqrt(config.num_hidden_layers)


def describe(model: Model, prompt: np.ndarray, tokens: np.ndarray, threads: int, repeats: int) -> str:
    """What is computed and how it is timed."""
    c = model.config
    return (
        f"Llama-style decoder, {model.origin}: {c.num_hidden_layers} layers, {c.hidden_size} wide, "
        f"{c.num_attention_heads} heads that share {c.num_key_value_heads} of keys and values,\n"
        f"{1 + 2 * c.num_hidden_layers} norms a pass. Activations in bfloat16, weights of the norms in float32.\n"
        f"A prompt of {len(prompt)} tokens in one pass, then {len(tokens)} tokens one by one.\n"
        f"Median of {repeats} in turns; threads of a norm: NumPy 1, fastln up to {threads}."
    )


def format_runs(runs: Mapping[str, Run]) -> str:
    """The times as a table: norms, whole passes, and the share of the norms."""
    rows = [("", "norms", "whole pass", "share")]
    for title, of in (("prompt", "prompt"), ("one token", "token")):
        timings = {name: getattr(run, of) for name, run in runs.items()}
        for name, t in timings.items():
            rows.append((f"{title}, {name}", milliseconds(t.norms), milliseconds(t.whole), f"{t.norms / t.whole:.1%}"))
        norms, whole = (before / after for before, after in zip(*timings.values(), strict=True))
        rows.append((f"{title}, gain", f"{norms:.1f} x", f"{whole:.2f} x", ""))
    return format_table(rows, right=(1, 2, 3))


def milliseconds(seconds: float) -> str:
    """0.123 ms."""
    return f"{seconds * 1e3:.3f} ms"


# --------------------------------------------------------------------------- the command line

SIZES = {  # option -> field of Config, default, and what it is
    "layers": ("num_hidden_layers", 4, "blocks"),
    "hidden": ("hidden_size", 768, "numbers of a token"),
    "heads": ("num_attention_heads", 12, "of attention"),
    "shared": ("num_key_value_heads", 4, "heads of keys and values"),
    "inner": ("intermediate_size", 2048, "numbers within the feed-forward"),
    "vocabulary": ("vocab_size", 4096, "tokens that there are"),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description="Run a Llama-style decoder in NumPy with fastln's RMS norm, compare it with float64, "
        "and its time in norms with NumPy's.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    number = functools.partial(add, type=positive, metavar="N")
    add("--weights", type=Path, metavar="PATH", help="a checkpoint's folder, or its one .safetensors (default: random)")
    for name, (_, default, text) in SIZES.items():
        number(f"--{name}", help=f"{text} (default: {default})")
    number("--prompt", default=128, help="tokens in the first pass (default: %(default)s)")
    number("--tokens", default=16, help="tokens after it, one by one (default: %(default)s)")
    number("-t", "--threads", help="threads of a norm (default: fastln's choice)")
    number("--repeats", default=3, help="timed runs of each (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of random weights and of the prompt (default: %(default)s)")
    args = parser.parse_args(argv)
    given = [name for name in SIZES if getattr(args, name) is not None]
    if args.weights is not None and given:
        parser.error(f"--{given[0]} must be left out with --weights: config.json has it")
    if args.seed < 0:
        parser.error(f"argument --seed: must not be negative, got {args.seed}")
    return args


def make_model(args: argparse.Namespace) -> Model:
    """The model that is asked for."""
    if args.weights is not None:
        return load_model(args.weights.expanduser())
    sizes = {field: getattr(args, name) or default for name, (field, default, _) in SIZES.items()}
    return random_model(Config(**sizes), args.seed)


def run(args: argparse.Namespace) -> int:
    """Decode, compare, print; 1 if the result is not what float64 gives."""
    model, fast = make_model(args), fastln_norms(args.threads)
    prompt = np.random.default_rng(args.seed).integers(model.config.vocab_size, size=args.prompt)
    tokens = choose_tokens(Decoder(model, fast, bfloat16()), prompt, args.tokens)
    print(describe(model, prompt, tokens, args.threads or fastln.get_num_threads(), args.repeats) + "\n", flush=True)
    runs = compare(model, {"NumPy": NUMPY_NORMS, "fastln": fast}, prompt, tokens, args.repeats)
    print(format_runs(runs) + "\n", flush=True)

    # One pass over all tokens: neither the norms nor what was kept of the tokens before are those of the others.
    reference = Decoder(model, NUMPY_NORMS, np.dtype(np.float64))
    exact = reference.forward(np.concatenate([prompt, tokens]), reference.new_cache(len(prompt) + len(tokens)))
    differences = {name: largest_difference(one.logits, exact) for name, one in runs.items()}
    allowed = allowed_difference(model.config)
    found = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    print(f"largest difference of the logits from float64, of the largest: {found} (allowed: {allowed:.1e})")
    return 0 if all(difference <= allowed for difference in differences.values()) else 1  # NaN is not


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv)
    return exit_status(__file__, lambda: run(args), INSTALL)


if __name__ == "__main__":
    sys.exit(main())
