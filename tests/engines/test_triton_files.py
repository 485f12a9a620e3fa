"""What ``package triton`` writes: shapes that are really served, settings of GPUs, and files to run it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from msgspec.structs import replace
from triton_plans import PROFILE, copy_of, put_plan
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.errors import BadInput
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.package.triton_shapes import warm_ups
from msal_deploy.spec import ModelSpec


@pytest.fixture
def planned(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The bundle with a plan for 1 to 16 images of 128 to 512 px, tuned for 4 of 384 × 320 px."""
    return put_plan(copy_of(bundle, tmp_path / "bundle"), "7.5")


def write(bundle: Bundle, folder: Path, **options: Any) -> tuple[Path, Any]:
    """Package the bundle, and return the folder and the parsed config.pbtxt: protobuf rejects unknown fields."""
    write_package(bundle, "triton", folder / "served", PackageOptions(**options))
    text = (folder / "served" / "models" / "msal-net" / "config.pbtxt").read_text(encoding="utf-8")
    return folder / "served", text_format.Parse(text, model_config_pb2.ModelConfig())


def shapes(config: Any) -> list[tuple[int, ...]]:
    return [(one.batch_size, *one.inputs["image"].dims) for one in config.model_warmup]


# ---- shapes


def test_readme_and_spec_show_the_sizes_of_the_plans(planned: Bundle, tmp_path: Path) -> None:
    folder, config = write(planned, tmp_path)
    image = "batch, 1 to 16 × height, 128 to 512 by 32 × width, 128 to 512 by 32 × 3"
    assert f"| `image` | uint8 | {image} |" in (folder / "README.md").read_text(encoding="utf-8")
    spec = json.loads(config.parameters["model_spec"].string_value)
    for tensor, axes in (("image", (0, 1, 2)), ("probability", (0, 2, 3))):
        ranges = [(spec[tensor]["axes"][axis]["minimum"], spec[tensor]["axes"][axis]["maximum"]) for axis in axes]
        assert ranges == [(1, 16), (128, 512), (128, 512)]


