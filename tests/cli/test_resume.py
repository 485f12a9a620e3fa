"""A training run that is killed and resumed ends with the same weights as an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from msal_deploy import train as training
from msal_deploy.cli import app
from msal_deploy.errors import GateFailed
from msal_deploy.train import load_state


def command(small_set: Path, recipe: Path, out: Path, *more: str) -> list[str]:
    return ["train", "--data", str(small_set), "--out", str(out), "--recipe", str(recipe), *more]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # as in this process
    with log.open("wb") as stream:
        words = [sys.executable, "-m", "msal_deploy", *arguments]
        return subprocess.Popen(words, stdout=stream, stderr=stream, env=environment)


def wait_for_epoch(history: Path, epoch: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        if history.exists() and len(history.read_text().splitlines()) > epoch:
            return
        time.sleep(0.02)
    pytest.fail(f"no epoch {epoch} within 240 s (exit {process.poll()})")


@pytest.fixture(scope="module")
def whole_run(small_set: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    result = CliRunner().invoke(app, command(small_set, recipe_file, out))
    assert result.exit_code == 0, result.output
    return out


def test_killed_run_resumes_to_the_same_weights(
    small_set: Path, recipe_file: Path, whole_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(command(small_set, recipe_file, out), tmp_path / "log")
    wait_for_epoch(out / "history.csv", 2, process)
    time.sleep(0.2)  # somewhere inside the third epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len((out / "history.csv").read_text().splitlines()) - 1 < 4, "it was killed too late for this test"

    result = CliRunner().invoke(app, ["train", "--data", str(small_set), "--out", str(out), "--resume"])
    assert result.exit_code == 0, result.output
    assert_same(load_file(whole_run / "best.safetensors"), load_file(out / "best.safetensors"))
    whole, resumed = load_state(whole_run), load_state(out)
    for part in ("network", "average"):
        assert_same(whole.tensors[part], resumed.tensors[part])
    assert [row.train_loss for row in whole.history] == [row.train_loss for row in resumed.history]


def assert_same(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    assert expected.keys() == actual.keys()
    for name, weights in expected.items():
        np.testing.assert_array_equal(np.asarray(weights), np.asarray(actual[name]), err_msg=name)


def test_another_seed_gives_other_weights(small_set: Path, recipe_file: Path, whole_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, command(small_set, recipe_file, out, "--seed", "1", "--epochs", "1"))
    assert result.exit_code == 0, result.output
    one, other = load_file(whole_run / "best.safetensors"), load_file(out / "best.safetensors")
    assert not np.array_equal(one["head.2.weight"], other["head.2.weight"])


def test_files_of_a_run_folder(whole_run: Path) -> None:
    names = {path.name for path in whole_run.iterdir()}
    assert names == {"best.safetensors", "last.pt", "history.csv", "curves.png", "tensorboard"}
    assert any((whole_run / "tensorboard").iterdir())


def test_sigterm_leaves_no_partial_files(small_set: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(small_set, recipe_file, out), tmp_path / "log")
    wait_for_epoch(out / "history.csv", 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert not list(out.glob(".*"))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_ctrl_c_prints_interrupted(small_set: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(small_set, recipe_file, out), tmp_path / "log")
    wait_for_epoch(out / "history.csv", 1, process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    text = (tmp_path / "log").read_text()
    assert "Interrupted" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "already holds a training run"),
        (["--resume", "--recipe", "fast"], "was started with network.backbone = 'resnet18', not 'resnet34'"),
    ],
)
def test_run_folder_is_not_overwritten(
    small_set: Path, recipe_file: Path, whole_run: Path, arguments: list[str], message: str
) -> None:
    before = (whole_run / "last.pt").read_bytes()
    base = ["train", "--data", str(small_set), "--out", str(whole_run)]
    result = CliRunner().invoke(app, [*base, *(arguments or ["--recipe", str(recipe_file)])])
    assert result.exit_code == 2
    assert message in result.output
    assert (whole_run / "last.pt").read_bytes() == before


def test_damaged_state_is_rejected(small_set: Path, whole_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    state = (whole_run / "last.pt").read_bytes()
    (out / "last.pt").write_bytes(state[: len(state) // 2])
    result = CliRunner().invoke(app, ["train", "--data", str(small_set), "--out", str(out), "--resume"])
    assert result.exit_code == 2
    assert "last.pt is not a complete PyTorch file" in result.output


@pytest.mark.parametrize("option", ["--licence", "--license"])
def test_both_spellings_of_licence_are_accepted(
    option: str, small_set: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    licences = []

    def train_nothing(*_: object, licence: str, **__: object) -> NoReturn:
        licences.append(licence)
        raise GateFailed("nothing was trained")

    monkeypatch.setattr(training, "train", train_nothing)
    result = CliRunner().invoke(app, command(small_set, recipe_file, tmp_path / "run", option, "CC0-1.0"))
    assert result.exit_code == 1, result.output
    assert licences == ["CC0-1.0"]


def test_train_help_shows_both_spellings_of_licence() -> None:
    output = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert "--licence" in output
    assert "--license" in output
