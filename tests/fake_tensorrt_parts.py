"""Behaviour of the fake TensorRT's classes (see ``fake_tensorrt.py``). Public names are those of the real bindings."""

import ctypes
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

MAGIC = b"fake plan "
LAYER_TYPES = {
    "Add": "ELEMENTWISE",
    "Cast": "CAST",
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "DequantizeLinear": "DEQUANTIZE",
    "Div": "ELEMENTWISE",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "MaxPool": "POOLING",
    "QuantizeLinear": "QUANTIZE",
    "Relu": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "Sub": "ELEMENTWISE",
}
ARITHMETIC = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
DATA_TYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT32", 9: "BOOL", 10: "HALF"}
FORMATS = {"fp32": "Row major linear FP32", "fp16": "Two wide channel vectorized row major FP16 format"}
FORMATS |= {"int8": "Four wide channel vectorized row major Int8 format"}
SHORT_FORMATS = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}


def darkness(images: np.ndarray) -> np.ndarray:
    """Return float32[N,1,H,W]: a "network" whose result the tests can compute."""
    return (1 - images.astype(np.float32).mean(axis=3) / 255)[:, None]


@dataclass
class World:
    """The environment of the fake, and the failures that it simulates.

    Attributes:
        driver: Whether there is a driver; without one only TensorRT-RTX's builder works.
        sm: Compute capability of the local GPU.
        assign: Node, requested precision -> precision that the builder assigns.
        choice: Precision that an unconstrained builder chooses for a layer that may be FP16 (TensorRT 8.6).
        refuses: Operators that the parser rejects.
        fails: Error that a build ends with.
        on_step: Called at every step of a build.
        inspects: Whether the inspector lists more than names.
        compute: Images uint8[N,H,W,3] -> float32[N,1,H,W], when a context executes.
        received: Settings that the builder received.
    """

    driver: bool = True
    sm: str = "8.6"
    assign: Callable[[str, str], str] = lambda node, precision: precision
    choice: str = "fp32"
    refuses: tuple[str, ...] = ("Det",)
    fails: str = ""
    on_step: Callable[[], Any] = lambda: None
    inspects: bool = True
    compute: Callable[[np.ndarray], np.ndarray] = darkness
    received: dict[str, Any] = field(default_factory=dict)


class HostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ILogger:
    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None: ...


class Logger:
    def __init__(self, min_severity: Any = None) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None: ...


class IProgressMonitor:
    def __init__(self) -> None:
        self._ready = True


def fails(logger: Any, message: str) -> None:
    logger.log(logger.ERROR, message)


