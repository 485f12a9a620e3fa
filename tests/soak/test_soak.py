"""A fixed tenth of the bad inputs, in a process of its own; `make soak` tries them all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent
PART = "4/10"


def test_a_tenth_of_the_bad_inputs_is_refused_in_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, SOAK / "bad_inputs.py", "--part", PART, "--json", report]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = json.loads(report.read_text())
    assert found["corpus"] >= 700
    assert sum(found["tried"].values()) >= found["corpus"] // 10
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["bad_inputs", "kills", "full_disks", "pairs", "load", "fuzz"])
def test_every_script_says_how_it_is_used(script: str) -> None:
    done = subprocess.run(
        [sys.executable, SOAK / f"{script}.py", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
