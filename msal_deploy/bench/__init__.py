"""Bench: measure the latency and throughput of engines on random images. Accuracy is not measured; see `validate`.

A latency is end to end: from uint8 images in host memory to float32 probabilities in host memory, including copies to
and from a device. Timing is interleaved, window by window, so that a temporary slowdown of the machine affects all
engines alike. If the medians of the windows vary too much, the result is flagged as unstable.

=========  =========================================================================
`timing`   `time_interleaved`: interleaved timing of any calls
`results`  `Setting`, `BenchResult` and `BenchReport`
`run`      the stage `bench`: engines × batches × threads × streams
`tuning`   `tune`: the settings with the lowest latency and the highest throughput
`machine`  `describe_machine`: the machine that the results hold for
=========  =========================================================================
"""

from msal_deploy.bench.machine import describe_machine
from msal_deploy.bench.results import BenchReport, BenchResult, Setting
from msal_deploy.bench.run import bench
from msal_deploy.bench.timing import MAX_VARIATION, MIN_RUNS, Timing, median_interval, time_interleaved
from msal_deploy.bench.tuning import TuneReport, tune

__all__ = [
    "MAX_VARIATION",
    "MIN_RUNS",
    "BenchReport",
    "BenchResult",
    "Setting",
    "Timing",
    "TuneReport",
    "bench",
    "describe_machine",
    "median_interval",
    "time_interleaved",
    "tune",
]
