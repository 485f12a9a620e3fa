"""Each check of a plan and each word of the command that builds it again, at the value where it changes."""

import json
import shlex
from pathlib import Path

import msgspec
import pytest
from columns import numbers_in
from test_plan_metadata import PROFILE, refusal, write
from tiny_bundle import write_tiny_bundle

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.trt.plan_checks import check_shape, find_plan, plans, preflight
from msal_deploy.trt.plan_metadata import (
    DEFAULT_PROFILE,
    FORMAT_VERSION,
    ActualPrecision,
    BuildOptions,
    PlanMetadata,
    Profile,
    Share,
    build_command,
    kernel_cache_path,
    metadata_path,
    plan_name,
    read_metadata,
    rebuild_command,
    write_metadata,
)


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "my bundle")


@pytest.mark.parametrize(
    ("shape", "takes"),
    [
        ((1, 256, 256), True), ((8, 1024, 768), True), ((4, 512, 512), True),
        ((0, 256, 256), False), ((1, 255, 256), False), ((1, 256, 255), False),
        ((9, 256, 256), False), ((1, 1025, 256), False), ((1, 256, 769), False),
    ],
)  # fmt: skip
def test_a_profile_takes_what_lies_between_its_ends(shape, takes):
    assert PROFILE.accepts(shape) is takes


def test_a_profile_is_widened_by_no_more_than_is_needed():
    assert PROFILE.widened((16, 128, 512)) == Profile((1, 128, 256), (4, 512, 512), (16, 1024, 768))
    assert PROFILE.widened((1, 2048, 32)) == Profile((1, 256, 32), (4, 512, 512), (8, 2048, 768))
    assert PROFILE.widened((2, 300, 1000)) == Profile((1, 256, 256), (4, 512, 512), (8, 1024, 1000))


def test_a_profile_in_words_and_as_options():
    assert str(PROFILE) == "1 × 256 × 256 px to 8 × 1024 × 768 px"
    one = Profile((2, 64, 96), (2, 64, 96), (2, 64, 96))
    assert str(one) == "2 × 64 × 96 px"
    assert PROFILE.options() == "--batch 1:4:8 --size 256:512:1024x768"
    assert one.options() == "--batch 2:2:2 --size 64x96:64x96:64x96"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, ""),
        ({"workspace_mib": 512}, "--workspace 512"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"hardware_compatible": True}, "--hardware-compatible"),
        ({"tf32": True}, "--tf32"),
        ({"allow_wider": True}, "--allow-wider"),
        ({"tf32": True, "workspace_mib": 1}, "--workspace 1 --tf32"),
    ],
)
def test_each_option_of_the_builder(options, text):
    assert BuildOptions(**options).options() == text
    command = build_command(Path("b"), "int8", options=BuildOptions(**options))
    assert command == f"msal-deploy build-trt b --int8 {text}".rstrip()


def test_the_command_has_what_is_asked_for_and_nothing_else():
    assert build_command(Path("b"), "fp16") == "msal-deploy build-trt b --fp16"
    assert build_command(Path("my b"), "fp16", gpu="a card") == "msal-deploy build-trt 'my b' --fp16 --gpu 'a card'"
    assert build_command(Path("b"), "fp16", backend="tensorrt") == "msal-deploy build-trt b --fp16 --backend tensorrt"
    assert build_command(Path("b"), "fp16", profile=PROFILE) == (
        "msal-deploy build-trt b --fp16 --batch 1:4:8 --size 256:512:1024x768"
    )


def test_a_plan_is_built_again_for_its_own_profile_unless_another_is_given(tiny):
    plan = read_metadata(write(tiny))
    start = "msal-deploy build-trt b --fp16 --gpu rtx-3090 --backend tensorrt-rtx"
    assert rebuild_command(Path("b"), plan) == f"{start} --batch 1:4:8 --size 256:512:1024x768"
    other = Profile((1, 32, 32), (2, 64, 64), (3, 96, 128))
    assert rebuild_command(Path("b"), plan, other) == f"{start} --batch 1:2:3 --size 32:64:96x128"


