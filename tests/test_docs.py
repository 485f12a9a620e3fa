"""What the documentation says works as written: every command, every Python example, every link and every figure.

The commands of the pages run in a folder that holds what the pages presuppose: a data set ``monuseg``, a bundle
``bundle``, a checkpoint ``runs/r34/best.safetensors`` and so on. Each command gets its own copy of that folder.
"""

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from report_fixture import MANIFEST
from safetensors.torch import load_file
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner, Result

from msal_deploy.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, untrained
from msal_deploy.cli import app
from msal_deploy.data import open_dataset, synthesize
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.export import example_images
from msal_deploy.network import MSALNet
from msal_deploy.recipe import BUILT_IN, NetworkRecipe, Recipe
from msal_deploy.report import Report, save_report
from msal_deploy.train.patch_dataset import check_mixture
from msal_deploy.trt.local_gpu import current_gpu
from msal_deploy.validate.probe import choose_tiles
from msal_deploy.weights import DEFAULT, LIGHT, find_weights

ROOT = Path(__file__).parents[1]
DOCS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", *DOCS, "CONTRIBUTING.md", "export/README.md", "msal_deploy/weights/README.md"]
RESULTS = ROOT / "benchmarks" / "results"

# Pages whose commands another test runs -> that test. A line on one of our pages may repeat a line of these.
TESTED_PAGES = {
    "engines/cpp/README.md": "tests/engines/test_cpp.py",
    "engines/triton/README.md": "tests/engines/test_triton_docs.py",
}

# Lines that are not run here -> why not, and what is checked instead. Keys are the beginning of a line.
EXCEPTIONS = {
    "make demo": "sets up .venv first; the target exists. tests/cli/test_run.py runs what it starts",
    "make test": "runs these tests; the target exists",
    "pip install ": "changes the environment of these tests; the extras exist",
    'PIP_CONSTRAINT="$PWD/requirements.txt" pip install ': "needs a GPU machine; doctor writes this line into the file",
    "docker build ": "needs Docker and a GPU machine; doctor prints this line",
    "docker compose ": "needs Docker; tests/engines/test_triton_docs.py finds this line in the package",
    "python -m venv .venv-triton": "make .venv-triton runs it for tests/engines/test_triton_docs.py",
    ".venv-triton/bin/pip install ": "make .venv-triton runs it for tests/engines/test_triton_docs.py",
    "msal-deploy view ": "serves until Ctrl-C; tests/predict/test_view.py and test_view_in_browser.py start it",
    "python benchmarks/": "takes minutes; the program accepts the options. tests/test_cpu_proof.py runs its parts",
}

# Commands that train for hours: they run up to the training, whose recipe, epochs and data sets are checked.
ROBUST_EPOCHS = BUILT_IN["robust"].train.epochs
TRAINS = {
    "msal-deploy train --data monuseg --recipe fast --out runs/r34 --licence CC-BY-NC-SA-4.0": ("fast", 40, "monuseg"),
    "msal-deploy train --data monuseg --out runs/paper --recipe paper": ("paper", 300, "monuseg"),
    "msal-deploy train --data monuseg --out runs/paper --resume": ("paper", 300, "monuseg"),
    "msal-deploy train --data monuseg --recipe mine.toml --out runs/mine": ("paper", 300, "monuseg"),
    "msal-deploy train --data monuseg --data consep --data nuinsseg --recipe robust --out runs/robust": (
        "robust",
        ROBUST_EPOCHS,
        "monuseg consep nuinsseg",
    ),
    "msal-deploy train --data monuseg --data consep --data nuinsseg --recipe robust --out runs/robust --licence CC-BY-NC-SA-4.0": (  # noqa: E501
        "robust",
        ROBUST_EPOCHS,
        "monuseg consep nuinsseg",
    ),
    "msal-deploy train --data monuseg --data consep --data nuinsseg --recipe robust --backbone resnet18 --out runs/robust-r18 --licence CC-BY-NC-SA-4.0": (  # noqa: E501
        "robust",
        ROBUST_EPOCHS,
        "monuseg consep nuinsseg",
    ),
    "msal-deploy train --data monuseg --data lab=my-images --recipe fast --out runs/two": ("fast", 40, "monuseg lab"),
    "msal-deploy train --data monuseg --data consep --unseen nuinsseg --recipe fast --out runs/unseen": (
        "fast",
        40,
        "monuseg consep",
    ),
    "msal-deploy train --data monuseg --data consep --data nuinsseg --recipe light --from msal-net-r18 --teacher bundle --out runs/light --licence CC-BY-NC-SA-4.0": (  # noqa: E501
        "light",
        BUILT_IN["light"].train.epochs,
        "monuseg consep nuinsseg",
    ),
    "msal-deploy train --data lab=my-images --from msal-net-r34 --rate 1e-4 --epochs 10 --out runs/lab": (
        "mine",  # the recipe of the small checkpoint
        10,
        "lab",
    ),
    "msal-deploy train --data monuseg --data lab=my-images --from runs/r34/best.safetensors --rate 1e-4 --out runs/both": (  # noqa: E501
        "mine",
        300,
        "monuseg lab",
    ),
    "msal-deploy run --data monuseg --recipe fast --out runs/fast": ("fast", 40, "monuseg"),
}
IMAGES = {"monuseg": 8, "consep": 2, "nuinsseg": 3, "lab": 5}  # training images of the data sets below

