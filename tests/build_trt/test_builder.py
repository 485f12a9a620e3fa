"""One code path for every version, against bindings that refuse any name their version lacks."""

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
def test_every_version_builds_every_precision(version, precision, tiny, install, an_order):
    install(version, driver=version != "rtx")  # which builds without one
    report = build_trt(tiny, an_order(version, precision))
    assert report.plan.realised.shares[precision].of_flops == 1
    assert report.plan.realised.read_from == ("log" if version == "rtx" else "inspector")
    assert preflight(report.file, tiny, backend_version=report.plan.backend_version) == report.plan
    json.dumps(report.to_json())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("precision", "flags"), [("fp32", []), ("int8", ["INT8"])])
def test_flags_are_set_in_8_6_only(version, precision, flags, tiny, install, an_order):
    trt = install(version)
    build_trt(tiny, an_order(version, precision))
    assert trt.world.told["typed"] == (version != "8.6.1")
    assert trt.world.told["flags"] == (flags if version == "8.6.1" else [])  # and TF32 is cleared


def test_8_6_is_bound_to_the_types_of_the_graph(tiny, install, an_order):
    """Free to choose, it would take FP32 on a Pascal, whose FP16 is slow: that is not what was asked for."""
    trt = install("8.6.1", choice="fp32")
    report = build_trt(tiny, an_order("8.6.1", "fp16"))
    assert trt.world.told["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert report.plan.realised.shares.keys() == {"fp16"}


def test_fp16_on_pascal_warns_and_says_how_to_time_fp32_beside_it(tiny, install, an_order):
    install("8.6.1")
    (warning,) = build_trt(tiny, an_order("8.6.1", "fp16")).warnings
    assert "1/64" in warning
    assert f"msal-deploy bench {tiny.path} --engine tensorrt:fp16 --engine tensorrt:fp32" in warning


@pytest.mark.parametrize("version", VERSIONS)
def test_options_reach_the_builder(version, tiny, install, an_order):
    trt = install(version)
    compatible = {} if version == "rtx" else {"version_compatible": True, "hardware_compatible": True}
    plan = build_trt(tiny, an_order(version, "fp32", workspace_mib=64, tf32=True, **compatible)).plan
    told = trt.world.told
    assert told["pools"] == {"WORKSPACE": 64 << 20}
    assert told["flags"] == (["TF32"] if version == "rtx" else ["TF32", "VERSION_COMPATIBLE"])
    assert told["hardware"] == ("NONE" if version == "rtx" else "AMPERE_PLUS")
    assert told["profile"]["image"] == [[1, 64, 64, 3], [2, 64, 96, 3], [4, 128, 128, 3]]
    assert plan.options.workspace_mib == 64


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible"])
def test_rtx_has_no_compatible_plans(option, tiny, install, an_order, files):
    install("rtx")
    before = files(tiny)
    with pytest.raises(BadInput, match=option.replace("_", "-")):
        build_trt(tiny, an_order("rtx", "fp32", **{option: True}))
    assert files(tiny) == before


def test_timings_are_reused_by_the_same_version_only(tiny, install, an_order, files):
    trt = install("10.16.1.11")
    assert not build_trt(tiny, an_order("10.16.1.11", "fp32")).timing_cache_reused
    assert build_trt(tiny, an_order("10.16.1.11", "fp32")).timing_cache_reused
    assert trt.world.told["cache"] == "timings of 10.16.1.11"
    trt = install("11.4.0.106")
    assert not build_trt(tiny, an_order("11.4.0.106", "fp32")).timing_cache_reused
    assert trt.world.told["cache"] == ""
    assert {"timings.sm86.tensorrt-10.16.1.cache", "timings.sm86.tensorrt-11.4.0.cache"} < files(tiny)


def test_timings_of_another_gpu_are_refused_and_the_build_goes_on(tiny, install, an_order):
    trt = install("10.16.1.11")
    (tiny.path / "timings.sm86.tensorrt-10.16.1.cache").write_bytes(b"timings of another GPU")
    assert not build_trt(tiny, an_order("10.16.1.11", "fp32")).timing_cache_reused
    assert trt.world.told["cache"] == ""


def test_rtx_gets_no_timings(tiny, install, an_order, files):
    trt = install("rtx")
    trt.IBuilderConfig.create_timing_cache = lambda self, content: pytest.fail("a timing cache was made")
    build_trt(tiny, an_order("rtx", "fp32"))
    assert not [name for name in files(tiny) if "timings" in name]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_layer_computed_wider_is_refused_and_named(version, tiny, install, an_order, files):
    install(version, realise=lambda node, precision: "fp32" if node == CONVOLUTIONS[2] else precision)
    request = an_order(version, "fp16")
    with pytest.raises(GateFailed, match=rf"1 of 3 layers.*wider.*{CONVOLUTIONS[2]} in fp32 and not fp16"):
        build_trt(tiny, request)
    assert request.plan not in files(tiny)
    assert {f"{request.plan}.rejected", f"{request.plan}.rejected.json"} < files(tiny)


@pytest.mark.parametrize("version", VERSIONS)
def test_allow_wider_accepts_it_and_warns(version, tiny, install, an_order):
    install(version, realise=lambda node, precision: "fp32" if node == CONVOLUTIONS[2] else precision)
    report = build_trt(tiny, an_order(version, "fp16", allow_wider=True))
    assert CONVOLUTIONS[2] in report.warnings[0]
    assert report.plan.realised.shares["fp32"].layers == 1


def test_allow_wider_accepts_neither_narrower_nor_another_precision(tiny, install, an_order):
    install("10.16.1.11", realise=lambda node, precision: "fp16")
    with pytest.raises(GateFailed, match="100% in fp16"):
        build_trt(tiny, an_order("10.16.1.11", "fp32", allow_wider=True))
    install("10.16.1.11", realise=lambda node, precision: "fp16" if node == CONVOLUTIONS[0] else precision)
    with pytest.raises(GateFailed, match="narrower"):
        build_trt(tiny, an_order("10.16.1.11", "fp32", allow_wider=True))


def test_a_silent_inspector_is_replaced_by_the_types_where_they_bind(tiny, install, an_order):
    install("10.16.1.11", inspects=False)
    assert build_trt(tiny, an_order("10.16.1.11", "int8")).plan.realised.read_from == "network"
    install("8.6.1", inspects=False)
    with pytest.raises(GateFailed, match="cannot be read"):
        build_trt(tiny, an_order("8.6.1", "int8"))


@pytest.mark.parametrize("version", TENSORRT)
def test_no_driver_is_told_with_what_tensorrt_says(version, tiny, install, an_order, files):
    install(version, driver=False)
    before = files(tiny)
    with pytest.raises(MissingRequirement, match=r"cannot start here.*CUDA initialization failure.*msal-deploy doctor"):
        build_trt(tiny, an_order(version, "fp32"))
    assert files(tiny) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failed_build_is_told_with_what_tensorrt_says(version, tiny, install, an_order, files):
    install(version, fails="Error Code 2: OutOfMemory (Requested size was 134598822 bytes.)")
    before = files(tiny)
    with pytest.raises(MissingRequirement, match=r"OutOfMemory.*smaller largest --batch"):
        build_trt(tiny, an_order(version, "fp32"))
    assert files(tiny) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_ends_a_build_and_leaves_nothing(version, tiny, install, an_order, files, ctrl_c):
    steps = []

    def interrupt() -> None:
        steps.append(1)
        if len(steps) == 2:
            ctrl_c()

    install(version, on_step=interrupt)
    before = files(tiny)
    with pytest.raises(KeyboardInterrupt):
        build_trt(tiny, an_order(version, "fp32"))
    assert files(tiny) == before
    if version != "8.6.1":  # it has no way to cancel
        assert len(steps) == 2


def test_a_second_build_is_of_the_graph_that_is_there_then(tiny, install, an_order):
    install("10.16.1.11")
    first = build_trt(tiny, an_order("10.16.1.11", "fp32")).plan
    changed = put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", seed=1))
    second = build_trt(changed, an_order("10.16.1.11", "fp32"))
    assert second.plan.graph_sha256 != first.graph_sha256
    assert read_metadata(second.file) == second.plan
    with pytest.raises(BadInput, match=r"another model\.fp32\.onnx"):
        preflight(second.file, tiny)
