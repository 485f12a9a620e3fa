"""The catalogue of runtimes, and how to open their engines.

A new runtime needs a module with its `Engine` and an entry in `CATALOGUE`. `open_engine`, `available_engines`, bench,
validate, doctor and the error messages all read the catalogue.
"""

import importlib
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import msgspec

from msal_deploy.bundle import CHECKPOINT, Bundle
from msal_deploy.errors import EXTRA_OF_MODULE, BadInput, suggest, translate_missing_extra
from msal_deploy.files import StrPath
from msal_deploy.hardware import query_driver

if TYPE_CHECKING:
    from msal_deploy.runtimes.base import Engine


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalogue.

    Attributes:
        name: Name of the runtime, the part of an engine's id before the colon.
        engine: ``module:class`` of its `Engine`. The module is imported when an engine is opened.
        module: Module that must be importable for the runtime to work.
        packages: PyPI packages that contain the module; doctor and bench report their versions.
        extra: Extra of msal-deploy that installs them, empty for the base install.
        device: ``cpu`` runtimes need no GPU, ``gpu`` runtimes need one, ``server`` runtimes send images to an address.
        opens: What the runtime opens: a graph of the bundle, its checkpoint, or its plan for the local GPU.
        shares_module: Whether another package has the same module without this runtime, so that the first of
            `packages` must be installed too.
        precisions: Supported precisions. Empty if the runtime parses the part after the colon itself, such as Triton's
            address.
        defaults: Precisions that are scored and timed if no engine is named.
        emulated: Defaults that show the Dice of a precision but not its speed; they are never timed by default.
        milliseconds: Precision -> median latency of one 512×512 image on two cores (README, "Results"). The order of
            these figures decides which engine `open_engine` chooses.
    """

    name: str
    engine: str
    module: str
    packages: tuple[str, ...]
    extra: str = ""
    device: Literal["cpu", "gpu", "server"]
    opens: Literal["graph", "checkpoint", "plan"] = "graph"
    shares_module: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    defaults: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    milliseconds: Mapping[str, float] = {}

    @property
    def is_installed(self) -> bool:
        """Whether the runtime's module can be found; it is not imported.

        >>> CATALOGUE["onnxruntime"].is_installed
        True
        """
        return find_spec(self.module) is not None and not (self.shares_module and _is_missing(self.packages[0]))

    @property
    def requirement(self) -> str:
        """What to install with pip.

        >>> CATALOGUE["torch"].requirement
        'msal-deploy[train]'
        """
        return f"msal-deploy[{self.extra}]" if self.extra else "msal-deploy"


# PyTorch first: it is the reference, and speed-ups are relative to the first engine.
_RUNTIMES = (
    Runtime(
        name="torch",
        engine="msal_deploy.runtimes.torch:TorchEngine",
        module="torch",
        packages=("torch",),
        extra=EXTRA_OF_MODULE["torch"],
        device="cpu",
        opens="checkpoint",
        precisions=("fp32", "fp16", "bf16"),
        defaults=("fp32",),
        milliseconds={"fp32": 267},
    ),
    Runtime(
        name="torch-channels-last",
        engine="msal_deploy.runtimes.torch:TorchChannelsLastEngine",
        module="torch",
        packages=("torch",),
        extra=EXTRA_OF_MODULE["torch"],
        device="cpu",
        opens="checkpoint",
    ),
    Runtime(
        name="torch-compile",
        engine="msal_deploy.runtimes.torch:TorchCompileEngine",
        module="torch",
        packages=("torch",),
        extra=EXTRA_OF_MODULE["torch"],
        device="cpu",
        opens="checkpoint",
        precisions=("fp32", "fp16", "bf16"),
    ),
    Runtime(
        name="onnxruntime",
        engine="msal_deploy.runtimes.onnxruntime:OnnxRuntimeEngine",
        module="onnxruntime",
        packages=("onnxruntime", "onnxruntime-gpu"),
        device="cpu",
        precisions=("fp32", "fp16", "int8"),
        defaults=("fp32", "fp16", "int8"),
        emulated=("fp16",),
        milliseconds={"fp32": 203, "int8": 96},
    ),
    Runtime(
        name="onnxruntime-cuda",
        engine="msal_deploy.runtimes.onnxruntime_gpu:OnnxRuntimeCudaEngine",
        module="onnxruntime",
        packages=("onnxruntime-gpu",),
        extra="cuda",
        device="gpu",
        shares_module=True,
        precisions=("fp32", "fp16"),
        defaults=("fp32", "fp16"),
    ),
    Runtime(
        name="onnxruntime-tensorrt",
        engine="msal_deploy.runtimes.onnxruntime_gpu:OnnxRuntimeTensorRtEngine",
        module="onnxruntime",
        packages=("onnxruntime-gpu",),
        device="gpu",
        shares_module=True,
        precisions=("fp32", "fp16", "int8"),
    ),
    Runtime(
        name="openvino",
        engine="msal_deploy.runtimes.openvino:OpenVinoEngine",
        module="openvino",
        packages=("openvino",),
        device="cpu",
        precisions=("fp32", "int8", "bf16", "fp16"),
        defaults=("fp32", "int8"),
        milliseconds={"fp32": 168, "int8": 52},
    ),
    Runtime(
        name="tensorrt",
        engine="msal_deploy.runtimes.tensorrt:TensorRtEngine",
        module="tensorrt",
        packages=("tensorrt",),
        extra=EXTRA_OF_MODULE["tensorrt"],
        device="gpu",
        opens="plan",
        precisions=("fp32", "fp16", "int8"),
        defaults=("fp32", "fp16", "int8"),
    ),
    Runtime(
        name="tensorrt-rtx",
        engine="msal_deploy.runtimes.tensorrt:TensorRtRtxEngine",
        module="tensorrt_rtx",
        packages=("tensorrt-rtx",),
        extra=EXTRA_OF_MODULE["tensorrt_rtx"],
        device="gpu",
        opens="plan",
        precisions=("fp32", "fp16", "int8"),
        defaults=("fp32", "fp16", "int8"),
    ),
    Runtime(
        name="triton",
        engine="msal_deploy.runtimes.triton:TritonEngine",
        module="tritonclient",
        packages=("tritonclient",),
        extra=EXTRA_OF_MODULE["tritonclient"],
        device="server",
        precisions=(),
    ),
)
CATALOGUE: dict[str, Runtime] = {runtime.name: runtime for runtime in _RUNTIMES}


def extras() -> dict[str, str]:
    """Return the optional modules of the runtimes and the extras that install them.

    >>> extras()["tritonclient"]
    'triton'
    """
    shared = (runtime for runtime in CATALOGUE.values() if runtime.extra and not runtime.shares_module)
    return {runtime.module: runtime.extra for runtime in shared}


def runtime_packages(*devices: str) -> tuple[str, ...]:
    """Return the PyPI packages of the runtimes on `devices`, or of all runtimes.

    >>> runtime_packages("cpu")
    ('torch', 'onnxruntime', 'onnxruntime-gpu', 'openvino')
    """
    chosen = (runtime for runtime in CATALOGUE.values() if not devices or runtime.device in devices)
    return tuple(dict.fromkeys(package for runtime in chosen for package in runtime.packages))


def fastest_cpu_engines() -> tuple[str, ...]:
    """Return the ids of the CPU engines with a measured latency, the fastest first.

    >>> fastest_cpu_engines()
    ('openvino:int8', 'onnxruntime:int8', 'openvino:fp32', 'onnxruntime:fp32', 'torch:fp32')
    """
    latency = {
        f"{runtime.name}:{precision}": milliseconds
        for runtime in CATALOGUE.values()
        if runtime.device == "cpu"
        for precision, milliseconds in runtime.milliseconds.items()
    }
    return tuple(sorted(latency, key=latency.__getitem__))


def available_engines(bundle: Bundle, *, timed: bool = False) -> list[str]:
    """Return the ids of the engines that are installed and have their graph or plan in `bundle`.

    PyTorch, the reference, comes first. Plans are listed if they can run on the local GPU. Servers are never listed:
    their address must be given.

    >>> available_engines(Bundle("bundle"), timed=True)
    ['onnxruntime:fp32', 'onnxruntime:int8', 'openvino:fp32', 'openvino:int8']

    Args:
        timed: Leave out engines that emulate a precision: their speed says nothing about that precision.
    """
    engines: list[str] = []
    for runtime in CATALOGUE.values():
        if runtime.device == "server" or not runtime.is_installed:
            continue
        chosen = [precision for precision in runtime.defaults if not (timed and precision in runtime.emulated)]
        engines += [f"{runtime.name}:{precision}" for precision in _usable_precisions(bundle, runtime, chosen)]
    return engines


def _usable_precisions(bundle: Bundle, runtime: Runtime, precisions: list[str]) -> list[str]:
    """Return those of `precisions` that `bundle` has a graph, checkpoint or plan for, on a machine that can run it."""
    if runtime.opens == "plan":
        return _planned_precisions(bundle, runtime, precisions)
    if runtime.device == "gpu" and precisions and not query_driver().gpus:
        return []
    return [precision for precision in precisions if _opens(bundle, runtime, precision)]


def _opens(bundle: Bundle, runtime: Runtime, precision: str) -> bool:
    return CHECKPOINT in bundle if runtime.opens == "checkpoint" else bundle.has_graph(precision)


def _planned_precisions(bundle: Bundle, runtime: Runtime, precisions: list[str]) -> list[str]:
    """Return those of `precisions` that `bundle` has a plan of for the local GPU."""
    from msal_deploy.trt.local_gpu import current_gpu
    from msal_deploy.trt.plan_checks import find_plan, plans

    if not plans(bundle) or not (sm := current_gpu().sm):
        return []
    planned = []
    for precision in precisions:
        with suppress(BadInput):
            find_plan(bundle, precision, runtime.name, sm)
            planned.append(precision)
    return planned


def find_runtime(engine_id: str) -> Runtime:
    """Return the runtime of an engine's id.

    >>> find_runtime("openvino:int8").device
    'cpu'
    >>> find_runtime("openvin:int8")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: 'openvin' is not a runtime (in 'openvin:int8'); did you mean 'openvino'?

    Raises:
        BadInput: The catalogue has no such runtime.
    """
    name = engine_id.partition(":")[0]
    if name not in CATALOGUE:
        raise BadInput(f"{name!r} is not a runtime (in {engine_id!r})", suggest(name, CATALOGUE))
    return CATALOGUE[name]


def open_engine(
    bundle: Bundle | StrPath, engine_id: str | None = None, *, threads: int | None = None, streams: int = 1
) -> "Engine":
    """Return an engine, to be entered with ``with``.

    >>> import numpy as np
    >>> with open_engine(Bundle("bundle"), "onnxruntime:int8") as engine:
    ...     probability = engine(np.zeros((1, 64, 96, 3), np.uint8))
    >>> probability.shape, probability.dtype
    ((1, 1, 64, 96), dtype('float32'))

    Args:
        bundle: Bundle with the graph or plan, or its folder.
        engine_id: ``<runtime>:<precision>``; None for the fastest CPU engine that is installed and that the bundle has
            a graph for.
        threads: CPU threads; None for the runtime's own choice.
        streams: Images of a batch that are computed in parallel, if the runtime supports it.

    Raises:
        BadInput: The runtime does not exist, or it does not support the precision, threads or streams.
        MissingExtra: The runtime's package is not installed.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    if engine_id is None:
        engine_id = _choose(bundle)
    runtime = find_runtime(engine_id)
    module, _, name = runtime.engine.partition(":")
    with translate_missing_extra(extras()):
        engine: type[Engine] = getattr(importlib.import_module(module), name)
    return engine(bundle, engine_id.partition(":")[2], threads, streams)


def _choose(bundle: Bundle) -> str:
    ids = fastest_cpu_engines()
    return next((one for one in ids if _is_usable(bundle, one)), ids[0])


def _is_usable(bundle: Bundle, engine_id: str) -> bool:
    runtime = find_runtime(engine_id)
    return runtime.is_installed and _opens(bundle, runtime, engine_id.partition(":")[2])


def _is_missing(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return True
    return False