FOR_CPUS = "it is the package for CPUs"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# Commands that need a GPU or its runtime -> the documented refusal: exit code, and words of the message.
NEED_A_GPU = {
    "msal-deploy doctor --gpu gtx-1080-ti": (3, "docker build --file Dockerfile"),
    "msal-deploy doctor --gpu gtx-1080-ti --requirements requirements.txt --dockerfile Dockerfile": (
        3,
        "docker build --file Dockerfile",
    ),
    "msal-deploy doctor --gpu rtx-3090 --requirements requirements.txt": (3, "docker build --file Dockerfile"),
    "msal-deploy doctor --gpu rtx-3090 --bundle bundle": (3, "docker build --file Dockerfile"),
    "msal-deploy build-trt bundle --int8 --gpu gtx-1080-ti": (3, "build-kit --gpu gtx-1080-ti"),
    "msal-deploy validate bundle --data monuseg --engine tensorrt:int8": (3, "tensorrt is not installed"),
    "msal-deploy bench bundle --engine tensorrt:int8": (3, "tensorrt is not installed"),
    "msal-deploy validate bundle --data monuseg --engine onnxruntime-cuda:fp32": (3, FOR_CPUS),
    **{
        line: (3, FOR_CPUS)
        for line in text_of("docs/measured.md").splitlines()
        if re.match("msal-deploy (validate|bench) .* onnxruntime-cuda", line)
    },
}

# Commands for which the three small graphs of tests/tiny_bundle.py will do: what they compute does not matter.
TINY = "msal-deploy build-trt"


