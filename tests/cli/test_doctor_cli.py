"""``msal-deploy doctor``, on a machine without a GPU."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner, Result

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.cli import app
from msal_deploy.doctor import Gpu, Machine, run

CPU_ONLY = Machine(
    no_gpu="no NVIDIA driver found (NVML: NVML Shared Library Not Found)",
    python="3.11.9",
    packages={"onnxruntime": "1.32.0", "openvino": "2026.4.1"},
    providers=("CPUExecutionProvider",),
    processor="AMD EPYC",
    memory_gib=24.0,
    free_disk_gib=60.0,
)


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "inspect_machine", lambda: CPU_ONLY)


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def text_of(result: Result) -> str:
    return " ".join(result.output.split())


def test_doctor_without_a_gpu_lists_capabilities() -> None:
    result = doctor()
    assert result.exit_code == 0
    assert "GPU: no NVIDIA driver found" in text_of(result)
    assert "run openvino on the CPU yes" in text_of(result)
    assert "msal-deploy doctor --gpu NAME, where NAME is gtx-1080-ti" in text_of(result)
    assert max(map(len, result.output.splitlines())) <= 80


def test_doctor_for_a_1080_ti_explains_the_last_tensorrt() -> None:
    result = doctor("--gpu", "gtx-1080-ti")
    assert result.exit_code == 3
    text = text_of(result)
    assert "Newest TensorRT: 8.6.1. TensorRT 10 needs compute capability 7.0 or later, TensorRT 11 needs 7.5" in text
    assert "Unsupported SM 0x601" in text and "R535 to R580" in text and "Preferred precisions: int8, then fp32" in text
    assert text.count("Error: ") == 1 and "Traceback" not in text
    assert "requirements of gtx-1080-ti: GPU (capability 6.1)" in text and "docker build" in text


def test_doctor_succeeds_if_the_requirements_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = Machine(
        gpus=(Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),),
        driver="580.95.05",
        driver_cuda="13.0",
        python="3.12.3",
        packages={"onnxruntime": "1.31.1"},
        cuda={"nvcc": "13.0"},
        tensorrt="11.2.1.2",
        memory_gib=64.0,
        free_disk_gib=500.0,
    )
    monkeypatch.setattr(run, "inspect_machine", lambda: complete)
    assert doctor("--gpu", "rtx-4090").exit_code == 0
    result = doctor()  # this machine's GPU
    assert result.exit_code == 0 and "rtx-4090: NVIDIA GeForce RTX 4090" in text_of(result)
    assert doctor("--gpu", "gtx-1080-ti").exit_code == 3


def test_doctor_suggests_a_mistyped_gpu() -> None:
    result = doctor("--gpu", "gxt-1080-ti")
    assert result.exit_code == 2 and "did you mean 'gtx-1080-ti'" in text_of(result)


def test_doctor_reads_own_target_files(tmp_path: Path) -> None:
    own = tmp_path / "gtx-1060.toml"
    own.write_text('name = "gtx-1060"\nlike = "gtx-1080-ti"\ngpu = "NVIDIA GeForce GTX 1060"\nmemory_gib = 6\n')
    result = doctor("--gpu", own)
    assert result.exit_code == 3 and "gtx-1060: NVIDIA GeForce GTX 1060" in text_of(result)
    own.write_text("name = 1060\n")
    result = doctor("--gpu", own)
    assert result.exit_code == 2 and "is not a valid target" in text_of(result)


def test_doctor_writes_files_and_names_them_in_the_error(tmp_path: Path) -> None:
    files = {option: tmp_path / name for option, name in FILES.items()}
    result = doctor("--gpu", "gtx-1080-ti", *(part for pair in files.items() for part in pair))
    assert result.exit_code == 3
    assert "tensorrt==8.6.1.post1" in files["--requirements"].read_text()
    assert "nvcr.io/nvidia/tensorrt:23.07-py3" in files["--dockerfile"].read_text()
    assert "msal-deploy:gtx-1080-ti" in files["--compose"].read_text()
    assert f"docker build --file {files['--dockerfile']}".replace(" ", "") in result.output.replace("\n", "").replace(
        " ", ""
    )
    assert json.loads(files["--json"].read_text())["lacking"] == ["GPU", "driver", "CUDA", "TensorRT"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES.values())


FILES = {
    "--requirements": "requirements.txt",
    "--dockerfile": "Dockerfile",
    "--compose": "compose.yaml",
    "--json": "doctor.json",
}


@pytest.mark.parametrize("option", ["--requirements", "--dockerfile", "--compose"])
def test_doctor_needs_a_gpu_to_write_files(tmp_path: Path, option: str) -> None:
    result = doctor(option, tmp_path / "file", "--json", tmp_path / "doctor.json")
    assert result.exit_code == 2 and "--gpu" in text_of(result)
    assert list(tmp_path.iterdir()) == []


def test_doctor_keeps_a_file_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    result = doctor("--gpu", "t4", "--requirements", tmp_path / "taken" / "requirements.txt")
    assert result.exit_code == 2 and "taken" in text_of(result)
    assert (tmp_path / "taken").read_text() == "precious"


def test_doctor_json_is_complete(tmp_path: Path, bundle: Bundle) -> None:
    file = tmp_path / "doctor.json"
    assert doctor("--gpu", "t4", "--bundle", bundle.path, "--json", file).exit_code == 3
    value = json.loads(file.read_text())
    assert value["target"]["sm"] == "7.5" and value["machine"]["python"] == "3.11.9"
    checks = {check["part"]: (check["here"], check["word"]) for check in value["verdicts"]}
    assert checks["GPU"] == ("none", "missing") and checks["Python"] == ("3.11.9", "ok")
    assert value["abilities"] == [] and value["target"]["auto"] == ["fp16", "int8", "fp32"]
    estimates = {guess["precision"]: guess for guess in value["bundle"]["estimates"]}
    assert set(estimates) == {"fp32", "fp16", "int8"}
    assert all(guess["label"].startswith("Estimate") for guess in estimates.values())
    assert {graph["graph"]: graph["problems"] for graph in value["bundle"]["readable"]} == {"model.fp32.onnx": []}


def test_doctor_estimates_a_bundle_on_all_gpus(bundle: Bundle) -> None:
    result = doctor("--bundle", bundle.path)
    assert result.exit_code == 0
    text = text_of(result)
    assert "Estimate: lower bound in ms" in text and "nothing was run" in text
    assert all(name in text for name in ("gtx-1080-ti", "rtx-5090", "h200"))
    assert "✓ TensorRT 8.6.1 can parse model.fp32.onnx" in text
    assert max(map(len, result.output.splitlines())) <= 80


def test_doctor_names_the_node_that_tensorrt_cannot_parse(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    model = onnx.load(folder / "model.fp32.onnx")
    model.graph.node[-1].op_type, model.graph.node[-1].name = "Mish", "head/mish"
    onnx.save(model, folder / "model.fp32.onnx")
    artifacts = bundle.manifest.artifacts | {"model.fp32.onnx": artifact(folder, "model.fp32.onnx")}
    from msgspec.structs import replace

    write_manifest(folder, replace(bundle.manifest, artifacts=artifacts))
    result = doctor("--gpu", "gtx-1080-ti", "--bundle", folder)
    assert "✗ TensorRT 8.6.1 cannot parse model.fp32.onnx: head/mish (Mish)" in text_of(result)


def test_doctor_rejects_a_folder_without_a_bundle(tmp_path: Path) -> None:
    result = doctor("--bundle", tmp_path)
    assert result.exit_code == 2 and "is not a bundle" in text_of(result)
