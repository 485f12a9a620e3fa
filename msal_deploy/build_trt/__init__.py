"""Build: typed ONNX graph -> TensorRT plan that is what was asked for, or an error.

===========  ======================================================================================
`order`      what is to be built, for which GPU, by which TensorRT; refuses what cannot be
`parse`      the graph into a network; what the parser says, by name of the node
`engine`     the builder: one code path for TensorRT 8.6, 10.x, 11.x and TensorRT-RTX
`progress`   a bar, and Ctrl-C
`reading`    which precision each layer is really computed in
`audit`      whether that is what was asked for
`store`      lock, room on the disk, plan and sidecar and manifest
===========  ======================================================================================
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from msal_deploy.build_trt.audit import choose_reading, find_deviations, find_fault, realised
from msal_deploy.build_trt.engine import Built, Source, build_engine
from msal_deploy.build_trt.order import (
    DEFAULT_PROFILE,
    Order,
    Place,
    check_memory_of_target,
    check_order,
    find_place,
    first_that_pays,
)
from msal_deploy.build_trt.parse import read_graph
from msal_deploy.build_trt.reading import read_inspector
from msal_deploy.build_trt.report import BuildReport
from msal_deploy.build_trt.store import check_room, keep_aside, keep_plan, keep_timings, locked, timings_file
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.graph import layers
from msal_deploy.plan import Options, Plan, Profile
from msal_deploy.trt import Backend, load_backend

if TYPE_CHECKING:
    import onnx

    from msal_deploy.graph import Layer

__all__ = [
    "DEFAULT_PROFILE",
    "BuildReport",
    "Options",
    "Order",
    "Place",
    "Profile",
    "build",
    "find_place",
    "first_that_pays",
]

ACCEPT = "; accept that with --allow-wider, or ask for another precision"


def build(bundle: Bundle, order: Order, *, progress: bool = False) -> BuildReport:
    """Build a plan into the bundle; a plan for the same place and precision is replaced.

    Nothing is reused but the timings of the same TensorRT on the same GPU, which TensorRT checks itself.

    Raises:
        BadInput: the order or the graph cannot be built.
        EnvironmentLacks: this machine lacks TensorRT, the GPU, memory or disk.
        GateFailed: the plan does not compute in the precision that was asked for; it is kept aside.
    """
    backend = load_backend(order.place.backend)
    check_order(order, bundle.spec, backend)
    with locked(bundle.path, progress=progress):
        start = time.monotonic()
        path = _graph_file(bundle, order)
        check_room(path)
        model = read_graph(path, bundle.spec, backend)
        graph = _layers(model, order)
        timings = timings_file(bundle.path, backend, order.place.target.sm)
        before = timings.read_bytes() if timings.is_file() else b""
        source = Source(path, model, graph, bundle.spec.image.name)
        built = build_engine(backend, source, order, before, progress=progress)
        keep_timings(timings, built.timings)
        plan, deviations = _keep(bundle, order, backend, graph, built)
        warnings = (*deviations, *_warnings(bundle, order, backend))
        seconds = time.monotonic() - start
        return BuildReport(bundle.path / order.plan, plan, warnings, seconds, built.timings_reused)


def _graph_file(bundle: Bundle, order: Order) -> Path:
    if order.graph not in bundle.manifest.artifacts:
        there = [name for name in bundle.manifest.artifacts if name.endswith(".onnx")]
        raise BadInput(
            f"{bundle.path} holds no {order.graph} (it has {', '.join(sorted(there))}); make it first, or ask for "
            "another precision"
        )
    return bundle.file(order.graph)


def _layers(model: onnx.ModelProto, order: Order) -> tuple[Layer, ...]:
    """Return the layers at the profile's maximum, after making sure that they fit into the GPU."""
    batch, height, width = order.profile.maximum
    found = layers(model, batch=batch, height=height, width=width)
    if not found:
        raise BadInput(f"{order.graph} holds no convolution and no matrix product; export the bundle again")
    check_memory_of_target(order, max(found, key=lambda layer: layer.moved_bytes))
    return found


def _keep(
    bundle: Bundle, order: Order, backend: Backend, graph: tuple[Layer, ...], built: Built
) -> tuple[Plan, list[str]]:
    """Audit what was built and put it where it belongs; return its sidecar, and what the user should know of it."""
    readings = (read_inspector(backend, built.plan), built.log, built.network)
    reading = choose_reading(graph, readings)
    plan = Plan(
        backend=backend.name,
        backend_version=backend.version,
        gpu=order.place.gpu,
        sm=(order.place.target.sm,),
        graph=order.graph,
        graph_sha256=bundle.manifest.artifacts[order.graph].sha256,
        requested=order.precision,
        realised=realised(graph, reading),
        profile=order.profile,
        plan_sha256=sha256(built.plan).hexdigest(),
        bytes=built.plan.nbytes,
        options=order.options,
        built=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    wider = find_deviations(graph, reading, wider=True)
    fault = find_fault(order.precision, graph, plan.realised) or find_deviations(graph, reading, wider=False)
    if fault or (wider and not order.options.allow_wider):
        aside = keep_aside(bundle, order.plan, built.plan, plan)
        raise GateFailed(f"{order.plan} {fault or wider + ACCEPT} (kept aside as {aside.name})")
    keep_plan(bundle, order.plan, built.plan, plan)
    return plan, [f"{order.plan} {wider}"] if wider else []


def _warnings(bundle: Bundle, order: Order, backend: Backend) -> list[str]:
    """Return what the user should know of such an order."""
    slow = order.place.target.slow.get(order.precision)  # type: ignore[call-overload]
    engines = " ".join(f"--engine {backend.name}:{precision}" for precision in (order.precision, "fp32"))
    beside = f"{slow}: time FP32 beside it with: msal-deploy bench {bundle.path} {engines}"
    return [*filter(None, [backend.warnings()]), *([beside] if slow else [])]
