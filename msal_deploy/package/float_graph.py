"""A bundle's graph without its normalisation, for hosts that normalise images themselves."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnx.utils import Extractor

from msal_deploy.errors import BadInput
from msal_deploy.graph import load_graph
from msal_deploy.spec import Axis, Float32Maps, ModelSpec, UInt8Images

LAST_OF_NORMALISATION = "/normalise/Div"  # the name that export gives the node


def float_graph(path: Path, spec: ModelSpec) -> onnx.ModelProto:
    """Return a graph without its cast, transpose and normalisation: float32[N,3,H,W] in, float32[N,1,H,W] out.

    The names of input and output stay. Weights, precision and opset are those of the graph at `path`.

    Raises:
        BadInput: The graph has no such normalisation.
    """
    model = onnx.shape_inference.infer_shapes(load_graph(path))
    tensors = [node.output[0] for node in model.graph.node if node.name == LAST_OF_NORMALISATION]
    if len(tensors) != 1:
        raise BadInput(f"{path.name} does not normalise images as msal-deploy's graphs do", "export the bundle again")
    cut: onnx.ModelProto = Extractor(model).extract_model(tensors, [spec.probability.name])
    given = cut.graph.input[0].type.tensor_type.elem_type
    if given == onnx.TensorProto.FLOAT:
        for node in cut.graph.node:
            node.input[:] = [spec.image.name if name == tensors[0] else name for name in node.input]
    else:  # an FP16 graph
        cut.graph.node.insert(0, helper.make_node("Cast", [spec.image.name], tensors, name="/Cast", to=given))
    batch, height, width, channels = (axis.name if isinstance(axis, Axis) else axis for axis in spec.image.axes)
    shape = [batch, channels, height, width]
    cut.graph.input[0].CopyFrom(helper.make_tensor_value_info(spec.image.name, onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(cut, full_check=True)
    return cut


def normalise(images: UInt8Images, spec: ModelSpec) -> Float32Maps:
    """Return images uint8[N,H,W,3] as float32[N,3,H,W]: (x / 255 − mean) / std, computed as in the graph.

    >>> normalise(np.full((1, 1, 1, 3), 255, np.uint8), ModelSpec())[0, :, 0, 0].astype(float).round(4).tolist()
    [2.2489, 2.4286, 2.64]
    """
    mean, std = (255 * np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
    result: Float32Maps = (images.transpose(0, 3, 1, 2).astype(np.float32) - mean) / std
    return np.ascontiguousarray(result)
