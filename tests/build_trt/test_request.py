"""Checks before the build: target, profile, options."""

import sys
from pathlib import Path

import msgspec
import pytest
from fake_tensorrt import fake_tensorrt

from msal_deploy.build_trt import build_trt, find_build_target, first_preferred, request
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.targets import find_target
from msal_deploy.trt.cuda import CudaError
from msal_deploy.trt.plan_metadata import Profile

KIT = "msal-deploy package bundle build-kit --gpu {} --out DIR"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(request, "current_gpu", request.LocalGpu)
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def an_rtx_3090(monkeypatch):
    monkeypatch.setattr(request, "current_gpu", lambda: request.LocalGpu("NVIDIA GeForce RTX 3090", "8.6"))


def test_rtx_is_the_default_without_a_gpu(tmp_path):
    build_target = find_build_target(tmp_path, "rtx-3090")
    assert (build_target.backend, build_target.target.sm, build_target.gpu) == ("tensorrt-rtx", "8.6", "rtx-3090")


@pytest.mark.parametrize("gpu", ["gtx-1080-ti", "v100", "h200"])
def test_target_without_rtx_needs_the_gpu_or_a_build_kit(gpu):
    for backend in (None, "tensorrt"):
        with pytest.raises(MissingRequirement) as caught:
            find_build_target(Path("bundle"), gpu, backend)
        assert KIT.format(gpu) in str(caught.value)
    with pytest.raises(BadInput, match="does not support"):
        find_build_target(Path("bundle"), gpu, "tensorrt-rtx")


def test_missing_gpu_lists_the_targets(tmp_path):
    with pytest.raises(MissingRequirement, match=r"^No GPU found; choose a target with --gpu: .*gtx-1080-ti.*rtx-5090"):
        find_build_target(tmp_path)


def test_failed_detection_is_part_of_the_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(request, "current_gpu", lambda: request.LocalGpu(detection_error="cuda-python is missing"))
    with pytest.raises(MissingRequirement, match=r"found \(cuda-python is missing\);"):
        find_build_target(tmp_path)
    with pytest.raises(MissingRequirement, match=r"found \(cuda-python is missing\);"):
        find_build_target(tmp_path, "gtx-1080-ti")


def test_local_gpu_is_the_default(tmp_path, an_rtx_3090, monkeypatch):
    build_target = find_build_target(tmp_path)
    assert (build_target.backend, build_target.target.name, build_target.gpu) == ("tensorrt-rtx", "rtx-3090", None)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("10.16.1.11"))
    assert find_build_target(tmp_path).backend == "tensorrt"
    assert find_build_target(tmp_path, "rtx-4090").backend == "tensorrt-rtx"  # another GPU than the local one
    with pytest.raises(MissingRequirement, match="no NVIDIA GeForce RTX 4090 was found"):
        find_build_target(tmp_path, "rtx-4090", "tensorrt")


def test_local_gpu_comes_from_cuda(monkeypatch):
    class Gpu:
        device, sm = "NVIDIA L4", "8.9"

    monkeypatch.undo()
    for answer, gpu in (
        (lambda: Gpu, request.LocalGpu("NVIDIA L4", "8.9")),
        (_raising(CudaError("no driver")), request.LocalGpu()),
        (
            _raising(MissingRequirement("cuda-python is missing", "install it")),
            request.LocalGpu(detection_error="cuda-python is missing"),
        ),
    ):
        monkeypatch.setattr("msal_deploy.trt.cuda.open_cuda", answer)
        assert request.current_gpu() == gpu


def _raising(error):
    def answer():
        raise error

    return answer


def test_unknown_gpu_gives_a_suggestion(tmp_path):
    with pytest.raises(BadInput, match="did you mean 'rtx-3090'"):
        find_build_target(tmp_path, "rxt-3090")


def test_auto_chooses_the_first_preferred_precision(tiny):
    assert first_preferred(tiny, find_target("gtx-1080-ti")) == "int8"
    (without := dict(tiny.manifest.artifacts)).pop("model.int8.onnx")
    tiny.manifest = msgspec.structs.replace(tiny.manifest, artifacts=without)
    assert first_preferred(tiny, find_target("gtx-1080-ti")) == "fp32"
    assert first_preferred(tiny, find_target("v100")) == "fp16"
    tiny.manifest = msgspec.structs.replace(tiny.manifest, artifacts={})
    with pytest.raises(BadInput, match="int8, fp32"):
        first_preferred(tiny, find_target("gtx-1080-ti"))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 64, 64), (80, 64, 64), (90, 64, 64)), "Expected a batch from 1 to 64, got 80"),
        (((1, 64, 64), (2, 100, 64), (2, 128, 64)), "Expected a height that is a multiple of 32, got 100"),
        (((4, 64, 64), (2, 64, 64), (8, 64, 64)), "Expected MIN:OPT:MAX in increasing order for the batch, got 4:2:8"),
        (((1, 64, 64), (1, 64, 64), (1, 64, 8192)), "Expected a width from 32 to 4096, got 8192"),
        (((0, 64, 64), (1, 64, 64), (1, 64, 64)), "Expected a batch from 1 to 64, got 0"),
    ],
)
def test_profile_outside_the_spec_is_refused(shapes, message, tiny, install, make_request):
    install("rtx")
    with pytest.raises(BadInput, match=message):
        build_trt(tiny, make_request("rtx", "fp32", profile=Profile(*shapes)))


def test_profile_that_exceeds_the_gpu_memory_is_refused(tiny, install, make_request, files):
    install("rtx")
    huge = Profile((1, 64, 64), (1, 64, 64), (64, 4096, 4096))
    before = files(tiny)
    with pytest.raises(
        BadInput, match=r"need \d+\.\d GiB for /network/encoder2/Conv alone.*; lower the maximum --batch or --size"
    ):
        build_trt(tiny, make_request("rtx", "fp32", profile=huge))
    assert files(tiny) == before


def test_tensorrt_that_does_not_support_the_gpu_is_refused(tiny, install, make_request):
    install("10.16.1.11")
    with pytest.raises(
        MissingRequirement,
        match=r"Expected TensorRT 8\.6\.1 to 8\.6\.1 .*got 10\.16.*msal-deploy doctor --gpu gtx-1080-ti",
    ):
        build_trt(tiny, make_request("10.16.1.11", "fp32", gpu="gtx-1080-ti"))
    install("8.6.1")
    with pytest.raises(MissingRequirement, match="RTX 5090"):
        build_trt(tiny, make_request("8.6.1", "fp32", gpu="rtx-5090"))
