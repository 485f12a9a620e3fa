"""The FP16 and INT8 graphs in the real TensorRT-RTX, which builds without a GPU: the same files that OpenVINO runs."""

from collections import Counter
from pathlib import Path

import onnx
import pytest

from msal_deploy.graph import load_graph
from msal_deploy.precision.calibrate import max_abs_values
from msal_deploy.precision.fp16 import to_fp16
from msal_deploy.precision.int8 import quantisable, to_int8
from msal_deploy.trt.bindings import load_backend


@pytest.fixture(scope="module")
def typed(graph, ranges, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    onnx.save(to_fp16(load_graph(graph), max_abs_values(ranges))[0], folder / "fp16.onnx")
    onnx.save(to_int8(graph, ranges, quantisable(graph)), folder / "int8.onnx")
    return folder


@pytest.mark.parametrize(("precision", "convolutions"), [("fp16", {"HALF"}), ("int8", {"FLOAT"})])
def test_tensorrt_parses_the_types_and_builds(typed, precision, convolutions):
    backend = load_backend("tensorrt-rtx")
    trt = backend.trt
    builder = trt.Builder(backend.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, backend.logger)
    content = (typed / f"{precision}.onnx").read_bytes()
    assert parser.parse(content), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    types = {layer.get_output(0).dtype.name for layer in layers if layer.type == trt.LayerType.CONVOLUTION}
    assert types == convolutions  # in INT8, the type between DequantizeLinear and QuantizeLinear
    kinds = Counter(layer.type for layer in layers)
    assert bool(kinds[trt.LayerType.QUANTIZE]) == (precision == "int8")

    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 64, 64, 3), (1, 64, 64, 3), (2, 128, 128, 3))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert plan.nbytes > 1_000_000
