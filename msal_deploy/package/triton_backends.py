"""Choose Triton's backend for a bundle, the files it serves, and the matching Triton image on NGC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, suggest
from msal_deploy.targets import Container, find_target, targets
from msal_deploy.trt.plan_checks import listed_plan, loads, plans, preflight, read_plan
from msal_deploy.trt.plan_metadata import PlanMetadata, Profile, build_command, plan_name

if TYPE_CHECKING:
    from msal_deploy.package.options import PackageOptions

TritonBackendName = Literal["tensorrt", "onnxruntime", "openvino"]
TRITON_BACKENDS: tuple[TritonBackendName, ...] = get_args(TritonBackendName)
PLAN_INSTANCES = 2  # one copies images while the other computes
MAX_BATCH = 8  # for graphs; a plan has its own limit. 8 images of 512×512 px: a 6 MiB request, an 8 MiB response


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle is served.

    Attributes:
        backend: Triton's backend.
        graph: The bundle's graph that is served, or that the plans were built from.
        files: Name in the model's version folder -> file of the bundle.
        by_capability: Compute capability -> name of its plan.
        default_file: File for GPUs without an entry in `by_capability`; None for none.
        max_batch: Largest number of images in a request, and in a batch that Triton assembles.
        best_batch: Preferred batch size, or None if the time per image does not depend on it.
        profile: The shapes of the plans; None for graphs, which only the specification limits.
        instances: Number of instances per GPU, or on the CPU.
        on_gpu: Whether the model runs on a GPU.
        tag: Tag of the image ``nvcr.io/nvidia/tritonserver:<tag>-py3``.
    """

    backend: TritonBackendName
    graph: str
    files: dict[str, Path]
    by_capability: dict[str, str] = {}
    default_file: str | None = None
    max_batch: int = MAX_BATCH
    best_batch: int | None = None
    profile: Profile | None = None
    instances: int = 1
    on_gpu: bool
    tag: str


def choose_serving(bundle: Bundle, options: PackageOptions) -> Serving:
    """Return how to serve a bundle: with the requested backend, or by default with its plans, or else on the CPU.

    Raises:
        BadInput: The backend is unknown, or the bundle has no plan that it can serve.
    """
    backend = options.backend or _default_backend(bundle, options)
    if backend not in TRITON_BACKENDS:
        raise BadInput(f"{backend!r} is not a supported Triton backend", suggest(backend, TRITON_BACKENDS))
    if backend == "tensorrt":
        return _by_plans(bundle, options)
    if backend == "openvino" and options.gpu:
        raise BadInput(f"openvino runs on the CPU, not on {options.gpu}", "use --backend onnxruntime or tensorrt")
    return _by_graph(bundle, options, backend)


def _default_backend(bundle: Bundle, options: PackageOptions) -> str:
    return "tensorrt" if options.gpu or _plans(bundle, options.precision) else "openvino"


def _by_graph(bundle: Bundle, options: PackageOptions, backend: TritonBackendName) -> Serving:
    graph = bundle.graph_name(options.precision, None if options.gpu else backend)
    if backend == "onnxruntime":
        _check_onnxruntime(options)
    container = find_target(options.gpu).container if options.gpu else _newest()
    return Serving(
        backend=backend,
        graph=graph,
        files={graph if backend == "openvino" else "model.onnx": bundle.file(graph)},
        default_file="model.py" if backend == "openvino" else "model.onnx",
        on_gpu=options.gpu is not None,
        tag=container.tag,
    )


def _check_onnxruntime(options: PackageOptions) -> None:
    if options.precision == "fp16" and not options.gpu:
        raise BadInput("ONNX Runtime runs FP16 on a GPU only", "choose a GPU with --gpu, or use fp32 or int8")
    if options.precision == "int8" and options.gpu:  # no CUDA kernels for the quantised convolutions
        raise BadInput(
            "ONNX Runtime's CUDA provider has no kernels for an INT8 graph and would compute parts of it on the CPU",
            "use --backend tensorrt, or --precision fp16",
        )


def _by_plans(bundle: Bundle, options: PackageOptions) -> Serving:
    """Serve the plan for one GPU, or all plans of a precision, each on the GPUs with its compute capability."""
    sm = find_target(options.gpu).sm if options.gpu else None
    files = [
        listed_plan(bundle, path)[0]
        for path in _plans(bundle, options.precision)
        if sm is None or path.name == plan_name(options.precision, "tensorrt", (sm,))
    ]
    if not files:
        command = build_command(bundle.path, options.precision, backend="tensorrt", gpu=options.gpu)
        raise BadInput(f"{bundle.path} has no {options.precision} TensorRT plan to serve", f"build one with: {command}")
    metadata = {path: preflight(path, bundle) for path in files}
    first, *others = metadata.values()
    if any(other.backend_version != first.backend_version or other.profile != first.profile for other in others):
        raise BadInput(
            f"The {options.precision} plans of {bundle.path} were built by different versions of TensorRT or for "
            "different shapes, which one Triton model cannot serve",
            "choose one with --gpu, or build them with the same version and shapes",
        )
    _check_profile(first.profile, bundle)
    return _serving(metadata, _container(first, options.gpu).tag)


def _check_profile(profile: Profile, bundle: Bundle) -> None:
    if profile.min[0] > 1:
        raise BadInput(
            f"The plans take at least {profile.min[0]} images, but Triton also passes single images",
            "build them with --batch 1:…",
        )
    height, width = bundle.golden()[0].shape[1:3]
    if not profile.accepts((1, height, width)):
        raise BadInput(
            f"The plans take {profile}, not the golden tiles of {height} × {width} px that test the server",
            "build them with a --size that includes the golden tiles",
        )


def _serving(metadata: dict[Path, PlanMetadata], tag: str) -> Serving:
    first = next(iter(metadata.values()))
    anywhere = [path.name for path, plan in metadata.items() if plan.options.hardware_compatible]
    batch = first.profile.opt[0]
    return Serving(
        backend="tensorrt",
        graph=first.graph,
        files={path.name: path for path in metadata},
        by_capability={sm: path.name for path, plan in metadata.items() for sm in plan.sm},
        default_file=next(iter(anywhere), None),
        max_batch=first.profile.max[0],
        best_batch=batch if batch > 1 else None,
        profile=first.profile,
        instances=PLAN_INSTANCES,
        on_gpu=True,
        tag=tag,
    )


def _plans(bundle: Bundle, precision: str) -> list[Path]:
    """Return the TensorRT plans of a precision; Triton cannot load TensorRT-RTX plans."""
    metadata = {path: read_plan(bundle, path) for path in plans(bundle)}
    return [path for path, plan in metadata.items() if (plan.backend, plan.requested) == ("tensorrt", precision)]


def _container(plan: PlanMetadata, gpu: str | None) -> Container:
    """Return the newest Triton image whose TensorRT can load `plan`: the GPU's, or that of any target.

    Raises:
        BadInput: No known image has that TensorRT.
    """
    known = [find_target(gpu).container] if gpu else [target.container for target in targets()]
    fitting = [container for container in known if loads(plan, container.tensorrt)]
    if fitting:
        return max(fitting, key=lambda container: container.tag)
    has = ", ".join(sorted({f"{container.tag} has {container.tensorrt}" for container in known}))
    raise BadInput(
        f"The plan was built by TensorRT {plan.backend_version}, which no known Triton image has ({has})",
        "build it with the TensorRT of one of them: msal-deploy doctor --gpu NAME --dockerfile FILE",
    )


def _newest() -> Container:
    return max((target.container for target in targets()), key=lambda container: container.tag)
