"""Build kits run end to end: build.sh, kit.py and check_golden.py, with a fake trtexec as strict as the real one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from kits import FAKE, TARGETS, environment, put, world

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.graph import layers, load_graph
from msal_deploy.package import PackageOptions, build_kit, choose_options, write_package
from msal_deploy.package.build_kit.write import TEMPLATES, flags8
from msal_deploy.targets import find_target, target_names
from msal_deploy.trt import layer_precisions
from msal_deploy.trt.layer_precisions import check_layers, check_requested, precision_shares, read_layers
from msal_deploy.trt.plan_checks import find_plan, preflight
from msal_deploy.trt.plan_metadata import read_metadata


def plans(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "kit" / "plans").glob("*"))


@pytest.mark.parametrize("version", TARGETS)
def test_plan_is_built_tested_and_accepted_by_the_bundle(run, typed_bundle, tmp_path, version):
    gpu, precision = TARGETS[version]
    done = run(gpu, precision, precision=precision, world=world(version))
    assert done.code == 0, done
    sm = world(version)["sm"]
    name = f"model.{precision}.sm{sm.replace('.', '')}.tensorrt.plan"
    assert plans(tmp_path) == [name, f"{name}.json"]
    assert f"{precision}: 100.0% in {precision}" in done.out
    assert "passed: largest |dp|" in done.out
    assert "4x512x512x3 on the GPU: min = 9.1 ms" in done.out

    bundle = Bundle(Path(shutil.copytree(typed_bundle.path, tmp_path / "bundle", copy_function=os.link)))
    done = subprocess.run(
        [sys.executable, tmp_path / "kit" / "kit.py", "add", bundle.path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done
    bundle = Bundle(bundle.path)
    assert bundle.file(name) and bundle.file(f"{name}.json")
    plan_file = find_plan(bundle, precision, "tensorrt", sm)
    plan = preflight(plan_file, bundle, backend_version=version, sm=sm, shape=(8, 1024, 1024))
    assert (plan.requested, plan.gpu, plan.backend_version, plan.sm) == (precision, gpu, version, (sm,))
    assert plan.actual.read_from == "inspector"
    assert plan.actual.shares[precision].of_flops > 0.99
    assert plan.profile.opt == (4, 512, 512)
    with pytest.raises(BadInput, match=r"9\.9\.9"):
        preflight(plan_file, bundle, backend_version="9.9.9")


def test_default_is_all_preferred_precisions_the_best_first(run, tmp_path):
    done = run("gtx-1080-ti")
    assert done.code == 0, done
    assert [name for name in plans(tmp_path) if name.endswith(".plan")] == [
        "model.fp32.sm61.tensorrt.plan",
        "model.int8.sm61.tensorrt.plan",
    ]
    assert done.out.index("int8: building with TensorRT 8.6.1") < done.out.index("fp32: building")
    assert not (tmp_path / "kit" / "model.fp16.onnx").exists()


def test_fp16_on_pascal_warns_and_is_timed_with_fp32(run, make_kit, typed_bundle, tmp_path):
    report = write_package(typed_bundle, "build-kit", tmp_path / "other", PackageOptions("fp16", "gtx-1080-ti"))
    assert "1/64" in report.next_step
    assert "1/64" in (tmp_path / "other" / "README.md").read_text()
    done = run("gtx-1080-ti", precision="fp16")
    assert done.code == 0, done
    assert all(f"{precision}: 4x512x512x3 on the GPU" in done.out for precision in ("fp16", "fp32"))


def test_flags_of_tensorrt_8_constrain_each_layer(typed_bundle):
    assert flags8(load_graph(typed_bundle.file("model.fp32.onnx"))) == []
    assert flags8(load_graph(typed_bundle.file("model.int8.onnx"))) == ["--int8"]
    fp16 = load_graph(typed_bundle.file("model.fp16.onnx"))
    permit, obey, constraints = flags8(fp16)
    assert (permit, obey) == ("--fp16", "--precisionConstraints=obey")
    assert constraints.startswith("--layerPrecisions=")
    kinds = dict(word.rsplit(":", 1) for word in constraints.partition("=")[2].split(","))
    assert {kinds[layer.name] for layer in layers(fp16)} == {"fp16"}
    assert kinds[fp16.graph.node[-1].name] == "fp32"  # the sigmoid


def test_plan_in_another_precision_is_rejected(run, tmp_path):
    done = run("gtx-1080-ti", "int8", world={"computes": "fp32"})
    assert done.code == 1
    assert "FAILED: the plan was requested in int8, but its FLOPs are 100.0% in fp32" in done.out
    assert done.err.count("Error: ") == 1
    name = "model.int8.sm61.tensorrt.plan.rejected"
    assert plans(tmp_path) == [name, f"{name}.json"]
    assert read_metadata(tmp_path / "kit" / "plans" / name).actual.shares["fp32"].of_flops == 1
    assert run("gtx-1080-ti", "int8").code == 0  # an accepted plan removes the rejected one
    assert not [name for name in plans(tmp_path) if "rejected" in name]


def test_plan_with_wrong_results_is_rejected(run, tmp_path):
    done = run("gtx-1080-ti", "fp32", world={"off": 0.01})
    assert done.code == 1
    assert "FAILED: largest |dp| 1.00e-02" in done.out
    assert done.err.count("Error: ") == 1
    assert plans(tmp_path)[0] == "model.fp32.sm61.tensorrt.plan.rejected"


def test_shapes_and_workspace_are_passed_on(run, tmp_path):
    done = run("gtx-1080-ti", "int8", MIN="2x256x256x3", OPT="2x512x512x3", MAX="2x512x768x3", WORKSPACE="2048")
    assert done.code == 0, done
    plan = read_metadata(next((tmp_path / "kit" / "plans").glob("*.plan")))
    assert (plan.profile.min, plan.profile.max) == ((2, 256, 256), (2, 512, 768))
    assert plan.options.workspace_mib == 2048
    assert "--memPoolSize=workspace:2048" in (tmp_path / "kit" / "logs" / "int8.build.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "variables", "world", "code", "message"),
    [
        (["fp16"], {}, {}, 2, "This kit has no 'fp16' graph; choose from: int8 fp32"),
        (["../x"], {}, {}, 2, "This kit has no '../x' graph"),
        ([], {"MAX": "8x1000x1024x3"}, {}, 2, "'8x1000x1024x3' is not a shape"),
        ([], {"OPT": "big"}, {}, 2, "'big' is not a shape"),
        ([], {"MIN": "8x512x512x3"}, {}, 2, "MIN, OPT and MAX are not in increasing order"),
        ([], {"MIN": "4x512x512x3"}, {}, 2, "The golden tiles (2x256x256x3) are not between MIN and MAX"),
        ([], {"WORKSPACE": "2G"}, {}, 2, "'2G' is not a size in MiB"),
        ([], {"PATH": "PLAIN"}, {}, 3, "trtexec was not found; install TensorRT 8.6.1"),
        ([], {"TRTEXEC": "/nowhere/trtexec"}, {}, 3, "TRTEXEC (/nowhere/trtexec) is not a program"),
        ([], {"PATH": "BARE"}, {}, 3, "python3 with numpy is not installed"),
        ([], {}, {"dies": True}, 3, "trtexec does not start (trtexec: error while loading shared libraries"),
        (
            [],
            {},
            {"version": "10.4.0"},
            3,
            "Expected TensorRT 8.6.1 to 8.6.1 for NVIDIA GeForce GTX 1080 Ti, got 10.4.0",
        ),
        (["int8"], {}, {"builder": "fails"}, 3, "Could not find any implementation for node"),
        (
            ["int8"],
            {},
            {"sm": "7.5", "gpu": "Tesla T4"},
            3,
            "was built on Tesla T4, not on a GPU of compute capability 6.1; make a kit",
        ),
        (["int8"], {}, {"silent": True}, 1, "The precision of the plan cannot be read"),
    ],
)
def test_errors_are_one_message(run, plain_python, tmp_path, arguments, variables, world, code, message):
    (tmp_path / "bare").mkdir()
    put(tmp_path / "bare" / "python3", "#!/bin/sh\nexit 1\n")
    paths = {"PLAIN": f"{plain_python}:/usr/bin:/bin", "BARE": f"{tmp_path / 'bare'}:/usr/bin:/bin"}
    given = {name: paths.get(value, value) for name, value in variables.items()}
    done = run("gtx-1080-ti", *arguments, world=world, **given)
    assert done.code == code, done
    assert message in done.err
    assert done.err.count("Error: ") == 1
    assert "Traceback" not in done.err
    left = [path.name for path in (tmp_path / "kit").rglob("*") if path.name.startswith(".work")]
    assert not left
    assert not list((tmp_path / "kit").rglob("*.plan"))


def test_types_of_the_graph_replace_a_silent_engine_if_they_bind(run, tmp_path):
    done = run("t4", "fp16", precision="fp16", world=world("11.1.0") | {"silent": True})
    assert done.code == 0, done
    actual = read_metadata(next((tmp_path / "kit" / "plans").glob("*.plan"))).actual
    assert (actual.read_from, actual.reformats, actual.shares["fp16"].of_flops) == ("network", None, 1)


def test_ctrl_c_leaves_no_files(make_kit, tools, tmp_path):
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


AUDIT = """
import json, sys
from pathlib import Path
from layer_precisions import precision_shares
from kit import Layer, find_mismatch, read_engine

