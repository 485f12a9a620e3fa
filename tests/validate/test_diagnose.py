"""The likely cause of a large difference, on fake engines and tiny graphs."""

import numpy as np
import onnx
import pytest
from fake_engine import Fake, first_channel
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from msal_deploy.errors import BadInput
from msal_deploy.spec import ModelSpec
from msal_deploy.validate.diagnose import diagnose, prepend_normalisation, shifted
from msal_deploy.validate.probe import probe_reference

SIDE = 32
EXACT = replace(ModelSpec(), mean=(0.5, 0.25, 0.75), std=(0.25, 0.5, 0.125))


def blobs(seed=0):
    """Four images with smooth squares, another one in each channel."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (4, 4, 4, 3), np.uint8).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)


TILES = blobs()


def probe(spec=None):
    with Fake(spec=spec) as reference:
        return probe_reference(reference, TILES)


def cause(compute, engine_id="torch:fp32", spec=None, given=None):
    engine = Fake(compute, engine_id, spec=spec)
    with engine:
        return diagnose(engine, given or probe(spec))


def moved(dy, dx, add=0.0):
    def compute(images):
        p = first_channel(images)
        return np.stack([shifted(one, dy, dx) for one in p[:, 0]])[:, None] + np.float32(add)

    return compute


def test_an_engine_that_agrees_has_no_cause():
    assert cause(first_channel) is None


def test_a_difference_without_a_known_cause_has_none():
    assert cause(lambda images: 1 - first_channel(images)) is None


def test_nan_has_no_cause():
    assert cause(lambda images: first_channel(images) * np.float32("nan")) is None


def test_swapped_channels():
    expected = TILES[:2, ..., 0] / np.float32(256)
    before = np.abs(TILES[:2, ..., 2] / np.float32(256) - expected).mean()
    sentence = "Its output agrees with the reference's when red and blue are swapped"
    assert cause(lambda images: first_channel(images[..., ::-1])) == f"{sentence} (mean |Δp| 0 instead of {before:.2g})"


@pytest.mark.parametrize(
    ("dy", "dx", "direction"),
    [
        (0.5, 0, "0.5 px down"),
        (-0.5, 0, "0.5 px up"),
        (0, 0.5, "0.5 px to the right"),
        (0, -0.5, "0.5 px to the left"),
        (1, 0, "1 px down"),
        (0, -1, "1 px to the left"),
        (0.5, -0.5, "0.5 px down and 0.5 px to the left"),
        (-1, 1, "1 px up and 1 px to the right"),
        (-0.5, 1, "0.5 px up and 1 px to the right"),
        (1, 0.5, "1 px down and 0.5 px to the right"),
    ],
)
def test_a_shift(dy, dx, direction):
    sentence = cause(moved(dy, dx))
    assert sentence.startswith(f"Its output is closest to the reference's shifted {direction} (mean |Δp| 0 instead of ")


def test_shifted_moves_down_and_to_the_right():
    image = np.zeros((3, 4), np.float32)
    image[1, 1] = 8
    assert shifted(image, 1, 0).tolist() == [[0] * 4, [0] * 4, [0, 8, 0, 0]]
    assert shifted(image, 0, -0.5).tolist() == [[0] * 4, [4, 4, 0, 0], [0] * 4]
    assert shifted(np.float32([[2, 0], [2, 0]]), 0, 1).tolist() == [[2, 2], [2, 2]]  # the edge continues


def test_most_of_the_difference_must_be_gone():
    """A constant on top of a shift remains: the cause is named while at most 0.7 of the difference does."""
    expected = first_channel(TILES[:2])

    def remaining(add):
        before = np.abs(moved(0, 1, add)(TILES[:2]) - expected).mean()
        return add / before

    small, large = (next(a for a in np.arange(0.001, 1, 0.001) if remaining(a) > limit) for limit in (0.66, 0.72))
    assert "1 px to the right" in cause(moved(0, 1, small))
    assert cause(moved(0, 1, large)) is None


def test_only_two_tiles_are_computed_for_each_cause():
    engine, given = Fake(lambda images: 1 - first_channel(images)), probe()
    with engine:
        diagnose(engine, given)
    assert engine.shapes == [(1, SIDE, SIDE)] * 4  # as they are, and with swapped channels


# Normalisation: tiny graphs that ONNX Runtime opens


def graph(*nodes, to=TensorProto.FLOAT, constants=()):
    """uint8[N,H,W,3] -> Cast to "x", `nodes` from "x" to "y", the mean over channels as float32[N,1,H,W]."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])
    probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1, "h", "w"])
    body = [
        helper.make_node("Identity", ["image"], ["first"]),
        helper.make_node("Cast", ["first"], ["unused"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["image"], ["x"], to=to),
        *nodes,
        helper.make_node("Cast", ["y"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[3], keepdims=1),
        helper.make_node("Transpose", ["mean"], ["probability"], perm=[0, 3, 1, 2]),
    ]
    stored = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants]
    made = helper.make_graph(body, "tiny", [image], [probability], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def identity(**kwargs):
    return graph(helper.make_node("Identity", ["x"], ["y"]), **kwargs)


def run(model, images):
    from onnxruntime import InferenceSession

    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["probability"], {"image": images})[0]


@pytest.mark.parametrize(("scale", "factor"), [(255.0, 1.0), (1.0, 255.0)])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_normalisation_is_put_behind_the_cast(scale, factor, kind):
    model = identity(to=kind)
    assert prepend_normalisation(model, EXACT, scale)
    images = np.uint8([[[[0, 51, 255]]]])
    expected = ((0 - 0.5) / 0.25 + (0.2 - 0.25) / 0.5 + (1 - 0.75) / 0.125) / 3  # = -0.1 / 3
    assert run(model, images)[0, 0, 0, 0] == pytest.approx(factor * expected, rel=0.01, abs=2e-3 * factor)


def test_the_scale_is_255_unless_another_is_given():
    one, other = identity(), identity()
    assert prepend_normalisation(one, EXACT)
    assert prepend_normalisation(other, EXACT, 255.0)
    assert one == other


def test_a_graph_without_a_cast_of_the_image_cannot_be_normalised():
    model = graph(helper.make_node("Identity", ["x"], ["y"]))
    model.graph.node[2].input[0] = "first"
    before = model.SerializeToString()
    assert not prepend_normalisation(model, EXACT)
    assert model.SerializeToString() == before


class Store:
    """A bundle that has one graph, and records which were asked for."""

    def __init__(self, path, spec=EXACT):
        self.path, self.spec, self.asked = path, spec, []

    def graph(self, precision, runtime=None):
        self.asked.append((precision, runtime))
        if self.path is None:
            raise BadInput("no such graph")
        return self.path


def normalised(images, scale=255.0):
    x = (images - 255 * np.float32(EXACT.mean)) / (np.float32(scale) * np.float32(EXACT.std))
    return x.mean(axis=3)[:, None].astype(np.float32)


def raw(images):
    return images.mean(axis=3)[:, None].astype(np.float32)


def diagnose_graph(compute, model, tmp_path, engine_id="openvino:fp32"):
    path = None
    if model is not None:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
    reference, engine = Fake(normalised), Fake(compute, engine_id)
    engine.bundle = Store(path)
    with reference, engine:
        return diagnose(engine, probe_reference(reference, TILES)), engine.bundle.asked


def test_normalisation_left_out(tmp_path):
    sentence, asked = diagnose_graph(raw, identity(), tmp_path)
    before = np.abs(raw(TILES[:2]) - normalised(TILES[:2])).mean()
    assert sentence.startswith("Its output agrees with the reference's when its input is normalised first (mean |Δp| ")
    assert sentence.endswith(f" instead of {before:.2g})")
    assert asked == [("fp32", "openvino")]


def test_only_the_scale_is_left_in(tmp_path):
    model = graph(helper.make_node("Div", ["x", "white"], ["y"]), constants=[("white", 255)])
    sentence, _ = diagnose_graph(lambda images: raw(images) / 255, model, tmp_path)
    assert "when its input is normalised by mean and standard deviation first" in sentence


@pytest.mark.parametrize(
    ("engine_id", "asked"),
    [
        ("openvino:bf16", ("fp32", "openvino")),
        ("onnxruntime:int8", ("int8", "onnxruntime")),
        ("tensorrt:fp16", ("fp16", "tensorrt")),
    ],
)
def test_the_graph_of_each_engine(engine_id, asked, tmp_path):
    sentence, requests = diagnose_graph(raw, identity(), tmp_path, engine_id)
    assert "normalised first" in sentence
    assert requests == [asked]


@pytest.mark.parametrize("engine_id", ["torch:fp32", "triton:localhost", "unknown:fp32"])
def test_an_engine_without_a_graph_is_not_asked_for_one(engine_id, tmp_path):
    assert diagnose_graph(raw, identity(), tmp_path, engine_id) == (None, [])


def test_a_graph_that_is_missing_names_nothing(tmp_path):
    sentence, asked = diagnose_graph(raw, None, tmp_path)
    assert sentence is None
    assert asked == [("fp32", "openvino")] * 2
