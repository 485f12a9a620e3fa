"""Build kits, run for real: build.sh, kit.py and check_golden.py over a trtexec that refuses what the real one does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.graph import layers, load_graph
from msal_deploy.package import PackageOptions, build_kit, choose_options, write_package
from msal_deploy.package.build_kit import kit
from msal_deploy.package.build_kit.write import TEMPLATES, flags8
from msal_deploy.targets import find_target, target_names
from msal_deploy.trt.audit import find_fault, realised
from msal_deploy.trt.layer_precisions import read_layers
from msal_deploy.trt.plan_checks import find_plan, preflight
from msal_deploy.trt.plan_metadata import read_metadata

FAKE = Path(__file__).with_name("fake_trtexec.py")
# Version -> a target that it serves, and a precision that pays there.
TARGETS = {
    "8.6.1": ("gtx-1080-ti", "int8"),
    "10.4.0": ("v100", "fp16"),
    "10.16.0": ("rtx-3090", "int8"),
    "11.1.0": ("t4", "fp16"),
}


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def make_kit(typed_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a kit for a GPU, made once; not to be changed by a test."""
    made: dict[tuple[str, str | None], Path] = {}

    def make(gpu: str, precision: str | None = None) -> Path:
        if (gpu, precision) not in made:
            made[gpu, precision] = tmp_path_factory.mktemp("kits") / "kit"
            write_package(typed_bundle, "build-kit", made[gpu, precision], choose_options("build-kit", precision, gpu))
        return made[gpu, precision]

    return make


