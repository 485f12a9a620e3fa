"""What the graphs of a bundle cost on the targets, and whether the target's TensorRT reads them."""

from collections.abc import Sequence

import msgspec
import onnx

from msal_deploy.bundle import Bundle, graph_name
from msal_deploy.errors import BadInput
from msal_deploy.graph import Layer, layers, load_graph
from msal_deploy.roofline import Estimate, estimate
from msal_deploy.targets import Target
from msal_deploy.trt.operators import check_operators

PRECISIONS = ("fp32", "tf32", "fp16", "int8")
SIDE = 512  # pixels


class Readable(msgspec.Struct, frozen=True):
    """Whether one graph of a bundle can be read by one TensorRT; `problems` are sentences."""

    graph: str
    tensorrt: str
    problems: tuple[str, ...]


class BundleReport(msgspec.Struct, frozen=True):
    """Of the graphs of a bundle: estimates for each target and precision, and what the targets' TensorRTs read."""

    estimates: tuple[Estimate, ...]
    readable: tuple[Readable, ...]


def judge_bundle(bundle: Bundle, targets: Sequence[Target]) -> BundleReport:
    """Estimate the graphs of `bundle` on each of `targets`, and check them against each one's TensorRT.

    Raises:
        BadInput: the bundle has no FP32 graph, or a graph cannot be read.
    """
    graphs = _graphs(bundle)
    found = {precision: _layers(precision, graph) for precision, graph in graphs.items()}
    versions = dict.fromkeys(target.tensorrt for target in targets)
    return BundleReport(
        tuple(guess for target in targets for guess in _estimates(found, target)),
        tuple(_read(p, graph, tensorrt) for tensorrt in versions for p, graph in graphs.items()),
    )


def _graphs(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    held = [precision for precision in ("fp32", "fp16", "int8") if bundle.has_graph(precision) or precision == "fp32"]
    return {precision: load_graph(bundle.graph(precision)) for precision in held}


def _layers(precision: str, graph: onnx.ModelProto) -> tuple[Layer, ...]:
    found = layers(graph, batch=1, height=SIDE, width=SIDE)
    if not found:
        raise BadInput(f"{graph_name(precision)} holds no convolution and no product; export the bundle again")
    return found


def _estimates(found: dict[str, tuple[Layer, ...]], target: Target) -> list[Estimate]:
    able = [p for p in PRECISIONS if getattr(target.peak, p) is not None]
    # Where the bundle has no such graph, FP32's layers are taken at that precision, all of them.
    return [estimate(found.get(p, found["fp32"]), target, p, as_exported=p in found) for p in able]


def _read(precision: str, graph: onnx.ModelProto, tensorrt: str) -> Readable:
    problems = check_operators(graph, tensorrt)
    return Readable(graph_name(precision), tensorrt, tuple(map(str, problems)))
