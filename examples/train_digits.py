"""Layer norm against batch norm on handwritten digits, in NumPy, every layer norm fastln's.

This is the experiment of section 6.5 and figure 6 of Ba, Kiros and Hinton, "Layer Normalization" (2016,
arXiv:1607.06450): images as plain vectors through two hidden layers of 1000 ReLU units, layer norm on the
summed inputs of the hidden layers but not of the softmax layer, against batch norm, at batch sizes 128
and 4, trained with Adam. They found that layer norm is robust to the batch size and converges faster.

What differs here: the images are those that scikit-learn ships (load_digits: 1797 of 8x8 pixels, so 64
inputs; 1297 to train on, 500 to test on) and not MNIST's 70000 of 28x28. Batch norm stands where layer norm
does; the paper has it on all layers, which --batch-norm-softmax does too. It normalizes a training batch by
its biased variance, as frameworks do; the paper's takes the unbiased one at batch size 4.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from command_line import InputError, exit_status, learning_rate, positive, prepare_folder

import fastln

INSTALL = {  # module -> what to type when it is missing
    "matplotlib": "pip install matplotlib",
    "sklearn": "pip install scikit-learn",
    "threadpoolctl": "pip install threadpoolctl",
    "tqdm": "pip install tqdm",
}

LAYER_NORM, BATCH_NORM = KINDS = ("layer norm", "batch norm")
CLASSES = 10
TEST_IMAGES = 500  # of 1797: one image is 0.2 % of test error

EARLY_NLL = 0.1  # nats: steps are counted to this training loss, well below the 2.3 of a guess
# Results within this factor are not called different: a few seeds are few, and steps are measured 1.3 apart.
NOTABLE = 1.5

DEFAULTS = {"steps": 2000, "hidden": 1000, "seeds": 2}
QUICK = {"steps": 600, "hidden": 200, "seeds": 1}

EPILOG = """\
examples:
  train_digits.py --out results                     the paper's four runs, two seeds each: a minute or two
  train_digits.py --quick                           a small network for a few steps: two seconds
  train_digits.py --batch-sizes 2 4 8 --seeds 1     other batch sizes
  train_digits.py --batch-norm-softmax              batch norm on all layers
"""


# --------------------------------------------------------------------------- the images


@dataclass(frozen=True)
class Images:
    """Inputs (images, 64), mean 0 and variance 1 over the training set, and labels 0 to 9."""

    x: np.ndarray
    labels: np.ndarray


def load_images(rng: np.random.Generator) -> tuple[Images, Images]:
    """The digits of scikit-learn, split at random into training and test images."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(pixels))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    # One scale for all pixels. Some at the rim are inked once in hundreds of images: divided by their own
    # tiny standard deviation, that once would outweigh the rest of the image.
    mean, std = pixels[train].mean(axis=0), pixels[train].std(axis=0)
    x = ((pixels - mean) / np.sqrt(np.square(std).mean())).astype(np.float32)
    return Images(x[train], labels[train]), Images(x[test], labels[test])


def batches(images: Images, batch_size: int, rng: np.random.Generator) -> Iterator[Images]:
    """Batches without end, in a new order each epoch; the images left over sit that epoch out."""
    while True:
        order = rng.permutation(len(images.x))
        for stop in range(batch_size, len(order) + 1, batch_size):
            batch = order[stop - batch_size : stop]
            yield Images(images.x[batch], images.labels[batch])


# --------------------------------------------------------------------------- the network


class Gradients(NamedTuple):
    """What `backward` returns, by the names that fastln.LayerNorm gives them."""

    dx: np.ndarray
    dweight: np.ndarray | None
    dbias: np.ndarray


