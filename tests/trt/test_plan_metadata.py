"""The metadata of plans, and the preflight that reads it before a plan is loaded."""

import shlex
from pathlib import Path

import msgspec
import pytest
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.trt.plan_checks import find_plan, preflight
from msal_deploy.trt.plan_metadata import (
    REBUILD_ALL,
    ActualPrecision,
    BuildOptions,
    PlanMetadata,
    Profile,
    Share,
    metadata_path,
    plan_name,
    read_metadata,
    rebuild_command,
    write_metadata,
)

PROFILE = Profile((1, 256, 256), (4, 512, 512), (8, 1024, 768))
REBUILD = "rebuild it with: msal-deploy build-trt {} --fp16 --gpu rtx-3090 --backend tensorrt-rtx"


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "my bundle")


@pytest.fixture
def plan_file(tiny: Bundle) -> Path:
    return write(tiny)


def write(bundle: Bundle, **changes: object) -> Path:
    """Write a plan of four bytes with its metadata."""
    file = bundle.path / plan_name("fp16", "tensorrt-rtx", ("8.6",))
    file.write_bytes(b"plan")
    plan = PlanMetadata(
        backend="tensorrt-rtx",
        backend_version="1.7.1.116",
        gpu="rtx-3090",
        sm=("8.6",),
        graph="model.fp16.onnx",
        graph_sha256=bundle.manifest.artifacts["model.fp16.onnx"].sha256,
        requested="fp16",
        actual=ActualPrecision("inspector", {"fp16": Share(3, 1.0, 1.0)}, 2),
        profile=PROFILE,
        plan_sha256=sha256(file),
        bytes=4,
        options=BuildOptions(),
        built="2025-01-01T00:00:00+00:00",
    )
    write_metadata(file, msgspec.structs.replace(plan, **changes))
    return file


def refusal(file: Path, bundle: Bundle, **machine: object) -> str:
    with pytest.raises(BadInput) as caught:
        preflight(file, bundle, **machine)
    return str(caught.value)


def test_file_names():
    assert plan_name("fp16", "tensorrt-rtx", ("8.6",)) == "model.fp16.sm86.tensorrt-rtx.plan"
    assert plan_name("int8", "tensorrt", ("12.0", "8.9")) == "model.int8.sm120-89.tensorrt.plan"
    assert metadata_path(Path("x.plan")).name == "x.plan.json"


def test_preflight_returns_the_metadata_of_a_good_plan(plan_file, tiny):
    machine = {"backend_version": "1.7.1.116", "sm": "8.6", "shape": (4, 512, 512)}
    assert preflight(plan_file, tiny, **machine) == read_metadata(plan_file)
    assert read_metadata(plan_file).profile == PROFILE


def test_missing_plan_is_refused(tiny):
    message = f"{tiny.path / 'no.plan'} does not exist; build one with: msal-deploy build-trt '{tiny.path}' --auto"
    assert refusal(tiny.path / "no.plan", tiny) == message


def test_missing_metadata_is_refused(plan_file, tiny):
    metadata_path(plan_file).unlink()
    message = f"{plan_file} has no metadata ({plan_file.name}.json is missing); {REBUILD_ALL}"
    assert refusal(plan_file, tiny) == message


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"format_version": 99}'])
def test_invalid_metadata_is_refused(content, plan_file, tiny):
    metadata_path(plan_file).write_bytes(content)
    message = refusal(plan_file, tiny)
    assert message.startswith(f"{metadata_path(plan_file)} is not valid plan metadata (")
    assert message.endswith(f"; {REBUILD_ALL}")


def test_metadata_of_a_later_format_is_refused(tiny):
    assert "Expected format version 1" in refusal(write(tiny, format_version=2), tiny)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"pla", "is truncated (3 bytes, expected 4)"),
        (b"plans", "is larger than when it was built (5 bytes, expected 4)"),
        (b"palm", "has changed since it was built (SHA-256 differs)"),
    ],
)
def test_changed_plan_is_refused(content, words, plan_file, tiny):
    plan_file.write_bytes(content)
    message = refusal(plan_file, tiny)
    assert words in message
    assert REBUILD.format(shlex.quote(str(tiny.path))) in message


def test_plan_of_another_graph_is_refused(plan_file, tiny):
    changed = put_graph(tiny, "model.fp16.onnx", tiny_graph("fp16", seed=1))
    assert "was built from a different model.fp16.onnx" in refusal(plan_file, changed)
    without = {name: entry for name, entry in changed.manifest.artifacts.items() if name != "model.fp16.onnx"}
    changed.manifest = msgspec.structs.replace(changed.manifest, artifacts=without)
    assert "which is not in" in refusal(plan_file, changed)


