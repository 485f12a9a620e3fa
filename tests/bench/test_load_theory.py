"""benchmarks/load/: the comparison of measured waits with queueing theory, for waits and services that are known."""

import sys
from pathlib import Path

import numpy as np
import pytest

from msal_deploy.errors import BadInput

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "load"))

from theory import wait_of


def test_constant_service_times():
    """100 arrivals in 2 s, service 10 ms: busy half of the time, and S·ρ / (2·(1 − ρ)) is 5 ms."""
    arrivals = np.arange(100) * 0.02
    waits = np.tile([0.004, 0.008], 50)
    wait = wait_of(arrivals, arrivals + waits, arrivals + waits + 0.01, 2)
    assert (wait.rate, wait.requests, wait.utilisation) == (50, 100, pytest.approx(0.5))
    assert wait.predicted_ms == pytest.approx(5)
    assert wait.measured_ms == pytest.approx(6)


def test_service_times_that_vary_make_waits_longer():
    """Half of the services take 5 ms and half 15 ms: E[S²] is 125 ms², a quarter more than with 10 ms each."""
    arrivals = np.arange(100) * 0.02
    wait = wait_of(arrivals, arrivals, arrivals + np.tile([0.005, 0.015], 50), 2)
    assert wait.predicted_ms == pytest.approx(6.25)
    assert [wait.measured_ms, wait.low_ms, wait.high_ms] == pytest.approx([0, 0, 0])


def test_the_interval_is_that_of_the_means_of_20_batches():
    """Batches of 2 requests wait 0 or 2 ms in turn: mean 1, deviation √(20/19), half-width 2.093·√(20/19)/√20."""
    arrivals = np.arange(40) * 1.0
    starts = arrivals + np.repeat(np.tile([0.0, 0.002], 10), 2)
    wait = wait_of(arrivals, starts, starts + 0.001, 40)
    assert wait.measured_ms == pytest.approx(1)
    assert [wait.high_ms - 1, 1 - wait.low_ms] == pytest.approx([2.093 / 19**0.5] * 2)


def test_an_engine_that_is_always_busy_has_no_prediction():
    arrivals = np.arange(40) * 0.01
    assert wait_of(arrivals, arrivals, arrivals + 0.01, 0.4).predicted_ms == float("inf")


def test_too_few_requests_are_refused():
    with pytest.raises(BadInput, match="39 requests are too few"):
        wait_of(np.arange(39.0), np.arange(39.0), np.arange(39.0), 39)
