"""What is refused before anything is built: places, profiles, options."""

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


def test_without_a_gpu_rtx_builds_for_what_it_serves(tmp_path):
    build_target = find_build_target(tmp_path, "rtx-3090")
    assert (build_target.backend, build_target.target.sm, build_target.gpu) == ("tensorrt-rtx", "8.6", "rtx-3090")


@pytest.mark.parametrize("gpu", ["gtx-1080-ti", "v100", "h200"])
def test_what_rtx_does_not_serve_needs_the_gpu_or_a_kit(gpu):
    for backend in (None, "tensorrt"):
        with pytest.raises(MissingRequirement) as caught:
            find_build_target(Path("bundle"), gpu, backend)
        assert KIT.format(gpu) in str(caught.value)
    with pytest.raises(BadInput, match="does not serve"):
        find_build_target(Path("bundle"), gpu, "tensorrt-rtx")


def test_without_gpu_and_name_the_names_are_listed(tmp_path):
    with pytest.raises(MissingRequirement, match=r"--gpu: .*gtx-1080-ti.*rtx-5090"):
        find_build_target(tmp_path)


def test_a_reason_is_told_where_nobody_could_look(tmp_path, monkeypatch):
    monkeypatch.setattr(request, "current_gpu", lambda: request.LocalGpu(unknown_because="This needs cuda-python"))
    with pytest.raises(MissingRequirement, match="cuda-python"):
        find_build_target(tmp_path)
    with pytest.raises(MissingRequirement, match="cuda-python"):
        find_build_target(tmp_path, "gtx-1080-ti")


def test_the_gpu_that_is_here_is_the_default(tmp_path, an_rtx_3090, monkeypatch):
    build_target = find_build_target(tmp_path)
    assert (build_target.backend, build_target.target.name, build_target.gpu) == ("tensorrt-rtx", "rtx-3090", None)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("10.16.1.11"))
    assert find_build_target(tmp_path).backend == "tensorrt"
    assert find_build_target(tmp_path, "rtx-4090").backend == "tensorrt-rtx"  # that one is not here
    with pytest.raises(MissingRequirement, match="no NVIDIA GeForce RTX 4090 here"):
        find_build_target(tmp_path, "rtx-4090", "tensorrt")


def test_who_is_asked_for_the_gpu(monkeypatch):
    class Gpu:
        device, sm = "NVIDIA L4", "8.9"

    monkeypatch.undo()
    for answer, here in (
        (lambda: Gpu, request.LocalGpu("NVIDIA L4", "8.9")),
        (_raising(CudaError("no driver")), request.LocalGpu()),
        (
            _raising(MissingRequirement("This needs cuda-python")),
            request.LocalGpu(unknown_because="This needs cuda-python"),
        ),
    ):
        monkeypatch.setattr("msal_deploy.trt.cuda.open_cuda", answer)
        assert request.current_gpu() == here


def _raising(error):
    def answer():
        raise error

    return answer


def test_an_unknown_gpu_is_suggested(tmp_path):
    with pytest.raises(BadInput, match="did you mean 'rtx-3090'"):
        find_build_target(tmp_path, "rtx-309")


def test_auto_takes_the_first_that_pays(tiny):
    assert first_preferred(tiny, find_target("gtx-1080-ti")) == "int8"
    (without := dict(tiny.manifest.artifacts)).pop("model.int8.onnx")
    tiny.manifest = msgspec.structs.replace(tiny.manifest, artifacts=without)
    assert first_preferred(tiny, find_target("gtx-1080-ti")) == "fp32"
    assert first_preferred(tiny, find_target("v100")) == "fp16"
    tiny.manifest = msgspec.structs.replace(tiny.manifest, artifacts={})
    with pytest.raises(BadInput, match="int8, fp32"):
        first_preferred(tiny, find_target("gtx-1080-ti"))


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (((1, 64, 64), (80, 64, 64), (90, 64, 64)), "Expected a batch from 1 to 64, got 80"),
        (((1, 64, 64), (2, 100, 64), (2, 128, 64)), "Expected a height that is a multiple of 32, got 100"),
        (((4, 64, 64), (2, 64, 64), (8, 64, 64)), "batch is 4:2:8; write MIN:OPT:MAX"),
        (((1, 64, 64), (1, 64, 64), (1, 64, 8192)), "Expected a width from 32 to 4096, got 8192"),
        (((0, 64, 64), (1, 64, 64), (1, 64, 64)), "Expected a batch from 1 to 64, got 0"),
    ],
)
def test_a_profile_outside_of_the_spec(shapes, sentence, tiny, install, an_order):
    install("rtx")
    with pytest.raises(BadInput, match=sentence):
        build_trt(tiny, an_order("rtx", "fp32", profile=Profile(*shapes)))


def test_a_profile_that_no_layer_fits_into_the_gpu_with(tiny, install, an_order, files):
    install("rtx")
    huge = Profile((1, 64, 64), (1, 64, 64), (64, 4096, 4096))
    before = files(tiny)
    with pytest.raises(BadInput, match=r"need \d+\.\d GiB for /network/encoder2/Conv alone"):
        build_trt(tiny, an_order("rtx", "fp32", profile=huge))
    assert files(tiny) == before


def test_a_tensorrt_that_does_not_serve_the_gpu(tiny, install, an_order):
    install("10.16.1.11")
    with pytest.raises(MissingRequirement, match=r"10\.16.* 8\.6\.1 to 8\.6\.1.*msal-deploy doctor --gpu gtx-1080-ti"):
        build_trt(tiny, an_order("10.16.1.11", "fp32", gpu="gtx-1080-ti"))
    install("8.6.1")
    with pytest.raises(MissingRequirement, match="RTX 5090"):
        build_trt(tiny, an_order("8.6.1", "fp32", gpu="rtx-5090"))
