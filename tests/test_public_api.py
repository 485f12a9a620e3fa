"""The names that ``import msal_deploy`` offers, and paths given as text."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

import msal_deploy
from msal_deploy import Bundle, Recipe, find_target, load_checkpoint, open_dataset, open_engine, patches_of
from msal_deploy.bundle import is_bundle
from msal_deploy.checkpoint import save_checkpoint
from msal_deploy.data import synthesize, verify
from msal_deploy.export import export
from msal_deploy.files import sha256, write_json
from msal_deploy.package import write_package
from msal_deploy.precision import add_precisions
from msal_deploy.report import write_report
from msal_deploy.train import train
from msal_deploy.weights import find_weights

ROOT = Path(__file__).parents[1]


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", msal_deploy.__all__)
def test_public_name_can_be_imported(name):
    assert getattr(msal_deploy, name) is not None
    assert name in dir(msal_deploy)


def test_type_checkers_see_the_names_that_are_imported_lazily():
    tree = ast.parse((ROOT / "msal_deploy" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == {name: f"msal_deploy.{module}" for name, module in msal_deploy._MODULES.items()}
    assert {*typed, "__version__"} == set(msal_deploy.__all__)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Bundel'"):
        _ = msal_deploy.Bundel


def test_import_loads_no_other_package():
    code = "import sys, msal_deploy; print([m for m in ('numpy', 'msgspec', 'torch') if m in sys.modules])"
    assert run_python(code) == "[]\n"


def test_missing_torch_names_the_extra():
    code = """
import sys
sys.modules["torch"] = None
import msal_deploy
try:
    msal_deploy.load_checkpoint
except msal_deploy.MissingExtra as error:
    print(error)
"""
    assert run_python(code) == "torch is not installed; run: pip install 'msal-deploy[train]'\n"


def test_export_works_without_onnxscript(tmp_path):
    code = f"""
import sys
sys.modules["onnxscript"] = None
from msal_deploy import Recipe
from msal_deploy.checkpoint import untrained
from msal_deploy.export import export
from msgspec.structs import replace
recipe = Recipe.load("demo")
recipe = replace(recipe, network=replace(recipe.network, dense_dilated=False))
print(export(untrained(recipe), {str(tmp_path / "bundle")!r}, shapes=[(1, 64, 64)]).opset)
"""
    assert run_python(code) == "17\n"


def test_wheel_contains_py_typed(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    assert {"msal_deploy/py.typed", "msal_deploy/__init__.py"} <= set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("data") / "monuseg")
    synthesize(path, train=2, test=2, size=512)
    return path


def test_data_accepts_text(dataset):
    with open_dataset(dataset) as opened:
        assert len(patches_of(opened.test)) == 2
    assert verify(dataset).path == dataset


@pytest.mark.usefixtures("one_torch_thread")
def test_stages_accept_text(checkpoint, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("a.safetensors", checkpoint)
    with open_dataset(dataset) as opened:
        report = export(
            load_checkpoint("a.safetensors"),
            "bundle",
            shapes=[(1, 64, 64)],
            finish=lambda folder: add_precisions(
                str(folder), opened.train, int8=True, tiles=2, trial_log="trials.jsonl"
            ),
        )
    assert report.bundle == Path("bundle") and is_bundle("bundle")
    bundle = Bundle("bundle")
    with open_engine(bundle, "onnxruntime:int8") as engine:
        assert engine(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 1, 32, 32)
    assert write_package(bundle, "cpp", "package").folder == Path("package")
    write_json("report.json", {})
    assert sha256("report.json") == sha256(Path("report.json"))
    write_report("report.html", title="Report", manifest=msgspec.to_builtins(bundle.manifest))
    assert (tmp_path / "report.html").is_file()


def test_train_accepts_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(msal_deploy.BadInput, match="resume"):
        train((), Recipe(), "run", resume=True)


def test_recipes_targets_and_weights_accept_paths(tmp_path):
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    assert Recipe.load(tmp_path / "mine.toml") == Recipe.load(str(tmp_path / "mine.toml"))
    (tmp_path / "gpu.toml").write_text((ROOT / "msal_deploy" / "targets" / "t4.toml").read_text(encoding="utf-8"))
    assert find_target(tmp_path / "gpu.toml").sm == find_target(str(tmp_path / "gpu.toml")).sm == "7.5"
    assert find_weights(tmp_path / "a.safetensors") == tmp_path / "a.safetensors"
