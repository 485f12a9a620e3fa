"""What stands for plans of TensorRT in a bundle: packaging copies their bytes and reads their sidecars."""

import os
import shutil
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.files import sha256
from msal_deploy.trt.plan_metadata import (
    ActualPrecision,
    BuildOptions,
    PlanMetadata,
    Profile,
    Share,
    metadata_path,
    plan_name,
    write_metadata,
)

PROFILE = Profile((1, 128, 128), (4, 384, 320), (16, 512, 512))


def copy_of(bundle: Bundle, folder: Path) -> Bundle:
    """Return a copy to add files to; those that are there already must not be written to."""
    shutil.copytree(bundle.path, folder, copy_function=os.link)
    (folder / "manifest.json").unlink()
    write_manifest(folder, bundle.manifest)
    return Bundle(folder)


def put_plan(bundle: Bundle, sm: str, version: str = "11.2.1.2", backend: str = "tensorrt", **changes: Any) -> Bundle:
    """Put a plan for a compute capability into the bundle, and return the bundle opened again."""
    path = bundle.path / plan_name("fp32", backend, (sm,))
    path.write_bytes(f"plan for {sm}".encode())
    plan = PlanMetadata(
        backend="tensorrt-rtx" if backend == "tensorrt-rtx" else "tensorrt",
        backend_version=version,
        gpu=None,
        sm=(sm,),
        graph="model.fp32.onnx",
        graph_sha256=bundle.manifest.artifacts["model.fp32.onnx"].sha256,
        requested="fp32",
        actual=ActualPrecision("network", {"fp32": Share(10, 1.0, 1.0)}),
        profile=PROFILE,
        plan_sha256=sha256(path),
        bytes=path.stat().st_size,
        options=BuildOptions(),
        built="2026-01-01T00:00:00+00:00",
    )
    write_metadata(path, replace(plan, **changes))
    entries = {name: artifact(bundle.path, name) for name in (path.name, metadata_path(path).name)}
    write_manifest(bundle.path, replace(bundle.manifest, artifacts={**bundle.manifest.artifacts, **entries}))
    return Bundle(bundle.path)
