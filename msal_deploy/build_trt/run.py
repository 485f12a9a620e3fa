"""The stage: build a TensorRT plan in the requested precision from a typed ONNX graph, or fail."""

from __future__ import annotations

import shlex
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from msal_deploy.build_trt.builder import BuildResult, Source, build_engine
from msal_deploy.build_trt.parse import read_graph
from msal_deploy.build_trt.report import BuildReport
from msal_deploy.build_trt.request import BuildRequest, check_memory_of_target, check_request
from msal_deploy.build_trt.save import (
    check_free_space,
    locked,
    save_plan,
    save_rejected,
    save_timing_cache,
    timing_cache_path,
)
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.graph import layers
from msal_deploy.trt.audit import actual_precision, choose_layer_precisions, read_inspector
from msal_deploy.trt.bindings import Backend, load_backend
from msal_deploy.trt.layer_precisions import check_layers, check_requested
from msal_deploy.trt.plan_metadata import PlanMetadata

if TYPE_CHECKING:
    import onnx

    from msal_deploy.graph import Layer


def build_trt(bundle: Bundle, request: BuildRequest, *, progress: bool = False) -> BuildReport:
    """Build a plan into a bundle. It replaces an existing plan for the same GPU, backend and precision.

    Only the timing cache of the same TensorRT and GPU is reused, and TensorRT validates it.

    ::

        request = BuildRequest("fp16", find_build_target(bundle.path, "rtx-3090"))
        report = build_trt(bundle, request)
        print(report.plan.actual.shares["fp16"].of_flops)

    Raises:
        BadInput: The request or the graph is invalid.
        MissingRequirement: TensorRT, the GPU, memory or disk space is missing.
        GateFailed: The plan does not compute in the requested precision. It is saved under another name.
    """
    backend = load_backend(request.build_target.backend)
    check_request(request, bundle.spec, backend)
    with locked(bundle.path, progress=progress):
        bundle = Bundle(bundle.path)  # again: the command that was waited for may have changed it
        start = time.monotonic()
        path = _graph_file(bundle, request)
        check_free_space(path)
        model = read_graph(path, bundle.spec, backend)
        graph = _layers(model, request)
        timing_cache = timing_cache_path(bundle.path, backend, request.build_target.target.sm)
        earlier = timing_cache.read_bytes() if timing_cache.is_file() else b""
        source = Source(path, model, graph, bundle.spec.image.name)
        result = build_engine(backend, source, request, earlier, progress=progress)
        save_timing_cache(timing_cache, result.timing_cache)
        plan, deviations = _save(bundle, request, backend, graph, result)
        warnings = (*deviations, *_warnings(bundle, request, backend))
        seconds = time.monotonic() - start
        return BuildReport(bundle.path / request.plan, plan, warnings, seconds, result.timing_cache_reused)


def _graph_file(bundle: Bundle, request: BuildRequest) -> Path:
    if request.graph not in bundle.manifest.artifacts:
        graphs = sorted(name for name in bundle.manifest.artifacts if name.endswith(".onnx"))
        cause = f"{bundle.path} has no {request.graph} (found: {', '.join(graphs)})"
        raise BadInput(cause, "export it first, or choose another precision")
    return bundle.file(request.graph)


def _layers(model: onnx.ModelProto, request: BuildRequest) -> tuple[Layer, ...]:
    """Return the layers at the profile's maximum, and check that each fits into the GPU's memory."""
    batch, height, width = request.profile.max
    graph = layers(model, batch=batch, height=height, width=width)
    if not graph:
        raise BadInput(f"{request.graph} has no convolution and no matrix product", "export the bundle again")
    check_memory_of_target(request, max(graph, key=lambda layer: layer.moved_bytes))
    return graph


def _save(
    bundle: Bundle, request: BuildRequest, backend: Backend, graph: tuple[Layer, ...], result: BuildResult
) -> tuple[PlanMetadata, list[str]]:
    """Audit a plan and save it; return its metadata, and warnings for the user."""
    sources = (read_inspector(backend, result.plan), result.log, result.network)
    layer_precisions = choose_layer_precisions(graph, sources)
    plan = PlanMetadata(
        backend=backend.name,
        backend_version=backend.version,
        gpu=request.build_target.gpu,
        sm=(request.build_target.target.sm,),
        graph=request.graph,
        graph_sha256=bundle.manifest.artifacts[request.graph].sha256,
        requested=request.precision,
        actual=actual_precision(graph, layer_precisions),
        profile=request.profile,
        plan_sha256=sha256(result.plan).hexdigest(),
        bytes=result.plan.nbytes,
        options=request.options,
        built=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    precisions = layer_precisions.precisions
    wider = check_layers(graph, precisions, wider=True)
    mismatch = (
        check_requested(request.precision, graph, precisions)
        or check_layers(graph, precisions, wider=False)
        or (None if request.options.allow_wider else wider)
    )
    if mismatch:
        path = save_rejected(bundle, request.plan, result.plan, plan)
        raise GateFailed(f"{request.plan} {mismatch.cause} (saved as {path.name})", mismatch.remedy)
    save_plan(bundle, request.plan, result.plan, plan)
    return plan, [f"{request.plan} {wider.cause}"] if wider else []


def _warnings(bundle: Bundle, request: BuildRequest, backend: Backend) -> list[str]:
    """Return warnings of TensorRT, and one for a discouraged precision."""
    discouraged = request.build_target.target.discouraged.get(request.precision)  # type: ignore[call-overload]
    engines = " ".join(f"--engine {backend.name}:{precision}" for precision in (request.precision, "fp32"))
    compare = f"{discouraged}: compare it with FP32: msal-deploy bench {shlex.quote(str(bundle.path))} {engines}"
    return [*filter(None, [backend.warnings()]), *([compare] if discouraged else [])]
