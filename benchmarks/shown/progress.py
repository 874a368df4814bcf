"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..timing.results import WARM, CellResult
from .units import duration, seconds, speed_up


class Progress:
    """Counts the steps of a run."""

    def __init__(self, console: Console):
        self.console = console
        self.bar = Bar(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            auto_refresh=False,  # its thread would take turns with what is timed
            speed_estimate_period=600,
        )

    @contextmanager
    def over(self, steps: int) -> Iterator[None]:
        """Run the body, which has so many steps."""
        self.steps, self.finished, self.start = steps, 0, time.monotonic()
        self.task = self.bar.add_task("", total=steps)
        with self.bar:
            yield

    def begin(self, text: str) -> None:
        """Name what is under way."""
        self.text = text
        self.bar.update(self.task, description=text, refresh=True)

    def done(self, result: CellResult | None) -> None:
        """Count a step; say what came out where there is no bar."""
        self.finished += 1
        self.bar.advance(self.task)
        if self.bar.disable:
            left = (time.monotonic() - self.start) / self.finished * (self.steps - self.finished)
            outcome = describe(result) if result else "done"
            line = f"[{self.finished}/{self.steps}] {self.text}: {outcome}; {duration(left)} left"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def describe(result: CellResult) -> str:
    """A cell in one line."""
    if result.skipped:
        return f"skipped, {result.skipped}"
    if not result.timed(WARM):
        return "fastln was refused"
    peer = result.best_peer(WARM)
    line = f"fastln {seconds(result.seconds('fastln', WARM))}"
    if peer is None:
        return line
    ratio = speed_up(result.speed_up(peer, WARM))
    return f"{line}, {peer} {seconds(result.seconds(peer, WARM))}, speed-up {ratio}"
