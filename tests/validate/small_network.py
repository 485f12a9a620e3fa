"""A bundle with a network of three convolutions whose masks are the truth, so that any error costs Dice."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from scipy.ndimage import gaussian_filter

from msal_deploy.bundle import Bundle, Manifest, artifact, graph_name, write_manifest
from msal_deploy.data import Patch
from msal_deploy.precision.calibrate import calibrate
from msal_deploy.precision.calibration_tiles import Tile
from msal_deploy.precision.fp16 import to_fp16
from msal_deploy.precision.int8 import quantisable, to_int8
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.spec import ModelSpec

NODES = ("/network/encoder1/Conv", "/network/centre/Conv", "/network/decoder1/Conv")
INPUTS = ("x0", "x1", "x2")  # the tensors that they read
CHANNELS = (3, 8, 8, 1)
SIDE, IMAGES = 64, 6


def images() -> np.ndarray:
    """Return smooth noise, uint8[IMAGES,SIDE,SIDE,3]."""
    noise = np.random.default_rng(0).normal(size=(IMAGES, SIDE, SIDE, 3))
    smooth = np.stack([gaussian_filter(image, (2, 2, 0)) for image in noise])
    return np.clip(128 + 64 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def fp32_graph(*, gain: float = 1.0, bias: float = 0.0) -> onnx.ModelProto:
    """Return the FP32 graph. The first convolution has `gain`, the second its inverse: only FP16 sees a difference."""
    random, stored = np.random.default_rng(1), []
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], name="/Cast", to=T.FLOAT),
        helper.make_node("Transpose", ["cast"], ["x0"], name="/Transpose", perm=[0, 3, 1, 2]),
    ]
    for index, (name, factor) in enumerate(zip(NODES, (gain / 255, 1 / gain, 4.0), strict=True)):
        weights = random.normal(0, 0.5, (CHANNELS[index + 1], CHANNELS[index], 3, 3)) * factor
        stored.append(numpy_helper.from_array(weights.astype(np.float32), f"w{index}"))
        stored.append(
            numpy_helper.from_array(np.full(CHANNELS[index + 1], bias * (index == 2), np.float32), f"b{index}")
        )
        inputs = [f"x{index}", f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], name=name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"x{index + 1}"], name=name.replace("Conv", "Relu")))
    nodes[-1] = helper.make_node("Sigmoid", ["c2"], ["probability"], name="/Sigmoid")
    image = helper.make_tensor_value_info("image", T.UINT8, ["n", "h", "w", 3])
    probability = helper.make_tensor_value_info("probability", T.FLOAT, ["n", 1, "h", "w"])
    graph = helper.make_graph(nodes, "small", [image], [probability], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def probability(model: onnx.ModelProto) -> np.ndarray:
    """Run a graph on all images: float32[IMAGES,SIDE,SIDE]."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images()})[0][:, 0]


def write_small_bundle(folder: Path, *, gain: float = 1.0) -> Bundle:
    """Write a bundle with FP32, FP16 and INT8 graphs; half of the pixels are nuclei."""
    folder.mkdir(parents=True)
    at_zero = probability(fp32_graph(gain=gain)).astype(np.float64)
    source = fp32_graph(gain=gain, bias=-float(np.median(np.log(at_zero / (1 - at_zero)))))
    path = folder / graph_name("fp32")
    onnx.save(source, path)
    ranges = calibrate(path, [Tile("a", 0, 0, image) for image in images()])
    onnx.save(to_int8(path, ranges, quantisable(path)), folder / graph_name("int8"))
    onnx.save(to_fp16(source, {})[0], folder / graph_name("fp16"))
    recipe = Recipe(name="small", network=NetworkRecipe(backbone="resnet18", weights="random"))
    entries = {graph_name(name): artifact(folder, graph_name(name)) for name in ("fp32", "fp16", "int8")}
    write_manifest(folder, Manifest(ModelSpec(), recipe, "CC0-1.0", {}, entries))
    return Bundle(folder)


def patches(bundle: Bundle) -> list[Patch]:
    """Return one patch of each image, whose truth is the mask of the FP32 graph."""
    masks = probability(onnx.load(bundle.graph("fp32"))) >= 0.5
    pairs = zip(images(), masks, strict=True)
    return [Patch(f"image{index}", "top-left", image, mask) for index, (image, mask) in enumerate(pairs)]


def with_wrong_scale(model: onnx.ModelProto, tensor: str, factor: float) -> onnx.ModelProto:
    """Return a copy of an INT8 graph in which one activation has a wrong scale."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (scale,) = [stored for stored in copy.graph.initializer if stored.name == f"{tensor}_scale"]
    scale.CopyFrom(numpy_helper.from_array(np.float32(numpy_helper.to_array(scale) * factor), scale.name))
    return copy
