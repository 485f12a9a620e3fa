"""Ratios of latencies, with an interval that another run of the same bench is expected to agree with.

Machines have slow and fast minutes, and so have processes: where a process happens to be in memory changes its latency
by a percent for as long as it runs, so the windows of one process agree better with each other than with those of the
next. A run of bench therefore starts every engine several times, and what counts as one observation is a process, not a
window: `speed_up` takes the mean over its windows.

The interval is Student's t over the logarithms of the ratios. It is not a bootstrap, because there are only a few
processes: of three observations, the percentile bootstrap contains the mean four times in five or less, and the
studentized bootstrap often has no finite bound (its resamples have no spread). Logarithms of ratios of medians are
close to symmetric, so the correction for skewness of `msal_deploy.metrics.bound` would only widen the interval. Within
a process and between neighbouring windows noise is correlated, and cancels in part because the windows of the two
engines alternate. Only processes are taken to be independent of each other; ``tests/bench/test_ratios.py`` measures the
coverage by simulation.

Two limits. The interval does not contain what all processes of a run share: another day, another kernel, a neighbour on
the same host. And if a single process timed all windows (``--in-process``), differences between processes are missing.
"""

from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import fmean, stdev

import msgspec

CONFIDENCE = 0.95  # that the interval has the ratio


class Ratio(msgspec.Struct, frozen=True):
    """A ratio with its interval.

    >>> str(Ratio(5.41, 5.352, 5.471))
    '5.41× ±0.06'
    >>> str(Ratio(5.41, 0.4, 73.2))  # nothing is known
    '5.41× ±?'
    >>> Ratio(5.41, 5.35, 5.47).agrees(Ratio(5.5, 5.46, 5.54))
    True

    Attributes:
        ratio: More than 1 if it is faster.
        low, high: Interval of 95%.
    """

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        half = max(self.high - self.ratio, self.ratio - self.low)
        return f"{self.ratio:.2f}× ±{half:.2f}" if half < self.ratio else f"{self.ratio:.2f}× ±?"

    def agrees(self, other: "Ratio") -> bool:
        """Return whether the intervals overlap, as those of two runs of the same bench do."""
        return self.low <= other.high and other.low <= self.high


def speed_up(
    result_windows: Sequence[float], baseline_windows: Sequence[float], *, per_process: int = 1
) -> Ratio | None:
    """Return how many times faster a result is than the baseline.

    >>> speed_up([10.0, 10.0, 10.0], [40.0, 40.0, 40.0])
    Ratio(ratio=4.0, low=4.0, high=4.0)

    Args:
        result_windows: Median latency of each window of the result in ms, in the order of time.
        baseline_windows: Those of the baseline. Window i of both was timed back to back. If one has more, they are left
            out.
        per_process: Windows that one process timed after each other: one observation.

    Returns:
        The geometric mean of the ratios, with its interval. None for fewer than two windows in common. If a single
        process timed all of them, each window counts as an observation, and the interval is too narrow for another
        process.
    """
    logs = [log(slow / fast) for fast, slow in zip(result_windows, baseline_windows, strict=False)]
    if len(logs) < 2:
        return None
    if len(logs) <= per_process:
        per_process = 1
    processes = [fmean(logs[start : start + per_process]) for start in range(0, len(logs), per_process)]
    mean, half = fmean(processes), _half_width(processes)
    return Ratio(*(_exact(value) for value in (mean, mean - half, mean + half)))


def _half_width(values: Sequence[float]) -> float:
    """Return half the width of Student's interval for the mean of at least two values."""
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return quantile * stdev(values) / sqrt(len(values))


def _exact(logarithm: float) -> float:
    """Return the exponential without the last digits, which are only the rounding of the logarithm."""
    return float(f"{exp(logarithm):.12g}")
