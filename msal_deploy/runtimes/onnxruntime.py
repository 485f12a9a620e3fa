"""ONNX Runtime on the CPU."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime

from msal_deploy.fp16_emulation import emulate_fp16
from msal_deploy.runtimes.base import Engine
from msal_deploy.runtimes.kernels import Kernel, LayerNames
from msal_deploy.spec import Float32Maps, UInt8Images

KERNEL = "_kernel_time"  # end of the names of ONNX Runtime's profile
NUMPY_NAMES = {"float": "float32", "double": "float64"}


class OnnxRuntimeEngine(Engine):
    """Runs a graph of the bundle with ONNX Runtime's CPU provider.

    ``fp16`` is an emulation: it computes in FP32 and rounds every tensor to FP16. It shows the Dice of FP16, not its
    speed.
    """

    runtime = "onnxruntime"
    opens_after_fork = True  # each session has its own threads

    def _open(self) -> None:
        self._session = self._load(self._options())
        self._check_tensors(tensor_types(self._session.get_inputs()), tensor_types(self._session.get_outputs()))

    def _options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._cpu_threads or 0  # 0: one per core
        options.log_severity_level = 3  # errors only
        return options

    def _load(self, options: Any) -> Any:
        return onnxruntime.InferenceSession(self._graph(), options, providers=["CPUExecutionProvider"])

    def _graph(self) -> str | bytes:
        path = self.bundle.graph(self.precision, self.runtime)
        if self.precision != "fp16":
            return str(path)
        emulation: bytes = emulate_fp16(onnx.load(path)).SerializeToString()
        return emulation

    def _infer(self, images: UInt8Images) -> Float32Maps:
        outputs: list[Float32Maps] = self._session.run([self.spec.probability.name], {self.spec.image.name: images})
        return outputs[0]

    def kernels(self, images: UInt8Images, runs: int) -> tuple[Kernel, ...]:
        """Return the kernels and their mean times, from the profiler of a second session."""
        graph = self._graph()
        layers = LayerNames(onnx.load_from_string(graph) if isinstance(graph, bytes) else onnx.load(graph))
        with TemporaryDirectory(prefix="msal-deploy-") as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._load(options)
            for _ in range(1 + runs):
                session.run([self.spec.probability.name], {self.spec.image.name: images})
            times = _kernel_times(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
        return tuple(Kernel(name, kind, ms / runs, layers.find(name, kind)) for (name, kind), ms in times.items())

    def _close(self) -> None:
        del self._session


def _kernel_times(events: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return (name, kind) -> time in ms, all calls of a session together except the first."""
    first = next(index for index, event in enumerate(events) if event["name"] == "model_run")  # written at its end
    times: dict[tuple[str, str], float] = defaultdict(float)
    for event in events[first:]:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            times[event["name"].removesuffix(KERNEL), event["args"]["op_name"]] += event["dur"] / 1000  # from µs
    return dict(times)


def tensor_types(tensors: Iterable[Any]) -> dict[str, str]:
    """Return name -> NumPy's name of the type, of tensors such as ``tensor(float)``."""
    types = {tensor.name: tensor.type.removeprefix("tensor(").removesuffix(")") for tensor in tensors}
    return {name: NUMPY_NAMES.get(kind, kind) for name, kind in types.items()}
