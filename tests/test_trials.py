"""The log of trials, and the search for the fewest nodes."""

from pathlib import Path

import msgspec
import pytest

from msal_deploy.scoring.trials import TrialLog, fewest


class Score(msgspec.Struct, frozen=True):
    dice: float


@pytest.mark.parametrize("count", range(1, 20))
def test_fewest_finds_every_threshold(count):
    for threshold in range(1, count + 1):
        assert fewest(count, lambda number, limit=threshold: number >= limit) == threshold


def test_fewest_is_none_if_nothing_passes():
    tried = []
    assert fewest(6, lambda number: bool(tried.append(number))) is None
    assert tried == [1, 2, 4, 6]
    assert fewest(0, lambda number: True) is None


def test_fewest_doubles_and_then_bisects():
    tried = []
    assert fewest(100, lambda number: tried.append(number) or number >= 11) == 11
    assert tried == [1, 2, 4, 8, 16, 12, 10, 11]
    tried.clear()
    assert fewest(3, lambda number: tried.append(number) or True) == 1
    assert tried == [1]


def test_log_in_memory_keeps_trials():
    log = TrialLog(None, Score)
    assert log.get("a") is None
    log.add("a", Score(0.5))
    assert log.get("a") == Score(0.5)


def test_log_is_read_again(tmp_path: Path):
    path = tmp_path / "new" / "deep" / "trials.jsonl"
    TrialLog(path, Score).add("a", Score(0.5))
    log = TrialLog(path, Score)
    log.add("b", Score(0.25))
    log.add("a", Score(0.75))
    again = TrialLog(path, Score)
    assert (again.get("a"), again.get("b"), again.get("c")) == (Score(0.75), Score(0.25), None)
    assert path.read_bytes() == b'["a",{"dice":0.5}]\n["b",{"dice":0.25}]\n["a",{"dice":0.75}]\n'


def test_an_incomplete_last_line_costs_no_other_trial(tmp_path: Path):
    path = tmp_path / "trials.jsonl"
    path.write_bytes(b'["a",{"dice":0.5}]\n["b",{"di')
    log = TrialLog(path, Score)
    assert (log.get("a"), log.get("b")) == (Score(0.5), None)
    log.add("b", Score(0.25))
    assert path.read_bytes() == b'["a",{"dice":0.5}]\n["b",{"di\n["b",{"dice":0.25}]\n'
    assert TrialLog(path, Score).get("b") == Score(0.25)


def test_lines_of_another_kind_are_skipped(tmp_path: Path):
    path = tmp_path / "trials.jsonl"
    path.write_bytes(b'["a",{"loss":1}]\n7\n["b",{"dice":0.5}]\n')
    log = TrialLog(path, Score)
    assert (log.get("a"), log.get("b")) == (None, Score(0.5))
