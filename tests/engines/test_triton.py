"""A real tritonserver serves the package: what it says, what it computes, and what happens when it does not."""

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf import text_format
from msgspec.structs import replace
from triton_plans import copy_of, put_plan
from triton_server import Server, children, own_memory, serving
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.export import example_images
from msal_deploy.package import PackageOptions, check_golden, write_package
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.triton import protocols
from msal_deploy.runtimes.triton.address import parse_address
from msal_deploy.runtimes.triton.session import Session

TOLERANCE = 1e-5
WAYS = ("http", "grpc", "http?shared-memory=off", "grpc?shared-memory=off")
CLIENTS, SECONDS = 8, 30.0

# A model of the same tensors that does what the first byte of the first image says.
MOODY = """
import time
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        images = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        mood = int(images[0].flat[0])
        if mood == 1:
            raise RuntimeError("out of luck")
        if mood == 3:
            time.sleep(2)
        shapes = [(len(one), 1, 32 if mood == 2 else one.shape[1], one.shape[2]) for one in images]
        filled = [triton.Tensor("probability", np.full(shape, 0.25, np.float32)) for shape in shapes]
        return [triton.InferenceResponse([tensor]) for tensor in filled]
"""
BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("the weights are gone")
"""
SLOW = (
    MOODY
    + """
    def initialize(self, args):
        time.sleep(3)
"""
)


def add_model(package: Path, name: str, code: str, **changes: Any) -> None:
    """Put a model with the tensors of the package's own beside it."""
    config = read_config(package)
    config.ClearField("model_warmup")
    config.ClearField("parameters")
    config.name = name
    for output in config.output:
        output.name = changes.get("output", output.name)
    (package / "models" / name / "1").mkdir(parents=True)
    (package / "models" / name / "1" / "model.py").write_text(code)
    (package / "models" / name / "config.pbtxt").write_text(text_format.MessageToString(config))


def add_swapped(package: Path, name: str) -> None:
    """Put a copy of the package's model beside it whose graph was changed later."""
    folder = Path(shutil.copytree(package / "models" / "msal-net", package / "models" / name))
    config = read_config(package, name)
    config.name = name
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    (file,) = (folder / "1").glob("*.onnx")
    graph = onnx.load(file)
    graph.doc_string = "another graph"
    onnx.save(graph, file)