class BatchNorm:
    """Batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167) in NumPy, used as fastln.LayerNorm is.

    `forward` is for training: it normalizes each column of x (rows, features) by the mean and variance of
    the batch and keeps running averages of both. A call is for testing: it normalizes by the averages.
    Settings are those of torch.nn.BatchNorm1d, as is that the averages take the unbiased variance.
    """

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1, dtype=np.float32):
        self.weight = np.ones(features, dtype)
        self.bias = np.zeros(features, dtype)
        self.running_mean = np.zeros(features, dtype)
        self.running_var = np.ones(features, dtype)
        self.eps = eps
        self.momentum = momentum

    def __call__(self, x: np.ndarray) -> np.ndarray:
        scale = self.weight / np.sqrt(self.running_var + self.eps)
        y = x * scale
        y += self.bias - self.running_mean * scale
        return y

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        mean = x.mean(axis=0)
        x_hat = x - mean
        var = np.square(x_hat).mean(axis=0)
        unbiased = var * (len(x) / (len(x) - 1))
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (unbiased - self.running_var)
        rstd = 1 / np.sqrt(var + self.eps)
        x_hat *= rstd
        y = x_hat * self.weight
        y += self.bias
        return y, (x_hat, rstd)

    def backward(self, dy: np.ndarray, saved: tuple[np.ndarray, np.ndarray]) -> Gradients:
        x_hat, rstd = saved
        dweight, dbias = (dy * x_hat).sum(axis=0), dy.sum(axis=0)
        dx = x_hat * (dweight / -len(dy))
        dx += dy
        dx -= dbias / len(dy)
        dx *= self.weight * rstd
        return Gradients(dx, dweight, dbias)


class Bias:
    """Stands in the place of a norm where nothing is normalized: it adds a bias."""

    weight = None

    def __init__(self, features: int, dtype=np.float32):
        self.bias = np.zeros(features, dtype)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x + self.bias

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, None]:
        return x + self.bias, None

    def backward(self, dy: np.ndarray, saved: None) -> Gradients:
        return Gradients(dy, None, dy.sum(axis=0))


def make_norms(kind: str, hidden: int, batch_norm_softmax: bool = False, dtype=np.float32) -> list:
    """The norms of two hidden layers, and what the softmax layer has in that place."""
    if kind == LAYER_NORM:
        return [fastln.LayerNorm(hidden, dtype=dtype) for _ in range(2)] + [Bias(CLASSES, dtype)]
    last = BatchNorm(CLASSES, dtype=dtype) if batch_norm_softmax else Bias(CLASSES, dtype)
    return [BatchNorm(hidden, dtype=dtype) for _ in range(2)] + [last]


class Network:
    """Layers of norm(h @ weight) with a ReLU between them; what the last one gives are logits.

    The matrices, each (inputs, outputs), have no biases of their own: the norms' come right after.
    """

    def __init__(self, inputs: int, norms: list, rng: np.random.Generator, dtype=np.float32):
        sizes = [inputs] + [norm.bias.size for norm in norms]
        shapes = list(itertools.pairwise(sizes))
        self.weights = [(rng.standard_normal(s) / math.sqrt(s[0])).astype(dtype) for s in shapes]
        self.dweights = [np.empty_like(weight) for weight in self.weights]
        self.norms = norms

    @property
    def parameters(self) -> list[np.ndarray]:
        """In the order of the gradients of `loss_and_gradients`."""
        return self.weights + present(p for norm in self.norms for p in (norm.weight, norm.bias))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Logits for testing."""
        h = x
        for weight, norm in zip(self.weights, self.norms, strict=True):
            y = norm(h @ weight)
            h = np.maximum(y, 0)
        return y

    def loss_and_gradients(self, batch: Images) -> tuple[float, list[np.ndarray]]:
        """Mean negative log likelihood of a training batch; the next call reuses the gradients' memory."""
        h, tape = batch.x, []
        for weight, norm in zip(self.weights, self.norms, strict=True):
            y, saved = norm.forward(h @ weight)
            tape.append((h, saved))
            h = np.maximum(y, 0)
        log_p = log_softmax(y)
        rows = np.arange(len(log_p))

        dy = np.exp(log_p)
        dy[rows, batch.labels] -= 1
        dy /= len(dy)
        dnorms = []
        for i in reversed(range(len(tape))):
            h, saved = tape[i]
            gradients = self.norms[i].backward(dy, saved)
            dnorms[:0] = present((gradients.dweight, gradients.dbias))
            np.matmul(h.T, gradients.dx, out=self.dweights[i])
            if i:  # the images need no gradient
                dy = gradients.dx @ self.weights[i].T
                dy *= h > 0
        return float(-log_p[rows, batch.labels].mean()), self.dweights + dnorms


