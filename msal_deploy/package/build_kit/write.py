"""Write a build kit, for a machine that has the target GPU and trtexec but not msal-deploy.

::

    build.sh              builds each plan with trtexec, audits it, runs the golden tiles on it, times it
    kit.py                the Python part of build.sh: checks GPU and TensorRT, writes the plan's metadata
    layer_precisions.py   a copy of msal_deploy/trt/layer_precisions.py, which kit.py imports
    kit.json              target, graphs with their layers, shape of the golden tiles
    model.*.onnx          the graphs; *.flags8: the flags of trtexec 8 for each
    docker.sh, Dockerfile runs build.sh in NVIDIA's container, as the user who calls it
    golden_tiles.py       the golden tiles for polygraphy
    README.md
"""

import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from msal_deploy.bundle import GOLDEN, Bundle, graph_name
from msal_deploy.errors import BadInput
from msal_deploy.files import write_json
from msal_deploy.graph import layers, load_graph
from msal_deploy.package.build_kit.estimate import build_minutes, device_memory_gib
from msal_deploy.package.options import PREFERRED
from msal_deploy.package.quoting import environment
from msal_deploy.targets import Target, find_target, target_names
from msal_deploy.trt.operators import require_readable
from msal_deploy.trt.plan_metadata import DEFAULT_PROFILE, FORMAT_VERSION, BuildOptions, Profile

if TYPE_CHECKING:
    import onnx

    from msal_deploy.package.options import PackageOptions

TEMPLATES = ("build.sh", "docker.sh", "golden_tiles.py", "README.md", "Dockerfile")
# ONNX operators whose precision is set in TensorRT 8.6, which would choose one otherwise.
CONSTRAINED_OPERATORS = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul"),
    *("Add", "Sub", "Mul", "Div", "Relu", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),
}
PRECISION_OF_TYPE = {1: "fp32", 10: "fp16"}  # TensorProto.FLOAT and FLOAT16


def write(bundle: Bundle, folder: Path, options: "PackageOptions") -> str:
    """Write a build kit for the target ``options.gpu`` into `folder`, and return the next step for the user.

    ::

        msal-deploy package BUNDLE build-kit --gpu gtx-1080-ti --out DIR

    Raises:
        BadInput: No GPU is given or it is unknown, the bundle lacks the graph, or the target does not support it.
    """
    if options.gpu is None:
        raise BadInput("A build kit is for one GPU", f"name it with --gpu: {', '.join(target_names())}")
    target = find_target(options.gpu)
    precisions = choose_precisions(bundle, target, options.precision)
    about = msgspec.json.decode((folder / GOLDEN / "golden.json").read_bytes())
    golden = (about["images"], about["height"], about["width"])
    profile = DEFAULT_PROFILE.widened(golden)
    graphs = {
        precision: _copy_graph(bundle, folder, precision, target, profile)
        | {"tolerance": about["tolerances"][precision]["mean"]}
        for precision in precisions
    }
    write_json(folder / "kit.json", _kit_json(target, graphs, golden))
    warnings = [target.discouraged[precision] for precision in precisions if precision in target.discouraged]
    _render(bundle, folder, target, graphs, profile, golden, warnings)
    for package, name in (__package__, "kit.py"), ("msal_deploy.trt", "layer_precisions.py"):
        (folder / name).write_bytes(resources.files(package).joinpath(name).read_bytes())
    (folder / ".dockerignore").write_text("*\n", encoding="utf-8")  # the image contains none of these files
    notes = "".join(f"{warning}: FP32 is built and timed too. " for warning in warnings)
    return f"{notes}Copy the folder to a machine with {target.gpu} and run: sh docker.sh (or: sh build.sh)"


