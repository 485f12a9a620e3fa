"""ONNX Runtime on the CPU."""

from collections.abc import Iterable
from typing import Any

import onnx
import onnxruntime

from msal_deploy.fp16_emulation import emulate_fp16
from msal_deploy.runtimes.base import Engine
from msal_deploy.spec import Float32Maps, UInt8Images

NUMPY_NAMES = {"float": "float32", "double": "float64"}


class OnnxRuntimeEngine(Engine):
    """Runs a graph of the bundle with ONNX Runtime's CPU provider.

    ``fp16`` is an emulation: it computes in FP32 and rounds every tensor to FP16. It shows the Dice of FP16, not its
    speed.
    """

    runtime = "onnxruntime"
    opens_after_fork = True  # each session has its own threads

    def _open(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._cpu_threads or 0  # 0: one per core
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(self._graph(), options, providers=["CPUExecutionProvider"])
        self._check_tensors(tensor_types(self._session.get_inputs()), tensor_types(self._session.get_outputs()))

    def _graph(self) -> str | bytes:
        path = self.bundle.graph(self.precision, self.runtime)
        if self.precision != "fp16":
            return str(path)
        emulation: bytes = emulate_fp16(onnx.load(path)).SerializeToString()
        return emulation

    def _infer(self, images: UInt8Images) -> Float32Maps:
        outputs: list[Float32Maps] = self._session.run([self.spec.probability.name], {self.spec.image.name: images})
        return outputs[0]

    def _close(self) -> None:
        del self._session


def tensor_types(tensors: Iterable[Any]) -> dict[str, str]:
    """Return name -> NumPy's name of the type, of tensors such as ``tensor(float)``."""
    types = {tensor.name: tensor.type.removeprefix("tensor(").removesuffix(")") for tensor in tensors}
    return {name: NUMPY_NAMES.get(kind, kind) for name, kind in types.items()}
