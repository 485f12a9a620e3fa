"""Doctor: inspection of the machine, checks against a target, and the files it writes."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import yaml
from msgspec.structs import replace
from packaging.requirements import Requirement

from msal_deploy.bundle import Bundle
from msal_deploy.doctor import (
    Gpu,
    Machine,
    check_machine,
    compose_file,
    dockerfile,
    doctor,
    inspect_machine,
    machine,
    requirements,
)
from msal_deploy.doctor.capabilities import capabilities
from msal_deploy.doctor.checks import Check, has_code_for
from msal_deploy.doctor.report import DoctorReport
from msal_deploy.doctor.run import local_target
from msal_deploy.errors import MissingRequirement
from msal_deploy.hardware import NvidiaDriver
from msal_deploy.targets import Target, find_target, targets

PASCAL = find_target("gtx-1080-ti")
HEALTHY = Machine(
    gpus=(Gpu("NVIDIA GeForce GTX 1080 Ti", "6.1", 11.0),),
    driver="535.183.01",
    driver_cuda="12.2",
    python="3.11.9",
    packages={"torch": "2.14.1+cu126", "onnxruntime": "1.18.1", "openvino": "2026.4.1"},
    cuda={"nvidia-cuda-runtime-cu12": "12.1.105"},
    tensorrt="8.6.1",
    providers=("CPUExecutionProvider",),
    torch_cuda="12.6",
    torch_architectures=("sm_50", "sm_60", "sm_70"),
    memory_gib=32.0,
    free_disk_gib=100.0,
)


def checks_by_part(machine: Machine, target: Target = PASCAL) -> dict[str, Check]:
    return {check.part: check for check in check_machine(machine, target)}


def test_machine_that_meets_all_requirements_passes() -> None:
    checks = checks_by_part(HEALTHY)
    assert {check.status for part, check in checks.items() if part != "TensorRT-RTX"} == {"ok"}
    assert checks["TensorRT-RTX"].status == "not needed"
    report = DoctorReport(machine=HEALTHY, asked_for="gtx-1080-ti", target=PASCAL, checks=tuple(checks.values()))
    assert report.unmet_requirements == ()
    report.require_target()


@pytest.mark.parametrize(
    ("changes", "part", "status", "why"),
    [
        ({"gpus": (), "no_gpu": "no NVIDIA driver found"}, "GPU", "missing", "no NVIDIA driver found"),
        ({"gpus": (Gpu("NVIDIA H200", "9.0", 140.4),)}, "GPU", "another", "on a GPU of the kind that runs it"),
        ({"driver": None}, "driver", "missing", ""),
        ({"driver": "470.256.02"}, "driver", "too old", "CUDA 12.1 needs R535"),
        ({"driver": "590.48.01"}, "driver", "too new", "R580 is the last branch for Pascal"),
        ({"cuda": {"nvcc": "13.0"}}, "CUDA", "too new", "supports CUDA up to 12.1"),
        ({"cuda": {}}, "CUDA", "missing", "include it"),
        ({"python": "3.12.3"}, "Python", "too new", "Python up to 3.11"),
        ({"tensorrt": "10.4.0"}, "TensorRT", "too new", "10.0 fails with: Unsupported SM 0x601"),
        ({"tensorrt": "11.4.0.106"}, "TensorRT", "too new", "TensorRT 11 needs 7.5"),
        ({"tensorrt": "8.5.3.1"}, "TensorRT", "too old", "8.6.1 is the first version"),
        ({"tensorrt": None}, "TensorRT", "missing", ""),
        (
            {"tensorrt": None, "faults": {"tensorrt": "libcudnn.so.8: cannot open"}},
            "TensorRT",
            "broken",
            "libcudnn.so.8",
        ),
        ({"packages": {}}, "ONNX Runtime", "missing", ""),
        ({"memory_gib": 2.0}, "memory", "too small", "memory runs out"),
        ({"free_disk_gib": 1.0}, "disk", "too small", "do not fit"),
    ],
)
def test_check_explains_an_unmet_requirement(changes: dict[str, Any], part: str, status: str, why: str) -> None:
    check = checks_by_part(replace(HEALTHY, **changes))[part]
    assert (check.status, check.is_met) == (status, False)
    assert why in check.why


@pytest.mark.parametrize(
    ("changes", "part", "status"),
    [
        ({"torch_architectures": ("sm_75", "sm_80"), "torch_cuda": "13.2"}, "torch", "too new"),
        ({"torch_architectures": (), "torch_cuda": None}, "torch", "another"),
        ({"faults": {"torch": "libtorch.so"}}, "torch", "broken"),
        ({"packages": {"onnxruntime": "1.18.1"}}, "torch", "missing"),
        ({"packages": {"onnxruntime": "1.18.1"}}, "OpenVINO", "missing"),
    ],
)
def test_optional_part_does_not_fail_the_machine(changes: dict[str, Any], part: str, status: str) -> None:
    check = checks_by_part(replace(HEALTHY, **changes))[part]
    assert (check.status, check.is_met) == (status, True)


def test_tensorrt_rtx_replaces_tensorrt_on_gpus_that_it_supports() -> None:
    ada = replace(HEALTHY, gpus=(Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), driver="580.95", tensorrt=None)
    both = find_target("rtx-4090"), find_target("a100")
    assert [checks_by_part(ada, target)["TensorRT"].is_met for target in both] == [False, False]
    ada = replace(ada, tensorrt_rtx="1.7.1.116")
    assert [checks_by_part(ada, target)["TensorRT"].is_met for target in both] == [True, False]


def test_check_names_a_triton_release_with_another_tensorrt() -> None:
    check = checks_by_part(replace(HEALTHY, tensorrt="11.4.0.106"), find_target("rtx-4090"))["TensorRT"]
    assert check.status == "ok" and "Triton 26.08 has 11.2.1" in check.why


@pytest.mark.parametrize(
    ("sm", "architectures", "runs"),
    [
        ("6.1", ("sm_60",), True),  # machine code runs on a later minor version
        ("6.1", ("sm_61",), True),
        ("6.0", ("sm_61",), False),
        ("7.5", ("sm_60",), False),  # but not on another major version
        ("8.9", ("sm_75", "sm_86"), True),
        ("9.0", ("sm_90a",), True),
        ("12.0", ("sm_90", "compute_90"), True),  # PTX is compiled for later GPUs
        ("6.1", ("compute_70",), False),
        ("12.0", ("sm_120",), True),
        ("6.1", (), False),
    ],
)
def test_has_code_for_follows_cuda_compatibility(sm: str, architectures: tuple[str, ...], runs: bool) -> None:
    assert has_code_for(sm, architectures) == runs


def report_of(asked_for: str = "gtx-1080-ti", **changes: Any) -> DoctorReport:
    machine = replace(HEALTHY, **changes)
    return DoctorReport(machine=machine, asked_for=asked_for, target=PASCAL, checks=check_machine(machine, PASCAL))


def test_error_lists_unmet_requirements_and_the_command() -> None:
    with pytest.raises(
        MissingRequirement, match=r"gtx-1080-ti: TensorRT \(8\.6\.1\); run: .*--requirements .*pip install"
    ):
        report_of(tensorrt=None).require_target()
    with pytest.raises(MissingRequirement, match=r": Python \(3\.11\); on a machine with the GPU, run: .*docker build"):
        report_of(python="3.13.1").require_target()
    with pytest.raises(MissingRequirement, match=r": GPU \(capability 6\.1\), driver \(R535 to R580\); on a"):
        report_of(gpus=(), driver=None).require_target()


def test_error_uses_the_files_that_were_written() -> None:
    with pytest.raises(
        MissingRequirement, match=r'run: PIP_CONSTRAINT="/tmp/pins.txt" pip install .*-r /tmp/pins\.txt$'
    ):
        report_of(tensorrt=None).require_target(requirements=Path("/tmp/pins.txt"))
    with pytest.raises(MissingRequirement, match=r"run: docker build --file Pascal --tag msal-deploy:gtx-1080-ti \.$"):
        report_of(driver=None).require_target(dockerfile=Path("Pascal"))


def test_table_shows_brackets_literally() -> None:
    from rich.console import Console

    console = Console(width=80, record=True)
    console.print(report_of(gpus=(Gpu("A [b]card[/b]", "6.1", 1.0),)).table())
    assert "A [b]card[/b]" in console.export_text()


def test_doctor_reports_gpu_without_failing() -> None:
    report = report_of(asked_for="", tensorrt=None)
    assert [check.part for check in report.unmet_requirements] == ["TensorRT"]
    report.require_target()  # raises only for a target that was asked for
    with pytest.raises(MissingRequirement):
        replace(report, asked_for="gtx-1080-ti").require_target()


class FakeNvml:
    """NVML with two GPUs. Each function has the name and the parameters of the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Callable[..., Any]) -> None:
        functions: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "580.95.05",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: [b"Tesla T4", "NVIDIA GeForce GTX 1080 Ti"][handle],
            "nvmlDeviceGetCudaComputeCapability": lambda handle: [(7, 5), (6, 1)][handle],
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=11 * 2**30),
        }
        for name, function in (functions | changes).items():
            inspect.signature(getattr(pynvml, name)).bind(*inspect.signature(function).parameters)
            monkeypatch.setattr(pynvml, name, function)


