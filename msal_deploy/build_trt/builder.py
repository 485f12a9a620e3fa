"""Run TensorRT's builder: a graph and a build request in, the bytes of a plan out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from msal_deploy.build_trt.parse import parse
from msal_deploy.build_trt.progress import run_build
from msal_deploy.build_trt.request import BuildRequest
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.trt.audit import read_network
from msal_deploy.trt.bindings import Backend
from msal_deploy.trt.layer_precisions import LayerPrecisions, read_log

if TYPE_CHECKING:
    import onnx
    import tensorrt as trt

    from msal_deploy.graph import Layer

# Layer types whose precision is set in TensorRT 8.6, which would choose one otherwise.
CONSTRAINED_LAYERS = (
    "CONVOLUTION",
    "DECONVOLUTION",
    "MATRIX_MULTIPLY",
    "ELEMENTWISE",
    "ACTIVATION",
    "POOLING",
    "REDUCE",
    "SCALE",
)
DATA_TYPE_OF_ONNX = {"FLOAT16": "HALF", "FLOAT": "FLOAT"}


class Source(msgspec.Struct, frozen=True):
    """The graph to build from.

    Attributes:
        path: ONNX file.
        model: Its content.
        layers: Its layers, at the maximum of the profile.
        input_name: Name of its input.
    """

    path: Path
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    input_name: str


class BuildResult(msgspec.Struct, frozen=True):
    """A plan, the layer precisions that are known without loading it, and the timing cache.

    Attributes:
        plan: The bytes of the plan.
        network: Layer precisions of the network; None if they do not bind the builder (TensorRT 8.6).
        log: Layer precisions from the build log; None if it lists no layers.
        timing_cache: Timing cache for the next build; None if there is none.
        timing_cache_reused: Whether the timing cache of an earlier build was used.
    """

    plan: memoryview
    network: LayerPrecisions | None
    log: LayerPrecisions | None
    timing_cache: bytes | None
    timing_cache_reused: bool


def build_engine(
    backend: Backend, source: Source, request: BuildRequest, timing_cache: bytes, *, progress: bool
) -> BuildResult:
    """Build the plan of a graph.

    Args:
        backend: The TensorRT to build with.
        source: The graph.
        request: What to build.
        timing_cache: Timing cache of an earlier build; empty if there is none.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The parser or the builder rejects the graph or the profile.
        MissingRequirement: The builder cannot start, or fails.
    """
    backend.clear_log()
    builder = _builder(backend)
    network = parse(backend, builder, source.path)
    config = builder.create_builder_config()
    typed = backend.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") is not None
    types = read_network(backend, network) if typed else None
    if not typed:
        _constrain(backend, network, config, source)
    _configure(backend, config, request)
    _add_profile(backend, builder, config, request, source.input_name)
    reused = not backend.is_rtx and _set_timing_cache(config, timing_cache)
    plan = run_build(backend, config, lambda: builder.build_serialized_network(network, config), progress=progress)
    if plan is None:
        raise _build_error(backend, request)
    log = read_log(backend.logger.layers)
    return BuildResult(memoryview(plan), types, log, None if backend.is_rtx else _read_timing_cache(config), reused)


def _builder(backend: Backend) -> trt.Builder:
    try:
        builder: trt.Builder = backend.trt.Builder(backend.logger)
    except TypeError as error:  # pybind11: the factory returned a null pointer
        cause = f"{backend.name} {backend.version} cannot start ({backend.errors() or error})"
        raise MissingRequirement(cause, "run: msal-deploy doctor") from error
    return builder


def _configure(backend: Backend, config: trt.IBuilderConfig, request: BuildRequest) -> None:
    options = request.options
    config.profiling_verbosity = backend.trt.ProfilingVerbosity.DETAILED  # what the audit reads
    if not options.tf32:
        config.clear_flag(backend.trt.BuilderFlag.TF32)  # set by default, which would round FP32 layers
    if options.workspace_mib:
        config.set_memory_pool_limit(backend.trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.version_compatible:
        config.set_flag(backend.trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = backend.trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if backend.is_rtx:
        _set_capability(backend, config, request.build_target.target.sm)


def _set_capability(backend: Backend, config: trt.IBuilderConfig, sm: str) -> None:
    capability = backend.member("ComputeCapability", f"SM{sm.replace('.', '')}")
    if capability is None:
        cause = f"TensorRT-RTX {backend.version} does not support compute capability {sm}"
        raise BadInput(cause, "build with --backend tensorrt")
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _constrain(
    backend: Backend,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    source: Source,
) -> None:
    """Bind the builder of TensorRT 8.6 to the graph's types: flags permit a precision, and each layer requires one."""
    used = {layer.precision for layer in source.layers}
    if "int8" in used:
        config.set_flag(backend.trt.BuilderFlag.INT8)
    if "fp16" not in used:
        return
    config.set_flag(backend.trt.BuilderFlag.FP16)
    config.set_flag(backend.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    kinds = {backend.member("LayerType", name) for name in CONSTRAINED_LAYERS}
    types = _types(source.model)
    for layer in map(network.get_layer, range(network.num_layers)):
        output = layer.get_output(0)
        kind = DATA_TYPE_OF_ONNX.get(types.get(output.name, "")) if output is not None else None
        if kind is not None and layer.type in kinds:
            layer.precision = backend.member("DataType", kind)


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Return tensor name -> ONNX type."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.output)
    return {value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}


def _add_profile(
    backend: Backend, builder: trt.Builder, config: trt.IBuilderConfig, request: BuildRequest, name: str
) -> None:
    profile = builder.create_optimization_profile()
    points = (request.profile.min, request.profile.opt, request.profile.max)
    profile.set_shape(name, *((*point, 3) for point in points))
    if config.add_optimization_profile(profile) < 0:
        cause = f"{backend.name} does not accept the profile {request.profile} ({backend.errors()})"
        raise BadInput(cause, "change --batch or --size")


def _set_timing_cache(config: trt.IBuilderConfig, timing_cache: bytes) -> bool:
    """Give the builder an earlier timing cache, and return whether it accepts it: it rejects that of another GPU."""
    for content in (timing_cache, b"") if timing_cache else (b"",):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return bool(content)
    return False


def _read_timing_cache(config: trt.IBuilderConfig) -> bytes | None:
    cache = config.get_timing_cache()
    return bytes(memoryview(cache.serialize())) if cache is not None else None


def _build_error(backend: Backend, request: BuildRequest) -> MissingRequirement:
    errors = backend.errors() or "no message"
    remedy = "run: msal-deploy doctor"
    if "memory" in errors.lower() or "workspace" in errors.lower():
        remedy = "lower the maximum --batch or --size, or raise --workspace"
    return MissingRequirement(f"{backend.name} {backend.version} could not build {request.plan} ({errors})", remedy)
