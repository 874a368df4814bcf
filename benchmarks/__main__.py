"""The command line: python -m benchmarks run, compare, report."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from . import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

from .contenders import select
from .grid.cells import DTYPES, LINE_OFFSET, NUMPY_OFFSET, OFFSETS, Cell, available_cpus
from .grid.shapes import QUICK, STANDARD, Shape, parse_shape
from .operations import ADD_LAYER_NORM, LAYER_NORM, LAYER_NORM_BACKWARD, OPERATIONS, RMS_NORM, find_operation
from .timing.measure import Effort

INSTALL = "pip install --group bench"
DEFAULT_FOLDER = Path("build/benchmarks")

EFFORTS = {
    "quick": Effort(rounds=30, cold_rounds=6, seconds=1.0, cold_seconds=0.5, total_seconds=85),
    "standard": Effort(rounds=30, cold_rounds=8, seconds=1.5, cold_seconds=0.8, total_seconds=1200),
    "full": Effort(rounds=40, cold_rounds=10, seconds=2.0, cold_seconds=1.0, total_seconds=6000),
}
QUICK_OPERATIONS = (LAYER_NORM, LAYER_NORM_BACKWARD, RMS_NORM, ADD_LAYER_NORM)
NO_LIMIT = 1e6  # seconds
KNOWN = " ".join(OPERATIONS)

EPILOG = """\
examples:
  python -m benchmarks run --quick                               five shapes, float32: under two minutes
  python -m benchmarks run                                       the standard grid, float32
  python -m benchmarks run --full --out build/full               the standard grid, all dtypes, both places
  python -m benchmarks run --shapes bert-base@128 4096x1024      these shapes, float32
  python -m benchmarks run --peers numpy pytorch --threads 1
  python -m benchmarks run --operations layer_norm --dtypes float32 bfloat16
  python -m benchmarks compare before after                      exits 1 if anything got slower
  python -m benchmarks report build/full --into BENCHMARKS.md    tables and pictures again, also into a document
  python -m benchmarks report build/full --excerpt               what README and docs/benchmarks.md quote, in Markdown
"""


class InputError(Exception):
    """Something the user can put right: reported as one line, without a traceback."""


def argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argument type whose ValueError is the message."""

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def parse_threads(text: str) -> int:
    """A number of threads, or `all`."""
    if text == "all":
        return available_cpus()
    if not text.isdecimal() or not 1 <= int(text) <= available_cpus():
        raise ValueError(f"must be all or 1 to {available_cpus()}, the CPUs of this process, got {text!r}")
    return int(text)


def parse_count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def parse_offset(text: str) -> int:
    """Where arrays begin in a cache line."""
    return int(parse_word(*map(str, OFFSETS))(text))


def parse_milliseconds(text: str) -> float:
    """A whole number of milliseconds above 0, in seconds."""
    return parse_count(text) / 1000


def parse_word(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}, got {text!r}")
        return text

    return parse


def parse_operation(text: str) -> str:
    """The name of an operation."""
    return find_operation(text).name


