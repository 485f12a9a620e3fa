"""Real plans by TensorRT-RTX, which builds without a GPU, for four GPU generations."""

import signal
import subprocess
import sys
import time

import onnx
import pytest
from tiny_bundle import put_graph, tiny_graph

from msal_deploy.build_trt import BuildRequest, BuildTarget, build_trt
from msal_deploy.bundle import CHECKPOINT, Bundle, Manifest, artifact, write_manifest
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.export import write_graph
from msal_deploy.network import DeployedNetwork
from msal_deploy.precision.fp16 import to_fp16
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import ModelSpec
from msal_deploy.targets import find_target
from msal_deploy.trt.cuda import open_cuda
from msal_deploy.trt.plan_checks import preflight
from msal_deploy.trt.plan_metadata import BuildOptions, Profile
from msal_deploy.weights import DEFAULT, find_weights

pytest.importorskip("tensorrt_rtx")
GPUS = {"t4": "7.5", "rtx-3090": "8.6", "rtx-4090": "8.9", "rtx-5090": "12.0"}


def make_rtx_request(gpu: str, precision: str, **changes: object) -> BuildRequest:
    return BuildRequest(precision, BuildTarget(find_target(gpu), "tensorrt-rtx", gpu), **changes)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the FP32 and FP16 graphs of the weights in the package."""
    folder = tmp_path_factory.mktemp("reference")
    weights = load_checkpoint(find_weights(DEFAULT))
    write_graph(DeployedNetwork(weights.network(), ModelSpec()).eval(), ModelSpec(), folder / "model.fp32.onnx", 17)
    half, _ = to_fp16(onnx.load(folder / "model.fp32.onnx"), {})
    onnx.save(half, folder / "model.fp16.onnx")
    entries = {name: artifact(folder, name, CHECKPOINT) for name in ("model.fp32.onnx", "model.fp16.onnx")}
    write_manifest(folder, Manifest(ModelSpec(), weights.recipe, weights.licence, {}, entries))
    return Bundle(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("gpu", GPUS)
def test_reference_weights_build_for_four_gpu_generations(reference, gpu, precision):
    report = build_trt(reference, make_rtx_request(gpu, precision))
    plan = report.plan
    assert plan.sm == (GPUS[gpu],)
    assert plan.actual.read_from == ("inspector" if has_gpu(GPUS[gpu]) else "log")
    assert plan.actual.shares.keys() == {precision}
    assert plan.actual.shares[precision].of_flops == 1
    assert preflight(report.file, reference, backend_version=plan.backend_version, sm=GPUS[gpu]) == plan
    assert report.file.stat().st_size == plan.bytes > 60_000_000
    report.file.unlink()


def has_gpu(sm: str = "") -> bool:
    try:
        return not sm or open_cuda().sm == sm
    except MissingRequirement:
        return False


def test_fp32_graph_named_fp16_fails_the_audit(tiny, files):
    put_graph(tiny, "model.fp16.onnx", tiny_graph("fp32"))
    with pytest.raises(GateFailed, match=r"requested in fp16, but its FLOPs are 100\.0% in fp32.*make the fp16 graph"):
        build_trt(Bundle(tiny.path), make_rtx_request("rtx-3090", "fp16"))
    name = "model.fp16.sm86.tensorrt-rtx.plan"
    assert name not in files(tiny)
    assert f"{name}.rejected" in files(tiny)
    assert name not in Bundle(tiny.path).manifest.artifacts


def test_int8_plan_is_int8_from_8_0_on(tiny):
    assert build_trt(tiny, make_rtx_request("rtx-3090", "int8")).plan.actual.shares["int8"].of_flops == 1


def test_int8_plan_is_rejected_on_7_5(tiny):
    """There TensorRT-RTX 1.7.1 silently quantises, dequantises and multiplies in FP32."""
    with pytest.raises(GateFailed, match=r"requested in int8, but its FLOPs are 100\.0% in fp32.*another precision"):
        build_trt(tiny, make_rtx_request("t4", "int8"))


def test_second_build_reuses_nothing(tiny):
    first = build_trt(tiny, make_rtx_request("rtx-3090", "fp32"))
    other_shapes = Profile((1, 64, 64), (1, 64, 64), (1, 64, 64))
    second = build_trt(tiny, make_rtx_request("rtx-3090", "fp32", profile=other_shapes))
    assert second.plan.plan_sha256 != first.plan.plan_sha256
    put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", seed=1))
    third = build_trt(Bundle(tiny.path), make_rtx_request("rtx-3090", "fp32", profile=other_shapes))
    assert third.plan.plan_sha256 != second.plan.plan_sha256
    assert preflight(third.file, Bundle(tiny.path)) == third.plan
    assert not second.timing_cache_reused
    assert not third.timing_cache_reused


def test_too_small_workspace_is_reported(reference, files):
    before = files(reference)
    with pytest.raises(MissingRequirement, match=r"OutOfMemory.*raise --workspace"):
        build_trt(reference, make_rtx_request("rtx-3090", "fp16", options=BuildOptions(workspace_mib=16)))
    assert files(reference) == before


BUILD = """
import sys
from pathlib import Path
from msal_deploy.build_trt import BuildRequest, BuildTarget, build_trt, progress
from msal_deploy.bundle import Bundle
from msal_deploy.targets import find_target

make = progress._monitor
progress._monitor = lambda *arguments: (print("begun", flush=True), make(*arguments))[1]
build_trt(Bundle(Path(sys.argv[1])), BuildRequest("fp32", BuildTarget(find_target("rtx-3090"), "tensorrt-rtx")))
"""


def test_ctrl_c_cancels_the_build(reference, files):
    before = files(reference)
    command = [sys.executable, "-c", BUILD, str(reference.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert files(reference) == before


@pytest.mark.skipif(has_gpu("8.6"), reason="this machine has such a GPU")
def test_plan_needs_a_driver_to_load(tiny):
    build_trt(tiny, make_rtx_request("rtx-3090", "fp32"))
    with pytest.raises((MissingRequirement, BadInput)) as caught, open_engine(Bundle(tiny.path), "tensorrt-rtx:fp32"):
        pass
    assert caught.value.exit_code == 3


def test_error_of_the_real_parser_names_the_node(tiny, monkeypatch, files):
    """The parser reports what the tables of operators do not cover."""
    monkeypatch.setattr("msal_deploy.build_trt.parse.require_readable", lambda model, version: None)
    model = tiny_graph("fp32")
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Transpose", ["image"], ["cast"], name="/T", perm=[0, 1, 2, 3]))
    put_graph(tiny, "model.fp32.onnx", model)
    with pytest.raises(BadInput, match=r"/T \(Transpose\): .*UInt8.*; cast the image to float"):
        build_trt(Bundle(tiny.path), make_rtx_request("rtx-3090", "fp32"))
