"""Doctor: what it sees, how it judges that, and the files that it writes."""

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
    describe,
    dockerfile,
    doctor,
    machine,
    requirements,
)
from msal_deploy.doctor.capabilities import capabilities
from msal_deploy.doctor.checks import Check, has_code_for
from msal_deploy.doctor.report import DoctorReport
from msal_deploy.doctor.run import target_here
from msal_deploy.errors import MissingRequirement
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


def checks(machine: Machine, target: Target = PASCAL) -> dict[str, Check]:
    return {check.part: check for check in check_machine(machine, target)}


def test_a_machine_that_has_all() -> None:
    found = checks(HEALTHY)
    assert {check.status for part, check in found.items() if part != "TensorRT-RTX"} == {"ok"}
    assert found["TensorRT-RTX"].status == "not needed"
    DoctorReport(machine=HEALTHY, asked_for="gtx-1080-ti", target=PASCAL, checks=tuple(found.values())).require_served()


@pytest.mark.parametrize(
    ("changes", "part", "word", "why"),
    [
        ({"gpus": (), "no_gpu": "no NVIDIA driver answers"}, "GPU", "missing", "no NVIDIA driver answers"),
        ({"gpus": (Gpu("NVIDIA H200", "9.0", 140.4),)}, "GPU", "another", "built on a GPU of the kind"),
        ({"driver": None}, "driver", "missing", ""),
        ({"driver": "470.256.02"}, "driver", "too old", "CUDA 12.1 needs R535"),
        ({"driver": "590.48.01"}, "driver", "too new", "R580 is the last branch for Pascal"),
        ({"cuda": {"nvcc": "13.0"}}, "CUDA", "too new", "end with CUDA 12.1"),
        ({"cuda": {}}, "CUDA", "missing", "bring it"),
        ({"python": "3.12.3"}, "Python", "too new", "Python up to 3.11"),
        ({"tensorrt": "10.4.0"}, "TensorRT", "too new", "10.0 stops with: Unsupported SM 0x601"),
        ({"tensorrt": "11.4.0.106"}, "TensorRT", "too new", "TensorRT 10 and 11"),
        ({"tensorrt": "8.5.3.1"}, "TensorRT", "too old", "8.6.1 is the first"),
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
def test_each_thing_that_can_lack(changes: dict[str, Any], part: str, word: str, why: str) -> None:
    check = checks(replace(HEALTHY, **changes))[part]
    assert (check.status, check.lacks) == (word, True)
    assert why in check.why


@pytest.mark.parametrize(
    ("changes", "part", "word"),
    [
        ({"torch_architectures": ("sm_75", "sm_80"), "torch_cuda": "13.2"}, "torch", "too new"),
        ({"torch_architectures": (), "torch_cuda": None}, "torch", "another"),
        ({"faults": {"torch": "libtorch.so"}}, "torch", "broken"),
        ({"packages": {"onnxruntime": "1.18.1"}}, "torch", "missing"),
        ({"packages": {"onnxruntime": "1.18.1"}}, "OpenVINO", "missing"),
    ],
)
def test_what_a_plan_can_do_without(changes: dict[str, Any], part: str, word: str) -> None:
    check = checks(replace(HEALTHY, **changes))[part]
    assert (check.status, check.lacks) == (word, False)


def test_tensorrt_rtx_stands_in_for_tensorrt_where_it_serves_the_gpu() -> None:
    ada = replace(HEALTHY, gpus=(Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), driver="580.95", tensorrt=None)
    both = find_target("rtx-4090"), find_target("a100")
    assert [checks(ada, target)["TensorRT"].lacks for target in both] == [True, True]
    ada = replace(ada, tensorrt_rtx="1.7.1.116")
    assert [checks(ada, target)["TensorRT"].lacks for target in both] == [False, True]


def test_a_tensorrt_that_serves_the_gpu_and_not_triton_is_told() -> None:
    told = checks(replace(HEALTHY, tensorrt="11.4.0.106"), find_target("rtx-4090"))["TensorRT"]
    assert told.status == "ok" and "Triton 26.08 has 11.2.1" in told.why


@pytest.mark.parametrize(
    ("sm", "architectures", "runs"),
    [
        ("6.1", ("sm_60",), True),  # machine code runs on a later minor version
        ("6.1", ("sm_61",), True),
        ("6.0", ("sm_61",), False),
        ("7.5", ("sm_60",), False),  # and on no other major one
        ("8.9", ("sm_75", "sm_86"), True),
        ("9.0", ("sm_90a",), True),
        ("12.0", ("sm_90", "compute_90"), True),  # PTX is compiled for it
        ("6.1", ("compute_70",), False),
        ("12.0", ("sm_120",), True),
        ("6.1", (), False),
    ],
)
def test_whether_code_runs_on_a_gpu(sm: str, architectures: tuple[str, ...], runs: bool) -> None:
    assert has_code_for(sm, architectures) == runs


def lacking(asked_for: str = "gtx-1080-ti", **changes: Any) -> DoctorReport:
    machine = replace(HEALTHY, **changes)
    return DoctorReport(machine=machine, asked_for=asked_for, target=PASCAL, checks=check_machine(machine, PASCAL))


def test_what_lacks_and_what_mends_it() -> None:
    with pytest.raises(MissingRequirement, match=r"lacks TensorRT 8\.6\.1; run: .*--requirements .*pip install"):
        lacking(tensorrt=None).require_served()
    with pytest.raises(MissingRequirement, match=r"lacks Python 3\.11; where the GPU is, run: .*docker build"):
        lacking(python="3.13.1").require_served()
    with pytest.raises(MissingRequirement, match=r"a GPU of compute capability 6\.1, a driver R535 to R580; where"):
        lacking(gpus=(), driver=None).require_served()


def test_what_mends_it_names_the_files_that_were_written() -> None:
    with pytest.raises(
        MissingRequirement, match=r'run: PIP_CONSTRAINT="/tmp/pins.txt" pip install .*-r /tmp/pins\.txt$'
    ):
        lacking(tensorrt=None).require_served(requirements=Path("/tmp/pins.txt"))
    with pytest.raises(MissingRequirement, match=r"run: docker build --file Pascal --tag msal-deploy:gtx-1080-ti \.$"):
        lacking(driver=None).require_served(dockerfile=Path("Pascal"))


def test_brackets_are_told_as_they_are() -> None:
    from rich.console import Console

    console = Console(width=80, record=True)
    console.print(lacking(gpus=(Gpu("A [b]card[/b]", "6.1", 1.0),)).table())
    assert "A [b]card[/b]" in console.export_text()


def test_doctor_reports_what_a_gpu_lacks_without_failing_unless_it_was_asked_for() -> None:
    report = lacking(asked_for="", tensorrt=None)
    assert [check.part for check in report.lacking] == ["TensorRT"]
    report.require_served()
    with pytest.raises(MissingRequirement):
        replace(report, asked_for="gtx-1080-ti").require_served()


class FakeNvml:
    """Two GPUs. Each function has the name and takes the arguments of the real one."""

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


def test_gpus_and_driver_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    found = describe()
    assert found.gpus == (Gpu("Tesla T4", "7.5", 11.0), Gpu("NVIDIA GeForce GTX 1080 Ti", "6.1", 11.0))
    assert (found.driver, found.driver_cuda, found.no_gpu) == ("580.95.05", "13.0", "")
    assert target_here(found) == find_target("t4")


def raising(error: int) -> Callable[[], None]:
    def call() -> None:
        raise pynvml.NVMLError(error)

    return call


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlSystemGetDriverVersion"])
def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    FakeNvml(monkeypatch, **{function: raising(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)})
    found = describe()
    assert (found.gpus, found.driver) == ((), None)
    assert "Driver Not Loaded" in found.no_gpu


def test_without_nvml_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in describe().no_gpu


def test_this_machine() -> None:
    found = describe()
    assert found.python.startswith("3.") and found.cores >= 1
    assert found.memory_gib > 0 and found.free_disk_gib > 0
    assert {"torch", "onnxruntime", "openvino"} <= set(found.packages)
    assert "CPUExecutionProvider" in found.providers and "FP32" in found.openvino_capabilities
    assert bool(found.gpus) != bool(found.no_gpu)


def test_a_broken_package_is_told_and_nothing_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str) -> None:
        raise OSError(f"lib{module}.so: cannot open shared object file")

    monkeypatch.setattr(machine.importlib, "import_module", broken)
    monkeypatch.setattr(machine, "ask_driver", lambda: {"no_gpu": "none"})
    monkeypatch.setattr(machine, "_backend", lambda name, faults: None)
    found = describe()
    assert "libopenvino.so" in found.faults["openvino"]
    assert not any(ability.able for ability in capabilities(found) if "openvino" in ability.what)


def test_what_a_machine_without_a_gpu_can_do() -> None:
    cpu = replace(HEALTHY, gpus=(), driver=None, instructions=("avx2", "avx512_vnni"), tensorrt_rtx="1.7.1.116")
    able = {ability.what: ability for ability in capabilities(cpu)}
    assert able["compute INT8 fast"].how.endswith("avx512_vnni")
    assert "rtx-4090" in able["build TensorRT-RTX plans"].how and "a100" not in able["build TensorRT-RTX plans"].how
    assert not able["build and run TensorRT plans"].able
    bare = {ability.what: ability for ability in capabilities(Machine(processor="old"))}
    assert not any(ability.able for what, ability in bare.items() if not what.startswith("run Python"))
    assert "pip install 'msal-deploy[rtx]'" in bare["build TensorRT-RTX plans"].how


def test_a_gpu_that_no_target_is_for() -> None:
    old = replace(HEALTHY, gpus=(Gpu("NVIDIA GeForce GTX 750 Ti", "5.0", 2.0),))
    assert target_here(old) is None


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_the_requirements_are_pins_that_pip_reads(target: Target) -> None:
    lines = [line for line in requirements(target).splitlines() if line and not line.startswith("#")]
    assert lines == list(target.pins)
    assert all(str(Requirement(line).specifier).startswith("==") for line in lines)
    assert "{" not in requirements(target)


def test_the_files_of_a_1080_ti() -> None:
    text = requirements(PASCAL)
    assert "tensorrt==8.6.1.post1" in text and "nvidia-cudnn-cu12==8.9" in text and "numpy==1.26" in text
    docker = dockerfile(PASCAL)
    assert "FROM nvcr.io/nvidia/tensorrt:23.07-py3\n" in docker and "--python 3.11" in docker
    assert all(f"\n{pin}\n" in docker for pin in PASCAL.pins)  # its Python 3.10 is of no use: TensorRT for 3.11 too


def test_an_image_with_a_python_that_serves_keeps_its_tensorrt() -> None:
    docker = dockerfile(find_target("rtx-4090"))
    assert "--system-site-packages" in docker
    assert "tensorrt-cu13==" not in docker and "cuda-python==" in docker


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_the_compose_file_is_yaml_and_asks_for_a_gpu(target: Target) -> None:
    (service,) = yaml.safe_load(compose_file(target))["services"].values()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["image"] == f"msal-deploy:{target.name}"


def test_a_bundle_is_estimated_on_every_target(bundle: Bundle) -> None:
    report = doctor(bundle=bundle)
    assert report.bundle is not None
    found = {(guess.target, guess.precision): guess for guess in report.bundle.estimates}
    assert {name for name, _ in found} == {target.name for target in targets()}
    pascal = [found["gtx-1080-ti", precision].milliseconds for precision in ("int8", "fp32", "fp16")]
    assert pascal == sorted(pascal)
    assert ("gtx-1080-ti", "tf32") not in found and ("rtx-4090", "tf32") in found
    assert found["t4", "fp32"].as_exported and not found["t4", "int8"].as_exported
    assert all(readable.problems == () for readable in report.bundle.readable)
