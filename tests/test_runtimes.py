"""Every engine keeps the same contract: what it takes, what it gives, when it is open, and what it leaves alone."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from openvino.properties import hint
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle
from torch.nn.modules.module import register_module_forward_pre_hook
from triton_server import Server, serving

from msal_deploy.bundle import CHECKPOINT, Bundle
from msal_deploy.errors import BadInput, DeployError, MissingRequirement
from msal_deploy.export import GRAPH, example_images
from msal_deploy.network import DeployedNetwork
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.precision.calibrate import calibrate
from msal_deploy.precision.calibration_tiles import Tile
from msal_deploy.precision.int8 import quantisable, to_int8
from msal_deploy.runtimes import Engine, catalogue, open_engine
from msal_deploy.runtimes.openvino import CORE

pytestmark = pytest.mark.usefixtures("one_torch_thread")
# What OpenVINO computes in only where the CPU can; INT8 and FP32 it has on every one.
OPTIONAL = {"openvino:bf16": "BF16", "openvino:fp16": "FP16"}
CAPABILITIES = CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
GRAPH_OF = {
    "onnxruntime:fp32": GRAPH,
    "onnxruntime:fp16": "model.fp16.onnx",
    "onnxruntime:int8": "model.int8.onnx",
    "openvino:fp32": GRAPH,
    "openvino:int8": "model.int8.onnx",
    **{name: GRAPH for name in ("openvino:bf16",) if OPTIONAL[name] in CAPABILITIES},
    **{name: "model.fp16.onnx" for name in ("openvino:fp16",) if OPTIONAL[name] in CAPABILITIES},
}
FP32 = ("torch:fp32", "onnxruntime:fp32", "openvino:fp32")
IDS = ("torch:fp32", *GRAPH_OF, "triton:http", "triton:grpc")
TOLERANCE = 1e-5
COARSE = {"fp16": 2e-3, "bf16": 1e-2, "int8": 2e-2}  # what a precision may differ from FP32 by


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of graphs that are quickly compiled, with a real INT8 graph; it has no checkpoint for torch."""
    tiny = write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")
    for precision in ("fp32", "fp16"):
        tiny = put_graph(tiny, f"model.{precision}.onnx", tiny_graph(precision, seed=3, gain=2 / 255))
    source = tiny.file(GRAPH)
    ranges = calibrate(source, [Tile("drawn", 0, 0, image) for image in example_images(2, 256, 256, seed=1)])
    return put_graph(tiny, "model.int8.onnx", to_int8(source, ranges, quantisable(source)))