class Builder:
    def __init__(self, logger: Any) -> None:
        assert logger._ready, "a Python logger must call ILogger.__init__"
        self._logger = logger
        if not self._module.world.driver and "rtx" not in self._module.__name__:
            fails(
                logger, "createInferBuilder: Error Code 6: API Usage Error (CUDA initialization failure with error: 35)"
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Any:
        network = self._module.INetworkDefinition()
        kinds = self._module.NetworkDefinitionCreationFlag
        given = {kind.name for kind in kinds if flags >> int(kind) & 1}
        network._explicit = "EXPLICIT_BATCH" in given or not self._module.__version__.startswith("8.")
        network._typed = "STRONGLY_TYPED" in given or not hasattr(self._module.BuilderFlag, "FP16")
        network._layers, network._inputs, network._outputs = [], [], []
        return network

    def create_builder_config(self) -> Any:
        config = self._module.IBuilderConfig()
        config._logger, config._flags, config._pools, config._profiles = self._logger, {"TF32"}, {}, []
        config._cache, config._capabilities = None, {}
        return config

    def create_optimization_profile(self) -> Any:
        profile = self._module.IOptimizationProfile()
        profile._shapes = {}
        return profile

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        world = self._module.world
        fault = world.fails or _refusal(network, config) or _progress(config, world)
        if fault:
            fails(self._logger, f"IBuilder::buildSerializedNetwork: {fault}")
            return None
        world.received = _settings(self._module, network, config)
        if "rtx" in self._module.__name__ and world.received["detailed"]:
            self._logger.log(self._logger.VERBOSE, _list(world.received["layers"]))
        if config._cache is not None:
            config._cache._content = b"timings of " + self._module.__version__.encode()
        return self._module.IHostMemory(MAGIC + json.dumps(world.received).encode() + b" end")


def _refusal(network: Any, config: Any) -> str:
    if not network._layers:
        return "Error Code 4: API Usage Error (Network must have at least one output.)"
    if not config._profiles:
        return (
            "Error Code 4: API Usage Error (Network has dynamic inputs, but no optimization profile has been defined.)"
        )
    if network._typed and config._flags & {"FP16", "INT8", "BF16"}:
        return "Error Code 3: API Usage Error (precision flags are not allowed in a strongly typed network)"
    if not network._typed and _has(network, "QUANTIZE") and "INT8" not in config._flags:
        return "Error Code 4: API Usage Error (Q/DQ layers are present, and INT8 is not enabled)"
    return ""


def _has(network: Any, kind: str) -> bool:
    return any(layer._kind == kind for layer in network._layers)


def _progress(config: Any, world: World) -> str:
    monitor = getattr(config, "progress_monitor", None) if "progress_monitor" in config._names else None
    if monitor is not None:
        monitor.phase_start("Building engine", None, 4)
        monitor.phase_start("Timing tactics", "Building engine", 2)
    for step in range(4):
        world.on_step()
        if monitor is not None and not monitor.step_complete("Building engine", step):
            return "Error Code 7: BuildCanceled (Build canceled by user)"
    if monitor is not None:
        monitor.phase_finish("Timing tactics")
        monitor.phase_finish("Building engine")
    return ""


def _settings(module: Any, network: Any, config: Any) -> dict[str, Any]:
    """Return all settings of the builder, which are the content of the plan."""
    (profile,) = config._profiles
    return {
        "module": module.__name__,
        "version": module.__version__,
        "sm": next(iter(config._capabilities.values()), module.world.sm),
        "typed": network._typed,
        "flags": sorted(config._flags),
        "pools": config._pools,
        "hardware": getattr(config.hardware_compatibility_level, "name", "NONE"),
        "detailed": getattr(config.profiling_verbosity, "name", "") == "DETAILED",
        "inputs": [[tensor.name, tensor._type, list(tensor._axes)] for tensor in network._inputs],
        "outputs": [[tensor.name, tensor._type, list(tensor._axes)] for tensor in network._outputs],
        "profile": {name: [list(shape) for shape in shapes] for name, shapes in profile._shapes.items()},
        "layers": [_assigned(module.world, network, config, layer) for layer in network._layers],
        "cache": getattr(config._cache, "_content", b"").decode(),
    }


def _assigned(world: World, network: Any, config: Any, layer: Any) -> list[Any]:
    """Return kind, name, input and output of a layer, and its precision if it multiplies."""
    precision = None
    if layer._kind in ARITHMETIC:
        wanted = _wanted(world, network, config, layer)
        precision = world.assign(layer.name, wanted)
    return [layer._kind, layer.name, layer._inputs[0].name, layer._outputs[0].name, precision]


def _list(layers: list[list[Any]]) -> str:
    """Return the engine's layers, one per line, as TensorRT-RTX 1.7.1 logs them at the end of a build."""
    lines = []
    for number, (kind, name, data, out, precision) in enumerate(layers):
        if precision is not None:
            form = (
                f"Dimensions: [-1,64,-1,-1], Datatype: {SHORT_FORMATS[precision]}, Format: (NHWC) Channel major format"
            )
            lines.append(
                f"Name: {name}_myl0_{number}, LayerType: {'deconv' if kind == 'DECONVOLUTION' else 'correlation'}, "
                f"Inputs: [ {{ Name: {data}, {form} }}], Constants: [ {{ Name: weights_{number}, {form} }}], "
                f"Outputs: [ {{ Name: {out}, {form} }}], TacticName: __myelin_CASK_STUB, StreamId: 0, "
                f"Metadata: [ONNX Layer: {name}]"
            )
        elif kind == "ACTIVATION":  # it adds the bias of the convolution before it, and lists that node too
            lines.append(
                f"Name: __myl_AddRelu_myl0_{number}, LayerType: kgen, Inputs: [ {{ Name: {data}, Datatype: Float }}], "
                f"Constants: [], Outputs: [ {{ Name: {out}, Datatype: Float }}], TacticName: __myl_AddRelu_0xfc, "
                f"StreamId: 0, Metadata: [ONNX Layer: {name}]\x1f[ONNX Layer: {data.removesuffix('_output_0')}]"
            )
    return "Layers:\n" + "\n".join(lines) + "\n\nI/O Tensors:\n Name: image, IOMode: Input, DataType: UInt8"


def _wanted(world: World, network: Any, config: Any, layer: Any) -> str:
    if all(_is_dequantised(network, tensor) for tensor in layer._inputs[:2]):
        return "int8"
    if network._typed:
        return "fp16" if layer._inputs[0]._type == "HALF" else "fp32"
    if "FP16" not in config._flags:
        return "fp32"
    obeys = "OBEY_PRECISION_CONSTRAINTS" in config._flags and layer.precision is not None
    return {"HALF": "fp16", "FLOAT": "fp32"}[layer.precision.name] if obeys else world.choice


def _is_dequantised(network: Any, tensor: Any) -> bool:
    return any(layer._kind == "DEQUANTIZE" and tensor in layer._outputs for layer in network._layers)


class INetworkDefinition:
    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]


