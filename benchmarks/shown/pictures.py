"""Pictures of results, light and dark."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import NamedTuple

from ..contenders import FLOOR, VARIANT
from ..grid.cells import Cell
from ..grid.regimes import REGIMES, regime
from ..operations import ADD_LAYER_NORM, ADD_RMS_NORM, LAYER_NORM, LAYER_NORM_BACKWARD, RMS_NORM
from ..timing.intervals import EVEN, FASTER, SLOWER, geometric_mean
from ..timing.results import WARM, CellResult, Results
from .units import gigabytes_per_second, seconds, size

HEADLINE, ROOFLINE, SPEED_UPS = "headline", "roofline", "speed_ups"
OVERHEAD, SCALING, ERRORS = "overhead", "scaling", "errors"
NAMES = {
    HEADLINE: "Time of each library over fastln's in each regime, and its error",
    SPEED_UPS: "Speed-up over the fastest peer: red where fastln is faster, grey even, blue slower",
    ROOFLINE: "Throughput against bytes moved, with a copy of the same bytes as the roofline",
    ERRORS: "Largest error against the mean of the rows in standard deviations",
    OVERHEAD: "Time of a call on one row",
    SCALING: "Speed-up with the number of threads",
}


class Theme(NamedTuple):
    """Colours of a picture."""

    ink: str
    paper: str
    grid: str


THEMES = {"light": Theme("#1f2328", "#ffffff", "#d0d7de"), "dark": Theme("#e6edf3", "#0d1117", "#30363d")}

# Okabe and Ito's colours, which differ for every kind of colour vision, in the order of the registry; fastln's is the
# vermilion.
COLOURS = {
    "fastln": "#D55E00",
    "NumPy": "#999999",
    "NumPy at best": "#666666",
    "PyTorch": "#0072B2",
    "PyTorch compiled": "#56B4E9",
    "ONNX Runtime": "#009E73",
    "OpenVINO": "#CC79A7",
    "JAX": "#E69F00",
    "numba": "#B8A800",
}
MARKERS = "osv^D<>Ph*X"

# What no Python user reaches is drawn in ink and not in one piece.
LINE_STYLES = {"copy": "--", "oneDNN": ":"}


def file_name(name: str, theme: str) -> str:
    """Where a picture is, relative to the folder of results."""
    return f"pictures/{name}-{theme}.png"


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draw every picture that the results have numbers for."""
    from matplotlib import rc_context

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    drawn = []
    for theme_name, theme in THEMES.items():
        with rc_context(_style(theme)):
            for name, draw in DRAWN_BY.items():
                figure = draw(results, theme)
                if figure is not None:
                    drawn.append(folder / file_name(name, theme_name))
                    _save(figure, drawn[-1])
    return drawn


def _save(figure, path: Path) -> None:
    """As a PNG of 256 colours, a third of the size: they are kept in the repository."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130)
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)


def _style(theme: Theme) -> dict[str, object]:
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
    paper = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    style: dict[str, object] = dict.fromkeys(ink, theme.ink) | dict.fromkeys(paper, theme.paper)
    return style | {
        "grid.color": theme.grid,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": "small",
        "axes.titlesize": "medium",
    }


def _figure(panels: int, title: str, width: float = 5.2, height: float = 4.2, columns: int = 2):
    """A figure with panels in so many columns at most; no pyplot, so no screen is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(panels, columns)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize="large")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure, axes


def _colour(name: str, theme: Theme) -> str:
    return COLOURS.get(name, theme.ink)


def _line(name: str, theme: Theme) -> dict[str, object]:
    marker = MARKERS[list(COLOURS).index(name) % len(MARKERS)] if name in COLOURS else "."
    emphasis = {"linewidth": 2.4, "zorder": 3} if name == "fastln" else {"linewidth": 1.2}
    style = {"color": _colour(name, theme), "linestyle": LINE_STYLES.get(name, "-"), "label": name}
    return style | {"marker": marker, "markersize": 4} | emphasis


def _by(cells: Iterable[CellResult], key: Callable[[Cell], object]) -> dict[object, list[CellResult]]:
    found: dict[object, list[CellResult]] = {}
    for result in cells:
        found.setdefault(key(result.cell), []).append(result)
    return found