# --- reading pages ---------------------------------------------------------------------------------------------------


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def shell_lines(page: str) -> list[str]:
    """Return the commands of a page, without comments."""
    lines = [re.sub(r"(^|\s+)#.*", "", line) for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


LINES = list(dict.fromkeys(line for page in PAGES for line in shell_lines(page)))
ELSEWHERE = {line: test for page, test in TESTED_PAGES.items() for line in shell_lines(page)}


def exception_of(line: str) -> str | None:
    return next((start for start in EXCEPTIONS if line.startswith(start)), None)


RUN_HERE = [line for line in LINES if exception_of(line) is None and line not in ELSEWHERE]


# --- the folder that the commands run in -----------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Use a small network and small images, and time for a shorter time; the commands stay as they are."""
    from msal_deploy import bench, data, export
    from msal_deploy.bench import peaks, roofline_run, timing, tuning
    from msal_deploy.precision import calibration_tiles
    from msal_deploy.precision import run as precision

    short = {"size": (64, 64), "seconds": 0.01, "windows": 2}
    quick = {**short, "rounds": 1, "in_process": True}
    changes = {
        export: {"SIZES": ((64, 64),), "BATCHES": (2,)},
        calibration_tiles: {"SIDE": 128},
        precision: {"TILES": 8, "CHECKED_TILES": 1, "patches_of": partial(data.patches_of, size=64)},
        data: {"patches_of": partial(data.patches_of, size=64)},
        timing: {"MIN_RUNS": 1},
        tuning: {"BATCHES": (1,), "SCREENING_SECONDS": 0.01},
        peaks: {"CHANNELS": 16, "SIDE": 8, "MEMORY_BYTES": 2**16},
        roofline_run: {
            "measure_roofline": fixing(short, roofline_run.measure_roofline),
            "PROFILED_RUNS": 1,
        },
        bench: {
            "bench": fixing(quick, bench.bench),
            "tune": fixing(quick, bench.tune),
            "load_test": brief(bench.load_test),
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        for module, values in changes.items():
            for name, value in values.items():
                patch.setattr(module, name, value)
        patch.setenv("MSAL_DEPLOY_TRACEBACK", "1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def fixing(fixed: dict[str, Any], stage: Callable[..., Any]) -> Callable[..., Any]:
    """Return `stage` with some of its options fixed, whatever the caller says."""
    return lambda *args, **options: stage(*args, **{**options, **fixed})


def msal_deploy(line: str, folder: Path) -> Result:
    words = shlex.split(line)
    assert words[0] == "msal-deploy"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, words[1:])


def succeed(line: str, folder: Path) -> str:
    result = msal_deploy(line, folder)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return result.output


def linked_copy(source: Path, target: Path) -> Path:
    """Copy a folder by hard links: the commands replace files and never write into them."""
    return Path(shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True))


def brief(load_test: Callable[..., Any]) -> Callable[..., Any]:
    """Return `load_test` with small images and short loads, but long enough for a request at each rate."""
    return lambda *args, **options: load_test(
        *args, **{**options, "size": (64, 64), "seconds": max([0.02, *(1 / rate for rate in options.get("rates", ()))])}
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder without a bundle: data sets, checkpoints, recipes."""
    folder = tmp_path_factory.mktemp("docs")
    synthesize(folder / "monuseg", train=8, test=5, size=256)
    _write_my_data(folder / "my-data", folder / "monuseg")
    for seed, name in enumerate(("consep", "nuinsseg", "mine"), 1):
        synthesize(folder / name, train=IMAGES.get(name, 0), test=5 if name == "mine" else 0, size=256, seed=seed)
    _write_my_data(folder / "my-images", folder / "mine")
    for name in ("r34", "mine"):
        (folder / "runs" / name).mkdir(parents=True)
        save_checkpoint(folder / "runs" / name / "best.safetensors", small_checkpoint())
    (folder / "runs" / "r18").mkdir()
    save_checkpoint(folder / "runs" / "r18" / "msal-net-r18.safetensors", small_checkpoint(seed=1))
    (folder / "mine.toml").write_text(SMALL_RECIPE)
    save_report(folder / "runs" / "shipped", Report(title="A run", manifest=MANIFEST))
    torch.save(small_checkpoint().weights, folder / "weights.pt")
    unet = Recipe(name="unet", network=NetworkRecipe(model="unet", weights="random"))
    torch.save({"state_dict": untrained(unet).weights}, folder / "unet.pt")
    shutil.copytree(ROOT / "export", folder / "export")
    shutil.copytree(ROOT / "docs" / "images", folder / "docs" / "images")
    return folder


SMALL_RECIPE = """
name = "mine"
[network]
backbone = "resnet18"
weights = "random"
dense_dilated = false
channel_attention = false
boundary_refinement = false
"""


def small_checkpoint(seed: int = 0) -> Checkpoint:
    """Random weights that find nuclei everywhere, so that no precision loses Dice and validate passes."""
    recipe = NetworkRecipe(
        backbone="resnet18", weights="random", dense_dilated=False, channel_attention=False, boundary_refinement=False
    )
    torch.manual_seed(seed)
    network = MSALNet(recipe).train()
    images = torch.from_numpy(example_images(2, 128, 128)).permute(0, 3, 1, 2)
    with torch.no_grad():
        network((images / 255 - 0.5) / 0.25)  # batch norms have seen images, as after a training
        network.head[-1].weight.mul_(100)  # spreads the probabilities
        network.head[-1].bias.add_(3)
    return Checkpoint(dict(network.state_dict()), Recipe(name="mine", network=recipe))


def _write_my_data(folder: Path, source: Path) -> None:
    """The example of docs/validate-on-my-data.md: images and masks, and no word about train or test."""
    with open_dataset(source) as dataset:
        for name, annotated in zip("abcde", dataset.test, strict=True):
            for kind, pixels in (("images", annotated.image()), ("masks", annotated.mask().astype(np.uint8) * 255)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / kind / f"{name}.png")


EXPORT = "msal-deploy export --out bundle"
EXPORT_ALL = "msal-deploy export --out bundle --fp16 --int8 --calibration monuseg"


@pytest.fixture(scope="module")
def exported(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the first command of the README, with the weights that come with the package."""
    folder = linked_copy(inputs, tmp_path_factory.mktemp("fp32"))
    succeed(EXPORT, folder)
    return folder


@pytest.fixture(scope="module")
def small_weights(inputs: Path) -> Iterator[None]:
    """Put the small network in the place of the weights that come with the package, and check it on small tiles."""
    runs = inputs / "runs"
    r18 = runs / "r18" / "msal-net-r18.safetensors"
    small = {DEFAULT: runs / "r34" / "best.safetensors", "msal-net-r18": r18, LIGHT: r18}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msal_deploy.weights.find_weights", lambda name: small.get(str(name), Path(name)))
        patch.setattr("msal_deploy.validate.compare.choose_tiles", lambda patches: choose_tiles(patches, 64))
        yield


@pytest.fixture(scope="module")
def workspace(exported: Path, small_weights: None, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a bundle of the small network in all precisions."""
    folder = linked_copy(inputs, tmp_path_factory.mktemp("all"))
    succeed(EXPORT_ALL, folder)
    linked_copy(folder / "bundle", folder / "light")
    return folder


@pytest.fixture
def folder(workspace: Path, tmp_path: Path) -> Path:
    return linked_copy(workspace, tmp_path / "work")


# --- commands --------------------------------------------------------------------------------------------------------


def test_there_are_commands_to_check() -> None:
    assert {EXPORT, EXPORT_ALL} <= set(RUN_HERE)
    assert len(RUN_HERE) >= 30


def test_no_exception_is_out_of_date() -> None:
    assert {start for line in LINES if (start := exception_of(line))} == set(EXCEPTIONS)
    assert set(TRAINS) | set(NEED_A_GPU) <= set(LINES)
    for test in TESTED_PAGES.values():
        assert (ROOT / test).is_file()


def ordinary() -> list[str]:
    return [line for line in RUN_HERE if line not in TRAINS and line not in NEED_A_GPU]


@pytest.mark.parametrize("line", [line for line in ordinary() if line not in (EXPORT, EXPORT_ALL)])
def test_command_succeeds(line: str, folder: Path) -> None:
    if line.startswith(TINY):
        shutil.rmtree(folder / "bundle")
        write_tiny_bundle(folder / "bundle")
    if line.startswith("msal-deploy "):
        succeed(line, folder)
    else:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(shlex.split(line), cwd=folder, env={**os.environ, "PATH": path}, check=True)
    for file in written_by(line):
        assert (folder / file).exists(), f"{line} did not write {file}"


def written_by(line: str) -> list[str]:
    """Return the files and folders that a command names as its outputs."""
    words = shlex.split(line)
    named = [word for option, word in pairwise(words) if option in ("--out", "--json")]
    return [*named, *([words[2]] if words[:2] == ["data", "synthesize"] else [])]


def test_the_exports_of_the_readme_write_what_the_page_on_bundles_lists(exported: Path, workspace: Path) -> None:
    (tree,) = [block for block in blocks("docs/bundle.md", "") if block.startswith("bundle/")]
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines()[1:] if ".plan" not in line}
    assert {path.name for path in (workspace / "bundle").iterdir()} == listed
    assert {path.name for path in (exported / "bundle").iterdir()} == {
        "manifest.json",
        "checkpoint.safetensors",
        "model.fp32.onnx",
        "golden",
    }


class Reached(Exception):
    """The training was reached."""


@pytest.mark.parametrize(("line", "expected"), TRAINS.items())
def test_training_command_reaches_the_training(
    line: str, expected: tuple[str, int, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: dict[str, Any] = {}

    def train(images: Any, recipe: Recipe, out: Path, **options: Any) -> None:
        reached.update(images=images, recipe=recipe, out=out, **options)
        raise Reached

    monkeypatch.setattr("msal_deploy.train.train", train)
    if "mine.toml" in line:  # as the command above it on the page makes it
        shutil.copyfile(folder / "export" / "paper.toml", folder / "mine.toml")
    if "--resume" in line:
        monkeypatch.setattr("msal_deploy.train.load_state", lambda out: type("State", (), {"recipe": Recipe()}))
    result = msal_deploy(line, folder)
    assert isinstance(result.exception, Reached), result.output
    name, epochs, sets = expected
    assert (reached["recipe"].name, reached["recipe"].train.epochs) == (name, epochs)
    assert str(reached["out"]).startswith(shlex.split(line)[shlex.split(line).index("--out") + 1])
    if line.startswith("msal-deploy run"):
        assert len(reached["images"]) == IMAGES["monuseg"]
    else:
        check_mixture(reached["recipe"].train, reached["images"])
        assert {one: len(images) for one, images in reached["images"].items()} == {
            one: IMAGES[one] for one in sets.split()
        }
        assert len(reached["unseen"]) == ("--unseen" in line)
        assert (reached["start"] is not None) == ("--from" in line)
        if "--rate" in line:
            assert reached["recipe"].train.rate == 1e-4
    assert reached["resume"] == ("--resume" in line)
    if "--licence" in line:
        assert reached["licence"] == "CC-BY-NC-SA-4.0"


@pytest.mark.parametrize(("line", "refusal"), NEED_A_GPU.items())
def test_command_that_needs_a_gpu_says_what_is_missing(line: str, refusal: tuple[int, str], folder: Path) -> None:
    result = msal_deploy(line, folder)
    if current_gpu().sm and result.exit_code == 0:
        return  # the machine has what the command needs
    code, words = refusal
    assert result.exit_code == code, result.output
    assert words in " ".join(result.output.split())
    for file in ("requirements.txt", "Dockerfile", "compose.yaml"):
        assert (folder / file).exists() == (f" {file}" in line)


def test_doctor_writes_the_lines_that_install_for_an_old_gpu(folder: Path) -> None:
    result = msal_deploy("msal-deploy doctor --gpu gtx-1080-ti --requirements requirements.txt", folder)
    written = result.output + (folder / "requirements.txt").read_text()
    lines = [line for line in LINES if line.startswith(("PIP_CONSTRAINT", "docker build"))]
    assert len(lines) == 2
    for line in lines:
        assert line in " ".join(written.split())


def test_make_targets_exist() -> None:
    for line in LINES:
        if line.startswith("make "):
            subprocess.run(["make", "--dry-run", *line.split()[1:]], cwd=ROOT, check=True, capture_output=True)


def test_extras_exist_and_install_what_the_table_says() -> None:
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    for line in LINES:
        if "pip install" in line:
            assert set(re.findall(r"\[([\w-]+)\]", line)) <= extras.keys()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", text_of("docs/install.md"), re.MULTILINE))
    assert rows.keys() == extras.keys()
    for extra, packages in rows.items():
        for package in (
            re.findall(r"[a-z][a-z-]+(?=,| and|$)", packages.strip()) if extra not in ("dev", "pascal") else []
        ):
            assert any(requirement.startswith(package) for requirement in extras[extra]), (extra, package)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("python benchmarks/")])
def test_benchmark_program_accepts_the_options(line: str) -> None:
    program, command, *words = shlex.split(line)[1:]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    arguments = [sys.executable, program, command, "--help"]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", done.stdout))


# --- Python, C++ and JSON --------------------------------------------------------------------------------------------

PYTHON = [page for page in PAGES if any(">>> " in block for block in blocks(page, "python"))]


@pytest.mark.parametrize("page", PYTHON)
def test_python_example_prints_what_the_page_shows(page: str, request: pytest.FixtureRequest) -> None:
    # The README has exported FP32 alone, so there the fastest engine is an FP32 one.
    start = request.getfixturevalue("exported" if page == "README.md" else "workspace")
    text = "\n".join(blocks(page, "python"))
    example = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(start)
        result = runner.run(example)
    assert result.attempted >= 3
    assert result.failed == 0


def test_the_other_python_of_the_model_card_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shutil.copyfile(find_weights(DEFAULT), "best.safetensors")
    (code,) = blocks("msal_deploy/weights/README.md", "python")
    exec(compile(code, "msal_deploy/weights/README.md", "exec"), {})
    made, shipped = (load_file(path) for path in ("msal-net-r34.safetensors", find_weights(DEFAULT)))
    assert made.keys() == shipped.keys()
    for name, weights in shipped.items():
        assert made[name].dtype == weights.dtype
        assert torch.equal(made[name], weights), name
    # Not the bytes of the two files: recipes may have got more keys since the shipped one was written.
    one, other = (load_checkpoint(path) for path in ("msal-net-r34.safetensors", find_weights(DEFAULT)))
    assert (one.recipe, one.licence) == (other.recipe, other.licence)


def test_the_smallest_host_replays_the_golden_tensors(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    (code,) = blocks("engines/README.md", "python")
    exec(compile(code, "engines/README.md", "exec"), {})


@pytest.mark.parametrize("page", [page for page in DOCS if blocks(page, "cpp")])
def test_cpp_is_quoted_from_the_example_that_the_tests_build(page: str) -> None:
    example = text_of("engines/cpp/examples/embed/main.cpp")
    for block in blocks(page, "cpp"):
        for part in block.strip().split("\n\n"):
            assert "\n".join(line.strip() for line in part.splitlines()) in "\n".join(
                line.strip() for line in example.splitlines()
            )


def test_commands_with_json_are_listed() -> None:
    def with_json(command: Any, name: str) -> list[str]:
        if hasattr(command, "commands"):
            return [one for key, sub in command.commands.items() for one in with_json(sub, f"{name} {key}".strip())]
        return [name] if any("--json" in parameter.opts for parameter in command.params) else []

    (sentence,) = re.findall(r"take `--json FILE`: (.*?)\.", text_of("docs/commands.md"), re.DOTALL)
    assert sorted(re.findall(r"`(.*?)`", sentence)) == sorted(with_json(typer.main.get_command(app), ""))


def test_every_command_is_on_the_page_of_commands() -> None:
    commands = typer.main.get_command(app).commands
    listed = {line.split()[1] for line in shell_lines("docs/commands.md")}
    assert listed == set(commands)


def test_exit_codes_are_those_of_the_errors() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (\w.*?) \|$", text_of("docs/commands.md"), re.MULTILINE))
    assert rows[str(GateFailed.exit_code)].startswith("a gate failed")
    assert rows[str(BadInput.exit_code)].startswith("bad input")
    assert rows[str(MissingRequirement.exit_code)].startswith("a requirement is missing")


# --- figures ---------------------------------------------------------------------------------------------------------


def result(name: str) -> dict[str, Any]:
    (file,) = RESULTS.glob(f"*-epyc-2-cores-{name}.json")
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


def table_rows(page: str) -> dict[str, list[str]]:
    """Return engine -> cells, of the table whose first column are engines with their Dice and times."""
    (table,) = re.findall(r"^\| engine \| Dice .*?\n\n", text_of(page), re.DOTALL | re.MULTILINE)
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {re.findall(r"`(.*?)`", row[0])[0]: row[1:] for row in rows}


def read_figure(value: str) -> float:
    """Read ``−3·10⁻⁷`` or ``+0.0002``."""
    digits = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")
    mantissa, _, exponent = value.translate(digits).partition("·10")
    return float(mantissa) * 10 ** int(exponent or 0)


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md"])
def test_table_of_engines_is_what_was_measured(page: str) -> None:
    scores, times = result("parity-r34")["engines"], result("cpu-proof")
    rows = table_rows(page)
    assert len(rows) >= 4
    for engine, (dice, iou, mean, lower, p50, ratio) in rows.items():
        if engine in scores:
            score = scores[engine]
            assert (dice, iou) == (f"{score['pixel_dice_mean']:.4f}", f"{score['pixel_iou_mean']:.4f}")
            for cell, key in ((mean, "mean"), (lower, "lower")) if mean else ():
                assert read_figure(cell) == pytest.approx(score["delta_dice"][key], rel=0.2)
        if p50:
            assert p50 == f"{times['timings'][engine]['latency_ms']['p50']:.0f} ms"
            assert ratio.rstrip("×") == f"{times['speed_up'][engine]:.1f}".removesuffix(".0")


def test_table_of_nuclei_is_what_was_measured() -> None:
    scores = result("parity-r34")["engines"]
    (table,) = re.findall(r"^\| engine \| AJI .*?\n\n", text_of("docs/measured.md"), re.DOTALL | re.MULTILINE)
    for line in table.strip().splitlines()[2:]:
        engine, aji, pq, delta_aji, delta_pq, changed = (cell.strip(" `") for cell in line.strip("|").split("|"))
        score = scores[engine]
        assert (aji, pq) == (f"{score['aji_mean']:.4f}", f"{score['pq_mean']:.4f}")
        if changed:
            assert read_figure(delta_aji) == pytest.approx(score["delta_aji"]["mean"], abs=5e-5)
            assert read_figure(delta_pq) == pytest.approx(score["delta_pq"]["mean"], abs=5e-5)
            kinds = ("split", "merged", "lost", "gained")
            assert changed == ", ".join(str(score["nuclei"][kind]) for kind in kinds)


def test_table_of_the_two_weights_is_what_was_measured() -> None:
    rows = {(row["weights"], row["engine"]): row for row in result("run-both")["accuracy_latency"]}
    for weights in ("msal-net-r34", "msal-net-r18"):
        (line,) = re.findall(rf"^\| `{weights}` \| (.*) \|$", text_of("docs/measured.md"), re.MULTILINE)
        torch_ms, openvino_ms, int8_ms, dice = (cell.strip(" *") for cell in line.split("|"))
        engines = {"torch:fp32": torch_ms, "openvino:fp32": openvino_ms, "openvino:int8": int8_ms}
        for engine, cell in engines.items():
            assert cell == f"{rows[weights, engine]['latency_ms_p50']:.0f} ms"
        assert dice == f"{rows[weights, 'openvino:int8']['pixel_dice_mean']:.4f}"
        assert f" {int8_ms}, Dice {dice} |" in text_of("msal_deploy/weights/README.md")


def change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%".replace("-", "−")


def test_figures_of_cpp_and_triton_are_what_was_measured() -> None:
    page = text_of("docs/measured.md")
    cpp = {one["precision"]: one["latency"] for one in result("hosts-agree")["precisions"]}
    int8, fp32 = ((change(one["cpp_over_python"]), *map(change, one["interval"])) for one in (cpp["int8"], cpp["fp32"]))
    row = f"| {int8[0]} | {int8[1]} to {int8[2]} (FP32: {fp32[0]}, {fp32[1]} to {fp32[2]}) |"
    assert row in page
    assert f"as fast: {int8[0]} in INT8" in text_of("docs/use-from-cpp.md")
    sizes = {one["engine"]: one for one in result("hosts-any-size")["engines"]}
    assert all(all(image["bit_exact"].values()) for one in sizes.values() for image in one["images"])
    in_tiles = {name: one["times"][1] for name, one in sizes.items()}
    int8, fp32 = (
        (change(one["cpp_over_python"]), *map(change, one["interval"]))
        for one in (in_tiles["openvino:int8"], in_tiles["openvino:fp32"])
    )
    assert f"in tiles | {int8[0]} | {int8[1]} to {int8[2]} (FP32: {fp32[0]}, {fp32[1]} to {fp32[2]}) |" in page
    labels = result("hosts-labels")["results"].values()
    assert [(one["maps"], one["different_pixels"]) for one in labels] == [(600, 0), (42, 0)]
    (large,) = (one for one in result("triton-overhead")["results"] if one["size"] == 512)
    bare, *added = (one["overhead_ms"] for one in large["latency"])
    request = f"{large['latency'][0]['latency_ms']['p50']:.0f} ms"
    longer = f"{min(added):.1f} to {max(added):.1f} ms"
    assert bare == 0
    assert f"added to a request of {request} | {longer} |" in page
    rates = [one["of_the_bare_engine"] for one in large["throughput"] if one["name"] != "bare engine"]
    throughput = f"{min(rates):.0%} to {max(rates):.0%} of the"
    assert f"throughput of 8 clients | {throughput} bare engine's |" in page
    serving = " ".join(text_of("docs/serve-with-triton.md").split())
    assert f"A request of {request} takes {longer} longer, and eight clients get {throughput} engine's" in serving


def test_figures_of_the_floor_are_what_was_measured() -> None:
    page, roofline = text_of("docs/measured.md"), result("roofline")
    for engine, one in roofline["engines"].items():
        times = one["times_the_floor"]
        row = f"| `{engine}` | {one['latency_ms']['p50']:.0f} ms | {times['ratio']:.2f} | "
        assert f"{row}{times['low']:.2f} to {times['high']:.2f} |" in page
    rates = roofline["roofs"]["operations_per_s"]
    assert f"{rates['fp32'] / 1e9:.0f}, {rates['bf16'] / 1e9:.0f} and {rates['int8'] / 1e9:.0f} G operations" in page
    memory, cache = (roofline["roofs"][f"{name}_bytes_per_s"] / 1e9 for name in ("memory", "cache"))
    assert f"{memory:.0f} GB/s in memory and {cache:.0f} GB/s in the last-level cache" in page
    fp32, int8 = (roofline["floors"][name]["floor_ms"] for name in ("fp32", "int8"))
    assert f"{fp32:.0f} ms in FP32 and {int8:.0f} ms in INT8" in page


def percent(share: float) -> str:
    return f"{share:+.1%}".replace("-", "−")


def test_figures_of_peers_and_bare_loops_are_what_was_measured() -> None:
    page = text_of("docs/measured.md")
    for engine, one in result("overhead")["engines"].items():
        low, median, high = (percent(one["overhead"][key]) for key in ("low", "median", "high"))
        assert f"| `{engine}` | {median} | {low} to {high} |" in page
    _, loop = result("peers")["comparisons"]  # the first one is of `benchmark_app`, which was repeated with more turns
    for one in (*result("peers-benchmark-app")["comparisons"], loop):
        low, ratio, high = (percent(one["ratio"][key] - 1) for key in ("low", "ratio", "high"))
        assert re.search(rf"^\| `{one['engine']}` \| .* \| {re.escape(f'{ratio} | {low} to {high}')} \|$", page, re.M)


def test_figures_of_predict_are_what_was_measured() -> None:
    page = text_of("docs/measured.md")
    images, slide = (result(f"predict-pipeline-{name}") for name in ("images", "slide"))

    def times(report: dict[str, Any], key: str) -> str:
        one = report[key]
        return f"{one['ratio']:.2f}×** ±{max(one['high'] - one['ratio'], one['ratio'] - one['low']):.2f}"

    for key, row in (
        ("ratio", "**end to end against the engine alone**"),
        ("ratio_without_start", "the same without opening and compiling the engine, once per call"),
        ("ratio_of_cpu", "processor time"),
    ):
        cells = f"| {row} | **{times(images, key)} | **{times(slide, key)} |"
        assert cells.replace("*", "") in page.replace("*", "")
    for name, unit, scale in (("engine_busy", "% of the time", 100), ("peak_memory_mb", " MB", 1)):
        assert f" {images[name] * scale:.0f}{unit} | {slide[name] * scale:.0f}{unit} |" in page
    for report in (images, slide):
        seconds = report["stages"]["total"]["seconds"]
        assert f"{seconds:.1f} s, {report['seconds_per_mm2']:.1f} s/mm²" in page
        assert f"{report['mm2']:.3f} mm², {report['tiles']}, {report['nuclei']:,}" in page


def test_figures_of_the_light_network_are_what_was_measured() -> None:
    int8, page = result("roofline")["engines"]["openvino:int8"], text_of("docs/light.md")
    whole = sum(int8["layers_ms"].values()) + sum(int8["other_ms"].values())
    assert f"in INT8 ({whole:.0f} ms" in page
    for part in ("/head/", "/decoder1/refinement/"):
        ms = sum(value for layer, value in int8["layers_ms"].items() if part in layer)
        assert f"| {ms:.1f} ms | {ms / whole:.0%} |" in page
    front = result("light-front")
    for point in front["points"]:
        ratio, delta = point["speed_up"]["ratio"], f"{point['delta']:+.4f}".replace("-", "−")
        lower = f"{point['lower']:+.4f}".replace("-", "−")
        cells = (
            point["network"],
            point["engine"],
            f"{point['p50_ms']:.0f} ms",
            f"{ratio:.1f}×",
            f"{point['dice']:.4f}",
        )
        row = "| `{}` | `{}` | {} | {} | {} |".format(*cells)
        assert f"{row} {delta} | {lower} |" in text_of("docs/light.md").replace("*", ""), point


# --- links and names -------------------------------------------------------------------------------------------------

MARKDOWN = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "export", "tests", "msal_deploy/weights", "engines", "benchmarks")
    for path in (ROOT / folder).glob("*.md" if folder in (".", "docs") else "**/*.md")
)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN)
def test_links_resolve(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page} links to {link}"


def test_every_page_is_in_both_indexes() -> None:
    for page in DOCS:
        name = Path(page).name
        if name != "README.md":
            assert f"({name})" in text_of("docs/README.md")
            assert f"({page})" in text_of("README.md")


def test_files_that_contributing_names_exist() -> None:
    named = re.findall(r"`([\w./-]+(?:/|\.(?:py|pyi|toml|md|cpp)))`", text_of("CONTRIBUTING.md"))
    assert len(named) >= 40
    for name in named:
        places = (ROOT / name, ROOT / "msal_deploy" / name)
        in_each_stage = name in ("run.py", "__init__.py")
        assert in_each_stage or any(place.exists() for place in places), name


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_recipe_files_are_the_built_in_recipes(name: str) -> None:
    assert Recipe.load(str(ROOT / "export" / f"{name}.toml")) == BUILT_IN[name]


def test_the_paper_file_writes_every_value_out() -> None:
    import msgspec

    written = tomllib.loads(text_of("export/paper.toml"))
    assert written == msgspec.json.decode(Recipe().to_json())
