"""Targets: the built-in table, users' own files, and the roofline estimate."""

import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.graph import Layer, layers, load_graph
from msal_deploy.roofline import LABEL, estimate
from msal_deploy.targets import Target, find_target, target_names, target_of_sm, targets

NAMES = {
    "gtx-1080-ti", "gtx-1070", "tesla-p40", "v100", "t4", "rtx-2080-ti", "a100",
    "rtx-3090", "rtx-4090", "l4", "h100", "h200", "rtx-5090",
}  # fmt: skip


def test_every_listed_gpu_has_a_target() -> None:
    assert set(target_names()) == NAMES
    assert {target.name for target in targets()} == NAMES


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_target_matches_the_table_of_its_compute_capability(target: Target) -> None:
    """The design's table: versions and preferred precisions of each compute capability."""
    if target.sm == "6.1":
        assert (target.tensorrt, target.cuda, target.opset) == ("8.6.1", "12.1", 17)
        assert (target.preferred, target.python[1], target.driver.last) == (("int8", "fp32"), "3.11", 580)
        assert "fp16" in target.discouraged
        assert target.peak.fp16 == pytest.approx(target.peak.fp32 / 64, rel=0.01)
    elif target.sm == "7.0":
        assert target.tensorrt.startswith("10.4") and target.preferred[0] == "fp16"
    else:
        assert target.tensorrt.startswith("11.") and target.preferred[:2] == ("fp16", "int8")
    assert target.tensorrt_rtx == (target.sm in ("7.5", "8.6", "8.9", "12.0"))
    assert (target.peak.tf32 is not None) == (target.sm_number >= (8, 0))


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_pins_have_the_tensorrt_of_the_container(target: Target) -> None:
    """A plan loads in Triton only if both have the same TensorRT."""
    (pin,) = [pin for pin in target.pins if pin.startswith(("tensorrt==", "tensorrt-cu"))]
    assert pin.partition("==")[2].startswith(target.container.tensorrt)
    assert target.sources


@pytest.mark.parametrize(
    ("sm", "gpu", "name"),
    [
        ("6.1", "", "gtx-1080-ti"),
        ("6.1", "NVIDIA GeForce GTX 1070", "gtx-1070"),
        ("6.1", "GeForce GTX 1070", "gtx-1070"),  # as older drivers call it
        ("7.5", "NVIDIA GeForce RTX 2080 Ti", "rtx-2080-ti"),
        ("8.9", "NVIDIA L40S", "l4"),  # another card of the same capability
        ("9.0", "NVIDIA H200", "h200"),
    ],
)
def test_target_of_sm_selects_by_capability_and_name(sm: str, gpu: str, name: str) -> None:
    assert target_of_sm(sm, gpu).name == name


def test_target_of_sm_rejects_an_unsupported_capability() -> None:
    with pytest.raises(BadInput, match=r"Compute capability 5\.2 is not .*8\.9, 9\.0, 12\.0"):
        target_of_sm("5.2")


def test_find_target_rejects_a_mistyped_name_and_a_missing_file() -> None:
    with pytest.raises(BadInput, match="did you mean 'gtx-1080-ti'"):
        find_target("gtx1080tti")
    with pytest.raises(BadInput, match=r"Target file mine\.toml is not found"):
        find_target("mine.toml")


OWN = """
name = "gtx-1060"
like = "gtx-1080-ti"
gpu = "NVIDIA GeForce GTX 1060"
memory_gib = 6
bandwidth_gb_s = 192.2
[peak]
fp32 = 4.375
fp16 = 0.068
int8 = 17.5
"""


def test_own_file_inherits_missing_keys(tmp_path: Path) -> None:
    path = tmp_path / "gtx-1060.toml"
    path.write_text(OWN)
    target = find_target(str(path))
    assert (target.memory_gib, target.peak.int8) == (6, 17.5)
    assert (target.sm, target.tensorrt, target.pins) == ("6.1", "8.6.1", find_target("gtx-1080-ti").pins)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("name =", "name"), "is not valid TOML"),
        (("gtx-1080-ti", "gxt1080ti"), "did you mean 'gtx-1080-ti'"),
        (("memory_gib = 6", "memory_gib = -6"), "memory_gib"),
        (("fp32 = 4.375\n", ""), "fp32"),
        (("memory_gib", "memory"), "memory"),
        (('like = "gtx-1080-ti"\n', ""), "is not a valid target"),
    ],
)
def test_find_target_rejects_an_invalid_file(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(BadInput, match=words):
        find_target(str(path))


def test_documented_example_is_a_target(tmp_path: Path) -> None:
    from msal_deploy.targets import target as module

    example = (module.__doc__ or "").partition("::\n")[2].partition("\n\nEverything")[0]
    lines = "\n".join(line.removeprefix("    ") for line in example.splitlines())
    (tmp_path / "own.toml").write_text(lines)
    assert find_target(str(tmp_path / "own.toml")).name == tomllib.loads(lines)["name"]


def layer(macs: int, moved_bytes: int) -> Layer:
    return Layer("conv", "Conv", "encoder", macs, "fp32", moved_bytes)


# 1 TFLOP of arithmetic, and 1 GB of memory traffic: 88 ms and 2 ms on a GTX 1080 Ti in FP32.
HEAVY, WIDE = layer(500_000_000_000, 1), layer(1, 1_000_000_000)


def test_estimate_takes_the_slower_of_arithmetic_and_memory() -> None:
    target = find_target("gtx-1080-ti")
    assert estimate([HEAVY], target, "fp32").milliseconds == pytest.approx(1000 / 11.3)
    assert estimate([WIDE], target, "fp32").milliseconds == pytest.approx(1000 / 484)
    both = estimate([HEAVY, WIDE], target, "fp32")
    assert both.milliseconds == pytest.approx(1000 / 11.3 + 1000 / 484)
    assert both.memory_bound == pytest.approx((1000 / 484) / both.milliseconds)


def test_estimate_moves_fewer_bytes_in_a_smaller_precision() -> None:
    target = find_target("gtx-1080-ti")
    assert estimate([WIDE], target, "int8").milliseconds == pytest.approx(250 / 484)
    assert estimate([WIDE], target, "fp16").milliseconds == pytest.approx(500 / 484)


def test_estimate_as_exported_keeps_each_layers_precision() -> None:
    target = find_target("t4")
    mixed = [HEAVY, replace(HEAVY, precision="int8")]
    assert estimate(mixed, target, "int8", as_exported=True).milliseconds == pytest.approx(1000 / 8.1 + 1000 / 130)


def test_estimate_rejects_tf32_before_ampere() -> None:
    assert estimate([HEAVY], find_target("a100"), "tf32").milliseconds == pytest.approx(1000 / 156)
    with pytest.raises(ValueError, match="t4 has no rate for tf32"):
        estimate([HEAVY], find_target("t4"), "tf32")


def test_estimate_orders_the_precisions_of_a_real_graph_on_pascal(bundle: Bundle) -> None:
    graph_layers = layers(load_graph(bundle.file("model.fp32.onnx")))
    times = {p: estimate(graph_layers, find_target("gtx-1080-ti"), p) for p in ("fp32", "fp16", "int8")}
    assert times["int8"].milliseconds < times["fp32"].milliseconds < times["fp16"].milliseconds
    assert times["fp32"].milliseconds >= 2 * sum(layer.macs for layer in graph_layers) / 11.3e9
    assert times["fp32"].to_json()["label"] == LABEL and "stimate" in LABEL
