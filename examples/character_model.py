"""A character model with and without layer norm: an LSTM in NumPy against fastln's layer-normalized one.

Both read the reference that Python itself ships (pydoc_data.topics: 465 thousand characters of English about Python)
and predict each next character, trained with Adam by truncated backpropagation, over a grid of learning rates and a few
seeds. Every character is read once, and the loss of a batch is taken before the step that learns from it, so it is a
loss on text that the model has not seen; it is reported in bits per character. At last the best layer-normalized model
writes some text, one `step()` a character.

The LSTM without norms is plain NumPy with its gradients by hand, so that nothing else need be installed; the two are
compared by what they learn, not by their speed. Layer norm in recurrence: Ba, Kiros and Hinton, "Layer Normalization"
(2016, arXiv:1607.06450), sections 3.1 and 6.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from command_line import InputError, exit_status, learning_rate, positive, prepare_folder

import fastln

INSTALL = {  # module -> what to type when it is missing
    "matplotlib": "pip install matplotlib",
    "threadpoolctl": "pip install threadpoolctl",
    "tqdm": "pip install tqdm",
}

PLAIN, NORMALIZED = KINDS = ("LSTM", "LN-LSTM")
SMOOTHED = 30  # batches that a loss is averaged over

# Results of a few seeds that are nearer than this, in bits per character, are not called different.
NOTABLE = 0.05

DEFAULTS = {"steps": 240, "hidden": 128, "seeds": 3}
QUICK = {"steps": 40, "hidden": 32, "seeds": 1}

EPILOG = """\
examples:
  character_model.py --out results         three rates, three seeds, both models: some three minutes
  character_model.py --quick               small models for a few steps: some seconds
  character_model.py --rates 0.001 0.1     other learning rates
"""


# --------------------------------------------------------------------------- the text


@dataclass(frozen=True)
class Text:
    """Characters by their numbers, and the alphabet that the numbers count."""

    numbers: np.ndarray
    alphabet: str


def load_text() -> Text:
    """The topics of Python's reference, one after the other."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    alphabet = "".join(sorted(set(text)))
    place = {character: number for number, character in enumerate(alphabet)}
    return Text(np.array([place[character] for character in text]), alphabet)


def cut_into_batches(text: Text, length: int, batch: int) -> np.ndarray:
    """Numbers (batches, length + 1, batch): streams beside each other, of which each batch reads on where one ended.

    The last character of a batch is the first of the next one: it is predicted, then read.
    """
    steps = (len(text.numbers) - 1) // (length * batch)
    streams = text.numbers[: steps * length * batch].reshape(batch, steps * length)
    follows = text.numbers[1 : steps * length * batch + 1].reshape(batch, steps * length)
    whole = np.concatenate((streams[:, :1], follows), axis=1).T
    return np.stack([whole[first * length : (first + 1) * length + 1] for first in range(steps)])


# --------------------------------------------------------------------------- the models


class Saved(NamedTuple):
    """What the LSTM's forward pass leaves for its backward pass."""

    x: np.ndarray
    first: tuple[np.ndarray, np.ndarray]
    gates: np.ndarray
    cells: np.ndarray
    y: np.ndarray


class Gradients(NamedTuple):
    """As fastln's objects give them."""

    dx: None
    dstate: tuple[np.ndarray, np.ndarray]
    dparameters: dict[str, np.ndarray]