def present(arrays) -> list[np.ndarray]:
    """Those that are not None."""
    return [array for array in arrays if array is not None]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax of each row. The maximum is subtracted so that exp cannot overflow."""
    z = logits - logits.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return z


class Adam:
    """Adam (Kingma and Ba 2014, arXiv:1412.6980, algorithm 1), in place: a step allocates nothing."""

    def __init__(self, parameters: list[np.ndarray], lr: float):
        self.lr, self.beta1, self.beta2, self.eps = lr, 0.9, 0.999, 1e-8
        self.t = 0
        self.state = [(p, np.zeros_like(p), np.zeros_like(p), np.empty_like(p)) for p in parameters]

    def step(self, gradients: list[np.ndarray]) -> None:
        # The averages are kept without their constant factors of 1 - beta, which go into the step size
        # and eps instead: that saves two passes of twelve, and at batch size 4 Adam is most of the work.
        self.t += 1
        size1 = (1 - self.beta1**self.t) / (1 - self.beta1)
        size2 = math.sqrt((1 - self.beta2**self.t) / (1 - self.beta2))
        rate, eps = self.lr * size2 / size1, self.eps * size2
        for (p, m, v, scratch), g in zip(self.state, gradients, strict=True):
            m *= self.beta1
            m += g
            v *= self.beta2
            v += np.multiply(g, g, out=scratch)
            np.sqrt(v, out=scratch)
            scratch += eps
            np.divide(m, scratch, out=scratch)
            scratch *= rate
            p -= scratch


# --------------------------------------------------------------------------- the experiment


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    steps: int
    batch_sizes: list[int]
    hidden: int
    lr: float
    seed: int
    seeds: int
    batch_norm_softmax: bool


@dataclass(frozen=True)
class Curves:
    """Results of one norm at one batch size; each of the measures is (seeds, len(steps))."""

    norm: str
    batch_size: int
    steps: np.ndarray
    train_nll: np.ndarray
    test_nll: np.ndarray
    test_error: np.ndarray

    def settled(self, measure: str) -> float:
        """The mean over all seeds and the last quarter of the steps: single values are noisy."""
        return float(getattr(self, measure)[:, self.steps > 0.75 * self.steps[-1]].mean())

    def steps_to(self, nll: float) -> float:
        """The first step measured at which the training loss, averaged over seeds, was `nll`, or inf."""
        steps = self.steps[self.train_nll.mean(axis=0) <= nll]
        return int(steps[0]) if len(steps) else math.inf


def choose_measured_steps(steps: int) -> np.ndarray:
    """Evenly spaced on a logarithmic axis, for the fast beginning, and on a linear one, for the end."""
    both = np.concatenate([np.geomspace(1, steps, 32), np.linspace(0, steps, 17)[1:]])
    return np.unique(np.ceil(both.round(6)).astype(int))


def evaluate(network: Network, images: Images) -> tuple[float, float]:
    """Mean negative log likelihood in nats, and the share of images put in a wrong class."""
    log_p = log_softmax(network(images.x))
    nll = -log_p[np.arange(len(log_p)), images.labels].mean()
    return float(nll), float((log_p.argmax(axis=1) != images.labels).mean())


@fastln.threads(1)  # as BLAS here, see train_all
def train(kind: str, batch_size: int, seed: int, settings: Settings, advance: Callable) -> np.ndarray:
    """One run: training loss, test loss and test error (3, len(measured steps))."""
    # Split, weights and order hang on the seed alone, so that they are the same for both norms.
    split, weights, order = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    training, test = load_images(split)
    norms = make_norms(kind, settings.hidden, settings.batch_norm_softmax)
    network = Network(training.x.shape[1], norms, weights)
    adam = Adam(network.parameters, settings.lr)
    endless = batches(training, batch_size, order)
    measured = set(choose_measured_steps(settings.steps).tolist())
    results = []
    for step in range(1, settings.steps + 1):
        adam.step(network.loss_and_gradients(next(endless))[1])
        if step in measured:
            results.append((evaluate(network, training)[0], *evaluate(network, test)))
        advance()
    return np.array(results).T


def run_experiment(settings: Settings) -> list[Curves]:
    """All runs, batch size by batch size, layer norm first."""
    pairs = [(kind, batch_size) for batch_size in settings.batch_sizes for kind in KINDS]
    seeds = range(settings.seed, settings.seed + settings.seeds)
    runs = iter(train_all([(*pair, seed) for pair in pairs for seed in seeds], settings))
    steps = choose_measured_steps(settings.steps)
    return [Curves(*pair, steps, *np.stack([next(runs) for _ in seeds], axis=1)) for pair in pairs]


def train_all(runs: list[tuple[str, int, int]], settings: Settings) -> list[np.ndarray]:
    """`train` for each norm, batch size and seed, as many at a time as there are CPUs for."""
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    stopped = threading.Event()
    # Each run on one thread, and BLAS with it: products are too small here to be worth sharing out, threads
    # that wait for each other crawl when anything else runs, and no sum depends on the number of CPUs.
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

        futures = [pool.submit(train, *run, settings, advance) for run in runs]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()  # raises what the run raised
        finally:
            stopped.set()  # after an error or Ctrl-C, leaving waits for the runs under way
        return [future.result() for future in futures]


# --------------------------------------------------------------------------- the report


def describe(settings: Settings, images: int, inputs: int) -> str:
    """What was done, in words."""
    s = settings
    seeds = f"seed {s.seed}" if s.seeds == 1 else f"{s.seeds} seeds from {s.seed}"
    where = "all layers" if s.batch_norm_softmax else "the hidden layers"
    return "\n".join(
        [
            f"scikit-learn's load_digits: {images} images of 8x8 pixels, "
            f"{images - TEST_IMAGES} to train on and {TEST_IMAGES} to test on.",
            f"Network {inputs}-{s.hidden}-{s.hidden}-{CLASSES}; layer norm (fastln's) on the hidden layers, "
            f"batch norm (NumPy) on {where}.",
            f"Adam, learning rate {s.lr:g}, {s.steps} steps, {seeds}.",
        ]
    )


def format_table(results: Sequence[Curves]) -> str:
    """The results as a table in Markdown that can be read as it stands."""
    header = ["batch size", "norm", "test error", "test NLL", "training NLL", f"steps to NLL {EARLY_NLL:g}"]
    rows = [
        [
            str(r.batch_size),
            r.norm,
            f"{r.settled('test_error'):.2%}",
            f"{r.settled('test_nll'):.4f}",
            f"{r.settled('train_nll'):.1e}",
            count_steps(r.steps_to(EARLY_NLL), r),
        ]
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    rule[1] = "-" * widths[1]
    lines = []
    for row in (header, rule, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[1] = row[1].ljust(widths[1])
        lines.append(f"| {' | '.join(cells)} |")
    legend = (
        "NLL: mean negative log likelihood in nats. Test error and both NLL are means over the last quarter "
        f"of the\nsteps{' and all seeds' if len(results[0].train_nll) > 1 else ''}; "
        f"the last column counts steps until the NLL of the training images is {EARLY_NLL:g}."
    )
    return "\n".join(lines) + f"\n\n{legend}"


def summarize(results: Sequence[Curves]) -> str:
    """What was seen, set against what the paper found; every word of it follows from the results."""
    pairs = {size: {r.norm: r for r in results if r.batch_size == size} for size in batch_sizes(results)}
    findings = [judge_convergence(size, pair) for size, pair in pairs.items()]
    if len(pairs) > 1:
        findings.insert(0, judge_robustness(pairs[min(pairs)], pairs[max(pairs)]))
    findings.append(f"Results within a factor of {NOTABLE:g} of each other are not called different.")
    return "\n".join(textwrap.fill(f"- {text}", 105, subsequent_indent="  ") for text in findings)


def batch_sizes(results: Sequence[Curves]) -> list[int]:
    """In the order of the results, each once."""
    return list(dict.fromkeys(r.batch_size for r in results))


def judge_robustness(small: dict[str, Curves], large: dict[str, Curves]) -> str:
    """What small batches do to the test loss of each norm."""
    growth, phrases = {}, []
    for kind in KINDS:
        before, after = (pair[kind].settled("test_nll") for pair in (large, small))
        growth[kind] = after / before
        phrases.append(f"from {before:.4f} to {after:.4f} with {kind}")
    robust = growth[LAYER_NORM] <= NOTABLE
    degrades = growth[BATCH_NORM] > NOTABLE
    verdict = {
        (True, True): "layer norm is robust to the batch size and batch norm degrades, as the paper found",
        (True, False): "both are robust to the batch size; in the paper batch norm degrades",
        (False, True): "both degrade; in the paper layer norm is robust to the batch size",
        (False, False): "layer norm degrades and batch norm does not, the opposite of what the paper found",
    }[robust, degrades]
    sizes = [pair[LAYER_NORM].batch_size for pair in (large, small)]
    return f"Batch size {sizes[0]} -> {sizes[1]}: the test NLL went {' and '.join(phrases)}: {verdict}."


def judge_convergence(batch_size: int, pair: dict[str, Curves]) -> str:
    """Which norm brought the training loss down in fewer steps, early on and later."""
    reached = max(pair[kind].settled("train_nll") for kind in KINDS)
    counts = {nll: [pair[kind].steps_to(nll) for kind in KINDS] for nll in (EARLY_NLL, reached)}
    faster = {
        LAYER_NORM: any(layer * NOTABLE < batch for layer, batch in counts.values()),
        BATCH_NORM: any(batch * NOTABLE < layer for layer, batch in counts.values()),
    }
    verdict = {
        (True, False): "layer norm converged faster, as the paper found",
        (False, True): "batch norm converged faster, the opposite of what the paper found",
        (True, True): "now one converged faster, now the other; in the paper layer norm does",
        (False, False): "neither converged notably faster; in the paper layer norm does",
    }[faster[LAYER_NORM], faster[BATCH_NORM]]
    early, late = ([count_steps(n, pair[LAYER_NORM]) for n in counts[nll]] for nll in (EARLY_NLL, reached))
    return (
        f"Batch size {batch_size}: a training NLL of {EARLY_NLL:g} took {early[0]} steps with layer norm and "
        f"{early[1]} with batch norm; {reached:.1e}, the higher of the two at the end, took {late[0]} and "
        f"{late[1]}: {verdict}."
    )


def count_steps(count: float, result: Curves) -> str:
    """A number of steps in words."""
    return f"over {result.steps[-1]}" if count == math.inf else str(count)


STYLE = {  # Okabe and Ito's blue and vermilion, which differ for every kind of colour vision, and in grey
    LAYER_NORM: {"color": "#0072B2", "marker": "o"},
    BATCH_NORM: {"color": "#D55E00", "marker": "s"},
}


def plot(results: Sequence[Curves], title: str, path: Path) -> None:
    """Test error and negative log likelihood against steps, a column a batch size, as in figure 6."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    sizes = batch_sizes(results)
    figure = Figure(figsize=(1 + 4.5 * len(sizes), 7), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    FigureCanvasAgg(figure)  # draws to a file wherever there is no screen, and leaves pyplot alone
    axes = figure.subplots(2, len(sizes), sharex=True, sharey="row", squeeze=False)
    for column, size in zip(axes.T, sizes, strict=True):
        column[0].set_title(f"batch size {size}")
        column[1].set_xlabel("steps")
        for result in (r for r in results if r.batch_size == size):
            draw(column[0], result, "test_error", "-", scale=100)
            draw(column[1], result, "test_nll", "-", label=f"{result.norm}, test")
            draw(column[1], result, "train_nll", "--", label=f"{result.norm}, training")
    for row, label in zip(axes, ("test error (%)", "negative log likelihood (nats)"), strict=True):
        row[0].set_ylabel(label)
    for ax in axes.flat:
        ax.set(xscale="log", yscale="log")
        ax.grid(which="major", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes[0, 0].yaxis, axes[1, 0].xaxis):
        axis.set_major_formatter("{x:g}")
    axes[0, -1].legend(frameon=False)
    axes[1, -1].legend(frameon=False)
    figure.savefig(path, dpi=150)


def draw(ax, result: Curves, measure: str, line: str, label: str | None = None, scale: float = 1) -> None:
    """The mean of a measure over seeds, and a band from the lowest seed to the highest."""
    values = scale * getattr(result, measure)
    style = STYLE[result.norm]
    if len(values) > 1:
        ax.fill_between(result.steps, values.min(0), values.max(0), color=style["color"], alpha=0.15, lw=0)
    ax.plot(
        result.steps,
        values.mean(0),
        line,
        **style,
        markersize=3 if line == "-" else 0,
        linewidth=1.5 if line == "-" else 1.2,
        label=label or result.norm,
    )


def to_json(settings: Settings, results: Sequence[Curves]) -> str:
    """All numbers: measures are lists by seed of lists by step."""
    runs = [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(r).items()} for r in results]
    return json.dumps({"settings": asdict(settings), "results": runs}, indent=1) + "\n"


