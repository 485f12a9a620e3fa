"""Bare loops: the API of a runtime with the settings of our engine, without its checks, its lock and its copies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
from openvino import properties
from openvino.properties import hint

from msal_deploy.bundle import Bundle
from msal_deploy.spec import Float32Maps, ModelSpec, UInt8Images

ENGINES = ("openvino:int8", "onnxruntime:int8", "openvino:fp32", "onnxruntime:fp32")
Loop = Callable[[UInt8Images], Float32Maps]


def bare_loop(bundle: Bundle, engine: str, shape: tuple[int, ...], threads: int) -> Loop:
    """Return a call of a runtime over the graph of an engine. The result is a view that the next call overwrites.

    Args:
        bundle: A bundle with the graph.
        engine: One of `ENGINES`.
        shape: Shape of the images.
        threads: CPU threads.
    """
    runtime, _, precision = engine.partition(":")
    graph = bundle.graph(precision, runtime)
    return {"openvino": openvino_loop, "onnxruntime": onnxruntime_loop}[runtime](graph, bundle.spec, shape, threads)


def openvino_loop(graph: Path, spec: ModelSpec, shape: tuple[int, ...], threads: int) -> Loop:
    """Return a call of OpenVINO that shares the input and returns a view of the output."""
    from msal_deploy.runtimes.openvino import CORE  # two cores in one process do not end well; see there

    model = CORE.read_model(graph)
    model.reshape(list(shape))
    settings: dict[Any, Any] = {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        hint.inference_precision: openvino.Type.f32,
        hint.enable_cpu_pinning: False,
        properties.inference_num_threads: threads,
    }
    request = CORE.compile_model(model, "CPU", settings).create_infer_request()
    image, probability = spec.image.name, spec.probability.name

    def call(images: UInt8Images) -> Float32Maps:
        request.infer({image: images}, share_inputs=True)
        return request.get_tensor(probability).data

    return call


def onnxruntime_loop(graph: Path, spec: ModelSpec, shape: tuple[int, ...], threads: int) -> Loop:
    """Return a call of ONNX Runtime with IO binding, as its documentation does it, that writes into one array."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    batch, height, width, _ = shape
    probability = np.empty((batch, 1, height, width), np.float32)
    binding = session.io_binding()
    binding.bind_output(spec.probability.name, "cpu", 0, np.float32, probability.shape, probability.ctypes.data)

    def call(images: UInt8Images) -> Float32Maps:
        binding.bind_cpu_input(spec.image.name, images)
        session.run_with_iobinding(binding)
        return probability

    return call
