"""Engine: the builder itself. A network and what is asked for go in, the bytes of a plan come out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from msal_deploy.build_trt.parse import parse
from msal_deploy.build_trt.progress import run_build
from msal_deploy.build_trt.request import BuildRequest
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.trt.bindings import Backend
from msal_deploy.trt.layer_precisions import LayerPrecisions, read_log, read_network

if TYPE_CHECKING:
    import onnx
    import tensorrt as trt

    from msal_deploy.graph import Layer

# Layers whose precision a builder of 8.6 may choose, and is told instead.
CHOSEN = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "ELEMENTWISE", "ACTIVATION", "POOLING", "REDUCE", "SCALE")
CONSTRAINED = {"FLOAT16": "HALF", "FLOAT": "FLOAT"}


class Source(msgspec.Struct, frozen=True):
    """The graph to build from: where it is, what is in it, its layers, and the name of its input."""

    path: Path
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    name: str


class Built(msgspec.Struct, frozen=True):
    """A plan's bytes, what can be read of it without loading it, and the timing_cache to keep.

    Attributes:
        network: the types of the network, None where they do not bind the builder: those of 8.6.
        log: the engine's layers as the build's log lists them, None where it does not.
        timing_cache: None where none are kept.
        timing_cache_reused: whether the timings of an earlier build were taken.
    """

    plan: memoryview
    network: LayerPrecisions | None
    log: LayerPrecisions | None
    timing_cache: bytes | None
    timing_cache_reused: bool


def build_engine(
    backend: Backend, source: Source, request: BuildRequest, timing_cache: bytes, *, progress: bool
) -> Built:
    """Build the plan of a graph.

    Args:
        timing_cache: of an earlier build, empty if there are none.

    Raises:
        BadInput: the parser or the builder refuses the graph or the profile.
        MissingRequirement: the builder cannot start, or fails.
    """
    backend.forget()
    builder = _builder(backend)
    network = parse(backend, builder, source.path)
    config = builder.create_builder_config()
    typed = backend.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") is not None
    types = read_network(backend, network) if typed else None
    if not typed:
        _constrain(backend, network, config, source)
    _configure(backend, config, request)
    _add_profile(backend, builder, config, request, source.name)
    reused = not backend.is_rtx and _set_timing_cache(config, timing_cache)
    plan = run_build(backend, config, lambda: builder.build_serialized_network(network, config), progress=progress)
    if plan is None:
        raise MissingRequirement(_failed(backend, request))
    log = read_log(backend.messages.layers)
    return Built(memoryview(plan), types, log, None if backend.is_rtx else _read_timing_cache(config), reused)


def _builder(backend: Backend) -> trt.Builder:
    try:
        builder: trt.Builder = backend.trt.Builder(backend.messages)
    except TypeError as error:  # pybind11: the factory returned nothing
        raise MissingRequirement(
            f"{backend.name} {backend.version} cannot start here ({backend.errors() or error}); msal-deploy doctor "
            "says what is missing"
        ) from error
    return builder


def _configure(backend: Backend, config: trt.IBuilderConfig, request: BuildRequest) -> None:
    options = request.options
    config.profiling_verbosity = backend.trt.ProfilingVerbosity.DETAILED  # what the audit reads
    if not options.tf32:
        config.clear_flag(backend.trt.BuilderFlag.TF32)  # set by default: FP32 would not be FP32
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
        raise BadInput(
            f"TensorRT-RTX {backend.version} does not build for compute capability {sm}; build with --backend tensorrt"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _constrain(
    backend: Backend,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    source: Source,
) -> None:
    """Bind a builder of 8.6 to the graph's types: flags say what it may do, and each layer what it must do."""
    used = {layer.precision for layer in source.layers}
    if "int8" in used:
        config.set_flag(backend.trt.BuilderFlag.INT8)
    if "fp16" not in used:
        return
    config.set_flag(backend.trt.BuilderFlag.FP16)
    config.set_flag(backend.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    kinds = {backend.member("LayerType", name) for name in CHOSEN}
    types = _types(source.model)
    for layer in map(network.get_layer, range(network.num_layers)):
        output = layer.get_output(0)
        kind = CONSTRAINED.get(types.get(output.name, "")) if output is not None else None
        if kind is not None and layer.type in kinds:
            layer.precision = backend.member("DataType", kind)


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Return tensor name -> its ONNX type."""
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
        raise BadInput(f"{backend.name} refuses the shapes {request.profile} ({backend.errors()}); give others")


def _set_timing_cache(config: trt.IBuilderConfig, timing_cache: bytes) -> bool:
    """Let the builder use timings of an earlier build; return whether it does. Those of another GPU it refuses."""
    for content in (timing_cache, b"") if timing_cache else (b"",):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return bool(content)
    return False


def _read_timing_cache(config: trt.IBuilderConfig) -> bytes | None:
    cache = config.get_timing_cache()
    return bytes(memoryview(cache.serialize())) if cache is not None else None


def _failed(backend: Backend, request: BuildRequest) -> str:
    said = backend.errors() or "it does not say why"
    remedy = "msal-deploy doctor says what is missing"
    if "memory" in said.lower() or "workspace" in said.lower():
        remedy = "give a smaller largest --batch or --size, or a larger --workspace"
    return f"{backend.name} {backend.version} could not build {request.plan} ({said}); {remedy}"
