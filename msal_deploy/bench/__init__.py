"""Bench: measure the latency and throughput of engines on images of tissue. For accuracy, see `validate`.

A latency is end to end: from uint8 images in host memory to float32 probabilities in host memory, including copies to
and from a device. Every engine has a process of its own, which is started anew several times. Timing is interleaved,
window by window, so that a temporary slowdown of the machine affects all engines alike. If the medians of the windows
vary too much, the result is flagged as unstable; speed-ups have an interval.

`measure_roofline` (in `roofline_run`, with `roofline_report`, `roofline_tables` and `roofline_plot`) holds engines and
their layers against the machine's peak rates.

=========  =========================================================================
`run`      the stage `bench`: engines × batches × threads × streams
`tuning`   `tune`: the settings with the lowest latency and the highest throughput
`checks`   checks options before anything slow
`measure`  `Measurement`: rounds, groups and windows, and what is kept if one fails
`session`  `Session`: an engine that is timed in this process
`worker`   `WorkerSession`: the same in a process of its own
`inputs`   `image_sets`: the images that engines are timed on
`timing`   `time_interleaved`: interleaved timing of any calls
`ratios`   `speed_up`: a ratio of latencies with its interval
`load`     the stage `load_test`: closed and open loops; `load_loop`, `load_server`, `load_search`, `load_results`,
           `load_report` and `load_plot` are its parts
`results`  `Setting`, `BenchResult` and `BenchReport`; `table` is its table
`formats`  `read_report`: a report from JSON; CSV and Markdown
`compare`  `compare`: what got slower since an earlier report, beyond noise
`suite`    `read_suite`: the options of a run as a TOML file
`machine`  `describe_machine`: the machine that the results hold for; `sensors`
`peaks`    the machine's own peak rates
=========  =========================================================================
"""

from msal_deploy.bench.compare import Comparison, compare
from msal_deploy.bench.formats import SavedReport, read_report
from msal_deploy.bench.inputs import image_sets
from msal_deploy.bench.load import load_test
from msal_deploy.bench.load_plot import plot_load
from msal_deploy.bench.load_report import LoadReport
from msal_deploy.bench.machine import describe_machine
from msal_deploy.bench.ratios import Ratio, speed_up
from msal_deploy.bench.results import BenchReport, BenchResult, Failure, Setting
from msal_deploy.bench.run import bench
from msal_deploy.bench.timing import MAX_VARIATION, MIN_RUNS, Timing, median_interval, time_interleaved
from msal_deploy.bench.tuning import TuneReport, tune

__all__ = [
    "MAX_VARIATION",
    "MIN_RUNS",
    "BenchReport",
    "BenchResult",
    "Comparison",
    "Failure",
    "LoadReport",
    "Ratio",
    "SavedReport",
    "Setting",
    "Timing",
    "TuneReport",
    "bench",
    "compare",
    "describe_machine",
    "image_sets",
    "load_test",
    "median_interval",
    "plot_load",
    "read_report",
    "speed_up",
    "time_interleaved",
    "tune",
]