def parse_peer(text: str) -> str:
    """The key of a peer."""
    select([text])
    return text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with a message and status 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time fastln against its peers and against a copy of the same bytes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="time contenders; write results.json, results.md and pictures")
    effort = run.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="five shapes, float32: under two minutes")
    effort.add_argument("--full", action="store_true", help="all dtypes, arrays on cache lines too: under two hours")
    add = run.add_argument
    add("--operations", type=argument(parse_operation), nargs="+", metavar="OP", help=f"{KNOWN} (default: all)")
    add("--shapes", type=argument(parse_shape), nargs="+", metavar="SHAPE", help="ROWSxCOLS or MODEL[@[BATCHx]TOKENS]")
    add("--dtypes", type=argument(parse_word(*DTYPES)), nargs="+", metavar="DTYPE", help=" ".join(DTYPES))
    add("--offsets", type=argument(parse_offset), nargs="+", metavar="N", help="bytes into a cache line: 16 0")
    add("--threads", type=argument(parse_threads), nargs="+", metavar="N", help="counts or all (default: 1 all)")
    add("--peers", type=argument(parse_peer), nargs="*", metavar="PEER", help="(default: all that are installed)")
    add("--pauses", type=argument(parse_milliseconds), nargs="*", metavar="MS", help="time calls after such pauses")
    add("--rounds", type=argument(parse_count), metavar="N", help="rounds in each of three visits to a cell")
    add("--seed", type=argument(parse_count), default=1, metavar="N", help="of inputs and orders (default: 1)")
    add("--out", type=Path, metavar="FOLDER", default=DEFAULT_FOLDER, help="(default: %(default)s)")
    add("--resume", action="store_true", help="go on with what is in FOLDER")

    compare = commands.add_parser("compare", help="show what changed beyond noise; exit 1 if anything got slower")
    compare.add_argument("before", type=Path, metavar="BEFORE", help="results.json or its folder")
    compare.add_argument("after", type=Path, metavar="AFTER")

    report = commands.add_parser("report", help="write tables and pictures of results again")
    report.add_argument("results", type=Path, metavar="RESULTS", help="results.json or its folder")
    report.add_argument(
        "--excerpt", action="store_true", help="only print what README and the manual quote, in Markdown"
    )
    report.add_argument("--into", type=Path, metavar="DOCUMENT", help="put them between the markers of a document")
    return parser.parse_args(argv)


def make_plan(args: argparse.Namespace):
    """The cells, contenders, effort and pauses that the arguments ask for."""
    from .timing.run import Plan

    name = "quick" if args.quick else "full" if args.full else "standard"
    effort = EFFORTS[name]
    if args.rounds:
        effort = Effort(args.rounds, math.ceil(args.rounds / 2), NO_LIMIT, NO_LIMIT, NO_LIMIT)
    shapes = args.shapes or (QUICK if args.quick else STANDARD)
    operations = args.operations or (QUICK_OPERATIONS if args.quick else OPERATIONS)
    dtypes = args.dtypes or (DTYPES if args.full else DTYPES[:1])
    threads = args.threads or (1, available_cpus())
    cells = dict.fromkeys(
        Cell(operation, *shape, dtype, count, offset)
        for count in sorted(threads)
        for offset in args.offsets or (OFFSETS if args.full else (NUMPY_OFFSET,))
        for operation in operations
        for dtype in dtypes
        for shape in shapes
        if (args.offsets or offset != LINE_OFFSET or (dtype, count) == ON_LINES)
        and (args.dtypes or args.shapes or shape in QUICK or takes_all_shapes(operation, dtype))
    )
    return Plan(list(cells), select(args.peers), effort, args.seed, choose_pauses(args, name, operations, shapes))


# On cache lines a second look at these dtype and number of threads is enough.
ON_LINES = ("float32", 1)


def takes_all_shapes(operation: str, dtype: str) -> bool:
    """Whether the grid has all shapes of it: of float64 and float16 a few are enough, but for layer norm."""
    return dtype in ("float32", "bfloat16") or operation in (LAYER_NORM, LAYER_NORM_BACKWARD)


