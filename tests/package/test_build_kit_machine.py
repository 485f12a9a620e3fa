"""Build kits on a user's machine: the container, several GPUs, the timing cache, and polygraphy's second opinion."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kits import put

POLYGRAPHY = json.loads(Path(__file__).with_name("polygraphy_options.json").read_text())
DOCKER = """#!/bin/sh
# A fake docker: it records its arguments, one a line, and has the image if $HAS_IMAGE is set.
printf '%s\\n' "$@" ";" >>"$RECORD"
case $1 in
image) [ -n "${HAS_IMAGE:-}" ] ;;
run) touch plans-of-the-container ;;
esac
"""


@pytest.fixture
def docker(make_kit, tmp_path):
    """Run docker.sh of a kit as another user than root, if these tests run as root; return the commands of docker."""
    kit = shutil.copytree(make_kit("gtx-1080-ti"), tmp_path / "a kit")  # with a space
    (tmp_path / "bin").mkdir()
    put(tmp_path / "bin" / "docker", DOCKER)
    other = 65534 if os.getuid() == 0 else os.getuid()
    if os.getuid() == 0:
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.chown(path, other, other)
        for parent in tmp_path.parents:
            if parent.stat().st_uid == 0 and parent.name.startswith(("pytest-", "popen-", "test_")):
                parent.chmod(0o755)

    def run(*words: str, **variables: str) -> list[list[str]]:
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        done = subprocess.run(
            ["sh", kit / "docker.sh", *words],
            env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "RECORD": str(record), **variables},
            cwd="/",
            user=other,
            group=other,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [part.strip("\n").split("\n") for part in record.read_text().split(";\n") if part]

    run.kit, run.user = kit, f"{other}:{other}"
    return run


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_container_runs_as_the_user_with_a_writable_home(docker):
    *_, command = docker("int8", HAS_IMAGE="1", MAX="4x512x512x3")
    assert (command[0], option(command, "--user")) == ("run", docker.user)
    assert option(command, "--volume") == f"{docker.kit}:/kit"
    passed = [command[index + 1] for index, word in enumerate(command) if word == "--env"]
    assert passed == ["HOME=/tmp", "CUDA_CACHE_PATH=/tmp/cuda", "MIN", "OPT", "MAX", "WORKSPACE", "ALLOW_WIDER"]
    assert command[-2:] == ["msal-deploy-kit:gtx-1080-ti", "int8"]
    assert "--tty=false" in command
    assert f"{(docker.kit / 'plans-of-the-container').stat().st_uid}:" in docker.user


def test_image_is_built_only_where_there_is_none(docker):
    built = ["build", "--tag", "msal-deploy-kit:gtx-1080-ti", "."]
    assert [command[0] for command in docker()] == ["image", "build", "run"]
    assert docker()[1] == built
    assert [command[0] for command in docker(HAS_IMAGE="1")] == ["image", "run"]  # loaded from a file: no network


@pytest.mark.parametrize(("gpu", "expected"), [("", "all"), ("1", "device=1"), ("GPU-8a5c", "device=GPU-8a5c")])
def test_container_gets_all_gpus_or_the_chosen_one(docker, gpu, expected):
    *_, command = docker(HAS_IMAGE="1", GPU=gpu)
    assert option(command, "--gpus") == expected
    assert "GPU" not in command  # inside, the only GPU has index 0


def test_missing_docker_is_one_message(make_kit, tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    script = make_kit("gtx-1080-ti") / "docker.sh"
    done = subprocess.run(["/bin/sh", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "docker was not found; install Docker, or run build.sh" in done.stderr


def test_image_is_that_of_the_target_and_contains_no_files_of_the_kit(make_kit):
    text = (make_kit("gtx-1080-ti") / "Dockerfile").read_text()
    assert "FROM nvcr.io/nvidia/tensorrt:23.07-py3\n" in text
    assert "COPY" not in text
    assert (make_kit("gtx-1080-ti") / ".dockerignore").read_text() == "*\n"


GPUS = {"GPU-aa": {"sm": "7.5", "gpu": "Tesla T4"}, "GPU-bb": {"sm": "6.1", "gpu": "NVIDIA GeForce GTX 1080 Ti"}}
TWO = "#!/bin/sh\necho 0, GPU-aa, 7.5\necho 1, GPU-bb, 6.1\n"


@pytest.mark.parametrize(
    ("variables", "device"),
    [
        ({}, "NVIDIA GeForce GTX 1080 Ti"),  # trtexec's own default would be the T4
        ({"GPU": "1"}, "NVIDIA GeForce GTX 1080 Ti"),
        ({"GPU": "GPU-bb", "CUDA_VISIBLE_DEVICES": "GPU-aa"}, "NVIDIA GeForce GTX 1080 Ti"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa"}, "Tesla T4"),  # the user's choice; the log shows it after the build
    ],
)
def test_the_gpu_that_the_kit_is_for_is_chosen(run, tools, tmp_path, variables, device):
    put(tools / "nvidia-smi", TWO)
    run("gtx-1080-ti", "int8", world={"gpus": GPUS, "builder": "fails"}, **variables)
    assert f"Selected Device: {device}\n" in (tmp_path / "kit" / "logs" / "int8.build.log").read_text()


@pytest.mark.parametrize(
    ("gpu", "code", "message"),
    [
        ("0", 3, "Expected a GPU of compute capability 6.1, got 7.5; make a kit for this GPU"),
        ("7", 2, "nvidia-smi does not list a GPU '7', but 0, 1; set GPU to one of its indices or UUIDs"),
    ],
)
def test_a_wrong_gpu_is_refused_before_the_build(run, tools, tmp_path, gpu, code, message):
    put(tools / "nvidia-smi", TWO)
    done = run("gtx-1080-ti", "int8", world={"gpus": GPUS}, GPU=gpu)
    assert (done.code, done.err.count("Error: ")) == (code, 1), done
    assert message in done.err
    assert not (tmp_path / "kit" / "logs").exists()


def test_another_gpu_is_detected_before_the_build(run, tools, tmp_path):
    put(tools / "nvidia-smi", "#!/bin/sh\necho 0, GPU-aa, 7.5\necho 1, GPU-cc, 8.6\n")
    done = run("gtx-1080-ti")
    assert (done.code, "Expected a GPU of compute capability 6.1, got 7.5, 8.6" in done.err) == (3, True)
    assert not (tmp_path / "kit" / "logs").exists()


def test_builds_share_what_they_timed(run, tmp_path):
    log = tmp_path / "kit" / "logs"
    done = run("gtx-1080-ti")
    assert done.code == 0, done
    graphs = json.loads((tmp_path / "kit" / "kit.json").read_text())["graphs"]
    for precision, graph in graphs.items():  # the estimate first, then what it took
        low, high = graph["minutes"]
        stated = f"{precision}: building with TensorRT 8.6.1; estimate: {low} to {high} minutes\n{precision}: built in "
        assert stated in done.out
        assert f"{precision}: no second opinion: polygraphy, onnxruntime and tensorrt are not all" in done.out
    assert "Could not read timing cache" in (log / "int8.build.log").read_text()
    assert "Loaded" in (log / "fp32.build.log").read_text()
    cache = tmp_path / "kit" / "timings.tensorrt-8.6.1.cache"
    kinds = {tactic.rpartition(" ")[2] for tactic in json.loads(cache.read_text())["tactics"]}
    assert kinds == {"int8", "fp32"}
    assert run("gtx-1080-ti", "fp32").code == 0
    assert " 0 tactics timed" in (log / "fp32.build.log").read_text()
    assert [path.name for path in cache.parent.glob("timings*")] == [cache.name]


def test_a_damaged_timing_cache_costs_one_build(run, tmp_path, make_kit):
    shutil.copytree(make_kit("gtx-1080-ti"), tmp_path / "kit", copy_function=os.link)
    cache = tmp_path / "kit" / "timings.tensorrt-8.6.1.cache"
    cache.write_bytes(b"half a fi")
    done = run("gtx-1080-ti", "fp32")
    assert (done.code, "TimingCache creation failed" in done.err, cache.exists()) == (3, True, False), done
    run("gtx-1080-ti", "fp32", MAX="8x512x1024x3", world={"sm": "7.5"})  # ends after the build
    assert "tactics" in json.loads(cache.read_text())


def test_times_and_memory_are_stated_as_estimates(make_kit):
    graph = json.loads((make_kit("gtx-1080-ti") / "kit.json").read_text())["graphs"]["fp32"]
    low, high = graph["minutes"]
    assert (high, graph["memory_gib"] > 0) == (5 * low, True)
    page = (make_kit("gtx-1080-ti") / "README.md").read_text()
    assert "These are estimates from the graph and the card's data sheet, not measurements" in page
    assert f"About {graph['memory_gib']} GiB of device memory" in page


POLYGRAPHY_SCRIPT = f"""#!{sys.executable}
# The real polygraphy; where it would load a plan with TensorRT, ONNX Runtime runs the graph of the fake plan.
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
for word in words:
    if word.startswith("--") and word not in json.loads(os.environ["OPTIONS"]):
        sys.exit(f"polygraphy run: error: unrecognized arguments: {{word}}")