def test_names_beside_a_plan():
    assert metadata_path(Path("a/x.plan")) == Path("a/x.plan.json")
    assert kernel_cache_path(Path("a/x.plan")) == Path("a/x.plan.cache")


def test_the_sidecar_on_disk(tiny):
    """Names on a user's disk, which no rename in the code may change."""
    written = json.loads(metadata_path(write(tiny)).read_text())
    assert set(written) == {
        "backend", "backend_version", "gpu", "sm", "graph", "graph_sha256", "requested", "realised", "profile",
        "plan_sha256", "bytes", "options", "built", "format_version",
    }  # fmt: skip
    assert written["profile"] == {"minimum": [1, 256, 256], "optimum": [4, 512, 512], "maximum": [8, 1024, 768]}
    assert written["realised"] == {
        "read_from": "inspector", "shares": {"fp16": {"layers": 3, "of_layers": 1, "of_flops": 1}}, "reformats": 2,
    }  # fmt: skip
    assert written["options"] == {
        "workspace_mib": None, "version_compatible": False, "hardware_compatible": False, "tf32": False,
        "allow_wider": False,
    }  # fmt: skip
    assert written["format_version"] == FORMAT_VERSION == 1


@pytest.mark.parametrize("place", [(), ("profile",), ("realised",), ("realised", "shares", "fp16"), ("options",)])
def test_a_sidecar_with_a_field_that_is_not_known_is_refused(place, tiny):
    file = write(tiny)
    written = json.loads(metadata_path(file).read_text())
    inner = written
    for key in place:
        inner = inner[key]
    inner["surprise"] = 1
    metadata_path(file).write_text(json.dumps(written))
    with pytest.raises(BadInput, match="surprise"):
        read_metadata(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [("workspace_mib", 0), ("backend", "onnxruntime"), ("read_from", "rumour"), ("bytes", "4"), ("sm", "8.6")],
)
def test_a_sidecar_with_a_value_that_cannot_be_is_refused(field, value, tiny):
    file = write(tiny)
    written = json.loads(metadata_path(file).read_text())
    for part in (written, written["options"], written["realised"]):
        if field in part:
            part[field] = value
    metadata_path(file).write_text(json.dumps(written))
    with pytest.raises(BadInput, match="is not valid plan metadata"):
        read_metadata(file)


def test_metadata_cannot_be_changed(tiny):
    plan = read_metadata(write(tiny))
    for frozen, name in (
        (plan, "requested"), (plan.profile, "min"), (plan.options, "tf32"), (plan.actual, "shares"),
        (plan.actual.shares["fp16"], "layers"),
    ):  # fmt: skip
        with pytest.raises(AttributeError):
            setattr(frozen, name, None)
    with pytest.raises(TypeError):
        PlanMetadata("tensorrt", "1", None, (), "g", "0", "fp16", plan.actual, PROFILE, "0", 1, BuildOptions(), "")


def test_the_defaults_of_metadata():
    assert ActualPrecision("log", {}).reformats is None
    assert BuildOptions() == BuildOptions(None, False, False, False, False)
    assert Share(1, 0.5, 0.25) == Share(layers=1, of_layers=0.5, of_flops=0.25)


def test_plans_are_listed_by_name_and_without_unfinished_ones(tiny):
    names = ("model.fp32.sm86.tensorrt.plan", "model.fp16.sm86.tensorrt.plan")
    for name in (*names, ".model.int8.sm86.tensorrt.plan", "model.fp16.sm86.tensorrt.plan.json", "notes.txt"):
        (tiny.path / name).write_text("x")
    assert [path.name for path in plans(tiny)] == sorted(names)