def choose_pauses(args: argparse.Namespace, name: str, operations: Iterable[str], shapes: Sequence[Shape]):
    """Those of the grid; where a part of the grid is asked for, those that are asked for too."""
    from .timing.pauses import PAUSES, REPEATS, Pause

    if args.pauses is None:
        return [] if args.shapes or args.rounds or args.operations else PAUSES[name]
    return [
        Pause(operation, *shape, seconds, args.rounds or REPEATS)
        for operation in operations
        for shape in shapes
        for seconds in args.pauses
    ]


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Measure, report, save."""
    import matplotlib  # noqa: F401 - if it is missing, say so before measuring

    from .shown.progress import Progress
    from .shown.table import make_console, print_results
    from .timing import machine
    from .timing.files import FILE, load_with_times
    from .timing.run import execute, new_results

    start = time.monotonic()
    prepare_folder(args.out)
    plan = make_plan(args)
    console = make_console()
    results = new_results(plan, machine.command_line([a for a in argv if a != "--resume"]))
    if args.resume and (args.out / FILE).exists():
        previous = load_with_times(args.out)
        if previous.settings != results.settings:
            raise InputError(f"--resume must be with the settings of the run in {args.out}, got others")
        results = previous
    for name, library in results.libraries.items():
        if "missing" in library:
            console.print(f"{name}: {library['missing']}", highlight=False, markup=False, soft_wrap=True)
    finished = execute(plan, results, args.out, Progress(console))
    print_results(results, console)
    paths = write_report(results, args.out)
    took = f"{time.monotonic() - start:.0f} s"
    note = f"Took {took}." if finished else f"Ended early after {took}; --resume goes on."
    console.print(f"{note} In {args.out}: {FILE}, results.md and {paths} pictures.", highlight=False, soft_wrap=True)
    return 0 if finished else 130


def prepare_folder(folder: Path) -> None:
    """Find out before measuring, not after it, whether results can be saved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder that can be made, got {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"--out must be a folder that can be written to, got {folder}")


def write_report(results, folder: Path) -> int:
    """Write results.md and the pictures; returns how many."""
    from .shown.markdown import to_markdown
    from .shown.pictures import draw_all

    pictures = draw_all(results, folder)
    (folder / "results.md").write_text(to_markdown(results), encoding="utf-8")
    return len(pictures)


def compare(args: argparse.Namespace) -> int:
    """Show what changed beyond noise; 1 if anything got slower."""
    from .shown.compare import changes_table, contradictions, regressions
    from .shown.compare import compare as compare_results
    from .shown.table import make_console, print_table
    from .timing.files import load

    console = make_console()
    before, after = load(args.before), load(args.after)
    changes = compare_results(before, after)
    if not changes:
        raise InputError(f"{args.after} must have cells of {args.before}, got none")
    print_table(changes_table(changes), console)
    for line in contradictions(before, after):
        console.print(f"Contradiction: {line}", highlight=False, markup=False, soft_wrap=True)
    slower = len(regressions(changes))
    faster = sum(found.ratio.verdict == "faster" for found in changes)
    print(f"{len(changes)} compared: {faster} faster, {slower} slower, {len(changes) - faster - slower} unchanged.")
    return 1 if slower else 0


def report(args: argparse.Namespace) -> int:
    """Write results.md and pictures beside results.json, and fill a document."""
    from .shown.excerpt import to_excerpt
    from .shown.markdown import MarkersError, fill, to_markdown
    from .shown.table import make_console, print_results
    from .timing.files import load

    results = load(args.results)
    if args.excerpt:
        print(to_excerpt(results))
        return 0
    folder = args.results if args.results.is_dir() else args.results.parent
    print_results(results, make_console())
    write_report(results, folder)
    if args.into:
        relative = os.path.relpath(folder, args.into.parent)
        try:
            fill(args.into, to_markdown(results, relative))
        except OSError as error:
            raise InputError(f"cannot write {args.into}: {error.strerror}") from error
        except MarkersError as error:
            raise InputError(str(error)) from error
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    try:
        from .timing.files import ResultsError
    except ModuleNotFoundError as error:
        return fail(f"the module {error.name} is missing; to install what is needed: {INSTALL}")
    try:
        if args.command == "run":
            return run(args, argv)
        return compare(args) if args.command == "compare" else report(args)
    except (InputError, ResultsError) as error:
        return fail(str(error))
    except ModuleNotFoundError as error:
        return fail(f"the module {error.name} is missing; to install what is needed: {INSTALL}")
    except KeyboardInterrupt:
        return 130


def fail(message: str) -> int:
    """Say in one line what went wrong."""
    print(f"python -m benchmarks: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
