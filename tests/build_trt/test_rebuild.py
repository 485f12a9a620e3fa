"""``--rebuild``: which plans are stale, and how they are built again."""

import pytest
from tiny_bundle import put_graph, tiny_graph

from msal_deploy.build_trt import build
from msal_deploy.build_trt.rebuild import find_stale
from msal_deploy.errors import BadInput
from msal_deploy.plan import preflight, sidecar


@pytest.fixture
def built(tiny, install, an_order):
    """A bundle with an FP32 and an FP16 plan, the latter with settings of its own."""
    install("rtx")
    build(tiny, an_order("rtx", "fp32"))
    build(tiny, an_order("rtx", "fp16", workspace_mib=64, tf32=True))
    return tiny


def test_nothing_is_stale_at_first(built):
    assert find_stale(built) == ()


def test_a_changed_graph_makes_its_plan_stale(built):
    changed = put_graph(built, "model.fp16.onnx", tiny_graph("fp16", seed=1))
    (stale,) = find_stale(changed)
    assert stale.file.name == "model.fp16.sm86.tensorrt-rtx.plan"
    assert stale.why.endswith("was built from a different model.fp16.onnx")
    report = build(changed, stale.order(changed))
    assert (report.plan.options.workspace_mib, report.plan.options.tf32) == (64, True)
    assert find_stale(changed) == ()


def test_a_truncated_plan_is_stale(built):
    file = built.path / "model.fp32.sm86.tensorrt-rtx.plan"
    file.write_bytes(file.read_bytes()[:-10])
    (stale,) = find_stale(built)
    assert "truncated" in stale.why
    build(built, stale.order(built))
    preflight(file, built)


@pytest.mark.parametrize("content", [None, b"{", b"{}"])
def test_without_a_readable_sidecar_the_name_says_enough(built, content):
    file = built.path / "model.fp32.sm86.tensorrt-rtx.plan"
    sidecar(file).unlink() if content is None else sidecar(file).write_bytes(content)
    (stale,) = find_stale(built)
    order = stale.order(built)
    assert (order.precision, order.place.backend, order.place.target.sm) == ("fp32", "tensorrt-rtx", "8.6")


def test_another_tensorrt_makes_all_its_plans_stale(tiny, install, an_order):
    install("10.0.1")
    build(tiny, an_order("10.0.1", "fp32"))
    install("11.4.0.106")
    (stale,) = find_stale(tiny)
    assert "was built by tensorrt 10.0.1, not 11.4.0.106" in stale.why
    build(tiny, stale.order(tiny))
    assert find_stale(tiny) == ()


def test_a_plan_of_nobody_knows_whom(tiny, install):
    install("rtx")
    (tiny.path / "my.plan").write_bytes(b"plan")
    with pytest.raises(BadInput, match=r"my\.plan is not a plan that build-trt named"):
        find_stale(tiny)