# --------------------------------------------------------------------------- the command line


def batch_size(text: str) -> int:
    """An argument type: a batch that has a variance and that the training set can fill."""
    size = positive(text)
    if size < 2:
        raise argparse.ArgumentTypeError("must be at least 2: batch norm needs the variance of a batch")
    return size


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description="Train a network with layer norm and with batch norm on scikit-learn's digits, in NumPy "
        "with fastln's layer norm, and compare them as figure 6 of the layer norm paper does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for name, text in {"steps": "of a run", "hidden": "units a layer", "seeds": "to repeat with"}.items():
        both = f"(default: {DEFAULTS[name]}; quick: {QUICK[name]})"
        add(f"--{name}", type=positive, metavar="N", help=f"{text} {both}")
    add("--batch-sizes", type=batch_size, nargs="+", metavar="N", default=[128, 4], help="(default: 128 4)")
    # Of 1e-3, 3e-4 and 1e-4 the one that both norms did well with at both batch sizes.
    add("--lr", type=learning_rate, metavar="X", default=3e-4, help="learning rate (default: %(default)s)")
    add("--seed", type=int, metavar="N", default=0, help="the first seed (default: %(default)s)")
    add("--batch-norm-softmax", action="store_true", help="batch norm on the softmax layer too")
    add("--out", type=Path, metavar="FOLDER", help="save table, plot and all numbers there")
    add("--quick", action="store_true", help="smaller defaults, to try it out")
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else DEFAULTS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.batch_sizes = list(dict.fromkeys(args.batch_sizes))
    if args.seed < 0:
        parser.error(f"argument --seed: must not be negative, got {args.seed}")
    return args