class LSTM:
    """An LSTM without norms in NumPy, used as fastln.LayerNormLSTM is; gates in the order i, f, g, o."""

    def __init__(self, inputs: int, hidden: int, rng: np.random.Generator, dtype=np.float32):
        bound = 1 / math.sqrt(hidden)
        self.hidden = hidden
        self.parameters = {
            "weight_ih_l0": rng.uniform(-bound, bound, (4 * hidden, inputs)).astype(dtype),
            "weight_hh_l0": rng.uniform(-bound, bound, (4 * hidden, hidden)).astype(dtype),
            "bias_l0": np.zeros(4 * hidden, dtype),
        }

    def forward(self, x: np.ndarray, state: tuple[np.ndarray, np.ndarray]) -> tuple[Any, Saved]:
        weight_ih, weight_hh, bias = self.parameters.values()
        h, c = state[0][0], state[1][0]
        gates = x @ weight_ih.T + bias
        cells, y = np.empty((*x.shape[:2], self.hidden), x.dtype), np.empty((*x.shape[:2], self.hidden), x.dtype)
        for t in range(len(x)):
            gates[t] += h @ weight_hh.T
            i, f, g, o = activate(gates[t], self.hidden)
            cells[t] = f * c + i * g
            y[t] = o * np.tanh(cells[t])
            h, c = y[t], cells[t]
        return (y, (h[None].copy(), c[None].copy())), Saved(x, (state[0][0], state[1][0]), gates, cells, y)

    def backward(self, dy: np.ndarray, dstate: None, saved: Saved) -> Gradients:
        weight_hh = self.parameters["weight_hh_l0"]
        before_h = np.concatenate((saved.first[0][None], saved.y[:-1]))
        before_c = np.concatenate((saved.first[1][None], saved.cells[:-1]))
        dh, dc = np.zeros_like(before_h[0]), np.zeros_like(before_c[0])
        dsums = np.empty_like(saved.gates)
        for t in reversed(range(len(dy))):
            i, f, g, o = np.split(saved.gates[t], 4, axis=1)
            tanh_c = np.tanh(saved.cells[t])
            dh = dh + dy[t]
            dc = dc + dh * o * (1 - tanh_c * tanh_c)
            parts = (
                dc * g * i * (1 - i),
                dc * before_c[t] * f * (1 - f),
                dc * i * (1 - g * g),
                dh * tanh_c * o * (1 - o),
            )
            np.concatenate(parts, axis=1, out=dsums[t])
            dh, dc = dsums[t] @ weight_hh, dc * f
        flat = dsums.reshape(-1, dsums.shape[2])
        dweight_ih = flat.T @ saved.x.reshape(len(flat), -1)
        dweight_hh = flat.T @ before_h.reshape(len(flat), -1)
        named = {"weight_ih_l0": dweight_ih, "weight_hh_l0": dweight_hh, "bias_l0": flat.sum(axis=0)}
        return Gradients(None, (dh[None], dc[None]), named)


def activate(sums: np.ndarray, hidden: int) -> list[np.ndarray]:
    """The gates of one step, over their sums: i, f, o by the logistic function, g by tanh."""
    parts = [sums[:, k * hidden : (k + 1) * hidden] for k in range(4)]
    for part in (parts[0], parts[1], parts[3]):
        part *= 0.5
        np.tanh(part, out=part)
        part *= 0.5
        part += 0.5
    np.tanh(parts[2], out=parts[2])
    return parts


