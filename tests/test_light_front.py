"""The comparison of lighter networks with the full one: numbers by hand, and the program on a synthetic set."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from msal_deploy.bench import Timing

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "light"))
import front  # noqa: E402 - a program of benchmarks/, which is not a package


def point(milliseconds: float, delta: float) -> front.Point:
    scores = {
        "pixel_dice_mean": 0.81,
        "delta_dice": {"mean": delta, "lower": delta - 0.001, "upper": delta + 0.001},
        "worst_image": {"stem": "a", "delta_dice": -0.01},
    }
    timing, baseline = (Timing(((value,) * 3,) * 5) for value in (milliseconds, 400.0))
    return front.make_point("light", "openvino:int8", scores, timing, baseline)


def test_a_point_has_the_ratio_to_the_baseline_and_the_loss() -> None:
    made = point(50.0, -0.0015)
    assert (made.p50_ms, made.speed_up.ratio, made.speed_up.low, made.speed_up.high) == (50, 8, 8, 8)
    assert (made.dice, made.delta, made.lower, made.worst_image) == (0.81, -0.0015, -0.0025, -0.01)


@pytest.mark.parametrize(
    ("milliseconds", "delta", "met"), [(50, -0.002, True), (51, -0.001, False), (40, -0.003, False)]
)
def test_the_goal_is_speed_and_mean_loss(milliseconds: float, delta: float, met: bool) -> None:
    made = point(milliseconds, delta)
    assert made.meets_goal is met
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(front.table([made], 400.0))
    text = console.export_text()
    assert ("✓" in text) is met and f"{400 / milliseconds:.2f}×" in text and f"{delta:+.4f}" in text


def test_the_plot_is_written(tmp_path: Path) -> None:
    front.save_plot([point(50.0, -0.002), point(80.0, -0.0005)], tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_bundles_need_different_names(bundle, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "benchmarks/light/front.py"), "run", str(bundle.path), str(bundle.path)]
    done = subprocess.run([*words, "--data", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Expected bundles with different names" in " ".join(done.stderr.split())
