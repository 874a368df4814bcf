"""The sentence encoder of sentence_embeddings.py in PyTorch, before and after `fastln.torch.enable()`.

The model is the same, all-MiniLM-L6-v2 with its 13 layer norms; its modules are PyTorch's, and know nothing of fastln.
Shown are the largest difference in the embeddings, the time of the norms and of the whole encoder, and which results of
the norms depend on the number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
from command_line import exit_status, format_table, positive
from sentence_embeddings import DEFAULT_SENTENCES, INSTALL, Model, load_model, pad

INSTALL = INSTALL | {"torch": "pip install torch"}

try:
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import Tensor, nn

    import fastln.torch
except ModuleNotFoundError as missing:
    sys.exit(f"{Path(__file__).name}: error: the module {missing.name} is missing; to install it: pip install torch")

BEFORE, AFTER = NAMES = ("PyTorch", "with fastln")


# --------------------------------------------------------------------------- the model


class Attention(nn.Module):
    """Every token looks at every real token of its sentence, once a head."""

    def __init__(self, hidden: int, heads: int, eps: float):
        super().__init__()
        self.self = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")})
        self.output = Output(hidden, hidden, eps)
        self.heads = heads

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            self.self[name](h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(context.transpose(1, 2).flatten(2), h)


class Output(nn.Module):
    """What a sublayer gives, added to its input and normalized."""

    def __init__(self, inputs: int, hidden: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(inputs, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.LayerNorm(h + self.dense(x))


class Layer(nn.Module):
    """Attention, then each token by itself."""

    def __init__(self, hidden: int, inner: int, heads: int, eps: float):
        super().__init__()
        self.attention = Attention(hidden, heads, eps)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, inner)})
        self.output = Output(inner, hidden, eps)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = self.attention(h, mask)
        return self.output(F.gelu(self.intermediate["dense"](h)), h)


class Encoder(nn.Module):
    """BERT (Devlin et al. 2018, arXiv:1810.04805) with mean pooling, under the names that the checkpoint gives them."""

    def __init__(self, config: dict):
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        sizes = {
            "word": config["vocab_size"],
            "position": config["max_position_embeddings"],
            "token_type": config["type_vocab_size"],
        }
        tables = {f"{kind}_embeddings": nn.Embedding(size, hidden) for kind, size in sizes.items()}
        self.embeddings = nn.ModuleDict(tables | {"LayerNorm": nn.LayerNorm(hidden, eps)})
        layer = functools.partial(Layer, hidden, config["intermediate_size"], config["num_attention_heads"], eps)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layer() for _ in range(config["num_hidden_layers"]))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask (batch, length), mask True on real tokens -> embeddings (batch, hidden), rows of length 1."""
        of = self.embeddings
        h = of["word_embeddings"](ids) + of["position_embeddings"].weight[: ids.shape[1]]
        h = of["LayerNorm"](h + of["token_type_embeddings"].weight[0])
        for layer in self.encoder["layer"]:
            h = layer(h, mask[:, None, None, :])
        weights = mask / mask.sum(dim=1, keepdim=True)
        return F.normalize((weights[:, None, :] @ h)[:, 0], dim=-1)


def build(model: Model) -> Encoder:
    """The encoder with the weights of the checkpoint."""
    encoder = Encoder(model.config).eval()
    # The checkpoint has more: a pooler that sentence embeddings leave out.
    encoder.load_state_dict({name: torch.from_numpy(model.weights[name]) for name in encoder.state_dict()})
    return encoder


