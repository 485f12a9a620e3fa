"""What the READMEs say works as it is written."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.recipe import BUILT_IN, Recipe

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "export/README.md", "benchmarks/README.md", "CONTRIBUTING.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith("msal-deploy ")]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("line", commands())
def test_each_command_in_the_readmes_is_one_that_the_command_line_takes(line: str) -> None:
    command, (_, *words) = typer.main.get_command(app), shlex.split(line)
    context = command.make_context("msal-deploy", words[:1], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    known = {option for parameter in command.get_params(context) for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_recipe_files_are_the_built_in_recipes(name: str) -> None:
    assert Recipe.load(str(ROOT / "export" / f"{name}.toml")) == BUILT_IN[name]


def test_the_paper_file_writes_every_value_out() -> None:
    import tomllib

    import msgspec

    written = tomllib.loads((ROOT / "export" / "paper.toml").read_text(encoding="utf-8"))
    assert written == msgspec.json.decode(Recipe().to_json())


def test_the_smallest_host_replays_the_golden_tensors(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("engines/README.md", "python")
    exec(compile(code, "engines/README.md", "exec"), {})