class CharacterModel:
    """A recurrent network over characters, and a linear layer to the scores of the next one."""

    def __init__(self, kind: str, characters: int, hidden: int, rng: np.random.Generator, dtype=np.float32):
        if kind == NORMALIZED:
            self.network = fastln.LayerNormLSTM(characters, hidden, dtype=dtype, rng=rng)
        else:
            self.network = LSTM(characters, hidden, rng, dtype)
        # A character is a row of zeros and one 1, so this gives both models sums of unit size to begin with.
        self.network.parameters["weight_ih_l0"][...] = rng.standard_normal((4 * hidden, characters))
        self.weight = (rng.standard_normal((characters, hidden)) / math.sqrt(hidden)).astype(dtype)
        self.bias = np.zeros(characters, dtype)
        self.rows = np.eye(characters, dtype=dtype)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """All of them by name."""
        return {**self.network.parameters, "weight": self.weight, "bias": self.bias}

    def first_state(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Zeros."""
        shape = (1, batch, self.weight.shape[1])
        return np.zeros(shape, self.weight.dtype), np.zeros(shape, self.weight.dtype)

    def loss_and_gradients(self, numbers: np.ndarray, state: Any) -> tuple[float, dict[str, np.ndarray], Any]:
        """Of a batch (length + 1, batch): mean bits per character, gradients of it in nats, and the last state."""
        (y, state), saved = self.network.forward(self.rows[numbers[:-1]], state)
        log_p = log_softmax(y @ self.weight.T + self.bias)
        taken = np.take_along_axis(log_p, numbers[1:, :, None], axis=2)
        dscores = np.exp(log_p)
        dscores -= self.rows[numbers[1:]]
        dscores /= taken.size
        found = self.network.backward(dscores @ self.weight, None, saved)
        flat, hidden = dscores.reshape(-1, dscores.shape[2]), y.reshape(-1, y.shape[2])
        gradients = {**found.dparameters, "weight": flat.T @ hidden, "bias": flat.sum(axis=0)}
        return float(-taken.mean()) / math.log(2), gradients, state


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis. The maximum is subtracted so that exp cannot overflow."""
    z = scores - scores.max(axis=-1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return z


class Adam:
    """Adam (Kingma and Ba 2014, arXiv:1412.6980, algorithm 1), in place."""

    def __init__(self, parameters: dict[str, np.ndarray], rate: float):
        self.rate, self.beta1, self.beta2, self.eps = rate, 0.9, 0.999, 1e-8
        self.t = 0
        self.parameters = parameters
        self.moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in parameters.items()}

    def step(self, gradients: dict[str, np.ndarray]) -> None:
        self.t += 1
        for name, gradient in gradients.items():
            mean, square = self.moments[name]
            mean += (1 - self.beta1) * (gradient - mean)
            square += (1 - self.beta2) * (gradient * gradient - square)
            root = np.sqrt(square / (1 - self.beta2**self.t)) + self.eps
            self.parameters[name] -= self.rate / (1 - self.beta1**self.t) * mean / root


def write_text(model: CharacterModel, alphabet: str, begin: str, characters: int, rng: np.random.Generator) -> str:
    """Text that goes on from `begin`, each character drawn by the model's probabilities. Streaming: one step each."""
    frozen = model.network.freeze()  # packed once, for all steps
    state, written = None, begin
    for place in range(len(begin) + characters - 1):
        state = frozen.step(model.rows[alphabet.index(written[place])], state)
        if place >= len(begin) - 1:
            h, _ = state
            p = np.exp(log_softmax(h[-1] @ model.weight.T + model.bias)).astype(np.float64)
            written += alphabet[rng.choice(len(p), p=p / p.sum())]
    return written


# --------------------------------------------------------------------------- the experiment


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    steps: int
    hidden: int
    seeds: int
    rates: list[float]
    length: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Curve:
    """Bits per character of each batch, (seeds, steps), of one model at one learning rate."""

    kind: str
    rate: float
    bits: np.ndarray

    @property
    def settled(self) -> np.ndarray:
        """The mean of the last batches, for each seed."""
        return self.bits[:, -SMOOTHED:].mean(axis=1)


def train(
    kind: str, rate: float, seed: int, batches: np.ndarray, characters: int, settings: Settings, advance: Callable
) -> tuple[np.ndarray, CharacterModel]:
    """One run: bits per character of each batch before the step that learns from it, and the model."""
    model = CharacterModel(kind, characters, settings.hidden, np.random.default_rng(seed))
    adam = Adam(model.parameters, rate)
    state, bits = model.first_state(settings.batch), []
    with fastln.threads(1):  # as BLAS here: runs share the CPUs
        for numbers in batches[: settings.steps]:
            loss, gradients, state = model.loss_and_gradients(numbers, state)
            adam.step(gradients)
            bits.append(loss)
            advance()
    return np.array(bits), model


def run_experiment(settings: Settings, text: Text) -> tuple[list[Curve], CharacterModel]:
    """All runs, as many at a time as there are CPUs for, and the best of the layer-normalized models."""
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    batches = cut_into_batches(text, settings.length, settings.batch)
    pairs = [(kind, rate) for kind in KINDS for rate in settings.rates]
    runs = [(*pair, settings.seed + k) for pair in pairs for k in range(settings.seeds)]
    stopped = threading.Event()
    # disable=None: no bar unless stderr is a terminal.
    with (
        tqdm(total=len(runs) * settings.steps, unit=" steps", leave=False, disable=None) as bar,
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(fastln.get_num_threads()) as pool,
    ):

        def advance():
            if stopped.is_set():
                raise InterruptedError
            with tqdm.get_lock():
                bar.update()

        rest = batches, len(text.alphabet), settings, advance
        futures = [pool.submit(train, *run, *rest) for run in runs]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()  # raises what the run raised
        finally:
            stopped.set()  # after an error or Ctrl-C, leaving waits for the runs under way
        done = [future.result() for future in futures]
    curves = [
        Curve(*pair, np.stack([bits for bits, _ in done[k * settings.seeds : (k + 1) * settings.seeds]]))
        for k, pair in enumerate(pairs)
    ]
    normalized = [result for run, result in zip(runs, done, strict=True) if run[0] == NORMALIZED]
    return curves, min(normalized, key=lambda result: result[0][-SMOOTHED:].mean())[1]


# --------------------------------------------------------------------------- the report


def describe(settings: Settings, text: Text) -> str:
    """What was done, in words."""
    s = settings
    read = min(s.steps * s.length * s.batch, len(text.numbers))
    seeds = f"seed {s.seed}" if s.seeds == 1 else f"{s.seeds} seeds from {s.seed}"
    return (
        f"pydoc_data.topics: {len(text.numbers)} characters, {len(text.alphabet)} different ones; {read} of them read "
        f"once.\n{s.hidden} units, {s.steps} steps of {s.batch} streams by {s.length} characters, Adam, {seeds}."
    )


def format_table(curves: Sequence[Curve]) -> str:
    """Bits per character at the end, a row a model and a column a rate, as a table in Markdown."""
    rates = list(dict.fromkeys(curve.rate for curve in curves))
    rows = [[kind, *(cell_of(curve) for curve in curves if curve.kind == kind)] for kind in KINDS]
    rows.insert(0, ["model", *(f"rate {rate:g}" for rate in rates)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    legend = f"Bits per character over the last {SMOOTHED} batches, mean of the seeds (lowest to highest)."
    return "\n".join(lines) + f"\n\n{legend}"


def cell_of(curve: Curve) -> str:
    """The mean and the range of the seeds."""
    settled = curve.settled
    around = "" if len(settled) == 1 else f" ({settled.min():.2f} to {settled.max():.2f})"
    return f"{settled.mean():.2f}{around}"


def summarize(curves: Sequence[Curve]) -> str:
    """What was seen; every word of it follows from the results."""
    means = {kind: [curve.settled.mean() for curve in curves if curve.kind == kind] for kind in KINDS}
    best = {kind: min(found) for kind, found in means.items()}
    lead = best[PLAIN] - best[NORMALIZED]
    verdict = (
        f"{NORMALIZED} is ahead by {lead:.2f}"
        if lead > NOTABLE
        else f"{PLAIN} is ahead by {-lead:.2f}"
        if lead < -NOTABLE
        else "that is no notable difference"
    )
    lines = [
        f"- Each at its best rate: {best[PLAIN]:.2f} bits ({PLAIN}), {best[NORMALIZED]:.2f} ({NORMALIZED}): {verdict}."
    ]
    if len(means[PLAIN]) > 1:
        spread = {kind: max(found) - min(found) for kind, found in means.items()}
        narrower = NORMALIZED if spread[NORMALIZED] < spread[PLAIN] - NOTABLE else None
        narrower = PLAIN if spread[PLAIN] < spread[NORMALIZED] - NOTABLE else narrower
        said = f"{narrower} depends less on the rate" if narrower else "both depend on the rate alike"
        spreads = ", ".join(f"{spread[kind]:.2f} bits with {kind}" for kind in KINDS)
        lines.append(f"- From the best rate to the worst: {spreads}: {said}.")
    return "\n".join(lines)


STYLE = {PLAIN: "#D55E00", NORMALIZED: "#0072B2"}  # Okabe and Ito's, which differ for every kind of colour vision


def plot(curves: Sequence[Curve], title: str, path: Path) -> None:
    """Bits per character against steps, a panel a rate: the mean of the seeds and their range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rates = list(dict.fromkeys(curve.rate for curve in curves))
    figure = Figure(figsize=(1 + 3.5 * len(rates), 4), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    FigureCanvasAgg(figure)  # draws to a file wherever there is no screen, and leaves pyplot alone
    axes = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for ax, rate in zip(axes, rates, strict=True):
        for curve in (curve for curve in curves if curve.rate == rate):
            smooth = smoothed(curve.bits)
            steps = np.arange(1, smooth.shape[1] + 1)
            ax.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=STYLE[curve.kind], alpha=0.15, lw=0)
            ax.plot(steps, smooth.mean(axis=0), color=STYLE[curve.kind], label=curve.kind)
        ax.set(title=f"learning rate {rate:g}", xlabel="steps")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("bits per character")
    axes[-1].legend(frameon=False)
    figure.savefig(path, dpi=150)


def smoothed(bits: np.ndarray) -> np.ndarray:
    """The mean of each batch and of up to SMOOTHED - 1 before it, for each seed."""
    sums = np.cumsum(np.pad(bits, ((0, 0), (1, 0))), axis=1)
    steps = np.arange(1, bits.shape[1] + 1)
    first = np.maximum(steps - SMOOTHED, 0)
    return (sums[:, steps] - sums[:, first]) / (steps - first)


# --------------------------------------------------------------------------- the command line


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description="Train a character model on Python's reference with an LSTM in NumPy and with fastln's "
        "layer-normalized LSTM, compare them over learning rates, and have the better one write.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for name, text in {"steps": "of a run", "hidden": "units", "seeds": "to repeat with"}.items():
        both = f"(default: {DEFAULTS[name]}; quick: {QUICK[name]})"
        add(f"--{name}", type=positive, metavar="N", help=f"{text} {both}")
    rates = [0.003, 0.01, 0.03]
    add("--rates", type=learning_rate, nargs="+", metavar="X", default=rates, help="(default: 0.003 0.01 0.03)")
    add("--length", type=positive, metavar="N", default=50, help="characters of a batch (default: %(default)s)")
    add("--batch", type=positive, metavar="N", default=32, help="streams beside each other (default: %(default)s)")
    add("--seed", type=int, metavar="N", default=0, help="the first seed (default: %(default)s)")
    add("--characters", type=positive, metavar="N", default=400, help="to write at the end (default: %(default)s)")
    add("--out", type=Path, metavar="FOLDER", help="save table, plot, text and all numbers there")
    add("--quick", action="store_true", help="smaller defaults, to try it out")
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else DEFAULTS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.rates = list(dict.fromkeys(args.rates))
    if args.seed < 0:
        parser.error(f"argument --seed: must not be negative, got {args.seed}")
    return args


def save(folder: Path, report: str, settings: Settings, curves: Sequence[Curve]) -> list[Path]:
    """Write table.md, curves.png and results.json."""
    title = f"pydoc_data.topics, {settings.hidden} units; mean and range over seeds ({settings.seeds})"
    table, picture, numbers = paths = [folder / name for name in ("table.md", "curves.png", "results.json")]
    runs = [{"kind": curve.kind, "rate": curve.rate, "bits": curve.bits.tolist()} for curve in curves]
    try:
        table.write_text(report + "\n", encoding="utf-8")
        plot(curves, title, picture)
        numbers.write_text(
            json.dumps({"settings": asdict(settings), "results": runs}, indent=1) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}") from error
    return paths


def run(args: argparse.Namespace) -> None:
    """Train, report, write some text, and save if asked to."""
    settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})
    text = load_text()
    if (most := (len(text.numbers) - 1) // (settings.length * settings.batch)) < settings.steps:
        raise InputError(f"the text has {most} batches of this size, fewer than {settings.steps} steps")
    if args.out is not None:
        prepare_folder(args.out)

    description = describe(settings, text)
    print(description, flush=True)
    start = perf_counter()
    curves, model = run_experiment(settings, text)
    seconds = perf_counter() - start
    table, summary = format_table(curves), summarize(curves)
    written = write_text(model, text.alphabet, "The ", args.characters, np.random.default_rng(settings.seed))
    print(f"\n{table}\n\n{summary}\n\nTrained in {seconds:.0f} s. The best {NORMALIZED} writes:\n\n{written}")
    if args.out is not None:
        report = f"{description}\n\n{table}\n\n{summary}\n\n```\n{written}\n```"
        print("\nSaved: " + ", ".join(map(str, save(args.out, report, settings, curves))))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv)
    return exit_status(__file__, lambda: run(args), INSTALL)


if __name__ == "__main__":
    sys.exit(main())
