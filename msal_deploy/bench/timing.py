"""Interleaved timing: each call is timed for one window, then each for a second window, and so on."""

from collections import deque
from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean, median, stdev
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

MIN_RUNS = 3  # per window, however long they take
MAX_VARIATION = 0.025  # coefficient of variation of the windows' medians above which a timing is unstable

Call = Callable[[], object]


class Timing(msgspec.Struct, frozen=True):
    """Latencies of one call.

    >>> timing = Timing(((10.0, 12.0, 11.0), (11.0, 11.0, 13.0)))
    >>> timing.latency_ms["p50"], timing.runs, timing.stable
    (11.0, 6, True)

    Attributes:
        windows: Latencies in ms, one tuple per time window.
        windows_per_process: How many consecutive windows one process timed.
    """

    windows: tuple[tuple[float, ...], ...]
    windows_per_process: int = 1

    @property
    def latency_ms(self) -> dict[str, float]:
        """Percentiles (``p50``, ``p90``, ``p95``, ``p99``) and ``mean`` over the runs of all windows, in ms."""
        runs = np.concatenate(self.windows)
        percentiles = {f"p{q}": float(np.percentile(runs, q)) for q in (50, 90, 95, 99)}
        return percentiles | {"mean": float(runs.mean())}

    @property
    def runs(self) -> int:
        """Number of timed runs in all windows."""
        return sum(len(window) for window in self.windows)

    @property
    def medians(self) -> tuple[float, ...]:
        """The median of each window, in ms."""
        return tuple(median(window) for window in self.windows)

    @property
    def coefficient_of_variation(self) -> float | None:
        """Standard deviation of the windows' medians, divided by their mean; None for a single window."""
        return stdev(self.medians) / fmean(self.medians) if len(self.windows) > 1 else None

    @property
    def stable(self) -> bool:
        """Whether there are several windows, and their medians vary by at most `MAX_VARIATION`."""
        variation = self.coefficient_of_variation
        return variation is not None and variation <= MAX_VARIATION

    def to_json(self) -> dict[str, Any]:
        """Return summary statistics as JSON types, without the single runs."""
        return {
            "latency_ms": self.latency_ms,
            "runs": self.runs,
            "window_medians_ms": list(self.medians),
            "windows_per_process": self.windows_per_process,
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
    """Time calls in interleaved windows: the first window of each call, then the second of each, and so on.

    Each call is warmed up before its first window.

    >>> timings = time_interleaved([lambda: sum(range(10)), lambda: sum(range(10_000))], seconds=0.01, windows=2)
    >>> len(timings), len(timings[0].windows)
    (2, 2)

    Args:
        calls: The calls to compare.
        seconds: Length of a time window in seconds. A window lasts longer if it has fewer than `min_runs` runs by then.
        windows: Number of time windows per call, at least two.
        min_runs: Minimum number of runs in a window; `MIN_RUNS` if None.
        tick: Called after each window, for a progress bar.

    Returns:
        One `Timing` per call.
    """
    latencies: list[list[tuple[float, ...]]] = [[] for _ in calls]
    for window in range(windows):
        for call, timed in zip(calls, latencies, strict=True):
            if window == 0:
                warm_up(call, seconds)
            timed.append(time_window(call, seconds, min_runs or MIN_RUNS))
            tick()
    return tuple(Timing(tuple(timed)) for timed in latencies)


def warm_up(call: Call, seconds: float) -> None:
    """Call at least twice, until two calls take as long as the two before (within 5%) or `seconds` have passed."""
    recent: deque[float] = deque(maxlen=4)
    end = perf_counter_ns() + seconds * 1e9
    while len(recent) < 2 or perf_counter_ns() < end:
        recent.append(_time_run(call))
        if len(recent) == 4 and abs(recent[0] + recent[1] - recent[2] - recent[3]) < 0.05 * (recent[2] + recent[3]):
            return


def time_window(call: Call, seconds: float, min_runs: int) -> tuple[float, ...]:
    """Return latencies in ms of at least `min_runs` runs that take at least `seconds` together."""
    _time_run(call)  # not counted: the previous call has filled the caches
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
    """Return a confidence interval of about 95% for the median, whatever the distribution of the values.

    Its ends are two of the values, selected by rank with the normal approximation of the sign test. With five values
    they are the smallest and the largest (94%).

    >>> median_interval([5.0, 1.0, 3.0, 2.0, 4.0])
    (1.0, 5.0)
    """
    cut = max(0, int(len(values) / 2 - 0.98 * sqrt(len(values))))
    ordered = sorted(values)
    return ordered[cut], ordered[-1 - cut]
