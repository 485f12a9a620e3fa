"""``--rebuild``: which plans are stale, and how they are rebuilt."""

import pytest
from tiny_bundle import put_graph, tiny_graph

from msal_deploy.build_trt import build_trt
from msal_deploy.build_trt.rebuild import find_stale
from msal_deploy.errors import BadInput
from msal_deploy.trt import plan_checks
from msal_deploy.trt.plan_checks import preflight
from msal_deploy.trt.plan_metadata import metadata_path


@pytest.fixture
def built(tiny, install, make_request):
    """A bundle with an FP32 plan, and an FP16 plan with other options."""
    install("rtx")
    build_trt(tiny, make_request("rtx", "fp32"))
    build_trt(tiny, make_request("rtx", "fp16", workspace_mib=64, tf32=True))
    return tiny


def test_new_plans_are_not_stale(built):
    assert find_stale(built) == ()


def test_changed_graph_makes_its_plan_stale(built):
    changed = put_graph(built, "model.fp16.onnx", tiny_graph("fp16", seed=1))
    (stale,) = find_stale(changed)
    assert stale.file.name == "model.fp16.sm86.tensorrt-rtx.plan"
    assert stale.reason.endswith("was built from a different model.fp16.onnx")
    report = build_trt(changed, stale.request(changed))
    assert (report.plan.options.workspace_mib, report.plan.options.tf32) == (64, True)
    assert find_stale(changed) == ()


def test_truncated_plan_is_stale(built):
    file = built.path / "model.fp32.sm86.tensorrt-rtx.plan"
    file.write_bytes(file.read_bytes()[:-10])
    (stale,) = find_stale(built)
    assert "truncated" in stale.reason
    build_trt(built, stale.request(built))
    preflight(file, built)


def test_reason_does_not_depend_on_the_remedy(built, monkeypatch):
    file = built.path / "model.fp32.sm86.tensorrt-rtx.plan"
    file.write_bytes(file.read_bytes()[:-10])
    (before,) = find_stale(built)
    monkeypatch.setattr(plan_checks, "rebuild_remedy", lambda *arguments: "another; remedy")
    assert find_stale(built) == (before,)
    assert ";" not in before.reason


@pytest.mark.parametrize("content", [None, b"{", b"{}"])
def test_plan_with_invalid_metadata_is_rebuilt_by_its_name(built, content):
    file = built.path / "model.fp32.sm86.tensorrt-rtx.plan"
    metadata_path(file).unlink() if content is None else metadata_path(file).write_bytes(content)
    (stale,) = find_stale(built)
    request = stale.request(built)
    assert (request.precision, request.build_target.backend, request.build_target.target.sm) == (
        "fp32",
        "tensorrt-rtx",
        "8.6",
    )


def test_another_tensorrt_makes_plans_stale(tiny, install, make_request):
    install("10.0.1")
    build_trt(tiny, make_request("10.0.1", "fp32"))
    install("11.4.0.106")
    (stale,) = find_stale(tiny)
    assert "was built by tensorrt 10.0.1, not 11.4.0.106" in stale.reason
    build_trt(tiny, stale.request(tiny))
    assert find_stale(tiny) == ()


def test_plan_with_a_foreign_name_is_refused(tiny, install):
    install("rtx")
    (tiny.path / "my.plan").write_bytes(b"plan")
    with pytest.raises(BadInput, match=r"my\.plan is not a plan of build-trt"):
        find_stale(tiny)
