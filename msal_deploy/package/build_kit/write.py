"""Build kit: for a machine that has the GPU and trtexec, and not msal-deploy.

::

    build.sh          builds each plan with trtexec, audits it, replays the golden tiles on it, times it
    kit.py            what build.sh asks of Python: the right GPU and TensorRT, the sidecar with the realised precision
    kit.json          target, graphs with their layers, golden shape
    model.*.onnx      the graphs; *.flags8: what trtexec 8 must be told of them beside
    Dockerfile, compose.yaml, README.md
"""

import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from jinja2 import Environment, StrictUndefined

from msal_deploy.bundle import GOLDEN, Bundle, graph_name
from msal_deploy.errors import BadInput
from msal_deploy.files import write_json
from msal_deploy.graph import layers, load_graph
from msal_deploy.package.options import PREFERRED
from msal_deploy.targets import Target, find_target, target_names
from msal_deploy.trt.operators import require_readable
from msal_deploy.trt.plan_metadata import DEFAULT_PROFILE, FORMAT_VERSION, BuildOptions, Profile

if TYPE_CHECKING:
    import onnx

    from msal_deploy.package.options import PackageOptions

TEMPLATES = ("build.sh", "README.md", "Dockerfile", "compose.yaml")
# ONNX operators whose layers a builder of TensorRT 8 may compute in another type than the graph's, and is told not to.
CHOSEN = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul"),
    *("Add", "Sub", "Mul", "Div", "Relu", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),
}
PRECISION_OF_TYPE = {1: "fp32", 10: "fp16"}  # TensorProto.FLOAT and FLOAT16


def write(bundle: Bundle, folder: Path, options: "PackageOptions") -> str:
    """Write a build kit for the target ``options.gpu`` into `folder`.

    Raises:
        BadInput: no GPU is named or it is unknown, the bundle lacks the graph, or the target cannot read it.
    """
    if options.gpu is None:
        raise BadInput(f"A build kit is for one GPU; name it with --gpu: {', '.join(target_names())}")
    target = find_target(options.gpu)
    precisions = choose_precisions(bundle, target, options.precision)
    golden = _golden_shape(folder)
    profile = DEFAULT_PROFILE.widened(golden)
    graphs = {precision: _put_graph(bundle, folder, precision, target, profile) for precision in precisions}
    write_json(folder / "kit.json", _about(target, graphs, golden))
    warnings = [target.slow[precision] for precision in precisions if precision in target.slow]
    _render(bundle, folder, target, precisions, profile, golden, warnings)
    shutil.copyfile(str(resources.files(__package__).joinpath("kit.py")), folder / "kit.py")
    (folder / ".dockerignore").write_text("*\n", encoding="utf-8")  # the image needs none of these files
    beside = "".join(f"{warning}: FP32 is built and timed beside it. " for warning in warnings)
    return f"{beside}Take the folder to the {target.gpu} and run there: docker compose run --rm kit (or: sh build.sh)"


def choose_precisions(bundle: Bundle, target: Target, asked: str) -> tuple[str, ...]:
    """Return the precisions to build: the one that is asked for, or those that pay on the target, the best first.

    Where one does not pay, FP32 is built beside it to compare with.

    Raises:
        BadInput: the bundle holds none of those that pay.
    """
    there = [name for name in ("fp32", "fp16", "int8") if bundle.has_graph(name)]
    if asked != PREFERRED:
        return (asked, "fp32") if asked in target.slow and "fp32" in there else (asked,)
    found = tuple(precision for precision in target.auto if precision in there)
    if not found:
        raise BadInput(
            f"{bundle.path} holds none of the graphs that pay on {target.gpu} ({', '.join(target.auto)}); make one "
            "with msal-deploy export, or name a --precision"
        )
    return found


def _golden_shape(folder: Path) -> tuple[int, int, int]:
    about = msgspec.json.decode((folder / GOLDEN / "golden.json").read_bytes())
    return about["images"], about["height"], about["width"]


def _put_graph(bundle: Bundle, folder: Path, precision: str, target: Target, profile: Profile) -> dict[str, Any]:
    """Copy a graph into the kit, and return what the audit needs to know of it."""
    name = graph_name(precision)
    source = bundle.file(name)
    model = load_graph(source)
    require_readable(model, target.container.tensorrt)
    shutil.copyfile(source, folder / name)
    (folder / name).with_suffix(".flags8").write_text("".join(f"{flag}\n" for flag in flags8(model)), encoding="utf-8")
    batch, height, width = profile.opt
    found = [
        (layer.name, layer.precision, layer.macs) for layer in layers(model, batch=batch, height=height, width=width)
    ]
    return {"file": name, "sha256": bundle.manifest.artifacts[name].sha256, "layers": found}


def flags8(model: "onnx.ModelProto") -> list[str]:
    """Return the flags of trtexec 8.6.1 that bind its builder to the types of a graph.

    Its networks are weakly typed: --int8 and --fp16 permit a precision, and --layerPrecisions with
    --precisionConstraints=obey command it, layer by layer (samples/common/sampleOptions.cpp of release 8.6.1).
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    kinds = {n.name: PRECISION_OF_TYPE.get(types.get(n.output[0], 0)) for n in graph.node if n.op_type in CHOSEN}
    flags = ["--int8"] if any(node.op_type == "QuantizeLinear" for node in graph.node) else []
    if "fp16" in kinds.values():
        told = ",".join(
            f"{name}:{kind}" for name, kind in kinds.items() if name and kind and not set(name) & set(",:'")
        )
        flags += ["--fp16", "--precisionConstraints=obey", f"--layerPrecisions={told}"]
    return flags


def _about(target: Target, graphs: dict[str, dict[str, Any]], golden: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "target": target.name,
        "gpu": target.gpu,
        "sm": target.sm,
        "first": target.tensorrt_first,
        "last": target.tensorrt if target.why_last else None,
        "golden": [*golden, 3],
        "graphs": graphs,
        "options": msgspec.to_builtins(BuildOptions()),
        "format_version": FORMAT_VERSION,
    }


def _render(
    bundle: Bundle,
    folder: Path,
    target: Target,
    precisions: tuple[str, ...],
    profile: Profile,
    golden: tuple[int, int, int],
    warnings: list[str],
) -> None:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    first, last = target.driver.first, target.driver.last
    values = {
        "t": target,
        "image": bundle.spec.image.name,
        "precisions": precisions,
        "shapes": ["x".join(map(str, (*point, 3))) for point in (profile.min, profile.opt, profile.max)],
        "golden": (*golden, 3),
        "drivers": f"R{first} to R{last}" if last else f"R{first} or later",
        "versions": target.tensorrt_first if target.tensorrt_first == target.tensorrt else _versions(target),
        "warnings": warnings,
        "licence": bundle.manifest.licence,
    }
    for name in TEMPLATES:
        text = resources.files(__package__).joinpath(f"{name}.j2").read_text(encoding="utf-8")
        (folder / name).write_text(environment.from_string(text).render(values), encoding="utf-8")


def _versions(target: Target) -> str:
    return f"{target.tensorrt_first} to {target.tensorrt}" if target.why_last else f"{target.tensorrt_first} or later"
