"""MSAL-Net in Triton's Python backend, with OpenVINO on the CPU. Needs numpy and openvino, but not msal-deploy.

config.pbtxt describes the inputs and outputs of all versions; msal-deploy wrote it from the bundle's ModelSpec. You may
change ``threads``, ``streams`` and ``shapes`` in it; all other values depend on the graph. ``model.json`` in the folder
of a version names the graph of this version.

A client may say which graphs it accepts, with the request parameter ``graph_sha256``: their SHA-256, separated by
spaces. A version with another graph refuses the request.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino
import triton_python_backend_utils as triton
from openvino import properties
from openvino.properties import hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABOUT = "model.json"
EXPECTED = "graph_sha256"  # the request parameter

# Precision -> floating-point type, and the CPU capability it needs. The type must be set explicitly: by default
# OpenVINO computes FP32 in bf16 on CPUs that support bf16, and replaces FP16 by bf16 on CPUs without FP16.
PRECISIONS = {
    "fp32": (openvino.Type.f32, "FP32"),
    "fp16": (openvino.Type.f16, "FP16"),
    "int8": (openvino.Type.f32, "INT8"),
}

# Reason of a refusal -> Triton's error code, an attribute of TritonError, which does not exist yet at import.
CODES = {"invalid": "INVALID_ARG", "cancelled": "CANCELLED", "failed": "INTERNAL"}


class Refused(NamedTuple):
    """Why a request has no result. `reason` is a key of `CODES` and a label of the metric."""

    reason: str
    message: str

    @property
    def error(self) -> Any:
        """Return the error for Triton."""
        return triton.TritonError(self.message, getattr(triton.TritonError, CODES[self.reason]))


class Counts:
    """Triton's metrics of one version: computed images, warm-up included, and refused requests by reason."""

    def __init__(self, model: str, version: str) -> None:
        kind = triton.MetricFamily.COUNTER
        self._images = triton.MetricFamily("msal_deploy_images_total", "Number of computed images", kind)
        self._refused = triton.MetricFamily("msal_deploy_refused_total", "Number of requests without a result", kind)
        labels = {"model": model, "version": version}
        self._computed = self._images.Metric(labels=labels)
        self._by_reason = {reason: self._refused.Metric(labels={**labels, "reason": reason}) for reason in CODES}
        self.images = 0

    def send(self, answers: list[NDArray[np.float32] | Refused]) -> None:
        """Add the images since the last call, and the refused requests among `answers`."""
        if self.images:
            self._computed.increment(self.images)
            self.images = 0
        for answer in answers:
            if isinstance(answer, Refused):
                self._by_reason[answer.reason].increment(1)


class TritonPythonModel:
    """One instance of the model.

    Images are computed one by one, with as many in parallel as there are streams. The time per image therefore does not
    depend on the batch, and the model is compiled only once per height and width.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the graph. Triton reports an exception as the reason why the model is unavailable."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.version = args["model_version"]
        folder = Path(args["model_repository"]) / self.version
        self.about = _about(folder, parameters.get(f"version_{self.version}"))
        self.spec = json.loads(parameters["model_spec"])
        self.threads, self.streams, self.shapes = (int(parameters[name]) for name in ("threads", "streams", "shapes"))
        self.type, capability = PRECISIONS[self.about["precision"]]
        self.core = openvino.Core()
        if capability not in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError(f"this CPU does not support {capability}; package the bundle in another precision")
        self.model = self.core.read_model(folder / self.about["graph"])
        self.compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.counts = Counts(args["model_name"], self.version)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request, in order."""
        answers = [self._start(request) for request in requests]
        failure = self._wait()
        answers = [answer if isinstance(answer, Refused) else failure or answer for answer in answers]
        self.counts.send(answers)
        return [_response(self.spec["probability"]["name"], answer) for answer in answers]

    def finalize(self) -> None:
        """Release the memory."""
        self.compiled.clear()
        del self.model, self.core

    def _start(self, request: Any) -> NDArray[np.float32] | Refused:
        """Start a request; return the float32[N,1,H,W] that will hold its result, or why there is none."""
        images = triton.get_input_tensor_by_name(request, self.spec["image"]["name"]).as_numpy()
        fault = self._fault(request) or _fault(self.spec["image"]["axes"], images.shape)
        if fault:
            return Refused("invalid", fault)
        try:
            return self._queue(request, images)
        except Exception as error:  # return it: other requests are running on memory that Triton frees after execute
            return _failed(error)

    def _fault(self, request: Any) -> str:
        """Return an error message if the client does not accept this version's graph, or an empty string."""
        accepted = json.loads(request.parameters() or "{}").get(EXPECTED)
        if accepted is None or self.about["graph_sha256"] in accepted.split():
            return ""
        return (
            f"version {self.version} serves {self.about['graph']} (SHA-256 {self.about['graph_sha256'][:12]}…), "
            "which the client does not accept"
        )

    def _queue(self, request: Any, images: NDArray[np.uint8]) -> NDArray[np.float32] | Refused:
        batch, height, width, channels = images.shape
        probability = np.empty((batch, 1, height, width), np.float32)
        queue = self._queue_for((1, height, width, channels))
        for index in range(batch):
            if request.is_cancelled():
                return Refused("cancelled", "the client is gone")
            image = {self.spec["image"]["name"]: images[index : index + 1]}
            queue.start_async(image, probability[index], share_inputs=True)  # waits while all streams are busy
            self.counts.images += 1
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

    def _wait(self) -> Refused | None:
        """Wait for all running requests; return an error if one failed."""
        failure = None
        for queue in self.compiled.values():
            try:
                queue.wait_all()
            except Exception as error:
                failure = _failed(error)
        while len(self.compiled) > self.shapes:  # only now, because no request is running
            self.compiled.popitem(last=False)
        return failure


def _about(folder: Path, configured: str | None) -> dict[str, Any]:
    """Return ``model.json`` of a version, after checking its files and that config.pbtxt says the same."""
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    for name, digest in about["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise RuntimeError(f"{folder / name} has changed since it was packaged (SHA-256 differs); package it again")
    if configured is not None and json.loads(configured)["graph_sha256"] != about["graph_sha256"]:
        raise RuntimeError(
            f"config.pbtxt describes another graph than {folder / ABOUT}: copy config.pbtxt too, or remove its "
            f"parameter version_{folder.name}"
        )
    return about


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


def _failed(error: Exception) -> Refused:
    return Refused("failed", f"OpenVINO failed: {error}")


def _response(name: str, answer: NDArray[np.float32] | Refused) -> Any:
    if isinstance(answer, Refused):
        return triton.InferenceResponse(error=answer.error)
    return triton.InferenceResponse([triton.Tensor(name, answer)])
