"""Bench: how fast is an engine, and in which setting? Times engines on random images, and never scores them.

A latency is host to host: from uint8 images in memory to float32 probabilities in memory, copies to and from a device
included. What is compared takes turns, window by window, so that a machine that slows down for a while slows all of it;
windows whose medians differ too much are flagged, not averaged away.

=========  ==========================================================================================
`turns`    `time_interleaved`: times any calls, in turns
`results`  a setting, what was measured with it, and the report
`sweep`    `bench`: engines × batches × threads × streams
`tuning`   `tune`: which setting has the shortest wait, and which the most images a second
`machine`  `describe_machine`: what the figures hold for
=========  ==========================================================================================
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
