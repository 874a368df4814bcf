"""Training steps of the network of train_digits.py in PyTorch, before and after `fastln.torch.enable()`.

The images and the network are the same: two hidden layers of ReLU units with a layer norm each. It is PyTorch's network
and PyTorch's autograd. Two copies of it, one for each setting, take the same steps in turns, and are compared: the loss
of each step, what they make of the test images, and the time of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from command_line import InputError, exit_status, format_table, learning_rate, positive
from train_digits import CLASSES, INSTALL, Images, batch_size, batches, load_images

INSTALL = INSTALL | {"torch": "pip install torch"}

try:
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import Tensor, nn

    import fastln.torch
except ModuleNotFoundError as missing:
    sys.exit(f"{Path(__file__).name}: error: the module {missing.name} is missing; to install it: pip install torch")

BEFORE, AFTER = NAMES = ("PyTorch", "with fastln")
SETTINGS: dict[str, Callable] = {BEFORE: contextlib.nullcontext, AFTER: lambda: fastln.torch.enabled()}


def build(inputs: int, hidden: int, seed: int) -> nn.Sequential:
    """Layers of norm(h @ weight) with a ReLU between them; what the last one gives are logits."""
    torch.manual_seed(seed)
    sizes = (inputs, hidden, hidden)
    layers: list[nn.Module] = []
    for i in range(2):
        layers += [nn.Linear(sizes[i], hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, CLASSES))


class Training:
    """A network and its optimizer, in one setting."""

    def __init__(self, setting: Callable, network: nn.Sequential, lr: float):
        self.setting = setting
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, x: Tensor, labels: Tensor) -> None:
        """One step, and how long it took."""
        with self.setting():
            start = perf_counter()
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.network(x), labels)
            loss.backward()
            self.optimizer.step()
            self.seconds.append(perf_counter() - start)
        self.losses.append(loss.item())

    def error(self, images: Images) -> float:
        """The share of images put in a wrong class."""
        with self.setting(), torch.inference_mode():
            logits = self.network(torch.from_numpy(images.x))
        return float((logits.argmax(dim=1).numpy() != images.labels).mean())


def train(settings: argparse.Namespace, size: int) -> tuple[dict[str, Training], Images]:
    """The same steps of both, in turns, so that what else the machine does falls on both."""
    split, order = (np.random.default_rng(s) for s in np.random.SeedSequence(settings.seed).spawn(2))
    training, test = load_images(split)
    if size > len(training.x):
        raise InputError(f"a batch of {size} is more than the {len(training.x)} images to train on")
    runs = {
        name: Training(SETTINGS[name], build(training.x.shape[1], settings.hidden, settings.seed), settings.lr)
        for name in NAMES
    }
    endless = batches(training, size, order)
    for _ in range(settings.steps):
        batch = next(endless)
        for run in runs.values():
            run.step(torch.from_numpy(batch.x), torch.from_numpy(batch.labels))
    return runs, test


def rows_of(runs: dict[str, Training], test: Images, size: int) -> list[tuple[str, ...]]:
    """A row for each setting; the first steps warm caches and threads up."""
    rows = []
    times = {name: median(run.seconds[len(run.seconds) // 10 :]) for name, run in runs.items()}
    for name, run in runs.items():
        gain = f"{times[BEFORE] / times[name]:.2f} x"
        rows.append(
            (str(size), name, f"{times[name] * 1e3:.3f} ms", gain, f"{run.losses[-1]:.4f}", f"{run.error(test):.2%}")
        )
    return rows


def difference(runs: dict[str, Training], steps: int) -> float:
    """The largest one of the losses of these first steps."""
    return max(abs(a - b) for a, b in zip(runs[BEFORE].losses[:steps], runs[AFTER].losses[:steps], strict=True))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description="Train a network on scikit-learn's digits in PyTorch, before and after fastln.torch.enable().",
    )
    number = functools.partial(parser.add_argument, type=positive, metavar="N")
    number("--steps", default=200, help="of each run (default: %(default)s)")
    number("--hidden", default=1000, help="units a layer (default: %(default)s)")
    number("-t", "--threads", default=1, help="of PyTorch (default: %(default)s)")
    number("--seed", default=1, help="of weights and batches (default: %(default)s)")
    parser.add_argument(
        "--batch-sizes", type=batch_size, nargs="+", metavar="N", default=[128, 4], help="(default: 128 4)"
    )
    parser.add_argument(
        "--lr", type=learning_rate, metavar="X", default=3e-4, help="learning rate (default: %(default)s)"
    )
    return parser.parse_args(argv)


def run(settings: argparse.Namespace) -> None:
    """Train with each batch size and print."""
    torch.set_num_threads(settings.threads)
    results = {size: train(settings, size) for size in settings.batch_sizes}
    threads = f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    print(f"PyTorch {torch.__version__}, {threads}: {settings.steps} steps, {settings.hidden} units a layer\n")
    rows = [("batch", "", "a step", "gain", "last loss", "test error")]
    for size, (runs, test) in results.items():
        rows += rows_of(runs, test, size)
    print(format_table(rows, right=(0, 2, 3, 4, 5)))
    first = min(10, settings.steps)
    largest = max(difference(runs, first) for runs, _ in results.values())
    print(f"\nlargest difference of the losses of the first {first} steps: {largest:.1e}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    settings = parse_args(argv)
    return exit_status(__file__, lambda: run(settings), INSTALL)


if __name__ == "__main__":
    sys.exit(main())