@pytest.mark.parametrize("version", ["1.6.0", "1.7.2.1", "2.0.0", "10.16.1.11"])
def test_plan_of_another_tensorrt_is_refused(version, plan_file, tiny):
    assert f"by tensorrt-rtx 1.7.1.116, not {version}" in refusal(plan_file, tiny, backend_version=version)


def test_fourth_part_of_the_version_is_ignored(plan_file, tiny):
    preflight(plan_file, tiny, backend_version="1.7.1")


def test_version_compatible_plan_needs_the_same_major_version_or_later(tiny):
    file = write(tiny, options=BuildOptions(version_compatible=True))
    preflight(file, tiny, backend_version="1.9.0")
    assert ", not 1.6.9" in refusal(file, tiny, backend_version="1.6.9")
    assert ", not 2.0.0" in refusal(file, tiny, backend_version="2.0.0")


def test_plan_of_another_gpu_is_refused(plan_file, tiny):
    assert "for compute capability 8.6, not 8.9" in refusal(plan_file, tiny, sm="8.9")


def test_hardware_compatible_plan_needs_8_0_or_above(tiny):
    file = write(tiny, options=BuildOptions(hardware_compatible=True))
    for sm in ("8.0", "8.9", "12.0"):
        preflight(file, tiny, sm=sm)
    assert ", not 7.5" in refusal(file, tiny, sm="7.5")


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((16, 512, 512), "--batch 1:4:16 --size 256:512:1024x768"),
        ((4, 128, 512), "--batch 1:4:8 --size 128x256:512:1024x768"),
        ((4, 512, 1024), "--batch 1:4:8 --size 256:512:1024"),
    ],
)
def test_shape_outside_the_profile_gives_a_command_with_a_wider_profile(shape, options, plan_file, tiny):
    message = refusal(plan_file, tiny, shape=shape)
    assert f", not {shape[0]} × {shape[1]} × {shape[2]} px" in message
    assert message.endswith(options)


def test_rebuild_command_repeats_all_options(tiny):
    options = BuildOptions(
        workspace_mib=512, version_compatible=True, hardware_compatible=True, tf32=True, allow_wider=True
    )
    plan = read_metadata(write(tiny, options=options, gpu=None))
    assert rebuild_command(Path("b"), plan) == (
        "msal-deploy build-trt b --fp16 --backend tensorrt-rtx --batch 1:4:8 --size 256:512:1024x768 --workspace 512 "
        "--version-compatible --hardware-compatible --tf32 --allow-wider"
    )


@pytest.mark.parametrize("changes", [{"requested": "int8"}, {"backend": "tensorrt"}])
def test_renamed_plan_is_refused(changes, tiny):
    assert "was built in" in refusal(write(tiny, **changes), tiny)


def test_find_plan_by_precision_backend_and_capability(plan_file, tiny):
    assert find_plan(tiny, "fp16", "tensorrt-rtx", "8.6") == plan_file
    with pytest.raises(BadInput, match=r"no fp16 plan .*capability 8\.9 \(found: model\.fp16\.sm86.*--fp16"):
        find_plan(tiny, "fp16", "tensorrt-rtx", "8.9")


def test_find_plan_falls_back_to_a_hardware_compatible_plan(tiny):
    file = write(tiny, options=BuildOptions(hardware_compatible=True))
    assert find_plan(tiny, "fp16", "tensorrt-rtx", "8.9") == file
    with pytest.raises(BadInput, match="no fp16 plan"):
        find_plan(tiny, "fp16", "tensorrt-rtx", "7.5")
    with pytest.raises(BadInput, match="no int8 plan"):
        find_plan(tiny, "int8", "tensorrt-rtx", "8.9")
    own = file.with_name(plan_name("fp16", "tensorrt-rtx", ("8.9",)))
    own.write_bytes(b"plan")
    assert find_plan(tiny, "fp16", "tensorrt-rtx", "8.9") == own


def test_find_plan_skips_a_plan_with_invalid_metadata(plan_file, tiny):
    metadata_path(plan_file).write_text("{")
    with pytest.raises(BadInput, match="no fp16 plan"):
        find_plan(tiny, "fp16", "tensorrt-rtx", "8.9")