@pytest.fixture
def tools(plain_python: Path, tmp_path: Path) -> Path:
    """A folder for the PATH: the fake trtexec, and a Python with numpy alone."""
    folder = tmp_path / "tools"
    folder.mkdir()
    put(folder / "trtexec", f'#!/bin/sh\nunset PYTHONPATH\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    (folder / "python3").symlink_to(plain_python / "python3")
    return folder


def put(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def run(make_kit: Callable[..., Path], tools: Path, tmp_path: Path) -> Callable[..., Done]:
    """Run build.sh of a copy of a kit, in ``tmp_path/kit``."""

    def run(
        gpu: str, *words: str, precision: str | None = None, world: dict[str, Any] | None = None, **variables: str
    ) -> Done:
        if not (tmp_path / "kit").exists():
            shutil.copytree(make_kit(gpu, precision), tmp_path / "kit", copy_function=os.link)
        done = subprocess.run(
            ["sh", tmp_path / "kit" / "build.sh", *words],
            env=environment(tools, world, **variables),
            cwd=tmp_path,  # it finds its own folder
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def environment(tools: Path, world: dict[str, Any] | None, **variables: str) -> dict[str, str]:
    return {"PATH": f"{tools}:/usr/bin:/bin", "FAKE_TRTEXEC": json.dumps(world or {}), **variables}


def world(version: str) -> dict[str, str]:
    target = find_target(TARGETS[version][0])
    return {"version": version, "sm": target.sm, "gpu": target.gpu}


def plans(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "kit" / "plans").glob("*"))


@pytest.mark.parametrize("version", TARGETS)
def test_a_plan_is_built_proved_and_brought_home(run, typed_bundle, tmp_path, version):
    gpu, precision = TARGETS[version]
    done = run(gpu, precision, precision=precision, world=world(version))
    assert done.code == 0, done
    sm = world(version)["sm"]
    name = f"model.{precision}.sm{sm.replace('.', '')}.tensorrt.plan"
    assert plans(tmp_path) == [name, f"{name}.json"]
    assert f"{precision}: 100.0% in {precision}" in done.out
    assert "passed: largest |dp|" in done.out
    assert "4x512x512x3 on the GPU: min = 9.1 ms" in done.out

    home = Bundle(Path(shutil.copytree(typed_bundle.path, tmp_path / "home", copy_function=os.link)))
    for file in (tmp_path / "kit" / "plans").iterdir():
        shutil.copy(file, home.path)
    found = find_plan(home, precision, "tensorrt", sm)
    plan = preflight(found, home, backend_version=version, sm=sm, shape=(8, 1024, 1024))
    assert (plan.requested, plan.gpu, plan.backend_version, plan.sm) == (precision, gpu, version, (sm,))
    assert plan.realised.read_from == "inspector"
    assert plan.realised.shares[precision].of_flops > 0.99
    assert plan.profile.opt == (4, 512, 512)
    with pytest.raises(BadInput, match=r"9\.9\.9"):
        preflight(found, home, backend_version="9.9.9")


def test_by_default_all_that_pay_are_built_the_best_first(run, tmp_path):
    done = run("gtx-1080-ti")
    assert done.code == 0, done
    assert [name for name in plans(tmp_path) if name.endswith(".plan")] == [
        "model.fp32.sm61.tensorrt.plan",
        "model.int8.sm61.tensorrt.plan",
    ]
    assert done.out.index("int8: building with TensorRT 8.6.1") < done.out.index("fp32: building")
    assert not (tmp_path / "kit" / "model.fp16.onnx").exists()


def test_fp16_on_pascal_is_warned_about_and_timed_beside_fp32(run, make_kit, typed_bundle, tmp_path):
    report = write_package(typed_bundle, "build-kit", tmp_path / "other", PackageOptions("fp16", "gtx-1080-ti"))
    assert "1/64" in report.next_step
    assert "1/64" in (tmp_path / "other" / "README.md").read_text()
    done = run("gtx-1080-ti", precision="fp16")
    assert done.code == 0, done
    assert all(f"{precision}: 4x512x512x3 on the GPU" in done.out for precision in ("fp16", "fp32"))


def test_in_tensorrt_8_each_layer_is_told_its_type(typed_bundle):
    assert flags8(load_graph(typed_bundle.file("model.fp32.onnx"))) == []
    assert flags8(load_graph(typed_bundle.file("model.int8.onnx"))) == ["--int8"]
    half = load_graph(typed_bundle.file("model.fp16.onnx"))
    permit, obey, told = flags8(half)
    assert (permit, obey) == ("--fp16", "--precisionConstraints=obey")
    assert told.startswith("--layerPrecisions=")
    kinds = dict(word.rsplit(":", 1) for word in told.partition("=")[2].split(","))
    assert {kinds[layer.name] for layer in layers(half)} == {"fp16"}
    assert kinds[half.graph.node[-1].name] == "fp32"  # the sigmoid


def test_a_plan_of_another_precision_is_kept_aside_and_the_others_are_built(run, tmp_path):
    done = run("gtx-1080-ti", "int8", world={"computes": "fp32"})
    assert done.code == 1
    assert "FAILED: the plan was asked for in int8 and computes its FLOPs 100.0% in fp32" in done.out
    assert done.err.count("Error: ") == 1
    name = "model.int8.sm61.tensorrt.plan.rejected"
    assert plans(tmp_path) == [name, f"{name}.json"]
    assert read_metadata(tmp_path / "kit" / "plans" / name).realised.shares["fp32"].of_flops == 1
    assert run("gtx-1080-ti", "int8").code == 0  # and goes once there is a good one
    assert not [name for name in plans(tmp_path) if "rejected" in name]


def test_a_plan_that_computes_something_else_is_kept_aside(run, tmp_path):
    done = run("gtx-1080-ti", "fp32", world={"off": 0.01})
    assert done.code == 1
    assert "FAILED: largest |dp| 1.00e-02" in done.out
    assert done.err.count("Error: ") == 1
    assert plans(tmp_path)[0] == "model.fp32.sm61.tensorrt.plan.rejected"


def test_other_shapes_and_a_workspace(run, tmp_path):
    done = run("gtx-1080-ti", "int8", MIN="2x256x256x3", OPT="2x512x512x3", MAX="2x512x768x3", WORKSPACE="2048")
    assert done.code == 0, done
    plan = read_metadata(next((tmp_path / "kit" / "plans").glob("*.plan")))
    assert (plan.profile.min, plan.profile.max) == ((2, 256, 256), (2, 512, 768))
    assert plan.options.workspace_mib == 2048
    assert "--memPoolSize=workspace:2048" in (tmp_path / "kit" / "logs" / "int8.build.log").read_text()


@pytest.mark.parametrize(
    ("words", "variables", "world", "code", "sentence"),
    [
        (["fp16"], {}, {}, 2, "This kit has no graph of 'fp16'; it has: int8 fp32"),
        (["../x"], {}, {}, 2, "This kit has no graph of '../x'"),
        ([], {"MAX": "8x1000x1024x3"}, {}, 2, "'8x1000x1024x3' is no shape"),
        ([], {"OPT": "big"}, {}, 2, "'big' is no shape"),
        ([], {"MIN": "8x512x512x3"}, {}, 2, "Each extent of MIN must be at most OPT's"),
        ([], {"MIN": "4x512x512x3"}, {}, 2, "must take in the golden tiles' 2x256x256x3"),
        ([], {"WORKSPACE": "2G"}, {}, 2, "'2G' is no workspace"),
        ([], {"PATH": "PLAIN"}, {}, 3, "trtexec was not found; install TensorRT 8.6.1"),
        ([], {"TRTEXEC": "/nowhere/trtexec"}, {}, 3, "TRTEXEC names /nowhere/trtexec, which is no program"),
        ([], {"PATH": "BARE"}, {}, 3, "python3 with numpy is needed"),
        ([], {}, {"dies": True}, 3, "trtexec does not start (trtexec: error while loading shared libraries"),
        (
            [],
            {},
            {"version": "10.4.0"},
            3,
            "TensorRT 10.4.0 is here, and NVIDIA GeForce GTX 1080 Ti is served by 8.6.1",
        ),
        (["int8"], {}, {"builder": "fails"}, 3, "Could not find any implementation for node"),
        (
            ["int8"],
            {},
            {"sm": "7.5", "gpu": "Tesla T4"},
            3,
            "was built on Tesla T4, which is not 6.1; make a kit",
        ),
        (["int8"], {}, {"silent": True}, 1, "What the plan computes in cannot be read"),
    ],
)
def test_what_is_wrong_is_one_sentence(run, plain_python, tmp_path, words, variables, world, code, sentence):
    (tmp_path / "bare").mkdir()
    put(tmp_path / "bare" / "python3", "#!/bin/sh\nexit 1\n")
    paths = {"PLAIN": f"{plain_python}:/usr/bin:/bin", "BARE": f"{tmp_path / 'bare'}:/usr/bin:/bin"}
    given = {name: paths.get(value, value) for name, value in variables.items()}
    done = run("gtx-1080-ti", *words, world=world, **given)
    assert done.code == code, done
    assert sentence in done.err
    assert done.err.count("Error: ") == 1
    assert "Traceback" not in done.err
    left = [path.name for path in (tmp_path / "kit").rglob("*") if path.name.startswith(".work")]
    assert not left
    assert not list((tmp_path / "kit").rglob("*.plan"))


def test_another_gpu_is_seen_before_anything_is_built(run, tools, tmp_path):
    put(tools / "nvidia-smi", "#!/bin/sh\necho 7.5\necho 8.6\n")
    done = run("gtx-1080-ti")
    assert (done.code, "compute capability 7.5, 8.6, and the kit is for 6.1" in done.err) == (3, True)
    put(tools / "nvidia-smi", "#!/bin/sh\necho 7.5\necho 6.1\n")
    assert run("gtx-1080-ti", "int8").code == 0


def test_where_the_engine_names_no_layers_types_that_bind_speak_for_it(run, tmp_path):
    done = run("t4", "fp16", precision="fp16", world=world("11.1.0") | {"silent": True})
    assert done.code == 0, done
    found = read_metadata(next((tmp_path / "kit" / "plans").glob("*.plan"))).realised
    assert (found.read_from, found.reformats, found.shares["fp16"].of_flops) == ("network", None, 1)


def test_ctrl_c_leaves_no_plan_and_no_litter(make_kit, tools, tmp_path):
    put(
        tools / "trtexec",
        f'#!/bin/sh\ncase "$*" in *--onnx*) sleep 60 ;; esac\nexec "{sys.executable}" "{FAKE}" "$@"\n',
    )
    folder = Path(shutil.copytree(make_kit("gtx-1080-ti"), tmp_path / "kit", copy_function=os.link))
    process = subprocess.Popen(
        ["sh", folder / "build.sh"],
        env=environment(tools, {}),
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "building" in process.stdout.readline()
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert not list((folder / "plans").iterdir())


def test_the_kit_reads_engines_as_the_builder_does(typed_bundle, make_kit, tmp_path):
    """kit.py must do without msal-deploy, so it reads layers by itself: it must read them the same."""
    graph = layers(load_graph(typed_bundle.file("model.int8.onnx")))
    words = ["Row major linear FP32", "Half", "Thirty-two wide channel vectorized row major Int8 format", "BFloat16"]
    listed = [
        {
            "Name": f"w + {layer.name} + PWN(x)" if index % 2 else f"__myl_Conv_myl0_{index}",
            "LayerType": ["CaskConvolution", "kgen", "gemm"][index % 3],
            "Inputs": [{"Format/Datatype": "Int32"}, {"Format/Datatype": words[index % 4]}],
            "Metadata": f"[ONNX Layer: {layer.name}]\x1e[ONNX Layer: /other]" if index % 5 else "",
        }
        for index, layer in enumerate(graph)
    ]
    listed += [
        {"Name": "Reformatting CopyNode for " + graph[0].name, "LayerType": "Reformat", "Inputs": []},
        {"Name": "__myl_MoveReplConc_myl0_2", "LayerType": "kgen", "Metadata": f"[ONNX Layer: {graph[1].name}]"},
        {"Name": graph[2].name, "LayerType": "NoOp", "Weights": {"Type": "Half"}},
    ]
    (tmp_path / "layers.json").write_text(json.dumps({"Layers": [*listed, "only a name"]}))
    theirs = read_layers("inspector", listed)
    assert theirs is not None
    precisions, reformats = kit.read_layers(tmp_path / "layers.json")
    assert (precisions, reformats) == (theirs.precisions, theirs.reformats)
    told = [(layer.name, layer.precision, layer.macs) for layer in graph]
    found = realised(graph, theirs)
    shares = kit.share(told, precisions)
    assert {name: list(share.values()) for name, share in shares.items()} == {
        name: pytest.approx([share.layers, share.of_layers, share.of_flops]) for name, share in found.shares.items()
    }
    assert bool(kit.fault("int8", told, precisions, allow_wider=True)) == bool(find_fault("int8", graph, found))


def test_kit_json_is_what_the_bundle_says(make_kit, typed_bundle):
    folder = make_kit("gtx-1080-ti")
    about = json.loads((folder / "kit.json").read_text())
    for precision, graph in about["graphs"].items():
        assert graph["sha256"] == sha256(folder / f"model.{precision}.onnx")
        assert graph["sha256"] == typed_bundle.manifest.artifacts[graph["file"]].sha256
        found = layers(load_graph(folder / graph["file"]), batch=4, height=512, width=512)
        assert graph["layers"] == [[layer.name, layer.precision, layer.macs] for layer in found]


@pytest.mark.parametrize("gpu", sorted(name for name in target_names() if find_target(name).like is None))
def test_the_scripts_of_every_kind_of_target_are_sound(typed_bundle, make_kit, tmp_path, gpu):
    shutil.copytree(make_kit("gtx-1080-ti") / "golden", tmp_path / "golden", copy_function=os.link)
    build_kit.write(typed_bundle, tmp_path, choose_options("build-kit", gpu=gpu))
    script = tmp_path / "build.sh"
    subprocess.run(["sh", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "--shell=sh", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    rendered = "".join((tmp_path / name).read_text() for name in TEMPLATES)
    assert "{{" not in rendered
    assert "{%" not in rendered


def test_the_image_is_the_targets_and_needs_nothing_of_the_kit(make_kit):
    import yaml

    folder = make_kit("gtx-1080-ti")
    assert "FROM nvcr.io/nvidia/tensorrt:23.07-py3\n" in (folder / "Dockerfile").read_text()
    assert "COPY" not in (folder / "Dockerfile").read_text()
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["kit"]
    assert service["volumes"] == [".:/kit"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_a_bundle_without_int8_gives_what_it_has(bundle, tmp_path):
    write_package(bundle, "build-kit", tmp_path / "kit", choose_options("build-kit", gpu="gtx-1080-ti"))
    assert {path.name for path in (tmp_path / "kit").glob("*.onnx")} == {"model.fp32.onnx"}
    with pytest.raises(BadInput, match=r"model\.int8\.onnx is not in"):
        write_package(bundle, "build-kit", tmp_path / "other", choose_options("build-kit", "int8", "gtx-1080-ti"))


def test_a_graph_that_the_targets_tensorrt_cannot_read(typed_bundle, tmp_path):
    from msgspec.structs import replace

    from msal_deploy.bundle import artifact, write_manifest

    folder = Path(shutil.copytree(typed_bundle.path, tmp_path / "bundle"))
    model = load_graph(folder / "model.int8.onnx")
    model.opset_import[0].version = 19
    onnx.save(model, folder / "model.int8.onnx")
    entries = typed_bundle.manifest.artifacts | {"model.int8.onnx": artifact(folder, "model.int8.onnx")}
    write_manifest(folder, replace(typed_bundle.manifest, artifacts=entries))
    with pytest.raises(BadInput, match=r"TensorRT 8\.6\.1 does not read this graph.*opset 19"):
        write_package(Bundle(folder), "build-kit", tmp_path / "kit", choose_options("build-kit", gpu="gtx-1080-ti"))
    assert not (tmp_path / "kit").exists()