graph = [Layer(*layer) for layer in json.load(open(sys.argv[1]))]
actual = read_engine(Path(sys.argv[2]))
mismatch = find_mismatch("int8", graph, actual.precisions, True)
print(json.dumps([actual, precision_shares(graph, actual.precisions), mismatch]))
"""


def test_kit_audits_engines_like_the_package(typed_bundle, make_kit, plain_python, tmp_path):
    graph = layers(load_graph(typed_bundle.file("model.int8.onnx")))
    formats = ["Row major linear FP32", "Half", "Thirty-two wide channel vectorized row major Int8 format", "BFloat16"]
    fusions = ["__myl_Fc_myl0_1", "__myl_Conv_myl0_2", "__myl_CorrAddAdd_myl0_3"]
    listed = [
        {
            "Name": f"w + {layer.name} + PWN(x)" if index % 2 else fusions[index // 2 % 3],
            "LayerType": ["CaskConvolution", "kgen", "gemm"][index % 3],
            "Inputs": [{"Format/Datatype": "Int32"}, {"Format/Datatype": formats[index % 4]}],
            "Metadata": f"[ONNX Layer: {layer.name}]\x1e[ONNX Layer: /other]" if index % 5 else "",
        }
        for index, layer in enumerate(graph)
    ]
    listed += [
        {"Name": "Reformatting CopyNode for " + graph[0].name, "LayerType": "Reformat", "Inputs": []},
        {"Name": "__myl_MoveReplConc_myl0_2", "LayerType": "kgen", "Metadata": f"[ONNX Layer: {graph[1].name}]"},
        {"Name": graph[2].name, "LayerType": "NoOp", "Weights": {"Type": "Half"}},
        {"Name": "__myl_Fc_myl0_1", "Inputs": [{"Format/Datatype": "Half"}], "Metadata": "[ONNX Layer: /fused]"},
    ]
    (tmp_path / "layers.json").write_text(json.dumps({"Layers": [*listed, "only a name"]}))
    (tmp_path / "graph.json").write_text(json.dumps([(layer.name, layer.precision, layer.macs) for layer in graph]))
    done = subprocess.run(
        [plain_python / "python3", "-c", AUDIT, tmp_path / "graph.json", tmp_path / "layers.json"],
        cwd=make_kit("gtx-1080-ti"),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = read_layers("inspector", listed)
    assert expected is not None
    assert expected.precisions["/fused"] == "fp16"
    mismatch = check_requested("int8", graph, expected.precisions) or check_layers(
        graph, expected.precisions, wider=False
    )
    shares = precision_shares(graph, expected.precisions)
    assert json.loads(done.stdout) == json.loads(json.dumps([expected, shares, mismatch]))


def test_kit_contains_the_module_of_the_package(make_kit):
    copied = make_kit("gtx-1080-ti") / "layer_precisions.py"
    assert copied.read_bytes() == Path(layer_precisions.__file__).read_bytes()


def test_kit_json_describes_the_graphs_of_the_bundle(make_kit, typed_bundle):
    folder = make_kit("gtx-1080-ti")
    kit = json.loads((folder / "kit.json").read_text())
    for precision, graph in kit["graphs"].items():
        assert graph["sha256"] == sha256(folder / f"model.{precision}.onnx")
        assert graph["sha256"] == typed_bundle.manifest.artifacts[graph["file"]].sha256
        expected = layers(load_graph(folder / graph["file"]), batch=4, height=512, width=512)
        assert graph["layers"] == [[layer.name, layer.precision, layer.macs] for layer in expected]


@pytest.mark.parametrize("gpu", sorted(name for name in target_names() if find_target(name).like is None))
def test_script_of_every_target_passes_shellcheck(typed_bundle, make_kit, tmp_path, gpu):
    shutil.copytree(make_kit("gtx-1080-ti") / "golden", tmp_path / "golden", copy_function=os.link)
    build_kit.write(typed_bundle, tmp_path, choose_options("build-kit", gpu=gpu))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for script in (tmp_path / "build.sh", tmp_path / "docker.sh"):
        subprocess.run(["sh", "-n", script], check=True)
        done = subprocess.run([shellcheck, "--shell=sh", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    rendered = "".join((tmp_path / name).read_text() for name in TEMPLATES)
    assert "{{" not in rendered
    assert "{%" not in rendered


def test_kit_has_only_graphs_of_the_bundle(bundle, tmp_path):
    write_package(bundle, "build-kit", tmp_path / "kit", choose_options("build-kit", gpu="gtx-1080-ti"))
    assert {path.name for path in (tmp_path / "kit").glob("*.onnx")} == {"model.fp32.onnx"}
    with pytest.raises(BadInput, match=r"model\.int8\.onnx is not in"):
        write_package(bundle, "build-kit", tmp_path / "other", choose_options("build-kit", "int8", "gtx-1080-ti"))


def test_graph_that_the_target_does_not_support_is_refused(typed_bundle, tmp_path):
    from msgspec.structs import replace

    from msal_deploy.bundle import artifact, write_manifest

    folder = Path(shutil.copytree(typed_bundle.path, tmp_path / "bundle"))
    model = load_graph(folder / "model.int8.onnx")
    model.opset_import[0].version = 19
    onnx.save(model, folder / "model.int8.onnx")
    entries = typed_bundle.manifest.artifacts | {"model.int8.onnx": artifact(folder, "model.int8.onnx")}
    write_manifest(folder, replace(typed_bundle.manifest, artifacts=entries))
    with pytest.raises(BadInput, match=r"TensorRT 8\.6\.1 does not support this graph.*opset 19"):
        write_package(Bundle(folder), "build-kit", tmp_path / "kit", choose_options("build-kit", gpu="gtx-1080-ti"))
    assert not (tmp_path / "kit").exists()
