"""The catalogue of runtimes, and how to open their engines.

A new runtime needs a module with its `Engine` and an entry in `CATALOGUE`. `open_engine`, `available_engines`, bench,
validate, doctor and the error messages all read the catalogue.
"""

import importlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import msgspec

from msal_deploy.bundle import CHECKPOINT, Bundle
from msal_deploy.errors import EXTRA_OF_MODULE, BadInput, suggest, translate_missing_extra
from msal_deploy.files import StrPath

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
        device: ``cpu`` runtimes open a graph of the bundle and need no GPU, ``gpu`` runtimes open a plan for the local
            GPU, ``server`` runtimes send images to an address.
        opens_checkpoint: Whether a ``cpu`` runtime opens the bundle's checkpoint instead of a graph.
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
    opens_checkpoint: bool = False
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
        return find_spec(self.module) is not None

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
        opens_checkpoint=True,
        defaults=("fp32",),
        milliseconds={"fp32": 267},
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
    return {runtime.module: runtime.extra for runtime in CATALOGUE.values() if runtime.extra}


def runtime_packages(*devices: str) -> tuple[str, ...]:
    """Return the PyPI packages of the runtimes on `devices`, or of all runtimes.

    >>> runtime_packages("cpu")
    ('torch', 'onnxruntime', 'onnxruntime-gpu', 'openvino')
    """
    return tuple(
        package
        for runtime in CATALOGUE.values()
        if not devices or runtime.device in devices
        for package in runtime.packages
    )


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
        chosen = [precision for precision in runtime.defaults if not (timed and precision in runtime.emulated)]
        if runtime.device == "cpu":
            usable = [precision for precision in chosen if _has_cpu_engine(bundle, runtime, precision)]
        else:
            usable = _planned_precisions(bundle, runtime, chosen) if runtime.device == "gpu" else []
        engines += [f"{runtime.name}:{precision}" for precision in usable]
    return engines


def _has_cpu_engine(bundle: Bundle, runtime: Runtime, precision: str) -> bool:
    return runtime.is_installed and (CHECKPOINT in bundle if runtime.opens_checkpoint else bundle.has_graph(precision))


def _planned_precisions(bundle: Bundle, runtime: Runtime, precisions: list[str]) -> list[str]:
    """Return those of `precisions` that `bundle` has a plan of for the local GPU."""
    from msal_deploy.trt.local_gpu import current_gpu
    from msal_deploy.trt.plan_checks import find_plan, plans

    if not plans(bundle) or not runtime.is_installed or not (sm := current_gpu().sm):
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
    usable = (one for one in ids if _has_cpu_engine(bundle, find_runtime(one), one.partition(":")[2]))
    return next(usable, ids[0])
