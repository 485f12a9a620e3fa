"""The limit of this machine's arithmetic: the rate of large convolutions, and the network's time at that rate."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Large enough that arithmetic takes nearly all of the time, small enough that the weights stay in the cache.
CHANNELS, SIDE, CONVOLUTIONS = 512, 64, 4
KERNEL = 3


def operations() -> int:
    """Return the operations of one run of `convolutions`. A multiply-accumulate counts as two."""
    return CONVOLUTIONS * 2 * (CHANNELS * KERNEL * SIDE) ** 2


def convolutions(precision: str) -> onnx.ModelProto:
    """Return a chain of 3×3 convolutions, each followed by a ReLU. Input and output are float32[1,C,SIDE,SIDE].

    Args:
        precision: ``fp32``, or ``int8`` for signed Q/DQ on both operands with per-channel weights, as in our graphs.
    """
    random = np.random.default_rng(0)
    shape = (1, CHANNELS, SIDE, SIDE)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    data = "data"
    for k in range(CONVOLUTIONS):
        weight = random.normal(0, 0.02, (CHANNELS, CHANNELS, KERNEL, KERNEL)).astype(np.float32)
        weight_name = f"weight{k}"
        if precision == "int8":
            data, weight_name = _quantise(k, data, weight, nodes, tensors)
        else:
            tensors.append(numpy_helper.from_array(weight, weight_name))
        pads = [KERNEL // 2] * 4
        nodes.append(helper.make_node("Conv", [data, weight_name], [f"sum{k}"], f"conv{k}", pads=pads))
        nodes.append(helper.make_node("Relu", [f"sum{k}"], [f"relu{k}"]))
        data = f"relu{k}"
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(data, TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "limit", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _quantise(
    k: int, data: str, weight: np.ndarray, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]
) -> tuple[str, str]:
    """Put Q/DQ before both operands of convolution `k`, and return the names of the new operands."""
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    constants = {
        f"q{k}": np.round(weight / scale[:, None, None, None]).astype(np.int8),
        f"weight_scale{k}": scale.astype(np.float32),
        f"weight_zero{k}": np.zeros(CHANNELS, np.int8),
        f"scale{k}": np.float32(0.05),
        f"zero{k}": np.int8(0),
    }
    tensors += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    grid = [f"scale{k}", f"zero{k}"]
    nodes += [
        helper.make_node("QuantizeLinear", [data, *grid], [f"data_q{k}"]),
        helper.make_node("DequantizeLinear", [f"data_q{k}", *grid], [f"data_dq{k}"]),
        helper.make_node(
            "DequantizeLinear", [f"q{k}", f"weight_scale{k}", f"weight_zero{k}"], [f"weight_dq{k}"], axis=0
        ),
    ]
    return f"data_dq{k}", f"weight_dq{k}"


def milliseconds(network: Mapping[str, int], one_run: Mapping[str, float]) -> float:
    """Return the time of a network's operations at the rate of the convolutions, in ms.

    Args:
        network: Operations of the network, by precision.
        one_run: Time of one run of the convolutions in ms, by precision.
    """
    return sum(count * one_run[precision] / operations() for precision, count in network.items())
