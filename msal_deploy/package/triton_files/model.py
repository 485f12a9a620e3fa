"""MSAL-Net in Triton's Python backend: OpenVINO on the CPU. Needs numpy and openvino, and nothing of msal-deploy.

What it takes and gives stands in config.pbtxt, which msal-deploy wrote from the bundle's ModelSpec: ``threads`` and
``streams`` there may be changed, the rest belongs to the graph.
"""

from __future__ import annotations

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

COMPILED_SHAPES = 4  # kept compiled: each holds its own copy of the weights, packed for the shape

# Precision -> what floating point is computed in, and the capability that this takes. The type must be asked for:
# unasked, OpenVINO computes FP32 in bf16 on chips that have it, and an FP16 that the chip lacks it replaces by bf16.
PRECISIONS = {
    "fp32": (openvino.Type.f32, "FP32"),
    "fp16": (openvino.Type.f16, "FP16"),
    "int8": (openvino.Type.f32, "INT8"),
}


class TritonPythonModel:
    """One instance of the model.

    Images of all requests that Triton hands over are computed one by one, as many side by side as there are streams: so
    an image costs the same in any company, and only its height and width have to be compiled for.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the graph; Triton shows what is raised here as the reason why the model is not available."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.spec = json.loads(parameters["model_spec"])
        self.threads, self.streams = int(parameters["threads"]), max(1, int(parameters["streams"]))
        self.type, capability = PRECISIONS[parameters["precision"]]
        self.core = openvino.Core()
        if capability not in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError(f"this CPU does not compute in {capability}; package the bundle in another precision")
        folder = Path(args["model_repository"]) / args["model_version"]
        self.model = self.core.read_model(folder / parameters["graph"])
        self.compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response to each request, in their order."""
        answers = [self._start(request) for request in requests]
        failure = self._wait()
        return [_response(self.spec["probability"]["name"], failure or answer) for answer in answers]

    def finalize(self) -> None:
        """Give the memory back."""
        self.compiled.clear()
        del self.model, self.core

    def _start(self, request: Any) -> NDArray[np.float32] | triton.TritonError:
        """Start on a request's images; return the array that is being filled, float32[N,1,H,W], or what is wrong."""
        images = triton.get_input_tensor_by_name(request, self.spec["image"]["name"]).as_numpy()
        fault = _fault(self.spec["image"]["axes"], images.shape)
        if fault:
            return triton.TritonError(fault, triton.TritonError.INVALID_ARG)
        try:
            return self._queue(images)
        except Exception as error:  # others are under way, and read memory that Triton takes back when this returns
            return _failed(error)

    def _queue(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        number, height, width, channels = images.shape
        probability = np.empty((number, 1, height, width), np.float32)
        queue = self._at((1, height, width, channels))
        for index in range(number):
            image = {self.spec["image"]["name"]: images[index : index + 1]}
            queue.start_async(image, probability[index], share_inputs=True)
        return probability

    def _at(self, shape: tuple[int, ...]) -> Any:
        """Return the queue for images of `shape`, with a request a stream."""
        if shape not in self.compiled:
            queue = openvino.AsyncInferQueue(self._compile(shape), self.streams)
            queue.set_callback(self._keep)
            self.compiled[shape] = queue
        self.compiled.move_to_end(shape)
        return self.compiled[shape]

    def _keep(self, request: Any, place: NDArray[np.float32]) -> None:
        place[:] = request.get_tensor(self.spec["probability"]["name"]).data[0]

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
        return self.core.compile_model(model, "CPU", settings)

    def _wait(self) -> triton.TritonError | None:
        """Wait for everything that was started; return what went wrong."""
        failure = None
        for queue in self.compiled.values():
            try:
                queue.wait_all()
            except Exception as error:
                failure = _failed(error)
        while len(self.compiled) > COMPILED_SHAPES:  # only now: nothing is under way
            self.compiled.popitem(last=False)
        return failure


def _fault(axes: list[Any], shape: tuple[int, ...]) -> str:
    """Return what is wrong with a shape, empty where nothing is."""
    for axis, extent in zip(axes, shape, strict=True):
        if not isinstance(axis, dict):
            continue  # Triton checks what is fixed
        if not axis["minimum"] <= extent <= axis["maximum"]:
            return f"the {axis['name']} is {extent}; it must lie between {axis['minimum']} and {axis['maximum']}"
        if extent % axis["multiple"]:
            return f"the {axis['name']} is {extent}; it must be a multiple of {axis['multiple']}"
    return ""


def _failed(error: Exception) -> triton.TritonError:
    return triton.TritonError(f"OpenVINO could not compute: {error}", triton.TritonError.INTERNAL)


def _response(name: str, answer: NDArray[np.float32] | triton.TritonError) -> Any:
    if isinstance(answer, triton.TritonError):
        return triton.InferenceResponse(error=answer)
    return triton.InferenceResponse([triton.Tensor(name, answer)])
