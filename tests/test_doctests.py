"""The examples in docstrings run. They find a small bundle in ``bundle`` and a synthetic data set in ``monuseg``."""

import doctest
import importlib
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

import msal_deploy
from msal_deploy.data import synthesize

ROOT = Path(msal_deploy.__file__).parent
# Programs that are copied into packages run without msal-deploy; they are no modules of it.
COPIED = ("package/triton_files", "package/build_kit/kit.py", "package/check_golden.py", "package/cpp_sources")


def modules_with_examples() -> list[str]:
    files = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    names = [path.relative_to(ROOT.parent) for path in files]
    copied = tuple(f"msal_deploy/{name}" for name in COPIED)
    return [
        ".".join(name.with_suffix("").parts).removesuffix(".__init__")
        for name in names
        if not str(name).startswith(copied)
    ]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_tiny_bundle(folder / "bundle")
    synthesize(folder / "monuseg", train=2, test=2, size=512)
    return folder


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(name: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
