"""ONNX Runtime on the CPU."""

import onnx
import onnxruntime

from msal_deploy.fp16_emulation import emulate_fp16
from msal_deploy.runtimes.base import Engine
from msal_deploy.spec import Float32Maps, UInt8Images

UNSIGNED = "model.int8.u8s8.onnx"  # the same INT8 for ONNX Runtime's kernels, twice as fast as the s8s8 file there


class OnnxRuntimeEngine(Engine):
    """Runs a graph of the bundle with ONNX Runtime's CPU provider.

    ``fp16`` computes in FP32 and rounds every tensor to FP16: it shows what FP16 costs in Dice, not how fast it is.
    """

    runtime = "onnxruntime"
    precisions = ("fp32", "fp16", "int8")

    def _open(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or 0  # 0: one a core
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(self._graph(), options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._check_names((tensor.name for tensor in inputs), (tensor.name for tensor in outputs))

    def _graph(self) -> str | bytes:
        name = f"model.{self.precision}.onnx"
        if self.precision == "fp16":
            twin: bytes = emulate_fp16(onnx.load(self.bundle.file(name))).SerializeToString()
            return twin
        if self.precision == "int8" and UNSIGNED in self.bundle.manifest.artifacts:
            name = UNSIGNED
        return str(self.bundle.file(name))

    def _infer(self, images: UInt8Images) -> Float32Maps:
        outputs: list[Float32Maps] = self._session.run([self.spec.probability.name], {self.spec.image.name: images})
        return outputs[0]

    def _close(self) -> None:
        del self._session
