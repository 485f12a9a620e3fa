"""``msal-deploy doctor`` as a user meets it, on a machine without a GPU."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner, Result

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.cli import app
from msal_deploy.doctor import Gpu, Machine, report

CPU_ONLY = Machine(
    no_gpu="no NVIDIA driver answers (NVML: NVML Shared Library Not Found)",
    python="3.11.9",
    packages={"onnxruntime": "1.32.0", "openvino": "2026.4.1"},
    providers=("CPUExecutionProvider",),
    processor="AMD EPYC",
    memory_gib=24.0,
    free_disk_gib=60.0,
)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "describe", lambda: CPU_ONLY)


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def words(result: Result) -> str:
    return " ".join(result.output.split())


def test_without_a_gpu_it_says_what_this_machine_can_do_and_succeeds() -> None:
    result = doctor()
    assert result.exit_code == 0
    assert "no NVIDIA driver answers" in words(result)
    assert "run openvino on the CPU yes" in words(result)
    assert "msal-deploy doctor --gpu NAME, with gtx-1080-ti" in words(result)
    assert max(map(len, result.output.splitlines())) <= 80


def test_for_a_1080_ti_it_says_8_6_1_and_why_nothing_newer() -> None:
    result = doctor("--gpu", "gtx-1080-ti")
    assert result.exit_code == 3
    text = words(result)
    assert "Last TensorRT: 8.6.1. TensorRT 10 and 11 are built for compute capability 7.0 and 7.5 upwards" in text
    assert "Unsupported SM 0x601" in text and "R535 to R580" in text and "Pays: int8, then fp32" in text
    assert text.count("Error: ") == 1 and "Traceback" not in text
    assert "a GPU of compute capability 6.1" in text and "docker build" in text


def test_a_machine_that_serves_the_target_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Machine(
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
    monkeypatch.setattr(report, "describe", lambda: whole)
    assert doctor("--gpu", "rtx-4090").exit_code == 0
    result = doctor()  # the GPU that is here
    assert result.exit_code == 0 and "rtx-4090: NVIDIA GeForce RTX 4090" in words(result)
    assert doctor("--gpu", "gtx-1080-ti").exit_code == 3


def test_a_mistyped_gpu_is_suggested() -> None:
    result = doctor("--gpu", "gtx-1080ti")
    assert result.exit_code == 2 and "did you mean 'gtx-1080-ti'" in words(result)


def test_a_gpu_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "gtx-1060.toml"
    own.write_text('name = "gtx-1060"\nlike = "gtx-1080-ti"\ngpu = "NVIDIA GeForce GTX 1060"\nmemory_gib = 6\n')
    result = doctor("--gpu", own)
    assert result.exit_code == 3 and "gtx-1060: NVIDIA GeForce GTX 1060" in words(result)
    own.write_text("name = 1060\n")
    result = doctor("--gpu", own)
    assert result.exit_code == 2 and "is no target" in words(result)


def test_the_files_are_written_and_named_in_what_mends_it(tmp_path: Path) -> None:
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
def test_versions_that_work_are_for_a_gpu(tmp_path: Path, option: str) -> None:
    result = doctor(option, tmp_path / "file", "--json", tmp_path / "doctor.json")
    assert result.exit_code == 2 and "--gpu" in words(result)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    result = doctor("--gpu", "t4", "--requirements", tmp_path / "taken" / "requirements.txt")
    assert result.exit_code == 2 and "taken" in words(result)
    assert (tmp_path / "taken").read_text() == "precious"


def test_json_holds_all_of_it(tmp_path: Path, bundle: Bundle) -> None:
    file = tmp_path / "doctor.json"
    assert doctor("--gpu", "t4", "--bundle", bundle.path, "--json", file).exit_code == 3
    told = json.loads(file.read_text())
    assert told["target"]["sm"] == "7.5" and told["machine"]["python"] == "3.11.9"
    assert {check["part"] for check in told["checks"]} >= {"GPU", "driver", "TensorRT"}
    estimates = {guess["precision"]: guess for guess in told["bundle"]["estimates"]}
    assert set(estimates) == {"fp32", "fp16", "int8"}
    assert all(guess["label"].startswith("Estimate") for guess in estimates.values())
    assert {graph["graph"]: graph["problems"] for graph in told["bundle"]["readable"]} == {"model.fp32.onnx": []}


def test_a_bundle_is_estimated_on_all_gpus_and_labelled(bundle: Bundle) -> None:
    result = doctor("--bundle", bundle.path)
    assert result.exit_code == 0
    text = words(result)
    assert "Estimate: least ms" in text and "nothing was run" in text
    assert all(name in text for name in ("gtx-1080-ti", "rtx-5090", "h200"))
    assert "✓ TensorRT 8.6.1 reads model.fp32.onnx" in text
    assert max(map(len, result.output.splitlines())) <= 80


def test_a_graph_that_the_target_does_not_read_is_told_by_the_nodes_name(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    model = onnx.load(folder / "model.fp32.onnx")
    model.graph.node[-1].op_type, model.graph.node[-1].name = "Mish", "head/mish"
    onnx.save(model, folder / "model.fp32.onnx")
    artifacts = bundle.manifest.artifacts | {"model.fp32.onnx": artifact(folder, "model.fp32.onnx")}
    from msgspec.structs import replace

    write_manifest(folder, replace(bundle.manifest, artifacts=artifacts))
    result = doctor("--gpu", "gtx-1080-ti", "--bundle", folder)
    assert "✗ TensorRT 8.6.1 does not read model.fp32.onnx: head/mish (Mish)" in words(result)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    result = doctor("--bundle", tmp_path)
    assert result.exit_code == 2 and "is not a bundle" in words(result)