def choose_precisions(bundle: Bundle, target: Target, requested: str) -> tuple[str, ...]:
    """Return the precisions to build: the requested one, or those that the target prefers, the best first.

    A discouraged precision is accompanied by FP32, to compare it with.

    >>> from pathlib import Path
    >>> bundle = Bundle(Path("bundle"))
    >>> choose_precisions(bundle, find_target("gtx-1080-ti"), PREFERRED)
    ('int8', 'fp32')
    >>> choose_precisions(bundle, find_target("gtx-1080-ti"), "fp16")
    ('fp16', 'fp32')

    Raises:
        BadInput: The bundle has none of the preferred graphs.
    """
    available = [name for name in ("fp32", "fp16", "int8") if bundle.has_graph(name)]
    if requested != PREFERRED:
        return (requested, "fp32") if requested in target.discouraged and "fp32" in available else (requested,)
    preferred = tuple(precision for precision in target.preferred if precision in available)
    if not preferred:
        raise BadInput(
            f"{bundle.path} has no graph in a preferred precision of {target.gpu} ({', '.join(target.preferred)})",
            "export one with msal-deploy export, or choose a --precision",
        )
    return preferred


def _copy_graph(bundle: Bundle, folder: Path, precision: str, target: Target, profile: Profile) -> dict[str, Any]:
    """Copy a graph into the kit, and return its entry in kit.json: the layers to audit, and what to expect."""
    name = graph_name(precision)
    source = bundle.file(name)
    model = load_graph(source)
    require_readable(model, target.container.tensorrt)
    shutil.copyfile(source, folder / name)
    (folder / name).with_suffix(".flags8").write_text("".join(f"{flag}\n" for flag in flags8(model)), encoding="utf-8")
    best, largest = (
        layers(model, batch=batch, height=height, width=width) for batch, height, width in (profile.opt, profile.max)
    )
    return {
        "file": name,
        "sha256": bundle.manifest.artifacts[name].sha256,
        "layers": [(layer.name, layer.precision, layer.macs) for layer in best],
        "minutes": build_minutes(best, target),
        "memory_gib": round(device_memory_gib(largest), 1),
    }


def flags8(model: "onnx.ModelProto") -> list[str]:
    """Return the flags of trtexec 8.6.1 that bind its builder to the types of a graph.

    Its networks are weakly typed: --int8 and --fp16 permit a precision, and --layerPrecisions with
    --precisionConstraints=obey requires it, layer by layer (samples/common/sampleOptions.cpp of release 8.6.1).

    >>> from pathlib import Path
    >>> flags8(load_graph(Path("bundle/model.int8.onnx")))
    ['--int8']
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    kinds = {
        n.name: PRECISION_OF_TYPE.get(types.get(n.output[0], 0))
        for n in graph.node
        if n.op_type in CONSTRAINED_OPERATORS
    }
    flags = ["--int8"] if any(node.op_type == "QuantizeLinear" for node in graph.node) else []
    if "fp16" in kinds.values():
        constraints = ",".join(
            f"{name}:{kind}" for name, kind in kinds.items() if name and kind and not set(name) & set(",:'")
        )
        flags += ["--fp16", "--precisionConstraints=obey", f"--layerPrecisions={constraints}"]
    return flags


def _kit_json(target: Target, graphs: dict[str, dict[str, Any]], golden: tuple[int, int, int]) -> dict[str, Any]:
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
    graphs: dict[str, dict[str, Any]],
    profile: Profile,
    golden: tuple[int, int, int],
    warnings: list[str],
) -> None:
    templates = environment()
    first, last = target.driver.first, target.driver.last
    values = {
        "t": target,
        "image": bundle.spec.image.name,
        "precisions": tuple(graphs),
        "minutes": next(iter(graphs.values()))["minutes"],
        "memory_gib": max(graph["memory_gib"] for graph in graphs.values()),
        "shapes": ["x".join(map(str, (*point, 3))) for point in (profile.min, profile.opt, profile.max)],
        "golden": (*golden, 3),
        "drivers": f"R{first} to R{last}" if last else f"R{first} or later",
        "versions": target.tensorrt_first if target.tensorrt_first == target.tensorrt else _versions(target),
        "warnings": warnings,
        "licence": bundle.manifest.licence,
    }
    for name in TEMPLATES:
        text = resources.files(__package__).joinpath(f"{name}.j2").read_text(encoding="utf-8")
        (folder / name).write_text(templates.from_string(text).render(values), encoding="utf-8")


def _versions(target: Target) -> str:
    return f"{target.tensorrt_first} to {target.tensorrt}" if target.why_last else f"{target.tensorrt_first} or later"