def test_inspection_finds_gpus_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    inspected = inspect_machine()
    assert inspected.gpus == (Gpu("Tesla T4", "7.5", 11.0), Gpu("NVIDIA GeForce GTX 1080 Ti", "6.1", 11.0))
    assert (inspected.driver, inspected.driver_cuda, inspected.no_gpu) == ("580.95.05", "13.0", "")
    assert local_target(inspected) == find_target("t4")


def raising(error: int) -> Callable[[], None]:
    def call() -> None:
        raise pynvml.NVMLError(error)

    return call


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlSystemGetDriverVersion"])
def test_inspection_survives_a_failing_driver(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    FakeNvml(monkeypatch, **{function: raising(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)})
    inspected = inspect_machine()
    assert (inspected.gpus, inspected.driver) == ((), None)
    assert "Driver Not Loaded" in inspected.no_gpu


def test_inspection_without_nvml_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in inspect_machine().no_gpu


def test_inspection_of_this_machine() -> None:
    inspected = inspect_machine()
    assert inspected.python.startswith("3.") and inspected.cores >= 1
    assert inspected.memory_gib > 0 and inspected.free_disk_gib > 0
    assert {"torch", "onnxruntime", "openvino"} <= set(inspected.packages)
    assert "CPUExecutionProvider" in inspected.providers and "FP32" in inspected.openvino_capabilities
    assert bool(inspected.gpus) != bool(inspected.no_gpu)


def test_broken_package_is_reported_as_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str) -> None:
        raise OSError(f"lib{module}.so: cannot open shared object file")

    monkeypatch.setattr(machine.importlib, "import_module", broken)
    monkeypatch.setattr(machine, "query_driver", NvidiaDriver)
    monkeypatch.setattr(machine, "_backend", lambda name, faults: None)
    inspected = inspect_machine()
    assert "libopenvino.so" in inspected.faults["openvino"]
    assert not any(capability.able for capability in capabilities(inspected) if "openvino" in capability.what)


