"""The sidecar, and the preflight that reads it before a plan is loaded."""

import shlex
from pathlib import Path

import msgspec
import pytest
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.plan import (
    Options,
    Plan,
    Profile,
    Realised,
    Share,
    find_plan,
    plan_name,
    preflight,
    read_plan,
    rebuild_command,
    sidecar,
    write_plan,
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
    """Write a plan of four bytes with its sidecar."""
    file = bundle.path / plan_name("fp16", "tensorrt-rtx", ("8.6",))
    file.write_bytes(b"plan")
    plan = Plan(
        backend="tensorrt-rtx",
        backend_version="1.7.1.116",
        gpu="rtx-3090",
        sm=("8.6",),
        graph="model.fp16.onnx",
        graph_sha256=bundle.manifest.artifacts["model.fp16.onnx"].sha256,
        requested="fp16",
        realised=Realised("inspector", {"fp16": Share(3, 1.0, 1.0)}, 2),
        profile=PROFILE,
        plan_sha256=sha256(file),
        bytes=4,
        options=Options(),
        built="2025-01-01T00:00:00+00:00",
    )
    write_plan(file, msgspec.structs.replace(plan, **changes))
    return file


def refusal(file: Path, bundle: Bundle, **here: object) -> str:
    with pytest.raises(BadInput) as caught:
        preflight(file, bundle, **here)
    return str(caught.value)


def test_names():
    assert plan_name("fp16", "tensorrt-rtx", ("8.6",)) == "model.fp16.sm86.tensorrt-rtx.plan"
    assert plan_name("int8", "tensorrt", ("12.0", "8.9")) == "model.int8.sm120-89.tensorrt.plan"
    assert sidecar(Path("x.plan")).name == "x.plan.json"


def test_a_good_plan_passes_and_comes_back_as_written(plan_file, tiny):
    here = {"backend_version": "1.7.1.116", "sm": "8.6", "shape": (4, 512, 512)}
    assert preflight(plan_file, tiny, **here) == read_plan(plan_file)
    assert read_plan(plan_file).profile == PROFILE


def test_no_plan(tiny):
    assert "There is no plan" in refusal(tiny.path / "no.plan", tiny)


def test_no_sidecar(plan_file, tiny):
    sidecar(plan_file).unlink()
    assert f"has no metadata ({plan_file.name}.json is missing)" in refusal(plan_file, tiny)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"format_version": 99}'])
def test_a_sidecar_that_cannot_be_read(content, plan_file, tiny):
    sidecar(plan_file).write_bytes(content)
    assert "is not valid plan metadata" in refusal(plan_file, tiny)


def test_a_sidecar_of_a_later_format(tiny):
    assert "Expected format version 1 in" in refusal(write(tiny, format_version=2), tiny)


@pytest.mark.parametrize(
    ("content", "words"), [(b"pla", "is truncated (3 bytes"), (b"plans", "is larger"), (b"palm", "has changed since")]
)
def test_a_plan_that_is_not_the_one_that_was_built(content, words, plan_file, tiny):
    plan_file.write_bytes(content)
    sentence = refusal(plan_file, tiny)
    assert words in sentence
    assert REBUILD.format(shlex.quote(str(tiny.path))) in sentence


def test_another_graph(plan_file, tiny):
    changed = put_graph(tiny, "model.fp16.onnx", tiny_graph("fp16", seed=1))
    assert "was built from a different model.fp16.onnx" in refusal(plan_file, changed)
    without = {name: entry for name, entry in changed.manifest.artifacts.items() if name != "model.fp16.onnx"}
    changed.manifest = msgspec.structs.replace(changed.manifest, artifacts=without)
    assert "which is not in" in refusal(plan_file, changed)


@pytest.mark.parametrize("version", ["1.6.0", "1.7.2.1", "2.0.0", "10.16.1.11"])
def test_another_tensorrt(version, plan_file, tiny):
    assert f"by tensorrt-rtx 1.7.1.116, not {version}" in refusal(plan_file, tiny, backend_version=version)


def test_a_build_of_the_same_version_is_no_other_tensorrt(plan_file, tiny):
    preflight(plan_file, tiny, backend_version="1.7.1")


def test_version_compatible_means_later_ones_of_the_same_major_version(tiny):
    file = write(tiny, options=Options(version_compatible=True))
    preflight(file, tiny, backend_version="1.9.0")
    assert ", not 1.6.9" in refusal(file, tiny, backend_version="1.6.9")
    assert ", not 2.0.0" in refusal(file, tiny, backend_version="2.0.0")


def test_another_gpu(plan_file, tiny):
    assert "for compute capability 8.6, not 8.9" in refusal(plan_file, tiny, sm="8.9")


def test_hardware_compatible_means_8_0_and_above(tiny):
    file = write(tiny, options=Options(hardware_compatible=True))
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
def test_a_shape_outside_of_the_profile_comes_with_a_profile_that_takes_both(shape, options, plan_file, tiny):
    sentence = refusal(plan_file, tiny, shape=shape)
    assert f", not {shape[0]} × {shape[1]} × {shape[2]} px" in sentence
    assert sentence.endswith(options)


def test_a_command_repeats_all_that_was_asked_for(tiny):
    options = Options(workspace_mib=512, version_compatible=True, hardware_compatible=True, tf32=True, allow_wider=True)
    plan = read_plan(write(tiny, options=options, gpu=None))
    assert rebuild_command(Path("b"), plan) == (
        "msal-deploy build-trt b --fp16 --backend tensorrt-rtx --batch 1:4:8 --size 256:512:1024x768 --workspace 512 "
        "--version-compatible --hardware-compatible --tf32 --allow-wider"
    )


@pytest.mark.parametrize("changes", [{"requested": "int8"}, {"backend": "tensorrt"}])
def test_a_plan_under_the_name_of_another(changes, tiny):
    assert "was built in" in refusal(write(tiny, **changes), tiny)


def test_find_plan(plan_file, tiny):
    assert find_plan(tiny, "fp16", "tensorrt-rtx", "8.6") == plan_file
    with pytest.raises(BadInput, match=r"no fp16 plan .*capability 8\.9 \(found: model\.fp16\.sm86.*--fp16"):
        find_plan(tiny, "fp16", "tensorrt-rtx", "8.9")


def test_find_plan_falls_back_to_one_that_was_built_for_several_gpus(tiny):
    file = write(tiny, options=Options(hardware_compatible=True))
    assert find_plan(tiny, "fp16", "tensorrt-rtx", "8.9") == file
    with pytest.raises(BadInput, match="no fp16 plan"):
        find_plan(tiny, "fp16", "tensorrt-rtx", "7.5")
    with pytest.raises(BadInput, match="no int8 plan"):
        find_plan(tiny, "int8", "tensorrt-rtx", "8.9")
    own = file.with_name(plan_name("fp16", "tensorrt-rtx", ("8.9",)))
    own.write_bytes(b"plan")
    assert find_plan(tiny, "fp16", "tensorrt-rtx", "8.9") == own


def test_find_plan_leaves_out_one_whose_sidecar_cannot_be_read(plan_file, tiny):
    sidecar(plan_file).write_text("{")
    with pytest.raises(BadInput, match="no fp16 plan"):
        find_plan(tiny, "fp16", "tensorrt-rtx", "8.9")
