"""Store: room for a plan, a lock for its bundle, and the plan with its sidecar and its entry in the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from msgspec.structs import replace
from rich.console import Console

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.errors import MissingRequirement
from msal_deploy.files import atomic_file
from msal_deploy.trt.bindings import Backend
from msal_deploy.trt.plan_metadata import PlanMetadata, kernel_cache_path, sidecar, write_metadata

LOCK = ".build-trt.lock"
# Measured on TensorRT-RTX 1.7.1: 0.48 GB for a graph of 68 MB, 0.67 GB for one of 135 MB.
MEMORY_OF_BUILDER, MEMORY_FACTOR = 256 << 20, 3
DISK_FACTOR = 1.5  # a plan is as large as its graph, and an INT8 plan somewhat larger


@contextmanager
def locked(bundle: Path, *, progress: bool) -> Iterator[None]:
    """Hold the bundle's lock: one builder after the other."""
    lock = FileLock(bundle / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        Console(stderr=True, quiet=not progress).print(f"Another build-trt works on {bundle}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_room(graph: Path) -> None:
    """Refuse to begin what cannot be ended.

    Raises:
        MissingRequirement: memory or disk will not do.
    """
    size = graph.stat().st_size
    needed, free = int(size * DISK_FACTOR), shutil.disk_usage(graph.parent).free
    if free < needed:
        raise MissingRequirement(
            f"The plan takes about {_gib(needed)} on the disk of {graph.parent}, and {_gib(free)} are free; free some "
            "space and run the command again"
        )
    needed, free = size * MEMORY_FACTOR + MEMORY_OF_BUILDER, _free_memory()
    if free < needed:
        raise MissingRequirement(
            f"Building takes about {_gib(needed)} of memory, and {_gib(free)} are free; end what else runs here"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _free_memory() -> int:
    """Return the memory that a new program can get without swapping, in bytes."""
    return psutil.virtual_memory().available


def timing_cache_path(bundle: Path, backend: Backend, sm: str) -> Path:
    """Return where the timings of a builder are kept: of this version, for this compute capability."""
    version = ".".join(map(str, backend.number))
    return bundle / f"timings.sm{sm.replace('.', '')}.{backend.name}-{version}.cache"


def save_timing_cache(path: Path, timing_cache: bytes | None) -> None:
    """Write the timing_cache for the next build."""
    if timing_cache:
        with atomic_file(path) as temporary:
            temporary.write_bytes(timing_cache)


def save_plan(bundle: Bundle, name: str, content: memoryview, plan: PlanMetadata) -> Path:
    """Write a plan, its sidecar and its entry in the manifest, and return the plan's path."""
    path = bundle.path / name
    _write(path, content, plan)
    manifest = Bundle(bundle.path).manifest  # as it is now: others may have added to it while this was built
    made_from = {name: plan.graph, sidecar(path).name: name}
    entries = {file: artifact(bundle.path, file, source) for file, source in made_from.items()}
    write_manifest(bundle.path, replace(manifest, artifacts={**manifest.artifacts, **entries}))
    for old in (rejected(path), sidecar(rejected(path)), kernel_cache_path(path)):
        old.unlink(missing_ok=True)
    return path


def save_rejected(bundle: Bundle, name: str, content: memoryview, plan: PlanMetadata) -> Path:
    """Save a plan that is not what was requested under another name; an accepted plan is left as it is."""
    path = rejected(bundle.path / name)
    _write(path, content, plan)
    return path


def rejected(plan_file: Path) -> Path:
    """Return where a plan is kept aside that is not what was asked for."""
    return plan_file.with_name(f"{plan_file.name}.rejected")


def _write(path: Path, content: memoryview, plan: PlanMetadata) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
        write_metadata(path, plan)  # where this fails, the plan does not take its place either