if "--trt" in words:
    plan = json.loads(Path(words[1]).read_text())
    words = [words[0], os.environ.get("OTHER") or plan["onnx"], "--onnxrt", *words[words.index("--trt") + 1:]]
os.environ.pop("PYTHONPATH", None)
from polygraphy.tools import main
sys.argv = ["polygraphy", *words]
sys.exit(main())
"""


@pytest.fixture
def polygraphy(tools, tmp_path):
    """Put polygraphy on the PATH, and a python3 that can import it, onnxruntime and a stand-in for tensorrt."""
    put(tools / "polygraphy", POLYGRAPHY_SCRIPT)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tensorrt.py").touch()
    (tools / "python3").unlink()
    put(tools / "python3", f'#!/bin/sh\nPYTHONPATH="{tmp_path / "modules"}" exec "{sys.executable}" "$@"\n')


@pytest.mark.parametrize("version", POLYGRAPHY)
def test_options_of_polygraphy_exist(make_kit, version):
    """In the options recorded from the releases of TensorRT 8.6's time and of today."""
    text = (make_kit("gtx-1080-ti") / "build.sh").read_text()
    given = set(re.findall(r" (--[a-z-]+)", text[text.index("compare_with_onnxruntime()") : text.index("# The plan")]))
    assert {"--trt", "--onnxrt", "--load-outputs", "--check-error-stat"} <= given <= set(POLYGRAPHY[version])


