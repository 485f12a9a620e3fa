"""ONNX Runtime on the CPU."""

import onnxruntime

from msal_deploy.runtimes.base import Engine
from msal_deploy.spec import Float32Maps, UInt8Images


class OnnxRuntimeEngine(Engine):
    """Runs a graph of the bundle with ONNX Runtime's CPU provider."""

    runtime = "onnxruntime"

    def _open(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or 0  # 0: one a core
        options.log_severity_level = 3  # errors only
        graph = self.bundle.file(f"model.{self.precision}.onnx")
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._check_names((tensor.name for tensor in inputs), (tensor.name for tensor in outputs))

    def _infer(self, images: UInt8Images) -> Float32Maps:
        outputs: list[Float32Maps] = self._session.run([self.spec.probability.name], {self.spec.image.name: images})
        return outputs[0]

    def _close(self) -> None:
        del self._session
