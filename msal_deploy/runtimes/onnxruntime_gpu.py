"""ONNX Runtime on an NVIDIA GPU, with its CUDA provider or its TensorRT provider.

ONNX Runtime falls back to the CPU without an error: for the whole graph if a library of the provider is missing, and
for single nodes that the provider does not support. Here both are refused, and so is TF32 in the CUDA provider.
"""

import ctypes
import importlib
import io
from abc import abstractmethod
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np
import onnxruntime

from msal_deploy.bundle import Bundle
from msal_deploy.errors import DeployError, MissingRequirement
from msal_deploy.files import cache_directory, temporary_folder
from msal_deploy.memory import is_out_of_memory
from msal_deploy.runtimes.base import Engine
from msal_deploy.runtimes.messages import sentence
from msal_deploy.runtimes.onnxruntime import tensor_types
from msal_deploy.spec import Float32Maps, UInt8Images
from msal_deploy.trt.plan_metadata import DEFAULT_PROFILE, Profile

CPU = "CPUExecutionProvider"
FLOATS = ("float", "float16")  # ONNX Runtime's names of the types of images; the sizes of images are integers
FATAL = 4  # severity of a log message
PIP = "pip install --force-reinstall --no-deps onnxruntime-gpu"


class Assignment(msgspec.Struct, frozen=True):
    """Which provider computes which nodes of a graph.

    Attributes:
        nodes: Provider -> number of nodes. A subgraph that TensorRT computes is one node.
        on_cpu: Names of the nodes that compute images on the CPU instead of the GPU.
    """

    nodes: dict[str, int]
    on_cpu: tuple[str, ...]


class _Bound(NamedTuple):
    """Images and probabilities in GPU memory, bound to the input and the output of a session."""

    shape: tuple[int, ...]
    binding: onnxruntime.IOBinding
    image: onnxruntime.OrtValue
    probability: onnxruntime.OrtValue


