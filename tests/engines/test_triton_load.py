"""What the server does with requests that nobody waits for, and what its metrics count."""

import http.client
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from triton_server import Server, serving
from tritonclient.utils import InferenceServerException

from msal_deploy.bundle import Bundle
from msal_deploy.export import example_images
from msal_deploy.files import sha256, write_json
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.runtimes import open_engine

PATIENCE = 180.0  # seconds for a condition: the machine may be busy
REQUESTS, IMAGES = 6, 8

# The package's model, but with the file "closed" each batch waits at first, and with "halting" after its first image,
# until its first request is cancelled. It says so with the file "waits".
GATED = """

import time

HERE = Path(__file__).parent


class TritonPythonModel(TritonPythonModel):
    def wait(self, gate):
        if (HERE / gate).exists():
            (HERE / "waits").touch()
        while (HERE / gate).exists() and not self.first.is_cancelled():
            time.sleep(0.01)

    def execute(self, requests):
        self.first = requests[0]
        self.wait("closed")
        return super().execute(requests)

    def _queue_for(self, shape):
        return Halting(self, super()._queue_for(shape))


class Halting:
    def __init__(self, model, queue):
        self.model, self.queue = model, queue

    def start_async(self, *arguments, **options):
        self.queue.start_async(*arguments, **options)
        self.model.wait("halting")
"""


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("load") / "served"
    write_package(bundle, "triton", folder, PackageOptions(backend="openvino"))
    add_gates(folder / "models" / "msal-net" / "1")
    with serving(folder, folder.with_name("log")) as server:
        yield server


def add_gates(version: Path) -> None:
    program = version / "model.py"
    program.write_text(program.read_text() + GATED)
    about = json.loads((version / "model.json").read_text())
    about["files"]["model.py"] = sha256(program)
    write_json(version / "model.json", about)


class Gate:
    """Lets the model of `GATED` wait."""

    def __init__(self, version: Path, name: str) -> None:
        self._file, self._waits = version / name, version / "waits"
        self._waits.unlink(missing_ok=True)
        self._file.touch()

    def reached(self) -> bool:
        return self._waits.exists()

    def open(self) -> None:
        self._file.unlink(missing_ok=True)


@pytest.fixture
def gate(server: Server, request: pytest.FixtureRequest) -> Iterator[Gate]:
    made = Gate(server.package / "models" / "msal-net" / "1", getattr(request, "param", "closed"))
    yield made
    made.open()


def metrics(server: Server) -> dict[str, float]:
    """Return the counts of msal-net: name, and reason if it has one -> value."""
    found = {}
    with urllib.request.urlopen(server.metrics) as response:
        for line in response.read().decode().splitlines():
            if 'model="msal-net"' in line:
                name, _, labels = line.rpartition(" ")[0].partition("{")
                reason = re.search(r'reason="(\w+)"', labels)
                found[f"{name}/{reason[1]}" if reason else name] = float(line.rpartition(" ")[2])
    return found


class Delta:
    """What the metrics counted since this was made."""

    def __init__(self, server: Server) -> None:
        self._server, self._before = server, metrics(server)

    def __call__(self, name: str) -> int:
        return round(metrics(self._server)[name] - self._before[name])

    @property
    def images(self) -> int:
        return self("msal_deploy_images_total")

    @property
    def cancelled(self) -> int:
        """Requests that were dropped from the queue, or by the model."""
        return self("nv_inference_request_failure/CANCELED") + self("msal_deploy_refused_total/cancelled")

    @property
    def waiting(self) -> int:
        return round(metrics(self._server)["nv_inference_pending_request_count"])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


def grpc_client(server: Server) -> Any:
    return tritonclient.grpc.InferenceServerClient(server.grpc.partition("://")[2])


def tensor(protocol: Any, images: np.ndarray) -> Any:
    made = protocol.InferInput("image", images.shape, "UINT8")
    made.set_data_from_numpy(images)
    return made


# ---- nobody waits


@pytest.mark.parametrize("way", ["cancels", "disconnects"])
def test_requests_whose_client_is_gone_are_not_computed(server: Server, gate: Gate, way: str) -> None:
    delta, images = Delta(server), example_images(IMAGES, 64, 64)
    client = grpc_client(server)
    waits = [client.async_infer("msal-net", [tensor(tritonclient.grpc, images)], print) for _ in range(REQUESTS)]
    until(lambda: delta.waiting >= REQUESTS - 1)
    if way == "cancels":
        for wait in waits:
            wait.cancel()
    client.close()
    until(lambda: delta.cancelled == REQUESTS and delta.waiting == 0)
    assert delta.images == 0
    gate.open()
    with grpc_client(server) as other:
        other.infer("msal-net", [tensor(tritonclient.grpc, images)])
    assert delta.images == IMAGES, "the server lives on, and computes what somebody waits for"


@pytest.mark.parametrize("gate", ["halting"], indirect=True)
def test_request_ends_after_the_image_at_which_its_client_goes(server: Server, gate: Gate) -> None:
    delta = Delta(server)
    client = grpc_client(server)
    client.async_infer("msal-net", [tensor(tritonclient.grpc, example_images(IMAGES, 32, 32))], print)
    until(gate.reached)
    client.close()
    until(lambda: delta.cancelled == 1)
    assert delta.images == 1


def test_waiting_request_is_refused_after_its_own_time(server: Server, gate: Gate) -> None:
    """Over HTTP, Triton does not notice that a client goes; the time in the request is what limits the work."""
    delta = Delta(server)
    holding = grpc_client(server)
    holding.async_infer("msal-net", [tensor(tritonclient.grpc, example_images(1, 32, 32))], print)
    until(gate.reached)
    address = server.http.partition("://")[2]
    body, length = tritonclient.http.InferenceServerClient.generate_request_body(
        [tensor(tritonclient.http, example_images(1, 64, 64))], timeout=1
    )
    gone = http.client.HTTPConnection(address)
    gone.request("POST", "/v2/models/msal-net/infer", body, {"Inference-Header-Content-Length": str(length)})
    until(lambda: delta.waiting == 1 or delta("nv_inference_request_failure/REJECTED") == 1)
    gone.close()
    holding.close()
    until(lambda: delta("nv_inference_request_failure/REJECTED") == 1)
    until(lambda: delta.cancelled == 1)
    assert delta.images == 0


# ---- metrics


def test_metrics_count_images_and_refused_requests(server: Server, bundle: Bundle) -> None:
    delta = Delta(server)
    with open_engine(bundle, f"triton:{server.grpc}") as engine:
        engine(example_images(11, 64, 64))  # 8 and 3
        engine(example_images(2, 32, 96))
    with grpc_client(server) as client:
        for _ in range(3):
            with pytest.raises(InferenceServerException, match="the height is 1000; it must be a multiple of 32"):
                client.infer("msal-net", [tensor(tritonclient.grpc, np.zeros((1, 1000, 1000, 3), np.uint8))])
        with pytest.raises(InferenceServerException, match="which the client does not accept"):
            small = tensor(tritonclient.grpc, example_images(1, 32, 32))
            client.infer("msal-net", [small], parameters={"graph_sha256": "0" * 64})
    until(lambda: delta("nv_inference_request_success") == 3 + 4)  # Triton counts what the model answered
    assert delta.images == 13
    assert delta("msal_deploy_refused_total/invalid") == 4
    assert delta("msal_deploy_refused_total/failed") == 0 and delta.cancelled == 0
    assert all(value == 0 for name, value in metrics(server).items() if name.endswith(("/BACKEND", "/OTHER")))
