"""Numbers as people read them."""

from __future__ import annotations

import math

from ..timing.intervals import Ratio


def seconds(value: float) -> str:
    """A time in three digits: 11.9 us."""
    if math.isnan(value):
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{three_digits(value / scale)} {unit}"
    return f"{value / 1e-9:.0f} ns"


def three_digits(value: float) -> str:
    """1.23, 12.3, 123."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))}f}" if value < 1e6 else f"{value:.1e}"


def speed_up(ratio: Ratio | None) -> str:
    """A ratio and its interval: 1.12 [1.05, 1.20]."""
    return "-" if ratio is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def gigabytes_per_second(bytes_moved: int, time: float) -> float:
    """Throughput, in 10^9 bytes a second."""
    return bytes_moved / time / 1e9


def size(count: float) -> str:
    """Bytes: 32 MiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def duration(value: float) -> str:
    """1 min 20 s."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
