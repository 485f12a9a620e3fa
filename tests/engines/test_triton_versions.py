"""Versions of a served model: each is what its model.json says, a broken one does no harm, a new one no outage."""

import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from triton_server import Server, serving, triton_python
from tritonclient.utils import InferenceServerException

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.export import example_images
from msal_deploy.files import sha256
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.runtimes import open_engine

MODEL = Path("models") / "msal-net"
EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")
CLIENTS, EACH = 4, 3  # answers of each version that each client waits for


def add_version(package: Path, other: Path, number: int = 2) -> Path:
    """Add the version of another package, as the README says: the folder appears with one rename."""
    incoming, version = package / MODEL / "incoming", package / MODEL / str(number)
    shutil.copytree(other / MODEL / "1", incoming)
    incoming.rename(version)
    return version


def damage(version: Path) -> None:
    (graph,) = version.glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")


@pytest.fixture(scope="module")
def written(int8_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions")
    for precision in ("int8", "fp32"):
        package = folder / precision
        write_package(int8_bundle, "triton", package, PackageOptions(precision, backend="openvino"))
    return folder


@pytest.fixture
def packages(written: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The INT8 graph and the FP32 graph of one bundle, as two packages."""
    folder = Path(shutil.copytree(written, tmp_path / "packages"))
    return folder / "int8", folder / "fp32"


@pytest.fixture(scope="module")
def truths(int8_bundle: Bundle) -> Iterator[dict[str, np.ndarray]]:
    """What each precision computes of the same image, without a server."""
    found = {}
    for precision in ("int8", "fp32"):
        with open_engine(int8_bundle, f"openvino:{precision}") as engine:
            found[precision] = engine(example_images(1, 64, 64))
    assert not np.array_equal(found["int8"], found["fp32"])
    return found


def plain_client(server: Server) -> Any:
    return tritonclient.http.InferenceServerClient(server.http.partition("://")[2])


def ask(client: Any, images: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the version that answered, and its probabilities."""
    tensor = tritonclient.http.InferInput("image", images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    result = client.infer("msal-net", [tensor])
    return result.get_response()["model_version"], result.as_numpy("probability")


# ---- what a version is


def test_two_versions_with_different_graphs(
    packages: tuple[Path, Path], truths: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The latest is served, as its own model.json says, which is not what config.pbtxt was written for."""
    package, other = packages
    add_version(package, other)
    with serving(package, tmp_path / "log") as server, plain_client(server) as client:
        version, probability = ask(client, example_images(1, 64, 64))
    assert version == "2" and np.array_equal(probability, truths["fp32"])


def check(package: Path) -> "subprocess.CompletedProcess[str]":
    words = [triton_python(), "serve.py", "--check", "models"]
    return subprocess.run(words, cwd=package, capture_output=True, text=True, timeout=120)


def test_check_names_damaged_versions_of_any_backend(int8_bundle: Bundle, tmp_path: Path) -> None:
    package = tmp_path / "served"
    write_package(int8_bundle, "triton", package, PackageOptions("int8", backend="onnxruntime"))
    assert check(package).returncode == 0
    damage(package / MODEL / "1")
    done = check(package)
    assert done.returncode == 1
    assert done.stderr == "Error: models/msal-net/1 is damaged (the SHA-256 of model.onnx differs); package it again\n"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"gone.onnx": ""}}', '{"files": 3}'])
def test_check_names_a_broken_model_json(packages: tuple[Path, Path], text: str) -> None:
    package, _ = packages
    (package / MODEL / "1" / "model.json").write_text(text)
    done = check(package)
    assert done.returncode == 1 and done.stderr.startswith("Error: models/msal-net/1 is damaged (")
    assert "Traceback" not in done.stderr


def test_damaged_latest_version_leaves_the_older_one_served(
    packages: tuple[Path, Path], truths: dict[str, np.ndarray], tmp_path: Path
) -> None:
    package, other = packages
    damage(add_version(package, other))
    with serving(package, tmp_path / "log") as server, plain_client(server) as client:
        version, probability = ask(client, example_images(1, 64, 64))
        assert "models/msal-net/2 is damaged (the SHA-256 of model.fp32.onnx differs)" in server.log
    assert version == "1" and np.array_equal(probability, truths["int8"])


@pytest.fixture
def running(packages: tuple[Path, Path], tmp_path: Path) -> Iterator[Server]:
    with serving(packages[0], tmp_path / "log", *EXPLICIT) as server:
        yield server


def relabel(version: Path) -> None:
    """Let config.pbtxt describe another version 2 than the folder holds."""
    config = version.parent / "config.pbtxt"
    text = '{"graph_sha256": "0"}'
    config.write_text(
        config.read_text() + f'parameters {{ key: "version_2" value {{ string_value: {json.dumps(text)} }} }}\n'
    )


def garble(version: Path) -> None:
    """Damage the graph and make model.json agree: only OpenVINO can tell."""
    damage(version)
    (graph,) = version.glob("*.onnx")
    graph.write_bytes(b"not a graph")
    about = json.loads((version / "model.json").read_text())
    about["files"][graph.name] = sha256(graph)
    (version / "model.json").write_text(json.dumps(about))


SPOILED: dict[str, Callable[[Path], None]] = {
    "has changed since it was packaged": damage,
    "model.fp32.onnx": garble,
    "describes another graph": relabel,
}


def test_new_version_that_does_not_load_leaves_the_old_one_served(
    running: Server, packages: tuple[Path, Path], truths: dict[str, np.ndarray]
) -> None:
    for message, spoil in SPOILED.items():
        version = add_version(*packages)
        spoil(version)
        with plain_client(running) as client:
            with pytest.raises(InferenceServerException, match=message):
                client.load_model("msal-net")
            answered, probability = ask(client, example_images(1, 64, 64))
        assert answered == "1" and np.array_equal(probability, truths["int8"])
        shutil.rmtree(version)


# ---- a new version under load


def test_new_version_under_load_without_a_failed_request(
    running: Server, packages: tuple[Path, Path], truths: dict[str, np.ndarray]
) -> None:
    """Clients do not pause: each answer is that of the version that says to have computed it, first 1, then 2."""
    expected = {"1": truths["int8"], "2": truths["fp32"]}
    answers: list[list[str]] = [[] for _ in range(CLIENTS)]
    wrong: list[str] = []
    enough = {version: threading.Semaphore(0) for version in expected}
    done = threading.Event()

    def work(client: int) -> None:
        try:
            with plain_client(running) as connection:
                while not done.is_set():
                    version, probability = ask(connection, example_images(1, 64, 64))
                    answers[client].append(version)
                    if not np.array_equal(probability, expected[version]):
                        wrong.append(f"version {version} did not compute what it should")
                    if answers[client].count(version) == EACH:
                        enough[version].release()
        except Exception as error:
            wrong.append(repr(error))
            for each in enough.values():
                each.release(CLIENTS)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            enough["1"].acquire()
        add_version(*packages)
        with plain_client(running) as client:
            client.load_model("msal-net")
        for _ in threads:
            enough["2"].acquire()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    for versions in answers:
        assert versions == sorted(versions), "an old version answered after a new one"
        assert min(Counter(versions).values()) >= EACH and set(versions) == {"1", "2"}


def test_engine_notices_a_new_version(
    running: Server, packages: tuple[Path, Path], int8_bundle: Bundle, truths: dict[str, np.ndarray]
) -> None:
    """Another graph of its own bundle it takes; that of another bundle the server does not even compute for it."""
    images = example_images(1, 64, 64)
    with open_engine(int8_bundle, f"triton:{running.grpc}") as engine, plain_client(running) as client:
        assert np.array_equal(engine(images), truths["int8"])
        add_version(*packages)
        client.load_model("msal-net")
        assert np.array_equal(engine(images), truths["fp32"])
        about = add_version(*packages, number=3) / "model.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), "graph_sha256": "0" * 64}))
        client.load_model("msal-net")
        with pytest.raises(BadInput, match=r"version 3 serves model.fp32.onnx .SHA-256 000000000000….*does not accept"):
            engine(images)