class ILayer:
    type = property(lambda self: getattr(self._module.LayerType, self._kind))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]


class ITensor:
    dtype = property(lambda self: getattr(self._module.DataType, self._type))


class OnnxParser:
    num_errors = property(lambda self: len(self._errors))

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger, self._errors = network, logger, []

    def parse_from_file(self, model: str) -> bool:
        graph = onnx.shape_inference.infer_shapes(onnx.load(model)).graph
        if not self._network._explicit:
            self._fail(-1, None, "only network definitions with an explicit batch dimension are supported")
        for index, node in enumerate(graph.node):
            if node.op_type in self._module.world.refuses:
                self._fail(
                    index, node, f"In node {index} (parseNode): UNSUPPORTED_NODE: No importer for {node.op_type}"
                )
        if not self._errors:
            self._fill(graph)
        return not self._errors

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def _fail(self, index: int, node: Any, message: str) -> None:
        error = self._module.ParserError()
        error._index, error._node, error._message = index, node, message
        self._errors.append(error)
        fails(self._logger, message)

    def _fill(self, graph: Any) -> None:
        values = (*graph.input, *graph.value_info, *graph.output)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {value.name: value.data_type for value in graph.initializer}
        axes = {v.name: [d.dim_value or -1 for d in v.type.tensor_type.shape.dim] for v in values}
        tensors: dict[str, Any] = {}
        for name in {name for node in graph.node for name in (*node.input, *node.output)} | set(types):
            tensors[name] = tensor = self._module.ITensor()
            tensor.name, tensor._type, tensor._axes = name, DATA_TYPES[types.get(name, 1)], axes.get(name, [])
        self._network._inputs = [tensors[value.name] for value in graph.input]
        self._network._outputs = [tensors[value.name] for value in graph.output]
        self._network._layers = [self._layer(node, tensors) for node in graph.node]

    def _layer(self, node: Any, tensors: dict[str, Any]) -> Any:
        layer = self._module.ILayer()
        layer.name, layer.metadata = node.name, f"[ONNX Layer: {node.name}]"
        layer._kind = LAYER_TYPES.get(node.op_type, "SHUFFLE")
        layer._inputs = [tensors[name] for name in node.input] or [tensors[node.output[0]]]
        layer._outputs = [tensors[name] for name in node.output]
        return layer


class ParserError:
    def node(self) -> int:
        return self._index

    def desc(self) -> str:
        return self._message

    def node_name(self) -> str:
        return self._node.name if self._node is not None else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node is not None else ""


class IOptimizationProfile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache:
    def serialize(self) -> Any:
        return self._module.IHostMemory(self._content)


class IBuilderConfig:
    def set_flag(self, flag: Any) -> None:
        if not isinstance(flag, self._module.BuilderFlag):
            raise TypeError(f"set_flag(): {flag!r} is not a BuilderFlag")
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        if not isinstance(flag, self._module.BuilderFlag):
            raise TypeError(f"clear_flag(): {flag!r} is not a BuilderFlag")
        self._flags.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool.name] = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        ordered = all(
            a <= b <= c for low, at, high in profile._shapes.values() for a, b, c in zip(low, at, high, strict=True)
        )
        if not ordered or not profile._shapes:
            fails(
                self._logger,
                "IBuilderConfig::addOptimizationProfile: Error Code 3: API Usage Error (profile is not valid)",
            )
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        cache = self._module.ITimingCache()
        cache._content = bytes(serialized_timing_cache)
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        known = (b"", b"timings of " + self._module.__version__.encode())
        if cache._content not in known and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        if index >= (self.num_compute_capabilities or 0):
            return False
        digits = compute_capability.name.removeprefix("SM")
        self._capabilities[index] = f"{digits[:-1]}.{digits[-1]}"
        return True


class Runtime:
    def __init__(self, logger: Any) -> None:
        assert logger._ready, "a Python logger must call ILogger.__init__"
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data, world = bytes(serialized_engine), self._module.world
        if not world.driver:
            return fails(self._logger, "cudaError 35: CUDA driver version is insufficient for CUDA runtime version")
        if not data.startswith(MAGIC) or not data.endswith(b" end"):
            return fails(
                self._logger, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)"
            )
        plan = json.loads(data[len(MAGIC) : -len(b" end")])
        fault = _unfit(plan, self, self._module)
        if fault:
            return fails(self._logger, f"IRuntime::deserializeCudaEngine: {fault}")
        engine = self._module.ICudaEngine()
        engine._plan, engine._logger = plan, self._logger
        return engine


