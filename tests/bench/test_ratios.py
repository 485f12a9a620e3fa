"""The interval of a ratio: worked out by hand, and its coverage where the truth is known."""

from math import exp, log, sqrt

import numpy as np
import pytest

from msal_deploy.bench.ratios import Ratio, speed_up

TRUTH = 5.0


def test_an_interval_by_hand():
    # Three processes of two windows; the ratios of their windows are 4 and 5, 4 and 4, 5 and 5.
    found = speed_up([1, 1, 1, 1, 1, 1], [4, 5, 4, 4, 5, 5], per_process=2)
    processes = [(log(4) + log(5)) / 2, log(4), log(5)]
    mean = sum(processes) / 3
    deviation = sqrt(sum((one - mean) ** 2 for one in processes) / 2)
    half = 4.30265273 * deviation / sqrt(3)  # Student's t with two degrees of freedom
    assert (found.ratio, found.low, found.high) == pytest.approx((exp(mean), exp(mean - half), exp(mean + half)))


def test_windows_count_if_there_was_a_single_process():
    assert speed_up([1, 1], [4, 5], per_process=2) == speed_up([1, 1], [4, 5])
    assert speed_up([1, 1], [4, 5], per_process=5) == speed_up([1, 1], [4, 5])


def test_windows_that_only_one_of_them_has_are_left_out():
    assert speed_up([1, 1, 1], [4, 5, 4, 900]) == speed_up([1, 1, 1], [4, 5, 4])
    assert speed_up([1], [4, 5]) is None
    assert speed_up([], [4, 5]) is None


def test_how_a_ratio_is_printed_and_when_two_agree():
    assert str(Ratio(2, 1.9, 2.2)) == "2.00× ±0.20"
    assert Ratio(2, 1.9, 2.1).agrees(Ratio(2.2, 2.1, 2.3)) and Ratio(2.2, 2.1, 2.3).agrees(Ratio(2, 1.9, 2.1))
    assert not Ratio(2, 1.9, 2.1).agrees(Ratio(2.3, 2.2, 2.4))


def run_of(rng, rounds, windows, process, window, drift):
    """One run of a bench whose truth is `TRUTH`.

    Args:
        process: Relative standard deviation between processes.
        window: Relative standard deviation between windows of a process.
        drift: Relative standard deviation of the machine, whose noise correlates by 0.9 from one window to the next.
    """
    count = rounds * windows
    machine = [rng.normal(0, drift)]
    for _ in range(2 * count - 1):
        machine.append(0.9 * machine[-1] + rng.normal(0, drift * sqrt(1 - 0.9**2)))
    noise = np.repeat(rng.normal(0, process, (2, rounds)), windows, axis=1) + rng.normal(0, window, (2, count))
    fast = 10 * np.exp(np.array(machine[0::2]) + noise[0])
    slow = 10 * TRUTH * np.exp(np.array(machine[1::2]) + noise[1])
    return list(fast), list(slow)


@pytest.mark.parametrize(
    ("process", "window", "drift"), [(0, 0.01, 0), (0.01, 0.003, 0), (0.01, 0.005, 0.03), (0, 0.003, 0.03)]
)
@pytest.mark.parametrize(("rounds", "windows"), [(3, 2), (5, 1)])
def test_the_interval_has_the_truth_19_times_in_20_and_two_runs_agree(rounds, windows, process, window, drift):
    rng = np.random.default_rng(16)
    found = [speed_up(*run_of(rng, rounds, windows, process, window, drift), per_process=windows) for _ in range(1000)]
    covered = sum(one.low <= TRUTH <= one.high for one in found) / len(found)
    agreeing = sum(one.agrees(other) for one, other in zip(found[::2], found[1::2], strict=True)) / 500
    assert 0.93 <= covered <= 0.985  # 0.95 ± 3 standard errors of 0.007; correlated noise makes it a little wider
    assert agreeing >= 0.985


def test_windows_of_one_process_do_not_show_how_processes_differ():
    """Why a run starts every engine several times: the interval is far too narrow otherwise."""
    rng = np.random.default_rng(16)
    found = [speed_up(*run_of(rng, 1, 6, 0.01, 0.003, 0)) for _ in range(300)]
    assert sum(one.low <= TRUTH <= one.high for one in found) / len(found) < 0.5
