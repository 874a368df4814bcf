"""What the command lines of the examples share: types of arguments, tables and bars, and errors in one line."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class InputError(Exception):
    """Something the user can put right: reported as one line, without a traceback."""


def exit_status(script: str, run: Callable[[], int | None], install: Mapping[str, str]) -> int:
    """What `run` returns, 0 for None; or 2, after a line that says what is wrong.

    `install` is what to type when a module is missing, by its name.
    """
    try:
        status = run()
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:
        # The reader, head for one, has seen enough; spare the flush at exit the same error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if error.name not in install:
            raise
        message = f"the module {error.name} is missing; to install it: {install[error.name]}"
    print(f"{Path(script).name}: error: {message}", file=sys.stderr)
    return 2


# Types of arguments


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def learning_rate(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


# What is shown, and where it is saved


def format_table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns under a heading, which is the first row; those numbered in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = [str.rjust if i in right else str.ljust for i in range(len(widths))]
    rule = ["-" * width for width in widths]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = (align(cell, width) for align, cell, width in zip(aligns, row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def progress_bar(total: int, unit: str, shown: bool = True):
    """A tqdm bar, if `shown` and on a terminal."""
    from tqdm import tqdm

    disable = None if shown else True  # None leaves it to tqdm: no bar unless stderr is a terminal
    return tqdm(total=total, unit=f" {unit}", leave=False, disable=disable)


def prepare_folder(folder: Path) -> None:
    """Find out before training, not after it, whether a table and a plot can be saved."""
    import matplotlib  # noqa: F401

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to {folder}")
