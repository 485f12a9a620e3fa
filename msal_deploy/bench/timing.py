"""Timing of any calls, which take turns window by window."""

from collections import deque
from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean, median, stdev
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

MIN_RUNS = 5  # in a window, however long they take
MAX_VARIATION = 0.025  # of the windows' medians, above which a timing is flagged

Call = Callable[[], object]


class Timing(msgspec.Struct, frozen=True):
    """Latencies of one call.

    Attributes:
        windows: latencies in ms, a tuple a time window; at least two windows.
    """

    windows: tuple[tuple[float, ...], ...]

    @property
    def latency_ms(self) -> dict[str, float]:
        """Percentiles and mean over the runs of all windows, in ms."""
        runs = np.concatenate(self.windows)
        percentiles = {f"p{q}": float(np.percentile(runs, q)) for q in (50, 90, 95, 99)}
        return percentiles | {"mean": float(runs.mean())}

    @property
    def runs(self) -> int:
        """Timed runs, all windows together."""
        return sum(len(window) for window in self.windows)

    @property
    def medians(self) -> tuple[float, ...]:
        """The median of each window, in ms."""
        return tuple(median(window) for window in self.windows)

    @property
    def coefficient_of_variation(self) -> float:
        """Standard deviation of the windows' medians, divided by their mean."""
        return stdev(self.medians) / fmean(self.medians)

    @property
    def stable(self) -> bool:
        """Whether the windows agree well enough to be one measurement."""
        return self.coefficient_of_variation <= MAX_VARIATION

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only; of the runs, what sums them up."""
        return {
            "latency_ms": self.latency_ms,
            "runs": self.runs,
            "window_medians_ms": list(self.medians),
            "coefficient_of_variation": self.coefficient_of_variation,
            "stable": self.stable,
        }


def time_interleaved(
    calls: Sequence[Call],
    *,
    seconds: float,
    windows: int,
    min_runs: int | None = None,
    tick: Callable[[], object] = lambda: None,
) -> tuple[Timing, ...]:
    """Time calls that take turns: the first window of each, then the second of each, and so on.

    Args:
        seconds: length of a time window; a window goes on until it has `min_runs` runs.
        windows: time windows for each call, at least two.
        min_runs: `MIN_RUNS` unless given.
        tick: called after each window, for a progress bar.
    """
    timed: list[list[tuple[float, ...]]] = [[] for _ in calls]
    for window in range(windows):
        for call, found in zip(calls, timed, strict=True):
            if window == 0:
                _warm_up(call, seconds)
            found.append(_time_window(call, seconds, min_runs or MIN_RUNS))
            tick()
    return tuple(Timing(tuple(found)) for found in timed)


def _warm_up(call: Call, seconds: float) -> None:
    """Run until two runs take as long as the two before, within 5%, or for `seconds`; at least 2 runs."""
    recent: deque[float] = deque(maxlen=4)
    end = perf_counter_ns() + seconds * 1e9
    while len(recent) < 2 or perf_counter_ns() < end:
        recent.append(_time_run(call))
        if len(recent) == 4 and abs(recent[0] + recent[1] - recent[2] - recent[3]) < 0.05 * (recent[2] + recent[3]):
            return


def _time_window(call: Call, seconds: float, min_runs: int) -> tuple[float, ...]:
    """Return the latencies in ms of at least `min_runs` runs and at least `seconds`."""
    _time_run(call)  # another had the caches and the cores: not counted
    latencies: list[float] = []
    end = perf_counter_ns() + seconds * 1e9
    while len(latencies) < min_runs or perf_counter_ns() < end:
        latencies.append(_time_run(call))
    return tuple(latencies)


def _time_run(call: Call) -> float:
    """Return the latency of one call in ms."""
    start = perf_counter_ns()
    call()
    return (perf_counter_ns() - start) / 1e6


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval that holds the median with a confidence of about 95%: by ranks, whatever the distribution.

    Of five values it is the smallest and the largest (94%); the ranks are the sign test's, by its normal approximation.
    """
    cut = max(0, int(len(values) / 2 - 0.98 * sqrt(len(values))))
    ordered = sorted(values)
    return ordered[cut], ordered[-1 - cut]
