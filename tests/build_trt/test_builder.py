"""One code path for every version, on fake bindings that reject names their version lacks."""

import json

import pytest
from fake_tensorrt import VERSIONS
from tiny_bundle import CONVOLUTIONS, put_graph, tiny_graph

from msal_deploy.build_trt import build_trt
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.trt.plan_checks import preflight
from msal_deploy.trt.plan_metadata import read_metadata

PRECISIONS = ("fp32", "fp16", "int8")
TENSORRT = tuple(version for version in VERSIONS if version != "rtx")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_version_builds_every_precision(version, precision, tiny, install, make_request):
    install(version, driver=version != "rtx")  # TensorRT-RTX builds without a driver
    report = build_trt(tiny, make_request(version, precision))
    assert report.plan.actual.shares[precision].of_flops == 1
    assert report.plan.actual.read_from == ("log" if version == "rtx" else "inspector")
    assert preflight(report.file, tiny, backend_version=report.plan.backend_version) == report.plan
    json.dumps(report.to_json())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("precision", "flags"), [("fp32", []), ("int8", ["INT8"])])
def test_precision_flags_are_set_in_8_6_only(version, precision, flags, tiny, install, make_request):
    trt = install(version)
    build_trt(tiny, make_request(version, precision))
    assert trt.world.received["typed"] == (version != "8.6.1")
    assert trt.world.received["flags"] == (flags if version == "8.6.1" else [])  # TF32 is cleared