def save(folder: Path, report: str, settings: Settings, results: Sequence[Curves]) -> list[Path]:
    """Write table.md, curves.png and results.json."""
    title = f"load_digits, {settings.hidden} units a layer; mean and range over seeds ({settings.seeds})"
    table, curves, numbers = paths = [folder / name for name in ("table.md", "curves.png", "results.json")]
    try:
        table.write_text(report + "\n", encoding="utf-8")
        plot(results, title, curves)
        numbers.write_text(to_json(settings, results), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}") from error
    return paths


def run(args: argparse.Namespace) -> None:
    """Train, report, and save if asked to."""
    settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})
    training, test = load_images(np.random.default_rng())
    images, inputs = len(training.x) + len(test.x), training.x.shape[1]
    if (largest := max(settings.batch_sizes)) > len(training.x):
        raise InputError(f"a batch of {largest} is more than the {len(training.x)} images to train on")
    if args.out is not None:
        prepare_folder(args.out)

    description = describe(settings, images, inputs)
    print(description, flush=True)
    start = perf_counter()
    results = run_experiment(settings)
    seconds = perf_counter() - start
    table, summary = format_table(results), summarize(results)
    print(f"\n{table}\n\n{summary}\n\nTrained and tested in {seconds:.0f} s.")
    if args.out is not None:
        paths = save(args.out, f"{description}\n\n{table}\n\n{summary}", settings, results)
        print("Saved: " + ", ".join(map(str, paths)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv)
    return exit_status(__file__, lambda: run(args), INSTALL)


if __name__ == "__main__":
    sys.exit(main())
