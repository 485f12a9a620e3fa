"""Every engine keeps the same contract: what it takes, what it gives, when it is open, and what it leaves alone."""

import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from openvino.properties import hint
from torch.nn.modules.module import register_module_forward_pre_hook

from msal_deploy.bundle import CHECKPOINT, Bundle, artifact, write_manifest
from msal_deploy.errors import BadInput, DeployError
from msal_deploy.export import GRAPH, example_images
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes import Engine, catalogue, open_engine

pytestmark = pytest.mark.usefixtures("one_torch_thread")
IDS = ("torch:fp32", "onnxruntime:fp32", "openvino:fp32")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def engines(bundle: Bundle):
    """All engines, open at once."""
    opened = {name: open_engine(bundle, name, threads=1).__enter__() for name in IDS}
    yield opened
    for engine in reversed(opened.values()):
        engine.__exit__(None, None, None)


@pytest.fixture(params=IDS)
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


@pytest.fixture
def images() -> np.ndarray:
    return example_images(2, 64, 96)


@pytest.fixture
def changed(bundle: Bundle, tmp_path: Path) -> Callable[..., Bundle]:
    """Copy the bundle with another graph in it, and a manifest that describes this graph."""

    def change(graph: bytes) -> Bundle:
        folder = Path(shutil.copytree(bundle.path, tmp_path / "changed"))
        (folder / GRAPH).write_bytes(graph)
        manifest = Bundle(folder).manifest
        manifest.artifacts[GRAPH] = artifact(folder, GRAPH, CHECKPOINT)
        write_manifest(folder, manifest)
        return Bundle(folder)

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


def test_all_engines_give_the_same_probabilities(engines, images):
    expected = engines["torch:fp32"](images)
    assert expected.std() > 1e-3
    for engine in engines.values():
        probability = engine(images)
        assert type(probability) is np.ndarray
        assert probability.dtype == np.float32 and probability.shape == (2, 1, 64, 96)
        np.testing.assert_allclose(probability, expected, rtol=0, atol=TOLERANCE)


def test_name_is_the_id(engines):
    assert {name: engine.id for name, engine in engines.items()} == {name: name for name in IDS}


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
def test_engine_is_open_only_inside_its_context(bundle, images, name):
    engine = open_engine(bundle, name, threads=1)
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
def test_error_inside_the_context_closes_the_engine_and_passes(bundle, images, name):
    engine = open_engine(bundle, name, threads=1)
    with pytest.raises(KeyError, match="mine"), engine:
        raise KeyError("mine")
    with pytest.raises(RuntimeError, match="with statement"):
        engine(images)


@pytest.mark.parametrize("name", IDS)
def test_two_engines_of_one_runtime_do_not_disturb_each_other(bundle, images, name):
    with open_engine(bundle, name, threads=1) as one:
        with open_engine(bundle, name, threads=1) as two:
            np.testing.assert_allclose(one(images), two(images), rtol=0, atol=TOLERANCE)
        assert one(images).shape == (2, 1, 64, 96)


@pytest.mark.parametrize("name", IDS)
def test_engine_entered_twice_is_refused_or_closed_in_peace(bundle, name):
    engine = open_engine(bundle, name, threads=1)
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
        with pytest.raises(ZeroDivisionError):
            engine(example_images(1, 32, 32))
    assert torch.get_num_threads() == 3


def damage(bundle: Bundle, folder: Path, name: str) -> Bundle:
    copied = Path(shutil.copytree(bundle.path, folder / "damaged"))
    with (copied / name).open("ab") as stream:
        stream.write(b"!")
    return Bundle(copied)


@pytest.mark.parametrize(("name", "file"), [("torch:fp32", CHECKPOINT), *((i, GRAPH) for i in IDS[1:])])
def test_changed_file_is_refused(bundle, tmp_path, name, file):
    engine = open_engine(damage(bundle, tmp_path, file), name)
    with pytest.raises(BadInput, match="SHA-256 differs"), engine:
        pass
    with pytest.raises(RuntimeError, match="with statement"):
        engine(example_images(1, 32, 32))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("openvin:fp32", "did you mean 'openvino'"),
        ("Torch:fp32", "did you mean 'torch'"),
        ("zebra:fp32", "choose from: onnxruntime, openvino, tensorrt, tensorrt-rtx, torch, triton"),
        ("", "'' is not a runtime .in ''.; choose from"),
        (":fp32", "'' is not a runtime .in ':fp32'.; choose from"),
        ("torch", "torch does not support ''; choose from: fp32"),
        ("torch:int4", "torch does not support 'int4'; choose from: fp32"),
        ("torch:fp32:", "did you mean 'fp32'"),
    ],
)
def test_unknown_id_is_refused(bundle, name, sentence):
    with pytest.raises(BadInput, match=sentence):
        open_engine(bundle, name)


def test_openvino_really_computes_in_fp32(bundle, images, monkeypatch):
    compiled = []
    compile_model = openvino.Core.compile_model

    def recorded(*arguments: object, **options: object) -> openvino.CompiledModel:
        compiled.append(compile_model(*arguments, **options))
        return compiled[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", recorded)
    with open_engine(bundle, "openvino:fp32", threads=1) as engine:
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


@pytest.mark.parametrize("name", IDS[1:])
@pytest.mark.parametrize("tensor", ["image", "probability"])
def test_graph_with_other_names_is_refused(bundle, changed, name, tensor):
    other = changed(renamed(bundle.file(GRAPH), tensor))
    with pytest.raises(DeployError), open_engine(other, name, threads=1) as engine:
        engine(example_images(1, 32, 32))


@pytest.mark.parametrize("name", IDS[1:])
@pytest.mark.parametrize("graph", [b"", b"no graph at all"])
def test_damaged_graph_that_the_manifest_describes_is_refused(changed, name, graph):
    other = changed(graph)
    with pytest.raises(DeployError), open_engine(other, name, threads=1):
        pass


def test_openvino_returns_the_output_by_its_name(bundle, changed, images):
    model = onnx.load(bundle.file(GRAPH))
    logits = model.graph.node[-1].input[0]
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    with open_engine(changed(model.SerializeToString()), "openvino:fp32", threads=1) as engine:
        probability = engine(images)
    with open_engine(bundle, "onnxruntime:fp32", threads=1) as engine:
        np.testing.assert_allclose(probability, engine(images), rtol=0, atol=TOLERANCE)
