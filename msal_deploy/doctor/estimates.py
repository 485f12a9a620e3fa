"""Roofline estimates for the graphs of a bundle on the targets, and whether each target's TensorRT can parse them."""

from collections.abc import Sequence

import msgspec
import onnx

from msal_deploy.bundle import Bundle, graph_name
from msal_deploy.errors import BadInput
from msal_deploy.graph import Layer, layers, load_graph
from msal_deploy.roofline import Estimate, estimate_all
from msal_deploy.targets import Target
from msal_deploy.trt.operators import check_operators

SIDE = 512  # pixels


class ParserSupport(msgspec.Struct, frozen=True):
    """Whether one TensorRT can parse one graph.

    Attributes:
        graph: File name of the graph.
        tensorrt: TensorRT version.
        problems: One message for each part of the graph that the parser does not support; empty if it can parse it.
    """

    graph: str
    tensorrt: str
    problems: tuple[str, ...]


class BundleReport(msgspec.Struct, frozen=True):
    """Results for the graphs of a bundle.

    Attributes:
        estimates: One for each target and precision.
        parser_support: One for each TensorRT version of the targets and each graph.
    """

    estimates: tuple[Estimate, ...]
    parser_support: tuple[ParserSupport, ...] = msgspec.field(name="readable")  # the JSON key is older


def inspect_bundle(bundle: Bundle, targets: Sequence[Target]) -> BundleReport:
    """Estimate the graphs of `bundle` on each target and check that each target's TensorRT can parse them.

    >>> from pathlib import Path
    >>> from msal_deploy.targets import find_target
    >>> report = inspect_bundle(Bundle(Path("bundle")), [find_target("t4")])
    >>> [estimate.precision for estimate in report.estimates]
    ['fp32', 'fp16', 'int8']
    >>> report.parser_support[0].tensorrt
    '11.4.0'

    Raises:
        BadInput: The bundle has no FP32 graph, or a graph cannot be read.
    """
    graphs = _graphs(bundle)
    layers_of = {precision: _layers(precision, graph) for precision, graph in graphs.items()}
    versions = dict.fromkeys(target.tensorrt for target in targets)
    return BundleReport(
        tuple(bound for target in targets for bound in estimate_all(layers_of, target)),
        tuple(_check_parser(p, graph, tensorrt) for tensorrt in versions for p, graph in graphs.items()),
    )


def _graphs(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    present = ["fp32", *(precision for precision in ("fp16", "int8") if bundle.has_graph(precision))]
    return {precision: load_graph(bundle.graph(precision)) for precision in present}


def _layers(precision: str, graph: onnx.ModelProto) -> tuple[Layer, ...]:
    counted = layers(graph, batch=1, height=SIDE, width=SIDE)
    if not counted:
        raise BadInput(
            f"{graph_name(precision)} is not a segmentation network (no convolution, no matrix product)",
            "export the bundle again",
        )
    return counted


def _check_parser(precision: str, graph: onnx.ModelProto, tensorrt: str) -> ParserSupport:
    problems = check_operators(graph, tensorrt)
    return ParserSupport(graph_name(precision), tensorrt, tuple(map(str, problems)))
