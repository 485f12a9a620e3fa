"""What an engine needs that this machine or a bundle does not have, found without opening anything."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from msal_deploy.bundle import CHECKPOINT, Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.hardware import query_driver
from msal_deploy.runtimes.catalogue import CATALOGUE, Runtime, open_engine

SERVER = "the address of a running server, as in triton:http://localhost:8000"


def all_engines() -> tuple[str, ...]:
    """Return the ids of every engine of the catalogue.

    Left out are servers, whose address must be given, and emulations, whose speed says nothing.

    >>> "torch-compile:bf16" in all_engines(), "tensorrt:int8" in all_engines()
    (True, True)
    """
    return tuple(
        f"{runtime.name}:{precision}"
        for runtime in CATALOGUE.values()
        for precision in runtime.precisions
        if precision not in runtime.emulated
    )


def missing_needs(bundle: Bundle, engines: Iterable[str] | None = None) -> dict[str, str]:
    """Return which engines cannot run here, and what each of them needs.

    >>> needs = missing_needs(Bundle("bundle"), ["openvino:fp32", "torch:fp32"])
    >>> sorted(needs)
    ['torch:fp32']

    Args:
        bundle: The bundle with the graphs, plans and checkpoint.
        engines: Their ids; None for every engine of the catalogue, and its servers.

    Returns:
        Engine -> what it needs, such as a pip command, a GPU, or how to export a graph.
    """
    needs = {engine: missing_need(bundle, engine) for engine in (all_engines() if engines is None else engines)}
    if engines is None:
        needs |= {name: SERVER for name, runtime in CATALOGUE.items() if runtime.device == "server"}
    return {engine: need for engine, need in needs.items() if need}


def missing_need(bundle: Bundle, engine: str) -> str:
    """Return what one engine needs that is missing, as text; empty if it can be opened, as far as can be told.

    >>> missing_need(Bundle("bundle"), "openvino:fp32")
    ''
    """
    name, _, precision = engine.partition(":")
    if name not in CATALOGUE or CATALOGUE[name].device == "server":
        return ""
    return "; ".join(_missing(bundle, CATALOGUE[name], precision))


def _missing(bundle: Bundle, runtime: Runtime, precision: str) -> Iterator[str]:
    has_gpu = runtime.device != "gpu" or _has_gpu(runtime)
    if not has_gpu:
        yield "an NVIDIA GPU"
    if not runtime.is_installed:
        yield f"pip install '{runtime.requirement if runtime.extra else runtime.packages[0]}'"
    if runtime.opens == "checkpoint" and CHECKPOINT not in bundle:
        yield f"{CHECKPOINT} in the bundle, which msal-deploy export writes"
    if runtime.opens == "graph" and not bundle.has_graph(graph := _graph(precision)):
        yield f"a graph in {graph}, which msal-deploy export --{graph} adds"
    if runtime.opens == "plan" and has_gpu and not _has_plan(bundle, runtime, precision):
        yield f"a plan for this GPU: msal-deploy build-trt {bundle.path} --{precision} --backend {runtime.name}"


def _graph(precision: str) -> str:
    """Return the precision of the graph that an engine opens: runtimes compute bf16 from the one in FP32."""
    return "fp32" if precision == "bf16" else precision


def _has_gpu(runtime: Runtime) -> bool:
    from msal_deploy.trt.local_gpu import current_gpu

    return bool(current_gpu().sm if runtime.opens == "plan" else query_driver().gpus)


def _has_plan(bundle: Bundle, runtime: Runtime, precision: str) -> bool:
    try:
        _find_plan(bundle, runtime, precision)
    except BadInput:
        return False
    return True


def _find_plan(bundle: Bundle, runtime: Runtime, precision: str) -> Path:
    from msal_deploy.trt.local_gpu import current_gpu
    from msal_deploy.trt.plan_checks import find_plan

    return find_plan(bundle, precision, runtime.name, current_gpu().sm)


def require(bundle: Bundle, engine: str) -> None:
    """Raise an error that says what an engine needs, if that is missing; cheap, unlike opening an engine that can run.

    >>> require(Bundle("bundle"), "torch:fp32")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    msal_deploy.errors.BadInput: checkpoint.safetensors is not in bundle; choose from: model.fp16.onnx, ...

    Raises:
        BadInput: The bundle has no graph, checkpoint or plan for it.
        MissingRequirement: This machine lacks a GPU or a package.
    """
    name, _, precision = engine.partition(":")
    runtime = CATALOGUE.get(name)
    if runtime is None:
        return
    if runtime.opens == "checkpoint":
        bundle.file(CHECKPOINT)
    elif runtime.opens == "graph" and runtime.device != "server":
        bundle.graph(_graph(precision), name)
    if runtime.device == "gpu" and not _has_gpu(runtime):
        with open_engine(bundle, engine):  # it knows best what is missing
            raise MissingRequirement(f"{engine} cannot run here", "it needs an NVIDIA GPU")
    if runtime.opens == "plan":
        _find_plan(bundle, runtime, precision)


def check_plan_shape(bundle: Bundle, engine: str, shape: tuple[int, int, int]) -> None:
    """Raise `BadInput` unless the plan of an engine accepts images of `shape` (N, H, W); other engines accept all."""
    from msal_deploy.trt.plan_checks import check_shape, read_plan

    name, _, precision = engine.partition(":")
    if name in CATALOGUE and CATALOGUE[name].opens == "plan":
        plan_file = _find_plan(bundle, CATALOGUE[name], precision)
        check_shape(plan_file, bundle, read_plan(bundle, plan_file), shape)