@pytest.fixture(scope="module")
def server(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real Triton that serves the FP32 graph with OpenVINO."""
    folder = tmp_path_factory.mktemp("triton") / "served"
    served = Bundle(Path(shutil.copytree(tiny.path, folder.with_name("bundle"))))
    (served.path / "golden").mkdir()
    images = example_images(2, 64, 64)
    with open_engine(served, "onnxruntime:fp32", threads=1) as engine:
        for name, array in (("image", images), ("probability", engine(images))):
            np.save(folder.with_name("golden.npy"), array)
            served = put_graph(served, f"golden/{name}.npy", folder.with_name("golden.npy"))
    write_package(served, "triton", folder, PackageOptions(backend="openvino"))
    with serving(folder, folder.with_name("log")) as server:
        yield server


Opener = Callable[[str], Engine]


@pytest.fixture(scope="module")
def open_any(bundle: Bundle, tiny: Bundle, request: pytest.FixtureRequest) -> Opener:
    """Return an engine by its name in `IDS`, not yet entered. The server is started for the first that asks for it."""

    def open_any(name: str) -> Engine:
        runtime, _, way = name.partition(":")
        if runtime == "triton":
            return open_engine(tiny, f"triton:{getattr(request.getfixturevalue('server'), way)}/msal-net", threads=1)
        return open_engine(bundle if runtime == "torch" else tiny, name, threads=1)

    return open_any


@pytest.fixture(scope="module")
def engines(open_any: Opener) -> Iterator[dict[str, Engine]]:
    """All engines, open at once."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(open_any(name)) for name in IDS}


@pytest.fixture(params=IDS)
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


@pytest.fixture
def images() -> np.ndarray:
    return example_images(2, 64, 96)


@pytest.fixture
def changed(tiny: Bundle, tmp_path: Path) -> Callable[[str, bytes], Bundle]:
    """Copy a bundle with another graph in it, and a manifest that describes this graph."""

    def change(name: str, graph: bytes) -> Bundle:
        (tmp_path / "graph").write_bytes(graph)
        return put_graph(Bundle(Path(shutil.copytree(tiny.path, tmp_path / "changed"))), name, tmp_path / "graph")

    return change


@pytest.mark.parametrize(
    ("graphs", "missing", "engine"),
    [
        ((), (), "openvino:fp32"),
        (("model.int8.onnx",), (), "openvino:int8"),
        (("model.int8.onnx",), ("openvino",), "onnxruntime:int8"),
        ((), ("openvino",), "onnxruntime:fp32"),
        ((), ("openvino", "onnxruntime"), "torch:fp32"),
    ],
)
def test_unnamed_the_fastest_engine_is_taken(bundle, monkeypatch, graphs, missing, engine):
    monkeypatch.setattr(catalogue, "find_spec", lambda name: None if name in missing else find_spec(name))
    for graph in graphs:
        monkeypatch.setitem(bundle.manifest.artifacts, graph, bundle.manifest.artifacts[GRAPH])
    assert open_engine(bundle).id == engine


def test_all_runtimes_give_the_same_probabilities_of_one_network(bundle, images):
    with ExitStack() as stack:
        found = [stack.enter_context(open_engine(bundle, name, threads=1))(images) for name in FP32]
    assert found[0].std() > 1e-3
    for probability in found[1:]:
        np.testing.assert_allclose(probability, found[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", IDS[1:])
def test_all_precisions_and_the_server_give_nearly_the_same_probabilities(engines, images, name):
    expected, probability = engines["onnxruntime:fp32"](images), engines[name](images)
    assert expected.std() > 0.05  # many times what a precision may cost on the average
    tolerance = COARSE.get(name.partition(":")[2], TOLERANCE)
    np.testing.assert_allclose(probability, expected, rtol=0, atol=tolerance)
    assert np.abs(probability - expected).mean() < 5e-3
    if tolerance > TOLERANCE:  # it does compute in that precision
        assert np.abs(probability - expected).max() > TOLERANCE


def test_probabilities_are_an_array_of_the_shape_of_the_images(engine, images):
    probability = engine(images)
    assert type(probability) is np.ndarray
    assert probability.dtype == np.float32 and probability.shape == (2, 1, 64, 96)
    assert probability.min() >= 0 and probability.max() <= 1


def test_name_is_the_id(engines, server):
    ids = {name: name for name in IDS if not name.startswith("triton")}
    ids |= {f"triton:{way}": f"triton:{getattr(server, way)}/msal-net" for way in ("http", "grpc")}
    assert {name: engine.id for name, engine in engines.items()} == ids


@pytest.mark.parametrize("name", [name for name, capability in OPTIONAL.items() if capability not in CAPABILITIES])
def test_a_precision_that_the_cpu_lacks_is_refused(tiny, name):
    with pytest.raises(MissingRequirement, match=OPTIONAL[name]), open_engine(tiny, name):
        pass


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 2, 1), (4, 1)])
def test_probability_does_not_depend_on_the_batch(engine, sizes):
    images = example_images(5, 64, 64)
    parts = np.split(images, np.cumsum(sizes)[:-1])
    np.testing.assert_allclose(np.concatenate([engine(part) for part in parts]), engine(images), rtol=0, atol=TOLERANCE)


def test_sizes_may_change_from_call_to_call(engine):
    expected = engine(example_images(1, 32, 64))
    for height, width in ((64, 32), (96, 96), (32, 32), (128, 32), (32, 128)):  # more than are kept compiled
        assert engine(example_images(1, height, width)).shape == (1, 1, height, width)
    np.testing.assert_allclose(engine(example_images(1, 32, 64)), expected, rtol=0, atol=TOLERANCE)


def test_images_are_not_changed(engine, images):
    before = images.copy()
    engine(images)
    assert np.array_equal(images, before)


def test_output_belongs_to_the_caller(engine, images):
    first = engine(images)
    kept = first.copy()
    engine(255 - images)
    assert np.array_equal(first, kept)
    first[:] = 7
    np.testing.assert_allclose(engine(images), kept, rtol=0, atol=TOLERANCE)


def test_images_may_change_after_the_call(engine, images):
    expected = engine(images)
    buffer = images.copy()
    engine(buffer)
    buffer[:] = 0
    np.testing.assert_allclose(engine(images), expected, rtol=0, atol=TOLERANCE)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
    "cropped": lambda a: np.pad(a, ((0, 0), (5, 3), (7, 1), (0, 0)))[:, 5:-3, 7:-1],
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_layout_in_memory_does_not_matter(engine, images, layout):
    laid_out = LAYOUTS[layout](images)
    assert np.array_equal(laid_out, images)
    np.testing.assert_allclose(engine(laid_out), engine(images), rtol=0, atol=TOLERANCE)