def test_a_missing_plan_is_told_with_those_that_are_there(tiny):
    def told(precision, backend, sm):
        with pytest.raises(BadInput) as caught:
            find_plan(tiny, precision, backend, sm)
        return str(caught.value)

    name = "model.fp16.sm86.tensorrt-rtx.plan"
    assert name not in told("fp16", "tensorrt-rtx", "8.9") and "(" not in told("fp16", "tensorrt-rtx", "8.9")
    write(tiny)
    text = told("int8", "tensorrt-rtx", "8.9")
    assert f"({'found: '}{name})" in text and "int8" in text.partition(name)[0] and "8.9" in text.partition(name)[0]
    assert text.endswith(f"msal-deploy build-trt {shlex.quote(str(tiny.path))} --int8 --backend tensorrt-rtx")
    assert name not in told("fp16", "tensorrt", "8.9")  # it is of another backend


def test_a_plan_for_several_gpus_is_found_by_precision_and_backend(tiny):
    file = write(tiny, sm=("8.6", "8.9"))
    assert find_plan(tiny, "fp16", "tensorrt-rtx", "8.9") == file
    for precision, backend, sm in (("fp16", "tensorrt-rtx", "9.0"), ("fp16", "tensorrt", "8.9")):
        with pytest.raises(BadInput):
            find_plan(tiny, precision, backend, sm)


def test_each_check_is_left_out_where_nothing_is_known(tiny):
    file = write(tiny)
    assert preflight(file, tiny) == read_metadata(file)
    assert preflight(file, tiny, backend_version="1.7.1.116", sm="8.6", shape=(8, 1024, 768)) == read_metadata(file)
    for here in ({"backend_version": "1.7.2"}, {"sm": "7.5"}, {"shape": (9, 512, 512)}):
        with pytest.raises(BadInput):
            preflight(file, tiny, **here)


def test_the_first_that_is_wrong_is_told(tiny):
    """From the name to the GPU: a plan of other bytes says nothing of the TensorRT that built it."""
    here = {"backend_version": "2.0.0", "sm": "7.5", "shape": (99, 1, 1)}
    renamed = write(tiny, requested="int8", bytes=5, graph="model.none.onnx")
    assert "was built in int8 by tensorrt-rtx" in refusal(renamed, tiny, **here)
    assert "truncated" in refusal(write(tiny, bytes=5, graph="model.none.onnx"), tiny, **here)
    assert "model.none.onnx" in refusal(write(tiny, graph="model.none.onnx"), tiny, **here)
    assert "2.0.0" in refusal(write(tiny), tiny, **here)
    assert "7.5" in refusal(write(tiny), tiny, sm="7.5", shape=(99, 1, 1))
    assert "99" in refusal(write(tiny), tiny, shape=(99, 1, 1))


def test_the_bytes_of_a_plan_are_told(tiny):
    text = refusal(write(tiny, bytes=1_234_567), tiny).partition(".plan ")[2].partition(":")[0]
    assert list(numbers_in(text)) == ["4", "1,234,567"]
    assert "truncated" in refusal(write(tiny, bytes=5), tiny)
    assert "larger than when it was built" in refusal(write(tiny, bytes=3), tiny)


def test_a_shape_is_told_with_the_profile(tiny):
    file = write(tiny)
    plan = read_metadata(file)
    check_shape(file, tiny, plan, (8, 1024, 768))
    with pytest.raises(BadInput) as caught:
        check_shape(file, tiny, plan, (9, 64, 1000))
    told, _, command = str(caught.value).removeprefix(str(file)).partition(";")
    assert list(numbers_in(told)) == ["1", "256", "256", "8", "1024", "768", "9", "64", "1000"]
    assert command.endswith("--gpu rtx-3090 --backend tensorrt-rtx --batch 1:4:9 --size 64x256:512:1024x1000")


def test_a_later_format_is_told_with_both_numbers(tiny):
    message = refusal(write(tiny, format_version=3), tiny)
    assert message.startswith("Expected format version 1 in ") and ", got 3; rebuild" in message