def read_config(package: Path, model: str = "msal-net") -> Any:
    text = (package / "models" / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The FP32 graph, and beside it models that break in various ways."""
    folder = tmp_path_factory.mktemp("triton") / "served"
    write_package(bundle, "triton", folder, PackageOptions(backend="openvino"))
    add_model(folder, "moody", MOODY)
    add_model(folder, "broken", BROKEN)
    add_model(folder, "slow", SLOW)
    add_model(folder, "other", MOODY.replace('"probability"', '"mask"'), output="mask")
    loaded = [f"--load-model={name}" for name in ("msal-net", "moody", "other")]
    with serving(folder, folder.with_name("log"), "--model-control-mode=explicit", *loaded) as server:
        add_swapped(folder, "swapped")  # now, because serve.py leaves it out
        yield server
    assert not list(folder.rglob("__pycache__"))


@pytest.fixture(scope="module")
def mortal(int8_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The INT8 graph on a server that a test may end, if it starts it again."""
    folder = tmp_path_factory.mktemp("triton") / "served"
    write_package(int8_bundle, "triton", folder, PackageOptions("int8"))
    with serving(folder, folder.with_name("log")) as server:
        yield server


@pytest.fixture
def planned(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The bundle with what stands for two plans."""
    return put_plan(put_plan(copy_of(bundle, tmp_path / "bundle"), "7.5"), "8.6")


@pytest.fixture(scope="module")
def truth(bundle: Bundle) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """What the same runtime computes without a server."""
    with open_engine(bundle, "openvino:fp32") as engine:
        yield engine


def engine_id(server: Server, way: str, model: str = "msal-net", **options: object) -> str:
    """Return the id of the engine that goes to `server` over ``http`` or ``grpc``, with options."""
    scheme, _, query = way.partition("?")
    query = "&".join([*filter(None, [query]), *(f"{name}={value}" for name, value in options.items())])
    return f"triton:{getattr(server, scheme)}/{model}{'?' if query else ''}{query}"


def replay(package: Path, probability: np.ndarray, precision: str, folder: Path) -> int:
    np.save(folder / "result.npy", probability)
    return check_golden.main([str(package / "golden"), str(folder / "result.npy"), "--precision", precision])


# ---- what it says


def plain_client(server: Server, protocol: ModuleType) -> Any:
    address = server.http if protocol is tritonclient.http else server.grpc
    return protocol.InferenceServerClient(address.partition("://")[2])


def test_server_metadata_matches_the_spec(server: Server, bundle: Bundle) -> None:
    with plain_client(server, tritonclient.http) as client:
        assert client.is_server_ready() and client.is_model_ready("msal-net", "1")
        metadata = client.get_model_metadata("msal-net")
    image, probability = bundle.spec.image, bundle.spec.probability
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": image.name, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert metadata["outputs"] == [{"name": probability.name, "datatype": "FP32", "shape": [-1, 1, -1, -1]}]


def test_server_accepts_every_setting_of_config_pbtxt(server: Server) -> None:
    with plain_client(server, tritonclient.grpc) as client:
        served = client.get_model_config("msal-net").config
    written = read_config(server.package)
    for field, value in written.ListFields():
        if field.name != "instance_group":  # Triton gives the instances names
            assert getattr(served, field.name) == value or field.name == "dynamic_batching", field.name
    assert served.instance_group[0].kind == written.instance_group[0].kind
    assert served.dynamic_batching.max_queue_delay_microseconds == 500
    policy = served.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds, policy.timeout_action) == (256, 60_000_000, 0)
    assert policy.allow_timeout_override


def test_server_is_warmed_up_with_the_golden_tile_and_at_512_px(server: Server) -> None:
    golden, usual = read_config(server.package).model_warmup
    image = np.load(server.package / "golden" / "image.npy")[0]
    tiles = server.package / "models" / "msal-net" / "warmup"
    assert {path.name for path in tiles.iterdir()} == {"256x256.rgb", "512x512.rgb"}
    assert tuple(golden.inputs["image"].dims) == image.shape and tuple(usual.inputs["image"].dims) == (512, 512, 3)
    assert (tiles / golden.inputs["image"].input_data_file).read_bytes() == image.tobytes()
    assert (tiles / usual.inputs["image"].input_data_file).read_bytes() == np.tile(image, (2, 2, 1)).tobytes()
    assert "failed to run warmup" not in server.log


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_server_reads_the_settings_of_missing_backends(
    server: Server, planned: Bundle, tmp_path: Path, backend: str
) -> None:
    """This Triton has the Python backend alone; models of others it checks, and says last that it lacks the backend."""
    write_package(planned, "triton", tmp_path / "served", PackageOptions(backend=backend))
    config = read_config(tmp_path / "served")
    config.name = f"for-{backend}"
    model = server.package / "models" / config.name
    shutil.copytree(tmp_path / "served" / "models" / "msal-net", model)
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))
    lacking = pytest.raises(InferenceServerException, match=f"unable to find backend library for backend '{backend}'")
    with plain_client(server, tritonclient.http) as client, lacking:
        client.load_model(config.name)


# ---- what it computes


@pytest.mark.parametrize("way", WAYS)
def test_golden_tiles_over_every_protocol(server: Server, bundle: Bundle, tmp_path: Path, truth, way: str) -> None:
    images = np.load(server.package / "golden" / "image.npy")
    with open_engine(bundle, engine_id(server, way)) as engine:
        probability = engine(images)
    assert probability.std() > 1e-3
    assert replay(server.package, probability, "fp32", tmp_path) == 0
    np.testing.assert_allclose(probability, truth(images), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("way", WAYS[:2])
def test_int8_golden_tiles_are_exact(mortal: Server, int8_bundle: Bundle, tmp_path: Path, way: str) -> None:
    images = np.load(mortal.package / "golden" / "image.npy")
    with open_engine(int8_bundle, engine_id(mortal, way)) as engine:
        probability = engine(images)
    assert replay(mortal.package, probability, "int8", tmp_path) == 0
    assert np.array_equal(probability, np.load(mortal.package / "golden" / "probability.int8.npy"))


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]])
def test_sizes_and_batches_may_change_from_call_to_call(server: Server, bundle: Bundle, truth, way: str) -> None:
    with open_engine(bundle, engine_id(server, way)) as engine:
        for number, height, width in ((1, 64, 96), (3, 32, 32), (1, 128, 32), (2, 96, 160), (1, 256, 96), (1, 64, 96)):
            images = example_images(number, height, width, seed=number)
            probability = engine(images)
            np.testing.assert_allclose(probability, truth(images), rtol=0, atol=TOLERANCE)
            probability[:] = 7  # it is the caller's own


@pytest.mark.parametrize("way", WAYS)
def test_large_batch_is_sent_in_several_requests(server: Server, bundle: Bundle, truth, way: str) -> None:
    images = example_images(19, 32, 64)
    with open_engine(bundle, engine_id(server, way)) as engine:
        np.testing.assert_allclose(engine(images), truth(images), rtol=0, atol=TOLERANCE)


def test_request_fits_into_the_limits_of_triton(server: Server, bundle: Bundle) -> None:
    for query, count in (("?shared-memory=off", 2), ("", 8)):
        session = Session(parse_address(f"{server.http}/msal-net{query}", ""), bundle)
        assert session.max_images(24 << 20) == count
        assert session.max_images(1) == 8
        assert session.max_images(1 << 40) == 1
        session.close()


@pytest.mark.parametrize("way", WAYS)
def test_threads_may_share_an_engine(server: Server, bundle: Bundle, truth, way: str) -> None:
    images = [example_images(1, 64, 64, seed=seed) for seed in range(4)]
    found: dict[int, np.ndarray] = {}
    with open_engine(bundle, engine_id(server, way)) as engine:
        threads = [
            threading.Thread(target=lambda index=index: found.update({index: engine(images[index])}))
            for index in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, image in enumerate(images):
        np.testing.assert_allclose(found[index], truth(image), rtol=0, atol=TOLERANCE)


def own_images(client: int) -> list[np.ndarray]:
    """Three calls of a client: images that nobody else has, in sizes that several have."""
    sizes = ((64, 64), (64, 96)) if client % 2 else ((64, 64), (32, 64))
    return [example_images(number, *sizes[number % 2], seed=100 * client + number) for number in range(1, 4)]


def test_eight_clients_for_half_a_minute(server: Server, bundle: Bundle, truth) -> None:
    """Each sends its own images and checks its own answers, while Triton puts requests of all of them together."""
    calls = [own_images(client) for client in range(CLIENTS)]
    expected = [[truth(images) for images in own] for own in calls]
    wrong: list[str] = []
    answered = [0] * CLIENTS
    end = time.monotonic() + SECONDS

    def work(client: int) -> None:
        try:
            with open_engine(bundle, engine_id(server, WAYS[client % len(WAYS)])) as engine:
                while time.monotonic() < end and not wrong:
                    turn = answered[client] % len(calls[client])
                    delta = np.abs(engine(calls[client][turn]) - expected[client][turn]).max()
                    answered[client] += 1
                    if delta > TOLERANCE:
                        wrong.append(f"client {client} got an answer that differs by {delta}")
        except Exception as error:
            wrong.append(f"client {client}: {error!r}")

    before = statistics(server)
    threads = [threading.Thread(target=work, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 120)
    after = statistics(server)
    assert wrong == []
    assert min(answered) >= 3, answered
    # All clients' images lie further apart than what would pass as the same.
    singles = [own[0][:1, :, :32, :64] for own in expected]
    assert min(np.abs(a - b).max() for i, a in enumerate(singles) for b in singles[:i]) > 100 * TOLERANCE
    assert after["fail"]["count"] == before["fail"]["count"]
    requests, batches = (int(after[key]) - int(before[key]) for key in ("inference_count", "execution_count"))
    assert requests == sum(
        len(calls[client][turn % 3]) for client in range(CLIENTS) for turn in range(answered[client])
    )
    assert batches < requests, "Triton put no requests together"


def statistics(server: Server) -> dict[str, Any]:
    with plain_client(server, tritonclient.http) as client:
        (found,) = client.get_inference_statistics("msal-net")["model_stats"]
    return {**found, "fail": found["inference_stats"]["fail"]}


# ---- memory


@pytest.mark.parametrize(("way", "shares"), [("http", True), ("grpc", True), ("http?shared-memory=off", False)])
def test_shared_memory_is_used_and_released(server: Server, bundle: Bundle, way: str, shares: bool) -> None:
    with open_engine(bundle, engine_id(server, way)) as engine:
        engine(example_images(1, 32, 32))
        shared = own_memory()
        assert bool(shared) == shares
        with plain_client(server, tritonclient.http) as client:
            assert {one["name"] for one in client.get_system_shared_memory_status()} >= shared
    assert own_memory() == set()
    with plain_client(server, tritonclient.http) as client:
        assert client.get_system_shared_memory_status() == []


@pytest.mark.parametrize("way", WAYS[:2])
def test_shared_memory_in_use_is_released_after_the_request(
    server: Server, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("msal_deploy.runtimes.triton.session.UNSHARE_TIMEOUT", 60)
    answers: SimpleQueue[Any] = SimpleQueue()
    images = example_images(1, 32, 32)
    images.flat[0] = 3  # moody takes two seconds over it
    used = tritonclient.grpc.InferInput("image", images.shape, "UINT8")
    with plain_client(server, tritonclient.grpc) as client, plain_client(server, tritonclient.http) as asking:
        with open_engine(bundle, engine_id(server, way)) as engine:
            engine(images)
            (memory,) = own_memory()
            used.set_shared_memory(memory, images.nbytes)
            client.async_infer("moody", [used], callback=lambda result, error: answers.put((result, error)))
            time.sleep(0.5)
            with pytest.raises(InferenceServerException, match="currently in use"):
                asking.unregister_system_shared_memory(memory)
        assert asking.get_system_shared_memory_status() == []
        result, error = answers.get(timeout=60)
        assert error is None and result.as_numpy("probability").shape == (1, 1, 32, 32)
    assert own_memory() == set()


@pytest.mark.parametrize("way", WAYS[:2])
def test_images_are_sent_if_the_server_cannot_open_shared_memory(
    server: Server, bundle: Bundle, truth, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Like a server in a separate container, which is also at localhost."""
    for protocol in (protocols._Http, protocols._Grpc):
        share = protocol.share
        monkeypatch.setattr(protocol, "share", lambda self, name, size, share=share: share(self, f"{name}-not", size))
    images = example_images(2, 64, 64)
    with open_engine(bundle, engine_id(server, way)) as engine:
        np.testing.assert_allclose(engine(images), truth(images), rtol=0, atol=TOLERANCE)


def test_images_are_sent_if_there_is_no_shared_memory(
    server: Server, bundle: Bundle, truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    images = example_images(2, 64, 64)
    with open_engine(bundle, engine_id(server, "http")) as engine:
        np.testing.assert_allclose(engine(images), truth(images), rtol=0, atol=TOLERANCE)
        assert own_memory() == set()


# ---- bad input

WRONG = {
    "type": (np.zeros((1, 64, 64, 3), np.float32), "FP32", "data-type"),
    "channels": (np.zeros((1, 64, 64, 4), np.uint8), "UINT8", "unexpected shape"),
    "axes": (np.zeros((64, 64, 3), np.uint8), "UINT8", "batch-size must be"),
    "batch": (np.zeros((9, 64, 64, 3), np.uint8), "UINT8", "batch-size must be <= 8"),
    "height": (np.zeros((1, 33, 64, 3), np.uint8), "UINT8", "the height is 33; it must be a multiple of 32"),
    "width": (np.zeros((1, 64, 4128, 3), np.uint8), "UINT8", "the width is 4128; it must be between 32 and 4096"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("protocol", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def test_wrong_images_are_refused_and_the_server_lives_on(server: Server, protocol: ModuleType, wrong: str) -> None:
    images, datatype, sentence = WRONG[wrong]
    tensor = protocol.InferInput("image", images.shape, datatype)
    tensor.set_data_from_numpy(images)
    with plain_client(server, protocol) as client:
        with pytest.raises(InferenceServerException, match=sentence):
            client.infer("msal-net", [tensor])
        assert client.is_model_ready("msal-net")


def test_wrong_images_never_leave_the_engine(server: Server, bundle: Bundle) -> None:
    with open_engine(bundle, engine_id(server, "grpc")) as engine:
        for images, sentence in (
            (np.zeros((1, 64, 64, 3), np.float32), "uint8"),
            (np.zeros((1, 48, 64, 3), np.uint8), "32"),
        ):
            with pytest.raises(BadInput, match=sentence):
                engine(images)
        assert engine(example_images(1, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("msal-nett", BadInput, "'msal-nett' is not a model of Triton at .*; did you mean 'msal-net'"),
        ("msal-net/7", BadInput, "does not serve 'msal-net' version 7"),
        ("broken", MissingRequirement, "could not load 'broken'.*the weights are gone"),
        ("swapped", MissingRequirement, "could not load 'swapped'.*has changed since it was packaged"),
        ("other", BadInput, "Expected a tensor named 'probability' in 'other' at .*, got mask"),
    ],
)
def test_unusable_model_is_reported(
    server: Server, bundle: Bundle, way: str, model: str, error: type[Exception], message: str
) -> None:
    if model in ("broken", "swapped"):
        with plain_client(server, tritonclient.http) as client, pytest.raises(InferenceServerException):
            client.load_model(model)
    with pytest.raises(error, match=message), open_engine(bundle, engine_id(server, way, model)):
        pass


def test_engine_waits_for_a_model_that_is_loading(server: Server, bundle: Bundle) -> None:
    with plain_client(server, tritonclient.grpc) as client:
        loading = threading.Thread(target=client.load_model, args=("slow",))
        loading.start()
        time.sleep(0.5)
        assert not client.is_model_ready("slow")
        with open_engine(bundle, engine_id(server, "http", "slow")) as engine:
            assert (engine(np.zeros((1, 32, 32, 3), np.uint8)) == 0.25).all()
        loading.join()


def test_graph_of_another_bundle_is_rejected(server: Server, bundle: Bundle) -> None:
    stranger = Bundle(bundle.path)
    stranger.manifest = replace(bundle.manifest, artifacts={})
    with pytest.raises(BadInput, match=r"serves a graph that is not in .*; package this bundle"):
        open_engine(stranger, engine_id(server, "http")).__enter__()


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize(
    ("mood", "sentence"),
    [(1, "out of luck"), (2, "expected a response of shape .1, 1, 64, 64., got")],
)
def test_failing_model_is_retried_three_times(
    server: Server, bundle: Bundle, caplog: pytest.LogCaptureFixture, way: str, mood: int, sentence: str
) -> None:
    asked = []
    infer = Session.infer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "infer", lambda self, images: asked.append(1) or infer(self, images))
        with open_engine(bundle, engine_id(server, way, "moody")) as engine:
            with pytest.raises(MissingRequirement, match=sentence):
                engine(np.full((1, 64, 64, 3), mood, np.uint8))
            assert len(asked) == 3
            assert (engine(np.zeros((1, 64, 64, 3), np.uint8)) == 0.25).all()


@pytest.mark.parametrize("way", WAYS[:2])
def test_hanging_server_times_out(server: Server, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    for name in ("INFER_TIMEOUT", "CLOSE_TIMEOUT"):
        monkeypatch.setattr(protocols, name, 1.0)
    images = example_images(1, 32, 32)
    with open_engine(bundle, engine_id(server, way)) as engine:
        engine(images)
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(MissingRequirement, match="no response within 1 s"):
                engine(images)
        finally:
            server.signal(signal.SIGCONT)
        monkeypatch.undo()
        assert engine(example_images(1, 32, 32)).shape == (1, 1, 32, 32)


# ---- restarts


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]])
def test_server_killed_during_inference_loses_no_result(
    mortal: Server, int8_bundle: Bundle, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """Calls follow one another without a pause, so that the kill comes in the middle of one."""
    images = [example_images(10, 128, 160, seed=seed) for seed in range(3)]
    done = threading.Event()

    def restart() -> None:
        try:
            time.sleep(0.5)
            mortal.crash()
            mortal.start()
            time.sleep(0.5)
        finally:
            done.set()

    with open_engine(int8_bundle, engine_id(mortal, way, patience=180)) as engine:
        turns = cycle([(batch, engine(batch)) for batch in images])
        restarting = threading.Thread(target=restart)
        restarting.start()
        while not done.is_set():
            batch, expected = next(turns)
            assert np.array_equal(engine(batch), expected)
        restarting.join()
        # A slow machine may spend all of that time in one call, so inference after the restart is checked separately.
        for batch, expected in islice(turns, len(images)):
            assert np.array_equal(engine(batch), expected)
    assert caplog.text.count("retrying for") == 1


def test_killed_server_leaves_no_process(mortal: Server) -> None:
    python = children(mortal.triton)
    assert python
    mortal.crash()
    try:
        end = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in python):
            assert time.monotonic() < end, "the Python processes live on"
            time.sleep(0.05)
    finally:
        mortal.start()


def test_server_restarted_between_two_calls_goes_unnoticed(mortal: Server, int8_bundle: Bundle) -> None:
    images = example_images(2, 64, 64)
    with (
        open_engine(int8_bundle, engine_id(mortal, "grpc")) as one,
        open_engine(int8_bundle, engine_id(mortal, "http")) as two,
    ):
        expected = one(images), two(images)
        mortal.stop()
        mortal.start()
        assert np.array_equal(one(images), expected[0]) and np.array_equal(two(images), expected[1])


def msal_deploy(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("way", WAYS[:2])
def test_missing_server_is_reported_in_time(mortal: Server, int8_bundle: Bundle, way: str) -> None:
    images = example_images(1, 64, 64)
    with open_engine(int8_bundle, engine_id(mortal, way, patience=1.5)) as engine:
        engine(images)
        mortal.crash()
        start = time.monotonic()
        with pytest.raises(MissingRequirement, match=r"did not respond within 1\.5 s of retries .*; start it again"):
            engine(images)
        assert time.monotonic() - start < 10
        result = msal_deploy("bench", int8_bundle.path, "--engine", engine_id(mortal, way))
        assert result.exit_code == 3 and result.output.count("Error: ") == 1
        assert "is not available" in result.output and "Traceback" not in result.output
        mortal.start()
        assert engine(images).shape == (1, 1, 64, 64)


# ---- the command line


def test_bench_runs_against_the_server(server: Server, bundle: Bundle, tmp_path: Path) -> None:
    engines = (
        "--engine",
        "openvino:fp32",
        "--engine",
        engine_id(server, "http"),
        "--engine",
        engine_id(server, "grpc"),
    )
    pace = ("--size", "64", "--batch", "9", "--seconds", "0.1", "--windows", "2")
    result = msal_deploy("bench", bundle.path, *engines, *pace, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    assert "triton:http://localhost" in (tmp_path / "bench.json").read_text()