def test_capabilities_without_a_gpu() -> None:
    cpu = replace(HEALTHY, gpus=(), driver=None, instructions=("avx2", "avx512_vnni"), tensorrt_rtx="1.7.1.116")
    able = {capability.what: capability for capability in capabilities(cpu)}
    assert able["compute INT8 fast"].how.endswith("avx512_vnni")
    assert "rtx-4090" in able["build TensorRT-RTX plans"].how and "a100" not in able["build TensorRT-RTX plans"].how
    assert not able["build and run TensorRT plans"].able
    bare = {capability.what: capability for capability in capabilities(Machine(processor="old"))}
    assert not any(capability.able for what, capability in bare.items() if not what.startswith("run Python"))
    assert "pip install 'msal-deploy[rtx]'" in bare["build TensorRT-RTX plans"].how


def test_unsupported_gpu_has_no_target() -> None:
    old = replace(HEALTHY, gpus=(Gpu("NVIDIA GeForce GTX 750 Ti", "5.0", 2.0),))
    assert local_target(old) is None


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_requirements_are_exact_pins(target: Target) -> None:
    lines = [line for line in requirements(target).splitlines() if line and not line.startswith("#")]
    assert lines == list(target.pins)
    assert all(str(Requirement(line).specifier).startswith("==") for line in lines)
    assert "{" not in requirements(target)


def test_files_for_a_1080_ti() -> None:
    text = requirements(PASCAL)
    assert "tensorrt==8.6.1.post1" in text and "nvidia-cudnn-cu12==8.9" in text and "numpy==1.26" in text
    docker = dockerfile(PASCAL)
    assert "FROM nvcr.io/nvidia/tensorrt:23.07-py3\n" in docker and "--python 3.11" in docker
    assert all(
        f"\n{pin}\n" in docker for pin in PASCAL.pins
    )  # not the image's Python 3.10, so TensorRT is installed again


def test_dockerfile_reuses_the_tensorrt_of_an_image_with_a_supported_python() -> None:
    docker = dockerfile(find_target("rtx-4090"))
    assert "--system-site-packages" in docker
    assert "tensorrt-cu13==" not in docker and "cuda-python==" in docker


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_compose_file_reserves_a_gpu(target: Target) -> None:
    (service,) = yaml.safe_load(compose_file(target))["services"].values()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["image"] == f"msal-deploy:{target.name}"


def test_bundle_is_estimated_on_every_target(bundle: Bundle) -> None:
    report = doctor(bundle=bundle)
    assert report.bundle is not None
    estimates = {(one.target, one.precision): one for one in report.bundle.estimates}
    assert {name for name, _ in estimates} == {target.name for target in targets()}
    pascal = [estimates["gtx-1080-ti", precision].milliseconds for precision in ("int8", "fp32", "fp16")]
    assert pascal == sorted(pascal)
    assert ("gtx-1080-ti", "tf32") not in estimates and ("rtx-4090", "tf32") in estimates
    assert estimates["t4", "fp32"].as_exported and not estimates["t4", "int8"].as_exported
    assert all(support.problems == () for support in report.bundle.parser_support)
