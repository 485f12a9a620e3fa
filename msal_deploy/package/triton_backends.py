"""Which of Triton's backends serves a bundle, with which files, and in which image of NGC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, suggest
from msal_deploy.targets import Container, find_target, targets
from msal_deploy.trt.plan_checks import plans, preflight
from msal_deploy.trt.plan_metadata import PlanMetadata, build_command, plan_name, read_metadata
from msal_deploy.versions import parse_version

if TYPE_CHECKING:
    from msal_deploy.package.options import PackageOptions

TritonBackendName = Literal["tensorrt", "onnxruntime", "openvino"]
TRITON_BACKENDS: tuple[TritonBackendName, ...] = ("tensorrt", "onnxruntime", "openvino")
MAX_BATCH = 8  # of a graph; a plan has its own. Images of 512 × 512 px: 6 MiB there, 8 MiB back


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle is served.

    Attributes:
        graph: the bundle's graph that is served, or that the plans were built from.
        files: name in the model's version folder -> file of the bundle.
        by_capability: compute capability -> name of its plan.
        default_file: what is loaded where `by_capability` has no entry; None for none.
        max_batch: most images in a request, and in a batch that Triton puts together.
        best_batch: the batch that Triton should wait for, None where all cost the same an image.
        warm_up: height and width of the warm-up images, None for those of the golden tiles.
        tag: of ``nvcr.io/nvidia/tritonserver:<tag>-py3``.
    """

    backend: TritonBackendName
    graph: str
    files: dict[str, Path]
    by_capability: dict[str, str] = {}
    default_file: str | None = None
    max_batch: int = MAX_BATCH
    best_batch: int | None = None
    warm_up: tuple[int, int] | None = None
    on_gpu: bool
    tag: str


def choose(bundle: Bundle, options: PackageOptions) -> Serving:
    """Return how to serve `bundle`: by the backend that is asked for, or else by its plans, or else on the CPU.

    Raises:
        BadInput: no such backend, or the bundle has no plan that it could serve.
    """
    backend = options.backend or _by_itself(bundle, options)
    if backend not in TRITON_BACKENDS:
        raise BadInput(f"Triton has no backend {backend!r} here; {suggest(backend, TRITON_BACKENDS)}")
    if backend == "tensorrt":
        return _by_plans(bundle, options)
    if backend == "openvino" and options.gpu:
        raise BadInput(f"openvino computes on the CPU and not on {options.gpu}; use --backend onnxruntime or tensorrt")
    return _by_graph(bundle, options, backend)


def _by_itself(bundle: Bundle, options: PackageOptions) -> str:
    return "tensorrt" if options.gpu or _plans(bundle, options.precision) else "openvino"


def _by_graph(bundle: Bundle, options: PackageOptions, backend: TritonBackendName) -> Serving:
    graph = bundle.graph_name(options.precision, None if options.gpu else backend)
    if backend == "onnxruntime" and options.precision == "fp16" and not options.gpu:
        raise BadInput("ONNX Runtime computes FP16 on a GPU alone; name the GPU with --gpu, or use fp32 or int8")
    container = find_target(options.gpu).container if options.gpu else _newest()
    return Serving(
        backend=backend,
        graph=graph,
        files={graph if backend == "openvino" else "model.onnx": bundle.file(graph)},
        default_file="model.py" if backend == "openvino" else "model.onnx",
        on_gpu=options.gpu is not None,
        tag=container.tag,
    )


def _by_plans(bundle: Bundle, options: PackageOptions) -> Serving:
    """Serve the plan for one GPU, or all plans of the precision, each on the GPUs of its compute capability."""
    sm = find_target(options.gpu).sm if options.gpu else None
    files = [
        bundle.file(path.name)
        for path in _plans(bundle, options.precision)
        if sm is None or path.name == plan_name(options.precision, "tensorrt", (sm,))
    ]
    if not files:
        command = build_command(bundle.path, options.precision, backend="tensorrt", gpu=options.gpu)
        raise BadInput(f"{bundle.path} has no {options.precision} plan of TensorRT to serve; build it with: {command}")
    found = {path: preflight(path, bundle) for path in files}
    first, *others = found.values()
    if any(other.backend_version != first.backend_version or other.profile != first.profile for other in others):
        raise BadInput(
            f"The {options.precision} plans of {bundle.path} were built by different versions of TensorRT or for "
            "different shapes, and one Triton serves only one kind; name the GPU with --gpu, or build them alike"
        )
    return _serving(found, _container(first, options.gpu).tag)


def _serving(found: dict[Path, PlanMetadata], tag: str) -> Serving:
    first = next(iter(found.values()))
    if first.profile.min[0] > 1:
        raise BadInput(
            f"The plans take at least {first.profile.min[0]} images, and Triton hands over single ones too; build "
            "them with --batch 1:… to serve them"
        )
    anywhere = [path.name for path, plan in found.items() if plan.options.hardware_compatible]
    batch, height, width = first.profile.opt
    return Serving(
        backend="tensorrt",
        graph=first.graph,
        files={path.name: path for path in found},
        by_capability={sm: path.name for path, plan in found.items() for sm in plan.sm},
        default_file=next(iter(anywhere), None),
        max_batch=first.profile.max[0],
        best_batch=batch if batch > 1 else None,
        warm_up=(height, width),
        on_gpu=True,
        tag=tag,
    )


def _plans(bundle: Bundle, precision: str) -> list[Path]:
    """Return the plans of TensorRT itself: Triton does not load those of TensorRT-RTX."""
    found = {path: read_metadata(path) for path in plans(bundle)}
    return [path for path, plan in found.items() if (plan.backend, plan.requested) == ("tensorrt", precision)]


def _container(plan: PlanMetadata, gpu: str | None) -> Container:
    """Return the image whose TensorRT loads `plan`: the GPU's own, or one of any target.

    Raises:
        BadInput: no image that is known has that TensorRT.
    """
    known = [find_target(gpu).container] if gpu else [target.container for target in targets()]
    fitting = [container for container in known if _loads(container, plan)]
    if fitting:
        return max(fitting, key=lambda container: container.tag)
    has = ", ".join(sorted({f"{container.tag} has {container.tensorrt}" for container in known}))
    raise BadInput(
        f"The plan was built by TensorRT {plan.backend_version}, and no Triton image that is known has it ({has}); "
        "build it with the TensorRT of one of them: msal-deploy doctor --gpu NAME --dockerfile FILE"
    )


def _loads(container: Container, plan: PlanMetadata) -> bool:
    built, there = parse_version(plan.backend_version), parse_version(container.tensorrt)
    later = plan.options.version_compatible and there[0] == built[0] and there >= built
    return there == built or later


def _newest() -> Container:
    return max((target.container for target in targets()), key=lambda container: container.tag)