def test_reversed_channels_are_taken(engine, images):
    """``cv2.imread(…)[..., ::-1]`` is how many people make RGB of BGR."""
    rgb = images[..., ::-1].copy()[..., ::-1]
    np.testing.assert_allclose(engine(rgb), engine(images), rtol=0, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # torch says so once a process
def test_read_only_images_are_taken(engine, images):
    expected = engine(images)
    images.setflags(write=False)
    np.testing.assert_allclose(engine(images), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((1, 64, 64, 3), np.float32, "uint8"),
        ((1, 64, 64, 3), np.int8, "uint8"),
        ((64, 64, 3), np.uint8, "shape"),
        ((1, 3, 64, 64), np.uint8, "shape"),
        ((1, 64, 64, 4), np.uint8, "shape"),
        ((0, 64, 64, 3), np.uint8, "batch"),
        ((65, 32, 32, 3), np.uint8, "batch"),
        ((1, 60, 64, 3), np.uint8, "height"),
        ((1, 64, 4128, 3), np.uint8, "width"),
    ],
)
def test_wrong_images_are_refused_and_the_engine_lives_on(engine, images, shape, dtype, sentence):
    with pytest.raises(BadInput, match=sentence):
        engine(np.zeros(shape, dtype))
    assert np.isfinite(engine(images)).all()


@pytest.mark.parametrize("images", [[[[[1, 2, 3]]]], None], ids=["list", "None"])
def test_what_is_no_array_is_refused(engines, images):
    with pytest.raises((BadInput, TypeError)):
        engines["torch:fp32"](images)


