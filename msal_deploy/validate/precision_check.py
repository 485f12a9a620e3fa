"""Does an engine compute in the precision of its name? Read from its graph, or from its plan's metadata."""

from collections import Counter

from msal_deploy.bundle import Bundle
from msal_deploy.graph import ARITHMETIC, PRECISION_OF_TYPE, GraphIndex, load_graph
from msal_deploy.runtimes import CATALOGUE
from msal_deploy.validate.checks import Check

COMPUTED_FROM = {"bf16": "fp32"}  # OpenVINO computes the FP32 graph in BF16


def check_precision(bundle: Bundle, engine_id: str) -> Check:
    """Check that an engine's graph or plan has layers in the precision that the engine is named after.

    An FP32 graph must be FP32 throughout. FP16 and INT8 graphs may keep layers in a higher precision, but not all.

    >>> from pathlib import Path
    >>> check_precision(Bundle(Path("bundle")), "openvino:int8").text
    'model.int8.onnx: 3 of 3 layers in INT8'

    Args:
        bundle: Bundle with the graphs and plans.
        engine_id: ``<runtime>:<precision>``.

    Raises:
        BadInput: The bundle does not have the graph or plan, or it cannot be read.
    """
    name, _, precision = engine_id.partition(":")
    runtime = CATALOGUE.get(name)
    if runtime is None or runtime.device == "server":
        return Check("precision", True, f"Precision not checked: {engine_id} has no graph or plan on this machine")
    if runtime.opens == "checkpoint":
        return Check("precision", True, f"{engine_id} computes the checkpoint, whose weights are FP32")
    if runtime.opens == "plan":
        return _check_plan(bundle, name, precision)
    return _check_graph(bundle, engine_id, precision)


def layer_precisions(graph: GraphIndex) -> Counter[str]:
    """Return precision -> number of convolutions and matrix products that the graph computes in it.

    >>> from pathlib import Path
    >>> layer_precisions(GraphIndex(load_graph(Path("bundle/model.fp16.onnx"))))
    Counter({'fp16': 3})
    """
    return Counter(
        "int8" if all(map(graph.is_dequantised, node.input[:2])) else _float_type(graph, node.input[1])
        for node in graph.nodes
        if node.op_type in ARITHMETIC
    )


def _float_type(graph: GraphIndex, weight: str) -> str:
    """Return the precision of stored weights; FP32 if they come from another node, such as DequantizeLinear."""
    return PRECISION_OF_TYPE.get(graph.types.get(weight, ""), "fp32")


def _check_graph(bundle: Bundle, engine_id: str, precision: str) -> Check:
    runtime = engine_id.partition(":")[0]
    wanted = COMPUTED_FROM.get(precision, precision)
    path = bundle.graph(wanted, runtime)
    found = layer_precisions(GraphIndex(load_graph(path)))
    if found[wanted] and (wanted != "fp32" or found.keys() == {wanted}):
        return Check("precision", True, f"{path.name}: {found[wanted]} of {found.total()} layers in {wanted.upper()}")
    actual = ", ".join(f"{count} in {name.upper()}" for name, count in found.most_common())
    fault = "layers in another precision" if found[wanted] else f"no {wanted.upper()} layer"
    text = f"{engine_id} opens {path.name}, which has {fault}: {actual or 'no layers'}"
    return Check("precision", False, text + _copied_from(bundle, path.name))


def _copied_from(bundle: Bundle, name: str) -> str:
    """Name the graphs of the bundle with the same content."""
    artifacts = bundle.manifest.artifacts
    same = [other for other in artifacts if other != name and artifacts[other].sha256 == artifacts[name].sha256]
    return f"; it is a copy of {', '.join(same)}" if same else ""


def _check_plan(bundle: Bundle, backend: str, precision: str) -> Check:
    from msal_deploy.trt.local_gpu import current_gpu
    from msal_deploy.trt.plan_checks import find_plan, read_plan

    plan_file = find_plan(bundle, precision, backend, current_gpu().sm)
    shares = read_plan(bundle, plan_file).actual.shares
    share = shares[precision].of_flops if precision in shares else 0.0
    text = f"{plan_file.name} computes {share:.0%} of its FLOPs in {precision.upper()}"
    return Check("precision", share > 0, text)
