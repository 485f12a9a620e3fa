"""OpenVINO on the CPU."""

from collections import OrderedDict
from typing import Any

import openvino
import openvino.properties.hint as hints
from openvino import properties

from msal_deploy.runtimes.base import Engine
from msal_deploy.spec import Float32Maps, UInt8Images

COMPILED_SHAPES = 4  # kept compiled: each holds its own copy of the weights, packed for the shape


class OpenVinoEngine(Engine):
    """Runs a graph of the bundle with OpenVINO, compiled for each shape of images when that shape first comes."""

    runtime = "openvino"

    def _open(self) -> None:
        self._core = openvino.Core()
        self._model = self._core.read_model(self.bundle.file(f"model.{self.precision}.onnx"))
        inputs, outputs = self._model.inputs, self._model.outputs
        self._check_names((tensor.any_name for tensor in inputs), (tensor.any_name for tensor in outputs))
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def _infer(self, images: UInt8Images) -> Float32Maps:
        request = self._request(images.shape)
        request.infer({self.spec.image.name: images}, share_inputs=True)
        # The output belongs to the request and is written over by the next call.
        probability: Float32Maps = request.get_tensor(self.spec.probability.name).data.copy()
        return probability

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._requests:
            self._requests[shape] = self._compile(shape).create_infer_request()
            if len(self._requests) > COMPILED_SHAPES:
                self._requests.popitem(last=False)
        self._requests.move_to_end(shape)
        return self._requests[shape]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model = self._model.clone()
        model.reshape(list(shape))
        settings: dict[Any, Any] = {
            hints.performance_mode: hints.PerformanceMode.LATENCY,
            # Unasked, OpenVINO computes FP32 graphs in bf16 on chips that have it.
            hints.inference_precision: openvino.Type.f32,
        }
        if self.threads:
            settings[properties.inference_num_threads] = self.threads
        return self._core.compile_model(model, "CPU", settings)

    def _close(self) -> None:
        del self._requests, self._model, self._core