def as_tensors(model: Model, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask of one batch."""
    tokens = model.tokenizer.encode_batch(list(sentences))
    ids, mask = pad([t.ids for t in tokens], model.config["pad_token_id"])
    return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(mask)


# --------------------------------------------------------------------------- before and after


SETTINGS: dict[str, Callable] = {BEFORE: contextlib.nullcontext, AFTER: lambda: fastln.torch.enabled()}


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Within: so many threads of PyTorch's, which fastln never exceeds."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def norms_of(encoder: Encoder) -> list[nn.LayerNorm]:
    """Its norms, in the order of a pass."""
    return [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]


def inputs_of_norms(encoder: Encoder, ids: Tensor, mask: Tensor) -> list[tuple[nn.LayerNorm, Tensor]]:
    """Each norm of a pass and what it is given."""
    given: list[tuple[nn.LayerNorm, Tensor]] = []
    hooks = [norm.register_forward_pre_hook(lambda norm, x: given.append((norm, x[0]))) for norm in norms_of(encoder)]
    with torch.inference_mode():
        encoder(ids, mask)
    for hook in hooks:
        hook.remove()
    return [(norm, x.clone()) for norm, x in given]


class Times(NamedTuple):
    """Seconds of a pass: in its norms, and altogether."""

    norms: float
    whole: float


class Stopwatch:
    """Adds up the time in the norms of an encoder while it is open: in a pass, where x has just been written."""

    def __init__(self, encoder: Encoder):
        self.norms = norms_of(encoder)
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self.hooks = [norm.register_forward_pre_hook(self.start) for norm in self.norms]
        self.hooks += [norm.register_forward_hook(self.stop) for norm in self.norms]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def start(self, norm: nn.Module, x: tuple[Tensor]) -> None:
        self.started = perf_counter()

    def stop(self, norm: nn.Module, x: tuple[Tensor], y: Tensor) -> None:
        self.seconds += perf_counter() - self.started


def time_pass(encoder: Encoder, ids: Tensor, mask: Tensor) -> Times:
    """Encode once."""
    with Stopwatch(encoder) as watch:
        start = perf_counter()
        encoder(ids, mask)
        return Times(watch.seconds, perf_counter() - start)


def compare_times(encoder: Encoder, ids: Tensor, mask: Tensor, repeats: int) -> dict[str, Times]:
    """The medians of both settings, measured in turns, so that what else the machine does falls on both."""
    runs: dict[str, list[Times]] = {name: [] for name in NAMES}
    with torch.inference_mode():
        for _ in range(1 + repeats):
            for name in NAMES:
                with SETTINGS[name]():
                    runs[name].append(time_pass(encoder, ids, mask))
    # The first run of each warms caches and threads up.
    return {name: Times(*(median(column) for column in zip(*run[1:], strict=True))) for name, run in runs.items()}


def gradients_of_norms(calls: list[tuple[nn.LayerNorm, Tensor]]) -> list[Tensor]:
    """Of each norm y, dx, dweight and dbias, for a dy that is always the same."""
    found = []
    for norm, x in calls:
        x = x.clone().requires_grad_()
        y = norm(x)
        dy = torch.linspace(-1, 1, x.numel()).view_as(x).cos()
        found += [y.detach(), *torch.autograd.grad(y, (x, norm.weight, norm.bias), dy)]
    return found


def count_changes(calls: list[tuple[nn.LayerNorm, Tensor]]) -> list[tuple[int, int]]:
    """Of y, dx, dweight and dbias: in how many norms two threads give other bits than one, and how many norms."""
    of_threads = []
    for count in (1, 2):
        with threads(count):
            of_threads.append(gradients_of_norms(calls))
    changed = [not torch.equal(one, two) for one, two in zip(*of_threads, strict=True)]
    return [(sum(changed[kind::4]), len(changed[kind::4])) for kind in range(4)]


# --------------------------------------------------------------------------- the report


def format_times(times: dict[str, Times]) -> list[tuple[str, ...]]:
    """A row for each setting."""
    return [
        (name, f"{t.norms * 1e3:.3f} ms", f"{t.whole * 1e3:.2f} ms", f"{t.norms / t.whole:.1%}")
        for name, t in times.items()
    ]


def report(encoder: Encoder, ids: Tensor, mask: Tensor, counts: Sequence[int], repeats: int) -> Iterator[str]:
    """The lines, as soon as they are known."""
    embeddings = {}
    for name in NAMES:
        with SETTINGS[name](), torch.inference_mode():
            embeddings[name] = encoder(ids, mask)
    yield f"largest difference in the embeddings: {(embeddings[BEFORE] - embeddings[AFTER]).abs().max():.1e}"
    for count in counts:
        with threads(count):
            times = compare_times(encoder, ids, mask, repeats)
        rows = [(f"{count} thread{'s' if count > 1 else ''}", "norms", "whole encoder", "share"), *format_times(times)]
        gain = [times[BEFORE][i] / times[AFTER][i] for i in range(2)]
        rows.append(("gain", f"{gain[0]:.2f} x", f"{gain[1]:.2f} x", ""))
        yield "\n" + format_table(rows, right=(1, 2, 3))
    calls = inputs_of_norms(encoder, ids, mask)
    rows = [("norms with other bits on 2 threads than on 1", "y", "dx", "dweight", "dbias")]
    for name in NAMES:
        with SETTINGS[name]():
            rows.append((name, *(f"{changed} of {norms}" for changed, norms in count_changes(calls))))
    yield "\n" + format_table(rows, right=(1, 2, 3, 4))


# --------------------------------------------------------------------------- the command line


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description="Embed sentences with all-MiniLM-L6-v2 in PyTorch, before and after fastln.torch.enable().",
    )
    number = functools.partial(parser.add_argument, type=positive, metavar="N")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="one batch of them (default: a dozen)")
    number("-t", "--threads", nargs="+", default=[1, 2], help="of PyTorch, to time with (default: 1 2)")
    number("--repeats", default=15, help="timed runs (default: %(default)s)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Embed, compare, print."""
    model = load_model()
    sentences = args.sentences or DEFAULT_SENTENCES
    ids, mask = as_tensors(model, sentences)
    print(f"PyTorch {torch.__version__}: {len(sentences)} sentences, {int(mask.sum())} tokens, 13 layer norms a pass")
    for line in report(build(model), ids, mask, args.threads, args.repeats):
        print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv)
    return exit_status(__file__, lambda: run(args), INSTALL)


if __name__ == "__main__":
    sys.exit(main())