def test_graphs_are_warmed_up_at_512_px_and_at_the_given_sizes(bundle: Bundle, tmp_path: Path) -> None:
    words = ["package", bundle.path, "triton", "--out", tmp_path / "served", "--size", "1024", "--size", "64x96"]
    result = CliRunner().invoke(app, [str(word) for word in [*words, "--size", "512"]])
    assert result.exit_code == 0, result.output
    config = text_format.Parse(
        (tmp_path / "served" / "models" / "msal-net" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    assert shapes(config) == [(1, 256, 256, 3), (1, 512, 512, 3), (1, 1024, 1024, 3), (1, 64, 96, 3)]
    for one in config.model_warmup:
        tile = tmp_path / "served" / "models" / "msal-net" / "warmup" / one.inputs["image"].input_data_file
        height, width, channels = one.inputs["image"].dims
        assert tile.stat().st_size == height * width * channels


def test_compiled_shapes_hold_all_that_are_warmed_up(bundle: Bundle, tmp_path: Path) -> None:
    _, config = write(bundle, tmp_path, sizes=((64, 64), (96, 96), (128, 128), (160, 160)))
    assert config.parameters["shapes"].string_value == "6"


def test_plans_are_not_warmed_up_beyond_their_profile(planned: Bundle, tmp_path: Path) -> None:
    small = put_plan(planned, "7.5", profile=replace(PROFILE, max=(16, 384, 384)))
    _, config = write(small, tmp_path, sizes=((256, 256),))
    assert shapes(config) == [(1, 384, 320, 3), (1, 256, 256, 3), (4, 384, 320, 3)]
    with pytest.raises(BadInput, match="Expected a height from 128 to 384, got 512"):
        write(small, tmp_path / "other", sizes=((512, 512),))


def test_size_applies_to_triton_alone(bundle: Bundle, tmp_path: Path) -> None:
    words = ["package", str(bundle.path), "cpp", "--out", str(tmp_path / "out"), "--size", "512"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "--size does not apply to cpp; leave it out" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_warm_ups_are_the_usual_ones_of_any_specification(bundle: Bundle) -> None:
    from msal_deploy.package.triton_backends import choose_serving

    serving = choose_serving(bundle, PackageOptions())
    assert warm_ups(ModelSpec(), serving, (256, 320), ()) == [(1, 256, 320), (1, 512, 512)]


# ---- GPUs


def test_plans_overlap_copies_and_replay_cuda_graphs(planned: Bundle, tmp_path: Path) -> None:
    _, config = write(planned, tmp_path)
    (group,) = config.instance_group
    assert (group.count, list(group.gpus)) == (2, [0])
    optimization = config.optimization
    assert optimization.cuda.graphs and optimization.cuda.output_copy_stream
    assert optimization.input_pinned_memory.enable and optimization.output_pinned_memory.enable
    graphs = [(graph.batch_size, *graph.input["image"].dim) for graph in optimization.cuda.graph_spec]
    assert graphs == [(1, 384, 320, 3), (1, 512, 512, 3), (4, 384, 320, 3)] == shapes(config)


def test_onnx_runtime_on_a_gpu_does_not_time_every_algorithm(bundle: Bundle, tmp_path: Path) -> None:
    _, config = write(bundle, tmp_path, backend="onnxruntime", gpu="t4")
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1"
    assert list(config.instance_group[0].gpus) == [0] and not config.HasField("optimization")
    assert shapes(config) == [(1, 256, 256, 3), (1, 512, 512, 3)]


def test_onnx_runtime_on_the_cpu_has_no_settings_of_gpus(bundle: Bundle, tmp_path: Path) -> None:
    _, config = write(bundle, tmp_path, backend="onnxruntime")
    assert "cudnn_conv_algo_search" not in config.parameters and not config.instance_group[0].gpus


def test_int8_for_onnx_runtime_on_a_gpu_is_refused(int8_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no kernels for an INT8 graph .*; use --backend tensorrt"):
        write(int8_bundle, tmp_path, precision="int8", backend="onnxruntime", gpu="rtx-3090")
    assert not (tmp_path / "served").exists()


# ---- files to run it


@pytest.mark.parametrize("gpu", [False, True])
def test_compose_publishes_all_ports_on_this_machine_alone(planned: Bundle, tmp_path: Path, gpu: bool) -> None:
    folder, _ = write(planned, tmp_path, backend="tensorrt" if gpu else "openvino")
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002)]
    assert ("deploy" in service) == gpu
    if gpu:
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": ["${GPU:-0}"], "capabilities": ["gpu"]}


def test_image_holds_the_checked_models_and_serve_py(planned: Bundle, tmp_path: Path) -> None:
    folder, _ = write(planned, tmp_path)
    lines = (folder / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:] for line in lines if line.startswith("COPY ")]
    assert copied == [["serve.py", "/"], ["models", "/models"]]
    assert all((folder / name).exists() for name, _ in copied)
    assert lines[-1] == "RUN python3 /serve.py --check /models"


def test_readme_limits_requests_by_http_where_triton_does(planned: Bundle, tmp_path: Path) -> None:
    """The option exists from Triton 2.59 on, in the images from 25.07 on."""
    older = put_plan(copy_of(planned, tmp_path / "older"), "7.5", "8.6.1")
    for bundle, limited in ((planned, True), (older, False)):
        folder, _ = write(bundle, bundle.path.parent / f"limited {limited}", gpu=None)
        assert ("at most 64 MiB" in (folder / "README.md").read_text()) == limited


REQUIRED = {
    "Deployment": ("spec.selector.matchLabels", "spec.template.metadata.labels", "spec.template.spec.containers"),
    "Service": ("spec.selector", "spec.ports"),
}


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document[key]
    return document


@pytest.mark.parametrize("gpu", [False, True])
def test_kubernetes_manifest(planned: Bundle, tmp_path: Path, gpu: bool) -> None:
    folder, _ = write(planned, tmp_path, backend="tensorrt" if gpu else "openvino")
    deployment, service = yaml.safe_load_all((folder / "kubernetes.yaml").read_text(encoding="utf-8"))
    for document, version in ((deployment, "apps/v1"), (service, "v1")):
        assert document["apiVersion"] == version and document["metadata"]["name"] == "msal-net"
        assert all(at(document, path) for path in REQUIRED[document["kind"]])
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert [port["targetPort"] for port in service["spec"]["ports"]] == list(ports)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports and container[probe]["httpGet"]["path"].startswith("/v2/")
    assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["spec"]["volumes"]}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == gpu
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_kubernetes_stops_later_than_triton(bundle: Bundle, tmp_path: Path) -> None:
    folder, _ = write(bundle, tmp_path)
    deployment, _ = yaml.safe_load_all((folder / "kubernetes.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (option,) = (one for one in pod["containers"][0]["args"] if one.startswith("--exit-timeout="))
    assert pod["terminationGracePeriodSeconds"] > int(option.partition("=")[2])


# ---- serve.py with the Triton of a machine or container


def serve(folder: Path, script: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run serve.py with a shell script as the tritonserver of the machine."""
    program = folder.parent / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    words = [sys.executable, "serve.py", "models", *options]
    return subprocess.run(words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)


def test_serve_uses_the_triton_of_the_machine(bundle: Bundle, tmp_path: Path) -> None:
    """As in the image: no wheel, and options that Triton gets as they stand."""
    folder, _ = write(bundle, tmp_path, backend="onnxruntime")
    options = ("--host=0.0.0.0", "--exit-timeout=30", "--log-verbose=1")
    done = serve(folder, 'printf "%s\\n" "$@"; exit 7', *options)
    assert done.returncode == 7, done.stderr
    said = done.stdout.splitlines()
    expected = {"--model-repository=models", "--http-address=0.0.0.0", "--metrics-port=8002", "--log-verbose=1"}
    assert expected <= set(said) and "--exit-timeout-secs=30" in said
    assert not [word for word in said if word.startswith(("--backend-directory", "--allow-metrics"))]


def test_serve_hides_damaged_versions_from_any_triton(bundle: Bundle, tmp_path: Path) -> None:
    folder, _ = write(bundle, tmp_path, backend="onnxruntime")
    model = folder / "models" / "msal-net"
    shutil.copytree(model / "1", model / "2")
    (model / "2" / "model.onnx").write_bytes(b"damaged")
    done = serve(folder, 'find -L "${1#--model-repository=}" -name model.onnx')
    assert done.returncode == 0 and "models/msal-net/2 is damaged" in done.stderr
    (found,) = done.stdout.splitlines()
    assert found.endswith("models/msal-net/1/model.onnx")
