"""Save a plan with its metadata and manifest entry; lock the bundle; check free memory and disk space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
from msgspec.structs import replace
from rich.console import Console

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.errors import MissingRequirement
from msal_deploy.files import atomic_file, output_lock
from msal_deploy.trt.bindings import Backend
from msal_deploy.trt.plan_metadata import PlanMetadata, kernel_cache_path, metadata_path, write_metadata

# Measured on TensorRT-RTX 1.7.1: 0.48 GB for a graph of 68 MB, 0.67 GB for one of 135 MB.
MEMORY_OF_BUILDER, MEMORY_FACTOR = 256 << 20, 3
DISK_FACTOR = 1.5  # a plan is about as large as its graph, an INT8 plan somewhat larger


@contextmanager
def locked(bundle: Path, *, progress: bool) -> Iterator[None]:
    """Hold the lock of a bundle, so that only one command writes to it at a time."""
    console = Console(stderr=True, quiet=not progress)
    waiting = partial(console.print, f"Waiting for another command that writes to {bundle}.", markup=False)
    with output_lock(bundle, waiting=waiting):
        yield


def check_free_space(graph: Path) -> None:
    """Check that memory and disk space suffice for a build.

    Raises:
        MissingRequirement: They do not.
    """
    size = graph.stat().st_size
    needed, free = int(size * DISK_FACTOR), shutil.disk_usage(graph.parent).free
    if free < needed:
        cause = f"The plan needs about {_gib(needed)} of disk space in {graph.parent}, but {_gib(free)} is free"
        raise MissingRequirement(cause, "free some space")
    needed, free = size * MEMORY_FACTOR + MEMORY_OF_BUILDER, _free_memory()
    if free < needed:
        cause = f"The build needs about {_gib(needed)} of memory, but {_gib(free)} is free"
        raise MissingRequirement(cause, "close other programs")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _free_memory() -> int:
    """Return the memory that a new program can get without swapping, in bytes."""
    return psutil.virtual_memory().available


def timing_cache_path(bundle: Path, backend: Backend, sm: str) -> Path:
    """Return the path of the timing cache for this TensorRT version and compute capability."""
    version = ".".join(map(str, backend.version_tuple))
    return bundle / f"timings.sm{sm.replace('.', '')}.{backend.name}-{version}.cache"


def save_timing_cache(path: Path, timing_cache: bytes | None) -> None:
    """Write the timing cache for the next build."""
    if timing_cache:
        with atomic_file(path) as temporary:
            temporary.write_bytes(timing_cache)


def save_plan(bundle: Bundle, name: str, content: memoryview, plan: PlanMetadata) -> Path:
    """Write a plan, its metadata and its entry in the manifest, and return the plan's path."""
    path = bundle.path / name
    _write(path, content, plan)
    manifest = Bundle(bundle.path).manifest  # read again: it may have changed during the build
    made_from = {name: plan.graph, metadata_path(path).name: name}
    entries = {file: artifact(bundle.path, file, source) for file, source in made_from.items()}
    write_manifest(bundle.path, replace(manifest, artifacts={**manifest.artifacts, **entries}))
    for old in (rejected(path), metadata_path(rejected(path)), kernel_cache_path(path)):
        old.unlink(missing_ok=True)
    return path


def save_rejected(bundle: Bundle, name: str, content: memoryview, plan: PlanMetadata) -> Path:
    """Save a plan that misses the request under another name. An accepted plan of the same name stays."""
    path = rejected(bundle.path / name)
    _write(path, content, plan)
    return path


def rejected(plan_file: Path) -> Path:
    """Return the path of a rejected plan."""
    return plan_file.with_name(f"{plan_file.name}.rejected")


def _write(path: Path, content: memoryview, plan: PlanMetadata) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
        write_metadata(path, plan)  # if this fails, the plan is not moved into place either
