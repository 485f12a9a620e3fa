"""A bundle with small graphs of a few convolutions, in FP32, FP16 and INT8."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from msal_deploy.bundle import Bundle, Manifest, artifact, graph_name, write_manifest
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.spec import ModelSpec

CONVOLUTIONS = ("/network/encoder1/Conv", "/network/encoder2/Conv", "/network/head/Conv")
CHANNELS = (3, 16, 32, 1)


def write_tiny_bundle(folder: Path) -> Bundle:
    """Write a bundle with the three graphs into `folder`."""
    folder.mkdir(parents=True)
    names = {precision: graph_name(precision) for precision in ("fp32", "fp16", "int8")}
    for precision, name in names.items():
        onnx.save(tiny_graph(precision), folder / name)
    recipe = Recipe(name="tiny", network=NetworkRecipe(backbone="resnet18", weights="random"))
    entries = {name: artifact(folder, name) for name in names.values()}
    write_manifest(folder, Manifest(ModelSpec(), recipe, "CC0-1.0", {}, entries))
    return Bundle(folder)


def put_graph(bundle: Bundle, name: str, model: onnx.ModelProto | Path) -> Bundle:
    """Replace a graph of a bundle, and return the reopened bundle."""
    if isinstance(model, Path):
        shutil.copyfile(model, bundle.path / name)
    else:
        onnx.save(model, bundle.path / name)
    entries = {**bundle.manifest.artifacts, name: artifact(bundle.path, name)}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, artifacts=entries))
    return Bundle(bundle.path)


def tiny_graph(precision: str, seed: int = 0, **changes: Any) -> onnx.ModelProto:
    """Return uint8[N,H,W,3] -> cast, transpose, three convolutions, sigmoid -> float32[N,1,H,W], opset 17."""
    random = np.random.default_rng(seed)
    half = precision == "fp16"
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], name="/Cast", to=T.FLOAT16 if half else T.FLOAT),
        helper.make_node("Transpose", ["cast"], ["x0"], name="/Transpose", perm=[0, 3, 1, 2]),
    ]
    stored: list[onnx.TensorProto] = []
    for index, name in enumerate(CONVOLUTIONS):
        weights = random.normal(0, 0.1, (CHANNELS[index + 1], CHANNELS[index], 3, 3)).astype(np.float32)
        operands = _operands(precision, index, weights, nodes, stored)
        nodes.append(helper.make_node("Conv", operands, [f"y{index}"], name=name, kernel_shape=[3, 3], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"y{index}"], [f"x{index + 1}"], name=name.replace("Conv", "Relu")))
    nodes.append(helper.make_node("Cast", ["x3"], ["last"], name="/Cast_1", to=T.FLOAT))
    nodes.append(helper.make_node("Sigmoid", ["last"], ["probability"], name="/Sigmoid"))
    image = helper.make_tensor_value_info(
        changes.get("image", "image"), changes.get("dtype", T.UINT8), ["n", "h", "w", 3]
    )
    probability = helper.make_tensor_value_info("probability", T.FLOAT, ["n", 1, "h", "w"])
    if "image" in changes:
        nodes[0].input[0] = changes["image"]
    graph = helper.make_graph(nodes, "tiny", [image], [probability], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", changes.get("opset", 17))], ir_version=8)


def _operands(
    precision: str, index: int, weights: np.ndarray, nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto]
) -> list[str]:
    """Store the weights of a convolution and return its inputs, behind Q/DQ for INT8."""
    if precision != "int8":
        kind = np.float16 if precision == "fp16" else np.float32
        stored.append(numpy_helper.from_array(weights.astype(kind), f"w{index}"))
        return [f"x{index}", f"w{index}"]
    zero, scale = f"zero{index}", f"scale{index}"
    stored.append(numpy_helper.from_array(np.int8(0), zero))
    stored.append(numpy_helper.from_array(np.float32(0.02), scale))
    stored.append(numpy_helper.from_array(np.clip(weights / 0.02, -127, 127).astype(np.int8), f"w{index}"))
    for kind, source, target in (
        ("QuantizeLinear", f"x{index}", f"q{index}"),
        ("DequantizeLinear", f"q{index}", f"d{index}"),
        ("DequantizeLinear", f"w{index}", f"dw{index}"),
    ):
        nodes.append(helper.make_node(kind, [source, scale, zero], [target], name=f"/{target}_{kind}"))
    return [f"d{index}", f"dw{index}"]