@pytest.mark.parametrize(
    ("version", "compatible", "taken"),
    [
        ("1.7.1", False, True), ("1.7.1.999", False, True), ("1.7.2", False, False), ("1.7.0", False, False),
        ("1.7.1", True, True), ("1.7.2", True, True), ("1.8.0", True, True), ("1.7.0", True, False),
        ("2.0.0", True, False), ("0.9.9", True, False),
    ],
)  # fmt: skip
def test_which_tensorrt_takes_a_plan(version, compatible, taken, tiny):
    file = write(tiny, options=BuildOptions(version_compatible=compatible))
    if taken:
        preflight(file, tiny, backend_version=version)
    else:
        text = refusal(file, tiny, backend_version=version)
        assert f"1.7.1.116, not {version}" in text


@pytest.mark.parametrize(
    ("sm", "compatible", "taken"),
    [
        ("8.6", False, True), ("8.9", False, False), ("7.5", False, False), ("8.6", True, True), ("8.0", True, True),
        ("7.5", True, False), ("12.0", True, True), ("9.0", True, True),
    ],
)  # fmt: skip
def test_which_gpu_takes_a_plan(sm, compatible, taken, tiny):
    file = write(tiny, options=BuildOptions(hardware_compatible=compatible))
    if taken:
        preflight(file, tiny, sm=sm)
    else:
        assert f"8.6, not {sm}" in refusal(file, tiny, sm=sm)


def test_a_plan_of_several_gpus_is_told_with_all_of_them(tiny):
    assert "8.6, 8.9, not 7.5" in refusal(write(tiny, sm=("8.6", "8.9")), tiny, sm="7.5")


def test_a_plan_is_written_beside_its_file(tmp_path):
    plan = PlanMetadata(
        backend="tensorrt", backend_version="10.0.0", gpu=None, sm=("8.6",), graph="g", graph_sha256="0" * 64,
        requested="fp16", actual=ActualPrecision("log", {}), profile=PROFILE, plan_sha256="0" * 64, bytes=1,
        options=BuildOptions(workspace_mib=1), built="now",
    )  # fmt: skip
    write_metadata(tmp_path / "a.plan", plan)
    assert [path.name for path in tmp_path.iterdir()] == ["a.plan.json"]
    assert read_metadata(tmp_path / "a.plan") == plan
    assert msgspec.json.decode((tmp_path / "a.plan.json").read_bytes(), type=PlanMetadata) == plan
    assert plan_name("fp16", "tensorrt", plan.sm) == "model.fp16.sm86.tensorrt.plan"


def test_the_default_profile():
    assert Profile((1, 256, 256), (4, 512, 512), (8, 1024, 1024)) == DEFAULT_PROFILE
    assert str(Profile((1, 64, 64), (1, 64, 64), (2, 64, 64))) == "1 × 64 × 64 px to 2 × 64 × 64 px"


def test_a_shape_has_three_numbers():
    with pytest.raises(ValueError):
        PROFILE.accepts((1, 256))


@pytest.mark.parametrize("digest", ["0" * 64, "f" * 64])
def test_bytes_and_graph_must_have_the_very_hash(digest, tiny):
    assert "changed" in refusal(write(tiny, plan_sha256=digest), tiny)
    assert "model.fp16.onnx" in refusal(write(tiny, graph_sha256=digest), tiny).partition(";")[0].partition(".plan ")[2]


def test_an_earlier_format_is_refused_too(tiny):
    with pytest.raises(BadInput, match="0"):
        read_metadata(write(tiny, format_version=0))


def test_a_compatible_plan_is_compared_by_its_major_version(tiny):
    file = write(tiny, backend_version="1.7.2", options=BuildOptions(version_compatible=True))
    preflight(file, tiny, backend_version="1.8.0")


def test_every_refusal_names_the_plan_and_the_bundle(tiny):
    quoted = shlex.quote(str(tiny.path))
    file = write(tiny)
    told = refusal(file, tiny, shape=(9, 512, 512))
    assert told.startswith(str(file)) and f"build-trt {quoted} " in told
    missing = tiny.path / "no.plan"
    told = refusal(missing, tiny)
    assert str(missing) in told and told.partition("build-trt")[2].strip(" '").startswith(str(tiny.path))
    told = refusal(write(tiny, graph="none.onnx"), tiny).removeprefix(str(file)).partition(";")[0]
    assert "none.onnx" in told and str(tiny.path) in told
