"""What timings allow to say: ratios with intervals, and means of ratios.

Times of a contender are an array (visits, rounds), NaN where it sat out. All contenders of a cell take turns in each
round, so what slows the machine down for a while slows them alike, and the ratio within a round stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

FASTER, EVEN, SLOWER = "faster", "even", "slower"

# What a ratio changes from one run to the next beyond the scatter of its rounds: where arrays lie in memory, what
# neighbours do for minutes. Intervals are wider by this factor on either side.
BETWEEN_RUNS = 1.03

CONFIDENCE = 0.95
RESAMPLES = 1000


class Ratio(NamedTuple):
    """A ratio of two times and the interval it lies in."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the ratio allows to say of the denominator; no win and no loss where the interval spans 1."""
        return FASTER if self.low > 1 else SLOWER if self.high < 1 else EVEN

    @property
    def inverse(self) -> Ratio:
        """The denominator over the numerator."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low)


def paired_ratio(numerator: np.ndarray, denominator: np.ndarray) -> Ratio | None:
    """The median of the ratios within rounds; None if there is no round in which both took part.

    Parameters
    ----------
    numerator, denominator : ndarray
        Times, (visits, rounds).

    Returns
    -------
    Ratio or None
        The interval holds the bootstrap interval of all rounds and the median of each visit, and is widened by
        BETWEEN_RUNS: visits to a cell are far apart and use new arrays, so what differs between them is noise too.
    """
    # Rounds that both have; there are none where one of them has never been timed.
    both = tuple(slice(min(sizes)) for sizes in zip(numerator.shape, denominator.shape, strict=True))
    logs = np.log(numerator[both]) - np.log(denominator[both])
    visits = [visit[np.isfinite(visit)] for visit in logs]
    visits = [visit for visit in visits if len(visit)]
    if not visits:
        return None
    medians = [float(np.median(visit)) for visit in visits]
    logs = np.concatenate(visits)
    low, high = bootstrap_interval(logs)
    return Ratio(
        float(np.exp(np.median(logs))),
        float(np.exp(min(low, *medians)) / BETWEEN_RUNS),
        float(np.exp(max(high, *medians)) * BETWEEN_RUNS),
    )


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """The interval of the median. Resampling is seeded: the same values give the same interval."""
    rng = np.random.default_rng(0)
    medians = np.median(values[rng.integers(len(values), size=(RESAMPLES, len(values)))], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def change(before: Ratio, after: Ratio) -> Ratio:
    """By what a ratio has changed; the interval holds whatever the two may be in theirs."""
    return Ratio(after.value / before.value, after.low / before.high, after.high / before.low)


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean(log(values))), the mean for ratios; NaN if there are none."""
    logs = np.log(list(values))
    return float(np.exp(logs.mean())) if len(logs) else float("nan")


def mean_ratio(ratios: Iterable[Ratio]) -> Ratio:
    """The geometric mean of ratios; its interval is that of ratios which are all off to the same side."""
    return Ratio(*map(geometric_mean, zip(*ratios, strict=True)))


def time_with_interval(times: np.ndarray) -> Ratio | None:
    """The median time and its interval in seconds: a ratio to one second."""
    return paired_ratio(times, np.ones_like(times))
