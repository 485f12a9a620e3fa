"""MSAL-Net in Triton's Python backend, with OpenVINO on the CPU. Needs numpy and openvino, but not msal-deploy.

config.pbtxt describes its inputs and outputs; msal-deploy wrote it from the bundle's ModelSpec. You may change
``threads`` and ``streams`` in it; all other values depend on the graph.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import triton_python_backend_utils as triton
from openvino import properties
from openvino.properties import hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPILED_SHAPES = 4  # compiled models to keep; each has a copy of the weights, packed for its shape

# Precision -> floating-point type, and the CPU capability it needs. The type must be set explicitly: by default
# OpenVINO computes FP32 in bf16 on CPUs that support bf16, and replaces FP16 by bf16 on CPUs without FP16.
PRECISIONS = {
    "fp32": (openvino.Type.f32, "FP32"),
    "fp16": (openvino.Type.f16, "FP16"),
    "int8": (openvino.Type.f32, "INT8"),
}


class TritonPythonModel:
    """One instance of the model.

    Images are computed one by one, with as many in parallel as there are streams. The time per image therefore does not
    depend on the batch, and the model is compiled only once per height and width.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the graph. Triton reports an exception as the reason why the model is unavailable."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.spec = json.loads(parameters["model_spec"])
        self.threads, self.streams = int(parameters["threads"]), max(1, int(parameters["streams"]))
        self.type, capability = PRECISIONS[parameters["precision"]]
        self.core = openvino.Core()
        if capability not in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError(f"this CPU does not support {capability}; package the bundle in another precision")
        folder = Path(args["model_repository"]) / args["model_version"]
        graph = folder / parameters["graph"]
        if hashlib.sha256(graph.read_bytes()).hexdigest() != parameters["graph_sha256"]:
            raise RuntimeError(f"{graph} has changed since it was packaged (SHA-256 differs); package the bundle again")
        self.model = self.core.read_model(graph)
        self.compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request, in order."""
        answers = [self._start(request) for request in requests]
        failure = self._wait()
        return [_response(self.spec["probability"]["name"], failure or answer) for answer in answers]

    def finalize(self) -> None:
        """Release the memory."""
        self.compiled.clear()
        del self.model, self.core

    def _start(self, request: Any) -> NDArray[np.float32] | triton.TritonError:
        """Start a request; return the float32[N,1,H,W] that will hold its result, or an error."""
        images = triton.get_input_tensor_by_name(request, self.spec["image"]["name"]).as_numpy()
        fault = _fault(self.spec["image"]["axes"], images.shape)
        if fault:
            return triton.TritonError(fault, triton.TritonError.INVALID_ARG)
        try:
            return self._queue(images)
        except Exception as error:  # return it: other requests are running on memory that Triton frees after execute
            return _failed(error)

    def _queue(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch, height, width, channels = images.shape
        probability = np.empty((batch, 1, height, width), np.float32)
        queue = self._queue_for((1, height, width, channels))
        for index in range(batch):
            image = {self.spec["image"]["name"]: images[index : index + 1]}
            queue.start_async(image, probability[index], share_inputs=True)
        return probability

    def _queue_for(self, shape: tuple[int, ...]) -> Any:
        """Return the queue for images of `shape`, with one inference request per stream."""
        if shape not in self.compiled:
            queue = openvino.AsyncInferQueue(self._compile(shape), self.streams)
            queue.set_callback(self._store)
            self.compiled[shape] = queue
        self.compiled.move_to_end(shape)
        return self.compiled[shape]

    def _store(self, request: Any, result: NDArray[np.float32]) -> None:
        result[:] = request.get_tensor(self.spec["probability"]["name"]).data[0]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model = self.model.clone()
        model.reshape(list(shape))
        settings: dict[Any, Any] = {hint.inference_precision: self.type}
        if self.streams > 1:
            settings[hint.performance_mode] = hint.PerformanceMode.THROUGHPUT
            settings[properties.streams.num] = self.streams
        else:
            settings[hint.performance_mode] = hint.PerformanceMode.LATENCY
        if self.threads:
            settings[properties.inference_num_threads] = self.threads
            settings[hint.enable_cpu_pinning] = False  # several processes would all take the first cores
        return self.core.compile_model(model, "CPU", settings)

    def _wait(self) -> triton.TritonError | None:
        """Wait for all running requests; return an error if one failed."""
        failure = None
        for queue in self.compiled.values():
            try:
                queue.wait_all()
            except Exception as error:
                failure = _failed(error)
        while len(self.compiled) > COMPILED_SHAPES:  # only now, because no request is running
            self.compiled.popitem(last=False)
        return failure


def _fault(axes: list[Any], shape: tuple[int, ...]) -> str:
    """Return an error message if `shape` is not supported, or an empty string."""
    for axis, extent in zip(axes, shape, strict=True):
        if not isinstance(axis, dict):
            continue  # Triton checks fixed axes
        if not axis["minimum"] <= extent <= axis["maximum"]:
            return f"the {axis['name']} is {extent}; it must be between {axis['minimum']} and {axis['maximum']}"
        if extent % axis["multiple"]:
            return f"the {axis['name']} is {extent}; it must be a multiple of {axis['multiple']}"
    return ""


def _failed(error: Exception) -> triton.TritonError:
    return triton.TritonError(f"OpenVINO failed: {error}", triton.TritonError.INTERNAL)


def _response(name: str, answer: NDArray[np.float32] | triton.TritonError) -> Any:
    if isinstance(answer, triton.TritonError):
        return triton.InferenceResponse(error=answer)
    return triton.InferenceResponse([triton.Tensor(name, answer)])
