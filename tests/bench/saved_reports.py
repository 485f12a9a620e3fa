"""Bench reports as JSON, made from window medians: what ``msal-deploy bench --json`` writes."""

import msgspec
import numpy as np

from msal_deploy.bench.formats import SavedReport
from msal_deploy.bench.ratios import speed_up

MACHINE = {
    "date": "2026-01-02T03:04:05+00:00", "processor": "Some CPU", "gpus": [], "logical_cores": 2,
    "threads": {"default": 2, "cpu_quota": None, "affinity": 2},
    "versions": {"msal-deploy": "1.2", "openvino": "2026.1"},
}  # fmt: skip


def result(engine, windows, baseline, *, batch=1, per_process=2, **changes):
    """Return the JSON of a result whose windows have these medians in ms."""
    p50 = float(np.median(windows))
    latency = {"p50": p50, "p90": 1.1 * p50, "p95": 1.2 * p50, "p99": 1.3 * p50, "mean": 1.05 * p50}
    rate = batch * 1000 / latency["mean"]
    ratio = speed_up(windows, baseline, per_process=per_process) if baseline else None
    return {
        "engine": engine, "batch": batch, "size": [512, 512], "threads": None, "streams": 1, "images_per_s": rate,
        "megapixels_per_s": rate * 0.262144, "square_millimetres_per_s": rate * 0.016384, "latency_ms": latency,
        "runs": 5 * len(windows), "window_medians_ms": list(windows), "windows_per_process": per_process,
        "coefficient_of_variation": 0.01, "stable": True, "speed_up": ratio and msgspec.to_builtins(ratio),
        "peak_memory_mb": 812.4, "load_s": 0.61,
    } | changes  # fmt: skip


def report(engines, *, batch=1, per_process=2, **changes):
    """Return the JSON of a report of engine -> window medians in ms; the first engine is the baseline."""
    baseline = next(iter(engines))
    rows = [
        result(engine, windows, engines[baseline], batch=batch, per_process=per_process)
        for engine, windows in engines.items()
    ]
    return {
        "schema": "msal-deploy bench 2", "baseline": baseline, "results": rows, "failed": [], "unavailable": [],
        "interrupted": False, "environment": MACHINE,
    } | changes  # fmt: skip


def saved(engines, **changes):
    """Return such a report as it is read."""
    return msgspec.convert(report(engines, **changes), SavedReport)
