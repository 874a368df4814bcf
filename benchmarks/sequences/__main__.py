"""The command line: python -m benchmarks.sequences."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

from ..grid.cells import available_cpus
from ..shown.units import speed_up, three_digits
from ..timing.measure import Effort
from . import run
from .cells import BATCHES, HIDDEN, SEQUENCE, TRAINING, grid
from .contenders import select

EPILOG = """\
examples:
  python -m benchmarks.sequences                                    nine sizes, one thread and all
  python -m benchmarks.sequences --hidden 128 --batches 1 8 --threads 1 --rounds 5
  python -m benchmarks.sequences --works training --peers pytorch
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sequences",
        description="Time fastln's layer-normalized LSTM against its peers, and against LSTMs without norms.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--works", choices=(SEQUENCE, TRAINING), nargs="+", default=[SEQUENCE], help="(default: sequence)")
    add("--hidden", type=positive, nargs="+", metavar="H", default=list(HIDDEN), help="units, and numbers of x")
    add("--batches", type=positive, nargs="+", metavar="B", default=list(BATCHES), help="sequences at a time")
    add("--threads", type=positive, nargs="+", metavar="N", default=sorted({1, available_cpus()}), help="(1 and all)")
    add("--peers", nargs="*", metavar="PEER", help="by their keys (default: all that are installed)")
    add("--rounds", type=positive, default=20, metavar="N", help="in each of three visits (default: %(default)s)")
    add("--seconds", type=float, default=3.0, metavar="S", help="a visit's rounds end early (default: %(default)s)")
    add("--seed", type=int, default=1, metavar="N", help="of arrays and orders (default: 1)")
    add("--out", type=Path, metavar="FOLDER", help="save all times there")
    args = parser.parse_args(argv)
    try:
        args.contenders = select(args.peers)
    except ValueError as error:
        parser.error(f"argument --peers: {error}")
    return args


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def line_of(result: run.CellTimes) -> str:
    """A cell in one line: microseconds a step, and the speed-up over the best peer."""
    found = {name: result.seconds(name) for name in result.visits}
    steps = result.cell.steps
    times = [f"{name} {three_digits(time.value / steps * 1e6)}" for name, time in found.items() if time]
    best = result.best_peer()
    ratio = f"; over {best} {speed_up(result.speed_up(best))}" if best else ""
    return f"{result.cell}: us a step: {', '.join(times)}{ratio}"


def tell(result: run.CellTimes) -> None:
    """Say what a visit came to, as far as it is known."""
    print(line_of(result), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv)
    effort = Effort(args.rounds, 0, args.seconds, 0.0, 0.0)
    cells = list(grid(args.works, args.hidden, args.batches, args.threads))
    try:
        results = run.execute(
            cells, args.contenders, effort, args.seed, lambda result: print(line_of(result), flush=True)
        )
    except KeyboardInterrupt:
        return 130
    print()
    for (work, threads, over), value in run.means(results).items():
        print(f"{work}, {threads} thread(s): geometric mean over {over}: {value:.2f}")
    for name, reason in {name: why for result in results for name, why in result.refused.items()}.items():
        print(f"Not compared: {name}: {reason}")
    if args.out:
        print(f"Saved: {run.save(results, effort, args.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
