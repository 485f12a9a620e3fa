"""Every command on the pages about Triton is run as it stands there, and by somebody who has only the page."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from triton_server import ROOT, Server, serving, triton_python

from msal_deploy.bundle import Bundle
from msal_deploy.data import synthesize
from msal_deploy.package import PackageOptions, write_package

PAGE = ROOT / "engines" / "triton" / "README.md"
PORTS = re.compile(r"localhost:800([01])")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def lines(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line]


def at(server: Server, text: str) -> str:
    """Return a command of a page for a server that has other ports than Triton's own."""
    addresses = (server.http, server.grpc)
    return PORTS.sub(lambda found: addresses[int(found[1])].partition("://")[2], text)


@pytest.fixture(scope="module")
def shell() -> Callable[[str, Path], str]:
    """Run a command line in a folder, with this Python's programs first, and return what it says."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(line: str, folder: Path) -> str:
        environment = {**os.environ, "PATH": path, "PYTHONPATH": ""}
        done = subprocess.run(shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def place(int8_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page supposes: a bundle, an image, a data set, and Triton's Python."""
    folder = tmp_path_factory.mktemp("new user")
    (folder / "bundle").symlink_to(int8_bundle.path)
    (folder / ".venv-triton").symlink_to(triton_python().parents[1])
    shutil.copy(ROOT / "docs" / "images" / "tissue.png", folder)
    synthesize(folder / "monuseg", train=2, test=5, size=256, seed=4)
    return folder


@pytest.fixture(scope="module")
def page_server(place: Path, shell: Callable[[str, Path], str]) -> Iterator[Server]:
    """What the page's first two commands make and start."""
    package, serve, *_ = lines(PAGE)
    shell(package, place)
    program, script, models = shlex.split(serve)
    assert (place / program).is_file() and (place / script).is_file() and (place / models).is_dir()
    with serving(place / "served", place / "log") as server:
        assert server.command[1:3] == [Path(script).name, Path(models).name]
        yield server


@pytest.mark.parametrize("line", lines(PAGE)[2:])
def test_the_commands_of_the_page(
    page_server: Server, place: Path, shell: Callable[[str, Path], str], line: str
) -> None:
    said = shell(at(page_server, line), place)
    if "check_golden" in line:
        assert said.startswith("passed: largest |dp| 0.00e+00")


def test_the_python_of_the_page(page_server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (code,) = blocks(PAGE, "python")
    names: dict[str, object] = {}
    exec(compile(at(page_server, code), str(PAGE), "exec"), names)
    assert names["probability"].shape[1] == 1


def test_the_commands_of_the_packages_own_page(page_server: Server, shell: Callable[[str, Path], str]) -> None:
    """All but those that install or start something: Docker is not here, and Triton runs already."""
    done = []
    for line in lines(page_server.package / "README.md"):
        if line.startswith("python ") and " -m venv " not in line:
            done.append(shell(at(page_server, line), page_server.package))
    assert len(done) == 2 and done[1].startswith("passed")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_what_the_packages_page_installs_is_what_the_tests_ran(bundle: Bundle, tmp_path: Path, backend: str) -> None:
    write_package(bundle, "triton", tmp_path / "served", PackageOptions(backend=backend))
    said = lines(tmp_path / "served" / "README.md")
    assert said[0] == "docker compose up --detach --wait"
    assert ("serve.py models" in " ".join(said)) == (backend == "openvino")
    if backend == "openvino":
        (installed,) = (line for line in said if "nvidia-pytriton" in line)
        assert re.search(r"pip install nvidia-pytriton openvino==\d", installed)


def test_the_programs_of_the_page_are_those_of_the_package() -> None:
    for name in ("client.py", "serve.py"):
        assert (ROOT / "engines" / "triton" / name).read_bytes() == (
            ROOT / "msal_deploy" / "package" / "triton_files" / name
        ).read_bytes()
