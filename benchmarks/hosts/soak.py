"""Call a real Triton with many clients: are all answers right, and do the metrics count what was sent?

Example: python benchmarks/hosts/soak.py run bundle --precision int8 --json soak.json
"""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, run_command_line
from msal_deploy.spec import Float32Maps, UInt8Images

app = command_line("Call a real Triton with many clients, and check every answer and the metrics.")
WAYS = (("http", True), ("grpc", True), ("http", False), ("grpc", False))  # protocol, shared memory
SIZES = ((64, 64), (64, 96), (32, 64))
REFUSED_EVERY = 10  # calls
METRICS_TIMEOUT = 30.0  # seconds until Triton has counted the last answers
Call = tuple[UInt8Images, Float32Maps]  # images and what the bare engine computes of them


@app.command()
def run(
    bundle: BundlePath,
    precision: Annotated[str, typer.Option(help="Precision of the graph to serve with OpenVINO.")] = "int8",
    clients: Annotated[int, typer.Option(min=1, max=64, help="Number of parallel clients.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.01, max=86400, help="How long they call.")] = 60.0,
    triton: Annotated[Path, typer.Option(help="The Python interpreter with nvidia-pytriton.")] = Path(
        ".venv-triton/bin/python"
    ),
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
) -> None:
    """Serve the bundle with a real Triton, call it, and fail unless every answer and every count is right.

    Example: python benchmarks/hosts/soak.py run bundle --precision int8 --json soak.json
    """
    from served import served

    from msal_deploy.bench import describe_machine
    from msal_deploy.bundle import Bundle
    from msal_deploy.errors import GateFailed
    from msal_deploy.files import write_json

    opened = Bundle(bundle)
    environment = describe_machine()
    calls = _calls(opened, f"openvino:{precision}", clients)
    with served(opened, precision, triton) as ports:
        before = _metrics(ports)
        sent = _call(opened, ports, calls, seconds)
        counted = _counted(ports, before, sent)
    result = {"precision": precision, "clients": clients, "seconds": seconds, "sent": sent, "counted": counted}
    if json:
        write_json(json, {"format_version": 1, "environment": environment, **result})
    typer.echo(f"{clients} clients, {seconds:g} s: sent {sent}, counted {counted}")
    if counted != _expected(sent) or sent["wrong"] or sent["errors"]:
        raise GateFailed("The server gave a wrong answer or miscounted", "see the figures above")


def _calls(bundle: Any, engine_id: str, clients: int) -> list[list[Call]]:
    """Return the calls of each client: 1 to 3 images that nobody else has, in sizes that several have."""
    from msal_deploy.export import example_images
    from msal_deploy.runtimes import open_engine

    with open_engine(bundle, engine_id) as engine:
        stacks = [
            [example_images(count, *SIZES[(client + count) % 3], seed=100 * client + count) for count in (1, 2, 3)]
            for client in range(clients)
        ]
        return [[(images, engine(images)) for images in own] for own in stacks]


def _call(bundle: Any, ports: Any, calls: list[list[Call]], seconds: float) -> dict[str, int]:
    """Let all clients call for `seconds`, each with its own engine, and return what they sent and what went wrong."""
    totals: Counter[str] = Counter(requests=0, images=0, refused=0, wrong=0, errors=0)
    lock = threading.Lock()

    def work(client: int) -> None:
        own = _one_client(bundle, ports, client, calls[client], time.monotonic() + seconds)
        with lock:
            totals.update(own)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(totals)


def _one_client(bundle: Any, ports: Any, client: int, calls: list[Call], end: float) -> Counter[str]:
    from msal_deploy.errors import DeployError
    from msal_deploy.runtimes import open_engine

    protocol, shares = WAYS[client % len(WAYS)]
    counts: Counter[str] = Counter()
    try:
        with open_engine(bundle, ports.engine(protocol, shared_memory=shares)) as engine:
            while not counts or time.monotonic() < end:
                if counts["requests"] % REFUSED_EVERY == 0:
                    counts["refused"] += _send_refused(ports)
                images, expected = calls[counts["requests"] % len(calls)]
                counts["wrong"] += not np.array_equal(engine(images), expected)
                counts.update(requests=1, images=len(images))
    except DeployError as error:
        typer.echo(f"client {client}: {error}", err=True)
        counts["errors"] += 1
    return counts


def _send_refused(ports: Any) -> int:
    """Send an image whose height is not a multiple of 32; return 1 if it was refused."""
    import tritonclient.grpc as grpc

    tensor = grpc.InferInput("image", [1, 33, 64, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 33, 64, 3), np.uint8))
    with grpc.InferenceServerClient(f"localhost:{ports.grpc}") as client:
        try:
            client.infer("msal-net", [tensor])
        except grpc.InferenceServerException:
            return 1
    return 0


def _metrics(ports: Any) -> Counter[str]:
    """Return the server's counts of requests and images."""
    from urllib.request import urlopen

    names = {
        "nv_inference_request_success": "answered",
        "nv_inference_request_failure": "failed",
        "nv_inference_count": "images_received",
        "msal_deploy_images_total": "images",
        "msal_deploy_refused_total": "refused",
    }
    found: Counter[str] = Counter()
    with urlopen(f"http://localhost:{ports.metrics}/metrics") as response:
        for line in response.read().decode().splitlines():
            if name := names.get(line.partition("{")[0]):
                found[name] += round(float(line.rpartition(" ")[2]))
    return found


def _counted(ports: Any, before: Counter[str], sent: dict[str, int]) -> dict[str, int]:
    """Return what the server counted since `before`, when it has counted the last answer."""
    end = time.monotonic() + METRICS_TIMEOUT
    while True:
        now = _metrics(ports)
        counted = {name: now[name] - before[name] for name in now}
        if counted == _expected(sent) or time.monotonic() > end:
            return counted
        time.sleep(0.1)


def _expected(sent: dict[str, int]) -> dict[str, int]:
    return {
        "answered": sent["requests"] + sent["refused"],  # Triton counts a refusal by the model as an answer
        "failed": 0,
        "images_received": sent["images"] + sent["refused"],
        "images": sent["images"],
        "refused": sent["refused"],
    }


if __name__ == "__main__":
    run_command_line(app)
