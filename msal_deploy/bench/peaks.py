"""Peak rates of this machine, measured: large convolutions by precision, copies within memory and within the cache.

A chain of 3×3 convolutions with 512 channels comes closest to the peak of the arithmetic: no matrix product and no
other shape of convolution was faster through OpenVINO, which has the fastest kernels of our runtimes. Bytes of a copy
count twice, once read and once written.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.roofline import Roofs

if TYPE_CHECKING:
    import onnx

# Large enough that arithmetic takes nearly all of the time, small enough that the weights stay in the cache.
CHANNELS, SIDE, CONVOLUTIONS, KERNEL = 512, 64, 4, 3
MEMORY_BYTES = 2**28  # of a copy beyond the cache, at least
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}  # precision -> OpenVINO's name
MEMORY, CACHE = "copy, memory", "copy, cache"


class Peak(msgspec.Struct, frozen=True):
    """A measurement of one peak rate.

    Attributes:
        amount: Operations, or bytes read and written, of one call.
        call: What is timed.
    """

    amount: int
    call: Callable[[], object]


def convolution_name(precision: str) -> str:
    """Return the name of the measurement of a precision.

    >>> convolution_name("int8")
    'convolutions, int8'
    """
    return f"convolutions, {precision}"


def open_convolutions(threads: int, precisions: Iterable[str] = tuple(CAPABILITIES)) -> dict[str, Peak]:
    """Open the measurements of convolutions; a precision that the CPU has no instructions for is left out.

    Args:
        threads: CPU threads of every measurement.
        precisions: Precisions of the convolutions.

    Returns:
        Name -> measurement, for `time_interleaved`.
    """
    from msal_deploy.runtimes.openvino import CORE

    able = CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    measured = [precision for precision in precisions if CAPABILITIES[precision] in able]
    return {convolution_name(p): Peak(operations(), _convolve(p, threads)) for p in measured}


def open_copies(stack: ExitStack, threads: int, cache_bytes: int) -> dict[str, Peak]:
    """Open the measurements of copies: beyond the last-level cache, and within a quarter of it if its size is known.

    Args:
        stack: Ends their threads.
        threads: Threads that copy, each its own arrays.
        cache_bytes: Size of the last-level cache, from `last_level_cache`.

    Returns:
        Name -> measurement, for `time_interleaved`.
    """
    pool = stack.enter_context(ThreadPoolExecutor(threads))
    copies = {MEMORY: _copy(pool, threads, max(MEMORY_BYTES, 4 * cache_bytes))}
    return copies | ({CACHE: _copy(pool, threads, cache_bytes // 4)} if cache_bytes else {})


def operations() -> int:
    """Return the operations of one run of `convolutions`. A multiply-accumulate counts as two."""
    return CONVOLUTIONS * 2 * (CHANNELS * KERNEL * SIDE) ** 2


def roofs(peaks: Mapping[str, tuple[int, float]], cache_bytes: int) -> Roofs:
    """Return the roofs of this machine.

    >>> measured = {"convolutions, fp32": (2_000_000, 0.01), "copy, memory": (4_000_000, 0.2)}
    >>> found = roofs(measured, cache_bytes=0)
    >>> found.operations, found.memory
    ({'fp32': 200000000000.0}, 20000000000.0)

    Args:
        peaks: Name of the measurement -> its amount, and its time in ms.
        cache_bytes: Size of the last-level cache; 0 if it is not known.
    """
    rates = {name: amount * 1000 / ms for name, (amount, ms) in peaks.items()}
    by_precision = {p: rates[convolution_name(p)] for p in CAPABILITIES if convolution_name(p) in rates}
    return Roofs("this machine", by_precision, rates[MEMORY], rates.get(CACHE, 0.0), cache_bytes)


def last_level_cache(root: Path = Path("/")) -> int:
    """Return the size of the processor's last-level cache in bytes; 0 if the system does not say.

    Args:
        root: Folder with the ``sys`` of the machine.
    """
    caches = {}
    for folder in root.glob("sys/devices/system/cpu/cpu0/cache/index*"):
        with suppress(OSError, ValueError):  # a virtual machine may hide them
            size = (folder / "size").read_text(encoding="ascii").strip()  # 32768K
            caches[int((folder / "level").read_text(encoding="ascii"))] = int(size.removesuffix("K")) * 1024
    return caches[max(caches)] if caches else 0


def _copy(pool: ThreadPoolExecutor, threads: int, size: int) -> Peak:
    """Return copies between arrays of `size` bytes in total, as often as it takes to move `MEMORY_BYTES`."""
    elements = max(1, size // (2 * 8 * threads))
    pairs = [(np.ones(elements), np.ones(elements)) for _ in range(threads)]
    passes = ceil(MEMORY_BYTES / size)

    def copy(pair: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
        for _ in range(passes):
            np.copyto(*pair)

    return Peak(passes * threads * elements * 2 * 8, lambda: list(pool.map(copy, pairs)))


def _convolve(precision: str, threads: int) -> Callable[[], object]:
    import openvino
    from openvino import properties
    from openvino.properties import hint

    from msal_deploy.runtimes.openvino import CORE

    settings = {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        hint.inference_precision: openvino.Type.bf16 if precision == "bf16" else openvino.Type.f32,
        properties.inference_num_threads: threads,
    }
    model = CORE.read_model(convolutions("int8" if precision == "int8" else "fp32").SerializeToString())
    request = CORE.compile_model(model, "CPU", settings).create_infer_request()
    data = np.random.default_rng(0).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    return partial(request.infer, {0: data}, share_inputs=True)


def convolutions(precision: str) -> "onnx.ModelProto":
    """Return a chain of 3×3 convolutions, each followed by a ReLU. Input and output are float32[1,C,SIDE,SIDE].

    Args:
        precision: ``fp32``, or ``int8`` for signed Q/DQ on both operands with per-channel weights, as in our graphs.
    """
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shape = (1, CHANNELS, SIDE, SIDE)
    nodes: list[Any] = []
    tensors: list[Any] = []
    data = "data"
    for k in range(CONVOLUTIONS):
        weight = random.normal(0, 0.02, (CHANNELS, CHANNELS, KERNEL, KERNEL)).astype(np.float32)
        weight_name = f"weight{k}"
        if precision == "int8":
            data, weight_name = _quantise(k, data, weight, nodes, tensors)
        else:
            tensors.append(numpy_helper.from_array(weight, weight_name))
        pads = [KERNEL // 2] * 4
        nodes.append(helper.make_node("Conv", [data, weight_name], [f"sum{k}"], f"conv{k}", pads=pads))
        nodes.append(helper.make_node("Relu", [f"sum{k}"], [f"relu{k}"]))
        data = f"relu{k}"
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(data, TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "convolutions", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _quantise(k: int, data: str, weight: np.ndarray[Any, Any], nodes: list[Any], tensors: list[Any]) -> tuple[str, str]:
    """Put Q/DQ before both operands of convolution `k`, and return the names of the new operands."""
    from onnx import helper, numpy_helper

    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    constants = {
        f"q{k}": np.round(weight / scale[:, None, None, None]).astype(np.int8),
        f"weight_scale{k}": scale.astype(np.float32),
        f"weight_zero{k}": np.zeros(CHANNELS, np.int8),
        f"scale{k}": np.float32(0.05),
        f"zero{k}": np.int8(0),
    }
    tensors += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    grid = [f"scale{k}", f"zero{k}"]
    nodes += [
        helper.make_node("QuantizeLinear", [data, *grid], [f"data_q{k}"]),
        helper.make_node("DequantizeLinear", [f"data_q{k}", *grid], [f"data_dq{k}"]),
        helper.make_node(
            "DequantizeLinear", [f"q{k}", f"weight_scale{k}", f"weight_zero{k}"], [f"weight_dq{k}"], axis=0
        ),
    ]
    return f"data_dq{k}", f"weight_dq{k}"