def test_polygraphy_agrees_with_a_right_plan(run, polygraphy):
    done = run("gtx-1080-ti", "int8", OPTIONS=json.dumps(POLYGRAPHY["0.53.6"]))
    assert done.code == 0, done
    assert "int8: polygraphy run: the plan and ONNX Runtime agree (mean |dp| at most 0.0" in done.out


def test_plan_that_polygraphy_rejects_is_rejected(run, polygraphy, typed_bundle, tmp_path):
    done = run(
        "gtx-1080-ti",
        "int8",
        OPTIONS=json.dumps(POLYGRAPHY["0.53.6"]),
        OTHER=str(other_graph(typed_bundle.file("model.fp32.onnx"), tmp_path / "other.onnx")),
    )
    assert done.code == 1, done.out
    assert "FAILED: polygraphy run; see its output in" in done.out
    assert "passed: largest |dp|" in done.out  # check_golden.py had nothing against it
    assert (tmp_path / "kit" / "plans" / "model.int8.sm61.tensorrt.plan.rejected").exists()
    assert "Mismatched outputs" in (tmp_path / "kit" / "logs" / "int8.polygraphy.log").read_text()


def other_graph(path: Path, changed: Path) -> Path:
    """Write a graph whose probabilities are 0.5 larger."""
    import onnx
    from onnx import helper

    model = onnx.load(path)
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.initializer.append(helper.make_tensor("half", onnx.TensorProto.FLOAT, [], [0.5]))
    model.graph.node.append(helper.make_node("Add", ["before", "half"], [model.graph.output[0].name]))
    onnx.save(model, changed)
    return changed
