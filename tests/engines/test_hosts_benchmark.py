"""benchmarks/hosts/ on a small bundle and synthetic images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from triton_server import ROOT, triton_python

from msal_deploy.bundle import Bundle
from msal_deploy.data import synthesize

INTEGRATIONS = ("python", "cpp", "triton")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory):
    """Run a program of benchmarks/hosts/ and return its JSON."""
    result = tmp_path_factory.mktemp("hosts") / "result.json"

    def program(name: str, bundle: Bundle, *options: object) -> dict:
        words = [ROOT / "benchmarks" / "hosts" / name, "run", bundle.path, *options]
        done = subprocess.run([sys.executable, *map(str, words), "--json", result], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(result.read_text())

    return program


def test_all_integrations_compute_the_same_bits(program, int8_bundle: Bundle, tmp_path: Path) -> None:
    synthesize(tmp_path / "data", train=2, test=2, size=512, seed=4)
    (result,) = program(
        *("agree.py", int8_bundle, "--data", tmp_path / "data", "--precision", "int8", "--size", 64, "--windows", 5),
        *("--triton", triton_python()),
    )["precisions"]
    assert tuple(result["hosts"]) == INTEGRATIONS
    assert all(one["bit_exact"] and one["golden_passed"] for one in result["hosts"].values())
    assert len({one["pixel_dice_mean"] for one in result["hosts"].values()}) == 1
    low, high = result["latency"]["interval"]
    assert 0 < low <= result["latency"]["cpp_over_python"] <= high


def test_overhead_of_triton_is_relative_to_the_bare_engine(program, bundle: Bundle) -> None:
    options = (
        "--precision",
        "fp32",
        "--size",
        64,
        "--seconds",
        0.1,
        "--windows",
        2,
        "--clients",
        2,
        "--triton",
        triton_python(),
    )
    (result,) = program("overhead.py", bundle, *options)["results"]
    bare, *served = result["latency"]
    assert bare["overhead_ms"] == 0 and len(served) == 4
    median = bare["latency_ms"]["p50"]
    assert all(one["overhead_ms"] == one["latency_ms"]["p50"] - median for one in served)
    assert [one["clients"] for one in result["throughput"]] == [1, 2, 2, 2, 2, 2]


def test_any_size_and_layout_is_compared_and_timed_in_turn(program, int8_bundle: Bundle) -> None:
    options = ("--engine", "openvino:int8", "--largest", 512, "--pairs", 5)
    (result,) = program("any_size.py", int8_bundle, *options)["engines"]
    (image,) = result["images"]
    assert (image["height"], image["width"]) == (33, 31) and image["distinct_values"] > 100
    assert list(image["bit_exact"].values()) == [True] * 4
    (times,) = result["times"]
    low, high = times["interval"]
    assert 0 < low <= times["cpp_over_python"] <= high and len(times["ms"]["cpp"]) == 5
    assert result["in_turn"]["compilations"] == [4, 4]
