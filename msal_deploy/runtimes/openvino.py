"""OpenVINO on the CPU."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import openvino
import openvino.properties.hint as hints
from openvino import properties

from msal_deploy.errors import MissingRequirement
from msal_deploy.runtimes.base import Engine
from msal_deploy.runtimes.kernels import Kernel
from msal_deploy.spec import Float32Maps, UInt8Images

MAX_COMPILED_SHAPES = 4  # each compiled shape has its own copy of the weights

# One core until the process ends. The CPU plugin gives the thread that loads it a signal stack, and unmaps that memory
# with the core. If cores end in another order than they began, or in another thread, that thread still points to the
# memory, and the next Ctrl-C is a segmentation fault (OpenVINO 2026.4).
CORE = openvino.Core()

# Precision -> graph, floating-point type, and the CPU capability that it requires. The type must be set explicitly:
# by default OpenVINO computes FP32 in bf16 on CPUs that support it, and silently replaces unsupported FP16 by bf16.
PRECISIONS = {
    "fp32": ("fp32", openvino.Type.f32, "FP32"),
    "int8": ("int8", openvino.Type.f32, "INT8"),
    "bf16": ("fp32", openvino.Type.bf16, "BF16"),
    "fp16": ("fp16", openvino.Type.f16, "FP16"),
}


class OpenVinoEngine(Engine):
    """Runs a graph of the bundle with OpenVINO, compiled for each shape of images on first use.

    With more than one stream, the images of a batch are computed in parallel: more images per second, and a longer
    latency for each.
    """

    runtime = "openvino"
    has_streams = True

    def _open(self) -> None:
        graph, self._type, capability = PRECISIONS[self.precision]
        if capability not in (capabilities := CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
            supported = ", ".join(sorted({"FP32", "BF16", "FP16", "INT8"}.intersection(capabilities)))
            raise MissingRequirement(f"This CPU does not support {capability}", f"choose from: {supported}")
        path = self.bundle.graph(graph, self.runtime)
        # OpenVINO tries other formats on a file that is no ONNX file, and their parsers write to stderr.
        onnx.load(path, load_external_data=False)
        self._model = CORE.read_model(path)
        self._check_tensors(_types(self._model.inputs), _types(self._model.outputs))
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def _infer(self, images: UInt8Images) -> Float32Maps:
        if self.streams > 1 and len(images) > 1:
            return self._infer_streams(images)
        request = self._requests(images.shape)[0]
        request.infer({self.spec.image.name: images}, share_inputs=True)
        # The output belongs to the request, and the next call overwrites it.
        probability: Float32Maps = request.get_tensor(self.spec.probability.name).data.copy()
        return probability

    def _infer_streams(self, images: UInt8Images) -> Float32Maps:
        queue = self._requests((1, *images.shape[1:]))
        probability = np.empty((len(images), 1, *images.shape[1:3]), np.float32)

        def keep(request: Any, index: int) -> None:
            probability[index] = request.get_tensor(self.spec.probability.name).data[0]

        queue.set_callback(keep)
        for index in range(len(images)):
            queue.start_async({self.spec.image.name: images[index : index + 1]}, index, share_inputs=True)
        queue.wait_all()
        return probability

    def _requests(self, shape: tuple[int, ...]) -> Any:
        """Return the inference requests for images of `shape`, one for each stream."""
        if shape not in self._compiled:
            self._compiled[shape] = openvino.AsyncInferQueue(self._compile(shape), self.streams)
            if len(self._compiled) > MAX_COMPILED_SHAPES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        return self._compiled[shape]

    def kernels(self, images: UInt8Images, runs: int) -> tuple[Kernel, ...]:
        """Return the kernels and their mean times, from the profiler of a second compiled model."""
        compiled = self._compile(images.shape, profile=True)
        request, image = compiled.create_infer_request(), {self.spec.image.name: images}
        request.infer(image)
        first = _profile(request)  # OpenVINO gives the mean over all calls so far, and the first is slower
        for _ in range(runs):
            request.infer(image)
        layers = _nodes_by_kernel(compiled)
        return tuple(
            Kernel(name, kind, ((runs + 1) * mean - first[name, kind]) / runs, layers.get(name, ()))
            for (name, kind), mean in _profile(request).items()
        )

    def _compile(self, shape: tuple[int, ...], *, profile: bool = False) -> Any:
        model = self._model.clone()
        model.reshape(list(shape))
        settings: dict[Any, Any] = {hints.inference_precision: self._type, properties.enable_profiling: profile}
        if self.streams > 1:
            settings[hints.performance_mode] = hints.PerformanceMode.THROUGHPUT
            settings[properties.streams.num] = self.streams
        else:
            settings[hints.performance_mode] = hints.PerformanceMode.LATENCY
        if threads := self._cpu_threads:
            settings[properties.inference_num_threads] = threads
            settings[hints.enable_cpu_pinning] = False  # several processes would all take the first cores
        return CORE.compile_model(model, "CPU", settings)

    def _close(self) -> None:
        del self._compiled, self._model


def _types(tensors: Iterable[Any]) -> dict[str, str]:
    """Return name -> NumPy's name of the type."""
    return {tensor.any_name: tensor.element_type.to_dtype().name for tensor in tensors}


def _profile(request: Any) -> dict[tuple[str, str], float]:
    """Return (name, kind) -> mean time in ms, of the kernels that ran."""
    ran = (one for one in request.get_profiling_info() if one.status == openvino.ProfilingInfo.Status.EXECUTED)
    return {(one.node_name, one.node_type): one.real_time.total_seconds() * 1000 for one in ran}


def _nodes_by_kernel(compiled: Any) -> dict[str, tuple[str, ...]]:
    """Return the name of each kernel -> the nodes of the graph that it computes."""
    nodes = {op.get_friendly_name(): op.get_rt_info() for op in compiled.get_runtime_model().get_ops()}
    return {name: tuple(info["originalLayersNames"].astype(str).split(",")) for name, info in nodes.items()}