def test_builder_of_8_6_is_bound_to_the_types_of_the_graph(tiny, install, make_request):
    """Unconstrained, it would choose FP32 on a Pascal GPU, whose FP16 is slow, instead of the request."""
    trt = install("8.6.1", choice="fp32")
    report = build_trt(tiny, make_request("8.6.1", "fp16"))
    assert trt.world.received["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert report.plan.actual.shares.keys() == {"fp16"}


def test_fp16_on_pascal_warns_with_the_command_that_compares_it_with_fp32(tiny, install, make_request):
    install("8.6.1")
    (warning,) = build_trt(tiny, make_request("8.6.1", "fp16")).warnings
    assert "1/64" in warning
    assert f"msal-deploy bench {tiny.path} --engine tensorrt:fp16 --engine tensorrt:fp32" in warning


@pytest.mark.parametrize("version", VERSIONS)
def test_options_reach_the_builder(version, tiny, install, make_request):
    trt = install(version)
    compatible = {} if version == "rtx" else {"version_compatible": True, "hardware_compatible": True}
    plan = build_trt(tiny, make_request(version, "fp32", workspace_mib=64, tf32=True, **compatible)).plan
    received = trt.world.received
    assert received["pools"] == {"WORKSPACE": 64 << 20}
    assert received["flags"] == (["TF32"] if version == "rtx" else ["TF32", "VERSION_COMPATIBLE"])
    assert received["hardware"] == ("NONE" if version == "rtx" else "AMPERE_PLUS")
    assert received["profile"]["image"] == [[1, 64, 64, 3], [2, 64, 96, 3], [4, 128, 128, 3]]
    assert plan.options.workspace_mib == 64


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible"])
def test_rtx_refuses_compatible_plans(option, tiny, install, make_request, files):
    install("rtx")
    before = files(tiny)
    with pytest.raises(BadInput, match=option.replace("_", "-")):
        build_trt(tiny, make_request("rtx", "fp32", **{option: True}))
    assert files(tiny) == before


def test_timing_cache_is_reused_by_the_same_version_only(tiny, install, make_request, files):
    trt = install("10.16.1.11")
    assert not build_trt(tiny, make_request("10.16.1.11", "fp32")).timing_cache_reused
    assert build_trt(tiny, make_request("10.16.1.11", "fp32")).timing_cache_reused
    assert trt.world.received["cache"] == "timings of 10.16.1.11"
    trt = install("11.4.0.106")
    assert not build_trt(tiny, make_request("11.4.0.106", "fp32")).timing_cache_reused
    assert trt.world.received["cache"] == ""
    assert {"timings.sm86.tensorrt-10.16.1.cache", "timings.sm86.tensorrt-11.4.0.cache"} < files(tiny)


def test_timing_cache_of_another_gpu_is_ignored(tiny, install, make_request):
    trt = install("10.16.1.11")
    (tiny.path / "timings.sm86.tensorrt-10.16.1.cache").write_bytes(b"timings of another GPU")
    assert not build_trt(tiny, make_request("10.16.1.11", "fp32")).timing_cache_reused
    assert trt.world.received["cache"] == ""


def test_rtx_has_no_timing_cache(tiny, install, make_request, files):
    trt = install("rtx")
    trt.IBuilderConfig.create_timing_cache = lambda self, content: pytest.fail("a timing cache was created")
    build_trt(tiny, make_request("rtx", "fp32"))
    assert not [name for name in files(tiny) if "timings" in name]


@pytest.mark.parametrize("version", VERSIONS)
def test_wider_layer_is_rejected_by_name(version, tiny, install, make_request, files):
    install(version, assign=lambda node, precision: "fp32" if node == CONVOLUTIONS[2] else precision)
    request = make_request(version, "fp16")
    with pytest.raises(GateFailed, match=rf"1 of 3 layers.*wider.*{CONVOLUTIONS[2]} in fp32, not fp16"):
        build_trt(tiny, request)
    assert request.plan not in files(tiny)
    assert {f"{request.plan}.rejected", f"{request.plan}.rejected.json"} < files(tiny)


@pytest.mark.parametrize("version", VERSIONS)
def test_allow_wider_accepts_a_wider_layer_with_a_warning(version, tiny, install, make_request):
    install(version, assign=lambda node, precision: "fp32" if node == CONVOLUTIONS[2] else precision)
    report = build_trt(tiny, make_request(version, "fp16", allow_wider=True))
    assert CONVOLUTIONS[2] in report.warnings[0]
    assert report.plan.actual.shares["fp32"].layers == 1


def test_allow_wider_accepts_neither_narrower_nor_another_precision(tiny, install, make_request):
    install("10.16.1.11", assign=lambda node, precision: "fp16")
    with pytest.raises(GateFailed, match=r"100\.0% in fp16"):
        build_trt(tiny, make_request("10.16.1.11", "fp32", allow_wider=True))
    install("10.16.1.11", assign=lambda node, precision: "fp16" if node == CONVOLUTIONS[0] else precision)
    with pytest.raises(GateFailed, match="narrower"):
        build_trt(tiny, make_request("10.16.1.11", "fp32", allow_wider=True))


def test_network_types_replace_a_silent_inspector_only_if_they_bind(tiny, install, make_request):
    install("10.16.1.11", inspects=False)
    assert build_trt(tiny, make_request("10.16.1.11", "int8")).plan.actual.read_from == "network"
    install("8.6.1", inspects=False)
    with pytest.raises(GateFailed, match="cannot be read"):
        build_trt(tiny, make_request("8.6.1", "int8"))


@pytest.mark.parametrize("version", TENSORRT)
def test_missing_driver_is_reported_with_tensorrts_message(version, tiny, install, make_request, files):
    install(version, driver=False)
    before = files(tiny)
    with pytest.raises(MissingRequirement, match=r"cannot start \(.*CUDA initialization failure.*msal-deploy doctor"):
        build_trt(tiny, make_request(version, "fp32"))
    assert files(tiny) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_failed_build_is_reported_with_tensorrts_message(version, tiny, install, make_request, files):
    install(version, fails="Error Code 2: OutOfMemory (Requested size was 134598822 bytes.)")
    before = files(tiny)
    with pytest.raises(MissingRequirement, match=r"OutOfMemory.*lower the maximum --batch"):
        build_trt(tiny, make_request(version, "fp32"))
    assert files(tiny) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_cancels_a_build_and_leaves_no_files(version, tiny, install, make_request, files, ctrl_c):
    steps = []

    def interrupt() -> None:
        steps.append(1)
        if len(steps) == 2:
            ctrl_c()

    install(version, on_step=interrupt)
    before = files(tiny)
    with pytest.raises(KeyboardInterrupt):
        build_trt(tiny, make_request(version, "fp32"))
    assert files(tiny) == before
    if version != "8.6.1":  # it cannot cancel
        assert len(steps) == 2


def test_second_build_uses_the_current_graph(tiny, install, make_request):
    install("10.16.1.11")
    first = build_trt(tiny, make_request("10.16.1.11", "fp32")).plan
    changed = put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", seed=1))
    second = build_trt(changed, make_request("10.16.1.11", "fp32"))
    assert second.plan.graph_sha256 != first.graph_sha256
    assert read_metadata(second.file) == second.plan
    with pytest.raises(BadInput, match=r"a different model\.fp32\.onnx"):
        preflight(second.file, tiny)
