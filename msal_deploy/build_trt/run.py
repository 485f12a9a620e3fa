"""The stage: a typed ONNX graph becomes a TensorRT plan in the requested precision, or the command fails."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from msal_deploy.build_trt.builder import Built, Source, build_engine
from msal_deploy.build_trt.parse import read_graph
from msal_deploy.build_trt.report import BuildReport
from msal_deploy.build_trt.request import (
    BuildRequest,
    check_memory_of_target,
    check_request,
)
from msal_deploy.build_trt.save import (
    check_room,
    locked,
    save_plan,
    save_rejected,
    save_timing_cache,
    timing_cache_path,
)
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.graph import layers
from msal_deploy.trt.audit import choose_layer_precisions, find_deviations, find_fault, realised
from msal_deploy.trt.bindings import Backend, load_backend
from msal_deploy.trt.layer_precisions import read_inspector
from msal_deploy.trt.plan_metadata import PlanMetadata

if TYPE_CHECKING:
    import onnx

    from msal_deploy.graph import Layer

ACCEPT = "; accept that with --allow-wider, or ask for another precision"


def build_trt(bundle: Bundle, request: BuildRequest, *, progress: bool = False) -> BuildReport:
    """Build a plan into the bundle; a plan for the same place and precision is replaced.

    Nothing is reused but the timings of the same TensorRT on the same GPU, which TensorRT checks itself.

    Raises:
        BadInput: the request or the graph cannot be built.
        MissingRequirement: this machine lacks TensorRT, the GPU, memory or disk.
        GateFailed: the plan does not compute in the precision that was asked for; it is kept aside.
    """
    backend = load_backend(request.build_target.backend)
    check_request(request, bundle.spec, backend)
    with locked(bundle.path, progress=progress):
        start = time.monotonic()
        path = _graph_file(bundle, request)
        check_room(path)
        model = read_graph(path, bundle.spec, backend)
        graph = _layers(model, request)
        timing_cache = timing_cache_path(bundle.path, backend, request.build_target.target.sm)
        before = timing_cache.read_bytes() if timing_cache.is_file() else b""
        source = Source(path, model, graph, bundle.spec.image.name)
        built = build_engine(backend, source, request, before, progress=progress)
        save_timing_cache(timing_cache, built.timing_cache)
        plan, deviations = _keep(bundle, request, backend, graph, built)
        warnings = (*deviations, *_warnings(bundle, request, backend))
        seconds = time.monotonic() - start
        return BuildReport(bundle.path / request.plan, plan, warnings, seconds, built.timing_cache_reused)


def _graph_file(bundle: Bundle, request: BuildRequest) -> Path:
    if request.graph not in bundle.manifest.artifacts:
        there = [name for name in bundle.manifest.artifacts if name.endswith(".onnx")]
        raise BadInput(
            f"{bundle.path} holds no {request.graph} (it has {', '.join(sorted(there))}); make it first, or ask for "
            "another precision"
        )
    return bundle.file(request.graph)


def _layers(model: onnx.ModelProto, request: BuildRequest) -> tuple[Layer, ...]:
    """Return the layers at the profile's maximum, after making sure that they fit into the GPU."""
    batch, height, width = request.profile.max
    found = layers(model, batch=batch, height=height, width=width)
    if not found:
        raise BadInput(f"{request.graph} holds no convolution and no matrix product; export the bundle again")
    check_memory_of_target(request, max(found, key=lambda layer: layer.moved_bytes))
    return found


def _keep(
    bundle: Bundle, request: BuildRequest, backend: Backend, graph: tuple[Layer, ...], built: Built
) -> tuple[PlanMetadata, list[str]]:
    """Audit what was built and put it where it belongs; return its sidecar, and what the user should know of it."""
    readings = (read_inspector(backend, built.plan), built.log, built.network)
    reading = choose_layer_precisions(graph, readings)
    plan = PlanMetadata(
        backend=backend.name,
        backend_version=backend.version,
        gpu=request.build_target.gpu,
        sm=(request.build_target.target.sm,),
        graph=request.graph,
        graph_sha256=bundle.manifest.artifacts[request.graph].sha256,
        requested=request.precision,
        realised=realised(graph, reading),
        profile=request.profile,
        plan_sha256=sha256(built.plan).hexdigest(),
        bytes=built.plan.nbytes,
        options=request.options,
        built=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    wider = find_deviations(graph, reading, wider=True)
    fault = find_fault(request.precision, graph, plan.realised) or find_deviations(graph, reading, wider=False)
    if fault or (wider and not request.options.allow_wider):
        aside = save_rejected(bundle, request.plan, built.plan, plan)
        raise GateFailed(f"{request.plan} {fault or wider + ACCEPT} (kept aside as {aside.name})")
    save_plan(bundle, request.plan, built.plan, plan)
    return plan, [f"{request.plan} {wider}"] if wider else []


def _warnings(bundle: Bundle, request: BuildRequest, backend: Backend) -> list[str]:
    """Return what the user should know of such an request."""
    slow = request.build_target.target.discouraged.get(request.precision)  # type: ignore[call-overload]
    engines = " ".join(f"--engine {backend.name}:{precision}" for precision in (request.precision, "fp32"))
    beside = f"{slow}: time FP32 beside it with: msal-deploy bench {bundle.path} {engines}"
    return [*filter(None, [backend.warnings()]), *([beside] if slow else [])]