def _names(cells: Sequence[CellResult], without: Sequence[str] = (VARIANT,)) -> list[str]:
    """Contenders with times in any of the cells, without the kinds that would crowd the picture."""
    entries = {name: entry for result in cells for name, entry in result.entries.items() if entry.warm}
    return [name for name, entry in entries.items() if entry.kind not in without]


# Operations of the picture in README: with the errors, two rows of three panels.
IN_HEADLINE = (LAYER_NORM, LAYER_NORM_BACKWARD, RMS_NORM, ADD_LAYER_NORM, ADD_RMS_NORM)


def headline(results: Results, theme: Theme):
    """For README: how many times as long as fastln each library takes in each regime, an operation a panel; errors."""
    drawn = (r for r in results.standard() if r.cell.dtype == "float32" and r.cell.operation in IN_HEADLINE)
    operations = _by(drawn, lambda cell: cell.title)
    if not operations or not results.errors:
        return None
    figure, axes = _figure(len(operations) + 1, "", width=4.6, height=3.6, columns=3)
    for ax, (title, cells) in zip(axes, operations.items(), strict=False):
        regimes = _by(cells, lambda cell: regime(cell, results.machine))
        shown = [name for name in REGIMES if name in regimes]
        for name in _names(cells, without=(VARIANT, FLOOR)):
            ratios = [[r.speed_up(name, WARM) for r in regimes[place]] for place in shown]
            means = [geometric_mean(ratio.value for ratio in found if ratio) for found in ratios]
            ax.plot(shown, means, **_line(name, theme))
        ax.set(title=f"{title}: time / fastln's", yscale="log", ylabel="geometric mean over shapes and threads")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    axes[0].legend(ncols=2)
    _draw_errors(axes[len(operations)], results, theme)
    axes[len(operations)].set_title("largest error, forward")
    return figure


def roofline(results: Results, theme: Theme):
    """GB/s against bytes moved, a line a library, the copy of the same bytes as the roofline."""
    groups = _by(results.standard(), lambda cell: cell.group)
    if not groups:
        return None
    figure, axes = _figure(len(groups), NAMES[ROOFLINE], columns=_columns(groups))
    for ax, (title, cells) in zip(axes, groups.items(), strict=False):
        cells = sorted(cells, key=lambda result: result.cell.bytes_moved)
        for name in _names(cells):
            points = [
                (r.cell.bytes_moved, gigabytes_per_second(r.cell.bytes_moved, r.seconds(name, WARM)))
                for r in cells
                if name in r.entries
            ]
            ax.plot(*zip(*points, strict=True), **_line(name, theme))
        ax.set(title=title, xscale="log", yscale="log", xlabel="bytes moved", ylabel="GB/s")
        ax.xaxis.set_major_formatter(lambda count, _: size(count))
        ax.xaxis.set_major_locator(_powers_of(16, cells))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    axes[0].legend(ncols=2)
    return figure


def _columns(groups: Sized) -> int:
    """Panels in a row: a full run has dozens of them."""
    return 2 if len(groups) <= 16 else 4


def _powers_of(base: int, cells: Sequence[CellResult]):
    from matplotlib.ticker import LogLocator

    return LogLocator(base=base, subs=(1.0,), numticks=len(cells) + 12)


def speed_ups(results: Results, theme: Theme):
    """The speed-up over the fastest peer of each cell with its interval: a row a shape, by bytes, and a line at 1."""
    cells = [result for result in results.standard() if result.best_peer(WARM)]
    groups = _by(cells, lambda cell: cell.group)
    if not groups:
        return None
    most = max(map(len, groups.values()))
    figure, axes = _figure(len(groups), NAMES[SPEED_UPS], height=1.2 + 0.18 * most, columns=_columns(groups))
    for ax, (title, found) in zip(axes, groups.items(), strict=False):
        found = sorted(found, key=lambda result: -result.cell.bytes_moved)
        for place, result in enumerate(found):
            ratio = result.speed_up(result.best_peer(WARM), WARM)
            colour = {FASTER: COLOURS["fastln"], EVEN: COLOURS["NumPy"], SLOWER: COLOURS["PyTorch"]}[ratio.verdict]
            ax.plot([ratio.low, ratio.high], [place, place], color=colour, linewidth=1.6)
            ax.plot(ratio.value, place, "o", color=colour, markersize=4)
        names = [f"{result.cell.shape} ({regime(result.cell, results.machine)})" for result in found]
        ax.set_yticks(range(len(found)), names, fontsize="x-small")
        ax.axvline(1, color=theme.ink, linewidth=1)
        ax.set(title=title, xscale="log", xlabel="fastest peer's time / fastln's")
        ax.xaxis.set_major_locator(_powers_of(2, found))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    return figure