class _GpuEngine(Engine):
    """What both providers share.

    Attributes:
        assignment: Which provider computes which nodes, measured when the engine was opened.
    """

    provider: ClassVar[str]
    memory: ClassVar[str] = "cuda"
    optimization = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assignment: Assignment

    def __init__(self, bundle: Bundle, precision: str, threads: int | None = None, streams: int = 1) -> None:
        super().__init__(bundle, precision, threads, streams)
        if self.provider not in onnxruntime.get_available_providers():
            cause = f"onnxruntime {onnxruntime.__version__} has no {self.provider}: it is the package for CPUs"
            raise MissingRequirement(cause, f"install the one for GPUs over it: {PIP}")

    @abstractmethod
    def _options(self) -> dict[str, str]:
        """Return the provider's options."""

    def _open(self) -> None:
        self._load_libraries()
        try:
            with temporary_folder() as folder:
                self._session = self._create(folder / "profile")
                self._check_tensors(tensor_types(self._session.get_inputs()), tensor_types(self._session.get_outputs()))
                self.assignment = self._measure_assignment()
        except DeployError:
            raise
        except Exception as error:  # the provider raises the errors of CUDA, cuDNN and TensorRT as its own
            if is_out_of_memory(error):
                raise
            self._require_libraries(error)
            cause = f"{self.id} cannot compute {self.bundle.path} on this GPU ({sentence(error)})"
            raise MissingRequirement(cause, "find the cause with: msal-deploy doctor") from error

    def _load_libraries(self) -> None:
        """Load the CUDA libraries of pip's packages, which the dynamic linker does not find."""
        # The provider writes errors that it recovers from; others are raised. The severity is that of the process.
        onnxruntime.set_default_logger_severity(FATAL)
        if preload := getattr(onnxruntime, "preload_dlls", None):  # ONNX Runtime 1.21
            with redirect_stdout(io.StringIO()):  # what it cannot load is reported when the provider needs it
                preload()

    def _create(self, profile: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        options.graph_optimization_level = self.optimization
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
        graph, provider = self.bundle.graph(self.precision, self.runtime), (self.provider, self._options())
        with redirect_stdout(io.StringIO()):  # before version 1.24, it prints that it falls back to the CPU
            session = onnxruntime.InferenceSession(graph, options, providers=[provider], enable_fallback=0)
        if session.get_providers()[0] != self.provider:
            self._require_libraries()
            cause = f"ONNX Runtime cannot start its {self.provider}, although its libraries load"
            raise MissingRequirement(cause, "find the cause with: msal-deploy doctor")
        return session

    def _require_libraries(self, error: BaseException | None = None) -> None:
        if missing := missing_library(self.provider):
            cause = f"ONNX Runtime cannot load its {self.provider} ({missing})"
            raise MissingRequirement(cause, remedy(missing)) from error

    def _measure_assignment(self) -> Assignment:
        """Run the smallest image, and read from the profile who computed it. Profiling ends there."""
        batch, height, width = self.profile.min if self.profile else (1, 32, 32)
        self._bound: _Bound | None = None
        self._infer(np.zeros((batch, height, width, 3), np.uint8))
        found = read_assignment(Path(self._session.end_profiling()).read_bytes())
        if found.on_cpu:
            cause = f"{self.provider} leaves {len(found.on_cpu)} nodes of the graph to the CPU ({found.on_cpu[0]})"
            raise MissingRequirement(cause, "use another version of onnxruntime-gpu, or export the bundle again")
        return found

    def _infer(self, images: UInt8Images) -> Float32Maps:
        if self._bound is None or self._bound.shape != images.shape:
            self._bound = self._bind(images.shape)
        self._bound.image.update_inplace(images)
        self._session.run_with_iobinding(self._bound.binding)
        result: Float32Maps = self._bound.probability.numpy()
        return result

    def _bind(self, shape: tuple[int, ...]) -> _Bound:
        """Allocate the input and the output on the GPU, for all calls with images of this shape."""
        allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        image = allocate(shape, np.uint8, self.memory, 0)
        probability = allocate((shape[0], 1, *shape[1:3]), np.float32, self.memory, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self.spec.image.name, image)
        binding.bind_ortvalue_output(self.spec.probability.name, probability)
        return _Bound(shape, binding, image, probability)

    def _close(self) -> None:
        del self._bound, self._session


class OnnxRuntimeCudaEngine(_GpuEngine):
    """Runs the FP32 or FP16 graph with ONNX Runtime's CUDA provider.

    ::

        with open_engine(bundle, "onnxruntime-cuda:fp16") as engine:
            probability = engine(images)  # uint8[N,H,W,3] -> float32[N,1,H,W]
            engine.assignment.nodes  # {'CUDAExecutionProvider': 228, 'CPUExecutionProvider': 11}
    """

    runtime = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"

    def _options(self) -> dict[str, str]:
        return cuda_options(self.precision)


class OnnxRuntimeTensorRtEngine(_GpuEngine):
    """Runs a graph with ONNX Runtime's TensorRT provider, which builds an engine for this GPU when it is first opened.

    That takes minutes. The engine is kept in the user's cache folder: beside the graph, one that came with a stranger's
    bundle would be loaded, and an engine is code.
    """

    runtime = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
    # TensorRT optimises the graph itself, and ONNX Runtime would fuse the quantised nodes that it looks for.
    optimization = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    @property
    def profile(self) -> Profile:
        """Shapes that the engine is built for."""
        return DEFAULT_PROFILE

    def _load_libraries(self) -> None:
        super()._load_libraries()
        with suppress(ImportError):
            importlib.import_module("tensorrt")  # it loads the libraries of pip's package

    def _options(self) -> dict[str, str]:
        name = self.bundle.graph_name(self.precision, self.runtime)
        cache = cache_directory() / "onnxruntime-tensorrt" / self.bundle.manifest.artifacts[name].sha256
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tensorrt_options(self.precision, self.spec.image.name, self.profile, cache)


def cuda_options(precision: str) -> dict[str, str]:
    """Return the options of the CUDA provider.

    >>> cuda_options("fp32")["use_tf32"]
    '0'

    Args:
        precision: ``fp32`` or ``fp16``: the precision of the graph.
    """
    return {
        "device_id": "0",
        "use_tf32": "0",  # FP32 means FP32
        # On an H200, the default, EXHAUSTIVE, took two to three times as long for a new shape, and then chose slower
        # algorithms in FP16: 18.7 ms instead of 9.6 for a batch of 8.
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": str(int(precision == "fp16")),  # there 7.6 ms instead of 9.6; in FP32 44 instead of 25
    }


def tensorrt_options(precision: str, image: str, profile: Profile, cache: Path) -> dict[str, str]:
    """Return the options of the TensorRT provider.

    >>> tensorrt_options("fp16", "image", DEFAULT_PROFILE, Path("cache"))["trt_profile_opt_shapes"]
    'image:4x512x512x3'

    Args:
        precision: ``fp32``, ``fp16`` or ``int8``: the precision of the graph. TensorRT must be allowed to use it.
        image: Name of the graph's input.
        profile: Shapes to build for.
        cache: Folder for the built engine and the timings of its layers.
    """
    points = {"min": profile.min, "opt": profile.opt, "max": profile.max}
    return {
        "device_id": "0",
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
        **{f"trt_profile_{name}_shapes": f"{image}:{'x'.join(map(str, shape))}x3" for name, shape in points.items()},
    }


def missing_library(provider: str) -> str:
    """Return what the dynamic linker says of the provider's library, such as ``libcuda.so.1: cannot open …``.

    Empty if it can be loaded. Call this only after ONNX Runtime has tried to: it must be the first to load its library.
    """
    name = provider.removesuffix("ExecutionProvider").lower()
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return sentence(error)
    return ""


def remedy(missing: str) -> str:
    """Return what to do about a missing library.

    >>> remedy("libcuda.so.1: cannot open shared object file: No such file or directory")
    'run it on a machine with an NVIDIA GPU and its driver'
    """
    if missing.startswith("libcuda.so"):
        return "run it on a machine with an NVIDIA GPU and its driver"
    if missing.startswith(("libnvinfer", "libnvonnxparser")):
        return "install the TensorRT that this onnxruntime-gpu was built for: see docs/install.md, GPU packages"
    return "install CUDA and cuDNN for it: pip install 'onnxruntime-gpu[cuda,cudnn]', or see msal-deploy doctor"


def read_assignment(profile: bytes) -> Assignment:
    """Read a profile of ONNX Runtime: the trace events of one run.

    >>> event = {"cat": "Node", "name": "conv_kernel_time", "args": {"op_name": "Conv", "provider": CPU}}
    >>> event["args"]["output_type_shape"] = [{"float": [1, 64, 16, 16]}]
    >>> read_assignment(msgspec.json.encode([event]))
    Assignment(nodes={'CPUExecutionProvider': 1}, on_cpu=('conv',))
    """
    nodes: dict[str, int] = {}
    on_cpu = []
    for event in msgspec.json.decode(profile):
        arguments = event.get("args", {})
        if event.get("cat") != "Node" or not (provider := arguments.get("provider")):
            continue
        nodes[provider] = nodes.get(provider, 0) + 1
        if provider == CPU and _is_image(arguments.get("output_type_shape", [])):
            on_cpu.append(event["name"].removesuffix("_kernel_time"))
    return Assignment(nodes, tuple(on_cpu))


def _is_image(outputs: list[dict[str, list[int]]]) -> bool:
    return any(kind in FLOATS and len(shape) == 4 for output in outputs for kind, shape in output.items())