@pytest.mark.parametrize("name", IDS)
def test_engine_is_open_only_inside_its_context(open_any, images, name):
    engine = open_any(name)
    with pytest.raises(RuntimeError, match="with statement"):
        engine(images)
    with engine as entered:
        assert entered is engine
        first = engine(images)
    with pytest.raises(RuntimeError, match="with statement"):
        engine(images)
    with engine:
        np.testing.assert_allclose(engine(images), first, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", IDS)
def test_error_inside_the_context_closes_the_engine_and_passes(open_any, images, name):
    engine = open_any(name)
    with pytest.raises(KeyError, match="mine"), engine:
        raise KeyError("mine")
    with pytest.raises(RuntimeError, match="with statement"):
        engine(images)


@pytest.mark.parametrize("name", IDS)
def test_two_engines_of_one_runtime_do_not_disturb_each_other(open_any, images, name):
    with open_any(name) as one:
        with open_any(name) as two:
            np.testing.assert_allclose(one(images), two(images), rtol=0, atol=TOLERANCE)
        assert one(images).shape == (2, 1, 64, 96)


@pytest.mark.parametrize("name", IDS)
def test_engine_entered_twice_is_refused_or_closed_in_peace(open_any, name):
    engine = open_any(name)
    with engine:
        try:
            with engine:
                pass
        except RuntimeError:
            pass


def test_calls_from_several_threads(engine):
    images = [example_images(1, 128, 128, seed=seed) for seed in range(4)]
    expected = [engine(image) for image in images]
    wrong: list[object] = []

    def work(index: int) -> None:
        try:
            for _ in range(4):
                np.testing.assert_allclose(engine(images[index]), expected[index], rtol=0, atol=TOLERANCE)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


CTRL_C_AFTER_CLOSING = """
import os, signal, sys, threading
import numpy as np
from msal_deploy import Bundle, open_engine

bundle, name, closing = sys.argv[1:]
engines = [open_engine(Bundle(bundle), name, threads=1).__enter__() for _ in range(2)]
for engine in engines:
    engine(np.zeros((1, 64, 64, 3), np.uint8))

if closing == "in reverse order":
    engines.reverse()
for engine in engines:
    close = threading.Thread(target=engine.__exit__, args=(None, None, None))
    if closing == "in another thread":
        close.start()
        close.join()
    else:
        close.run()
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("closed", ["in the order of opening", "in reverse order", "in another thread"])
@pytest.mark.parametrize("name", ["onnxruntime:fp32", "openvino:fp32"])
def test_ctrl_c_after_engines_were_closed_is_a_keyboard_interrupt(tiny, name, closed):
    """OpenVINO leaves a thread with an unmapped signal stack if its cores end in some other order or thread."""
    command = [sys.executable, "-c", CTRL_C_AFTER_CLOSING, str(tiny.path), name, closed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_each_torch_engine_computes_with_its_own_threads_and_leaves_torchs_alone(bundle):
    torch.set_num_threads(3)
    images, seen = example_images(1, 32, 32), []
    hook = register_module_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        with ExitStack() as stack:
            engines = [stack.enter_context(open_engine(bundle, "torch:fp32", threads=n)) for n in (1, 2, None)]
            for engine, threads in zip(engines, (1, 2, 3), strict=True):
                seen.clear()
                engine(images)
                assert set(seen) == {threads}
                assert torch.get_num_threads() == 3
    finally:
        hook.remove()


def test_torchs_threads_are_restored_where_computing_fails(bundle, monkeypatch):
    torch.set_num_threads(3)
    with open_engine(bundle, "torch:fp32", threads=1) as engine:
        monkeypatch.setattr(DeployedNetwork, "forward", lambda *_: 1 / 0)
        with pytest.raises(BadInput, match=r"cannot compute images of shape .* \(division by zero\)"):
            engine(example_images(1, 32, 32))
    assert torch.get_num_threads() == 3


def damage(bundle: Bundle, folder: Path, name: str) -> Bundle:
    copied = Path(shutil.copytree(bundle.path, folder / "damaged"))
    with (copied / name).open("ab") as stream:
        stream.write(b"!")
    return Bundle(copied)


@pytest.mark.parametrize(("name", "file"), [("torch:fp32", CHECKPOINT), *GRAPH_OF.items()])
def test_changed_file_is_refused(bundle, tiny, tmp_path, name, file):
    engine = open_engine(damage(bundle if file == CHECKPOINT else tiny, tmp_path, file), name)
    with pytest.raises(BadInput, match="SHA-256 differs"), engine:
        pass
    with pytest.raises(RuntimeError, match="with statement"):
        engine(example_images(1, 32, 32))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("openvin:fp32", "did you mean 'openvino'"),
        ("Torch:fp32", "did you mean 'torch'"),
        (
            "zebra:fp32",
            "choose from: onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, openvino, tensorrt, tensorrt-rtx",
        ),
        ("", "'' is not a runtime .in ''.; choose from"),
        (":fp32", "'' is not a runtime .in ':fp32'.; choose from"),
        ("torch", "torch needs a precision; use torch:fp32"),
        ("torch:int4", "torch does not support 'int4'; choose from: bf16, fp16, fp32"),
        ("torch:fp32:", "did you mean 'fp32'"),
    ],
)
def test_unknown_id_is_refused(bundle, name, sentence):
    with pytest.raises(BadInput, match=sentence):
        open_engine(bundle, name)


def test_openvino_really_computes_in_fp32(tiny, images, monkeypatch):
    compiled = []
    compile_model = openvino.Core.compile_model

    def recorded(*arguments: object, **options: object) -> openvino.CompiledModel:
        compiled.append(compile_model(*arguments, **options))
        return compiled[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", recorded)
    with open_engine(tiny, "openvino:fp32", threads=1) as engine:
        engine(images)
    (model,) = compiled
    assert model.get_property(hint.inference_precision) == openvino.Type.f32
    nodes = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    precisions = {str(getattr(info["runtimePrecision"], "value", info["runtimePrecision"])) for info in nodes}
    assert "f32" in precisions and not precisions & {"bf16", "f16"}


def renamed(graph: Path, name: str) -> bytes:
    model = onnx.load(graph)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if entry == name else entry for entry in names]
    for value in (*model.graph.input, *model.graph.output):
        value.name = "renamed" if value.name == name else value.name
    return bytes(model.SerializeToString())


GRAPH_REASON = "what the runtime raises about a foreign or damaged graph goes uncaught; OpenVINO goes by position"


@pytest.mark.parametrize(("name", "file"), GRAPH_OF.items())
@pytest.mark.parametrize("tensor", ["image", "probability"])
def test_graph_with_other_names_is_refused(tiny, changed, name, file, tensor):
    other = changed(file, renamed(tiny.file(file), tensor))
    with pytest.raises(DeployError), open_engine(other, name, threads=1) as engine:
        engine(example_images(1, 32, 32))


@pytest.mark.parametrize(("name", "file"), GRAPH_OF.items())
@pytest.mark.parametrize("graph", [b"", b"no graph at all"])
def test_damaged_graph_that_the_manifest_describes_is_refused(changed, name, file, graph):
    other = changed(file, graph)
    with pytest.raises(DeployError), open_engine(other, name, threads=1):
        pass


def test_a_graph_with_a_second_output_is_refused(tiny, changed):
    model = onnx.load(tiny.file(GRAPH))
    logits = model.graph.node[-1].input[0]
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    bundle = changed(GRAPH, model.SerializeToString())
    with (
        pytest.raises(BadInput, match="Expected a tensor named 'probability' in"),
        open_engine(bundle, "openvino:fp32"),
    ):
        pass