def _unfit(plan: dict[str, Any], runtime: Any, module: Any) -> str:
    later = "VERSION_COMPATIBLE" in plan["flags"] and runtime.engine_host_code_allowed
    if plan["module"] != module.__name__ or (plan["version"] != module.__version__ and not later):
        return f"Error Code 6: expecting library version {module.__version__} got {plan['version']}"
    if plan["sm"] != module.world.sm and plan["hardware"] == "NONE":
        return f"Error Code 1: the plan is for compute capability {plan['sm']}, and this is {module.world.sm}"
    return ""


class ICudaEngine:
    num_io_tensors = property(lambda self: len(self._tensors()))

    def _tensors(self) -> dict[str, tuple[str, str, list[int]]]:
        sides = (("INPUT", self._plan["inputs"]), ("OUTPUT", self._plan["outputs"]))
        return {name: (side, kind, axes) for side, tensors in sides for name, kind, axes in tensors}

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors())[index]

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(self._module.TensorIOMode, self._tensors()[name][0])

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._module.DataType, self._tensors()[name][1])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors()[name][2])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._plan["profile"][name]]

    def create_execution_context(self, strategy: Any = None, runtime_config: Any = None) -> Any:
        context = self._module.IExecutionContext()
        context._engine, context._logger, context._addresses, context._shape = self, self._logger, {}, None
        return context

    def create_runtime_config(self) -> Any:
        return self._module.IRuntimeConfig()

    def create_engine_inspector(self) -> Any:
        inspector = self._module.EngineInspector()
        inspector._plan = self._plan
        return inspector


class EngineInspector:
    def get_engine_information(self, format: Any) -> str:
        detailed = self._plan["detailed"] and self._module.world.inspects
        short = not self._module.__version__.startswith("8.")
        layers = [self._layer(*layer, short) for layer in self._plan["layers"] if layer[0] in (*ARITHMETIC, "CAST")]
        names = [layer["Name"] for layer in layers]
        return json.dumps({"Layers": layers if detailed else names, "Bindings": ["image", "probability"]})

    def _layer(self, kind: str, name: str, data: str, out: str, precision: str | None, short: bool) -> dict[str, Any]:
        if precision is None:
            return {"Name": f"Reformatting CopyNode for Input Tensor 0 to {name}", "LayerType": "Reformat"}
        form = (SHORT_FORMATS if short else FORMATS)[precision]
        following = name.rpartition("/")[0] + "/Relu"
        return {
            "Name": f"{name.rpartition('/')[0]}.weight + {name} + {following}",
            "LayerType": "CaskConvolution" if kind == "CONVOLUTION" else "CaskDeconvolution",
            "Inputs": [{"Name": data, "Format/Datatype": form}],
            "Outputs": [{"Name": out, "Format/Datatype": form}],
            "Metadata": f"[ONNX Layer: {name}]\x1e[ONNX Layer: {following}]",
        }


class IExecutionContext:
    def set_input_shape(self, name: str, shape: Any) -> bool:
        low, _, high = self._engine._plan["profile"][name]
        shape = tuple(shape)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            fails(
                self._logger,
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({shape} is outside the profile)",
            )
            return False
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, height, width, channels = self._shape
        return (batch, height, width, channels) if name == "image" else (batch, 1, height, width)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = int(memory)
        return name in self._engine._tensors()

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else ["image"]

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return profile_index == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Compute immediately, in host memory, which is where a fake CUDA has its device memory."""
        if self._shape is None or self._addresses.keys() != {"image", "probability"}:
            fails(
                self._logger,
                "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (shapes or addresses are missing)",
            )
            return False
        batch, height, width, channels = self._shape
        source = (ctypes.c_uint8 * (batch * height * width * channels)).from_address(self._addresses["image"])
        target = (ctypes.c_float * (batch * height * width)).from_address(self._addresses["probability"])
        images = np.frombuffer(source, np.uint8).reshape(self._shape)
        np.frombuffer(target, np.float32)[:] = self._module.world.compute(images).ravel()
        return True


class IRuntimeConfig:
    def create_runtime_cache(self) -> Any:
        cache = self._module.IRuntimeCache()
        cache._content = b""
        return cache

    def set_runtime_cache(self, cache: Any = None) -> bool:
        return True


class IRuntimeCache:
    def serialize(self) -> Any:
        return self._module.IHostMemory(self._content or b"kernels of " + self._module.__version__.encode())

    def deserialize(self, blob: Any) -> bool:
        self._content = bytes(blob)
        return True


BUILT_IN: dict[str, tuple[type, ...]] = {"IHostMemory": (HostMemory,)}
BEHAVIOUR: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Builder,
        EngineInspector,
        IBuilderConfig,
        ICudaEngine,
        IExecutionContext,
        ILayer,
        ILogger,
        INetworkDefinition,
        IOptimizationProfile,
        IProgressMonitor,
        IRuntimeCache,
        IRuntimeConfig,
        ITensor,
        ITimingCache,
        Logger,
        OnnxParser,
        ParserError,
        Runtime,
    )
}