def overhead(results: Results, theme: Theme):
    """The time of a call on one row, one thread: bars, a panel an operation."""
    cells = [result for result in results.standard() if result.cell.rows == 1 and result.cell.threads == 1]
    narrowest = [
        min(group, key=lambda r: r.cell.cols) for group in _by(cells, lambda c: (c.operation, c.dtype)).values()
    ]
    if not narrowest:
        return None
    figure, axes = _figure(len(narrowest), NAMES[OVERHEAD], height=3.4)
    for ax, result in zip(axes, narrowest, strict=False):
        times = {name: result.seconds(name, WARM) for name in _names([result], without=())}
        names = sorted(times, key=lambda name: -times[name])
        bars = ax.barh(names, [times[n] for n in names], color=[_colour(n.split(" alloc")[0], theme) for n in names])
        ax.bar_label(bars, [seconds(times[name]) for name in names], padding=3, fontsize="small")
        ax.set(title=f"{result.cell.title}, {result.cell.shape}, {result.cell.dtype}", xscale="log")
        ax.set_xlim(min(times.values()) / 2, max(times.values()) * 4)
        ax.xaxis.set_major_formatter(lambda value, _: seconds(value))
        ax.minorticks_off()
        ax.grid(axis="y", visible=False)
    return figure


def scaling(results: Results, theme: Theme):
    """Time on one thread over time on n, for the cell that moves most bytes within the last level cache or nearly."""
    cells = _by(results.standard(), lambda cell: (cell.operation, cell.dtype, cell.rows, cell.cols))
    several = {key: group for key, group in cells.items() if {1} < {result.cell.threads for result in group}}
    chosen: dict[tuple[object, ...], list[CellResult]] = {}
    for key, group in several.items():
        kept = chosen.get(key[:2])
        if kept is None or group[0].cell.bytes_moved > kept[0].cell.bytes_moved:
            chosen[key[:2]] = group
    if not chosen:
        return None
    figure, axes = _figure(len(chosen), NAMES[SCALING])
    for ax, group in zip(axes, chosen.values(), strict=False):
        group = sorted(group, key=lambda result: result.cell.threads)
        threads = [result.cell.threads for result in group]
        for name in _names(group):
            if all(name in result.named(result.entries[name].kind) for result in group):
                times = [result.seconds(name, WARM) for result in group]
                ax.plot(threads, [times[0] / t for t in times], **_line(name, theme))
        ax.plot(threads, threads, color=theme.ink, linestyle=":", linewidth=1, label="ideal")
        cell = group[0].cell
        ax.set(title=f"{cell.title}, {cell.shape}, {cell.dtype}", xlabel="threads", ylabel="speed-up over 1 thread")
        ax.set_xticks(threads)
    axes[0].legend(ncols=2)
    return figure


def errors(results: Results, theme: Theme):
    """The largest error of every library against mean/std."""
    if not results.errors:
        return None
    figure, (ax,) = _figure(1, NAMES[ERRORS], width=7.5, height=4.6)
    _draw_errors(ax, results, theme)
    ax.legend(ncols=2)
    return figure


def _draw_errors(ax, results: Results, theme: Theme) -> None:
    for name, curve in results.errors.items():
        ax.plot([float(ratio) for ratio in curve], list(curve.values()), **_line(name, theme))
    ax.set_xscale("symlog", linthresh=0.1, linscale=0.4)
    ax.set(yscale="log", xlabel="mean / standard deviation of the rows", ylabel="largest error (eps of float32)")
    ax.set_xticks([0, 0.1, 1, 10, 100, 1000, 10000], ["0", "0.1", "1", "10", "100", "1e3", "1e4"])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


DRAWN_BY = {
    HEADLINE: headline,
    SPEED_UPS: speed_ups,
    ROOFLINE: roofline,
    ERRORS: errors,
    OVERHEAD: overhead,
    SCALING: scaling,
}
