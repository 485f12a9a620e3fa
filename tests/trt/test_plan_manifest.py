"""A plan and its metadata are those that the manifest lists, for engines and for packages."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tiny_bundle import write_tiny_bundle

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.trt.plan_checks import listed_plan, loads, preflight
from msal_deploy.trt.plan_metadata import (
    DEFAULT_PROFILE,
    ActualPrecision,
    BuildOptions,
    PlanMetadata,
    metadata_path,
    plan_name,
    write_metadata,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with one plan, listed as build-trt lists it."""
    made = write_tiny_bundle(tmp_path / "bundle")
    file = write_plan(made, b"plan")
    entries = {name: artifact(made.path, name) for name in (file.name, metadata_path(file).name)}
    write_manifest(made.path, replace(made.manifest, artifacts={**made.manifest.artifacts, **entries}))
    return Bundle(made.path)


def plan_of(bundle: Bundle) -> Path:
    return bundle.path / plan_name("fp16", "tensorrt", ("8.6",))


def write_plan(bundle: Bundle, content: bytes) -> Path:
    file = plan_of(bundle)
    file.write_bytes(content)
    graph = bundle.manifest.artifacts["model.fp16.onnx"].sha256
    plan = PlanMetadata(
        backend="tensorrt", backend_version="10.4.0", gpu=None, sm=("8.6",), graph="model.fp16.onnx",
        graph_sha256=graph, requested="fp16", actual=ActualPrecision("inspector", {}), profile=DEFAULT_PROFILE,
        plan_sha256=sha256(file), bytes=len(content), options=BuildOptions(), built="now",
    )  # fmt: skip
    write_metadata(file, plan)
    return file


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


CHANGES: dict[str, Callable[[Bundle], object]] = {
    "flipped": lambda b: plan_of(b).write_bytes(b"plaN"),
    "truncated": lambda b: plan_of(b).write_bytes(b"pl"),
    "empty": lambda b: plan_of(b).write_bytes(b""),
    "replaced with its metadata": lambda b: write_plan(b, b"another plan"),
    "linked to another file": lambda b: link(plan_of(b), "/etc/passwd"),
    "metadata changed": lambda b: metadata_path(plan_of(b)).write_bytes(
        metadata_path(plan_of(b)).read_bytes().replace(b'"now"', b'"then"')
    ),
    "metadata linked": lambda b: link(metadata_path(plan_of(b)), "/etc/passwd"),
    "a FIFO": lambda b: (plan_of(b).unlink(), os.mkfifo(plan_of(b))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("check", [preflight, lambda plan, b: listed_plan(b, plan)], ids=["engine", "package"])
def test_changed_plan_is_refused(bundle, change, check):
    check(plan_of(bundle), bundle)
    change(bundle)
    with pytest.raises(BadInput) as caught:
        check(plan_of(bundle), Bundle(bundle.path))
    assert "\n" not in str(caught.value)


def test_links_to_the_same_content_are_fine(bundle, tmp_path):
    for file in (plan_of(bundle), metadata_path(plan_of(bundle))):
        shutil.move(file, tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
    assert listed_plan(bundle, plan_of(bundle))[0] == plan_of(bundle)


def test_plan_that_is_not_listed_runs_but_is_not_packaged(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    file = write_plan(bundle, b"plan")
    assert preflight(file, bundle, backend_version="10.4.0", sm="8.6").requested == "fp16"
    with pytest.raises(BadInput, match="is not in the manifest of"):
        listed_plan(bundle, file)


@pytest.mark.parametrize(
    ("built", "installed", "compatible", "does"),
    [
        ("10.4.0", "10.4.0", False, True), ("10.4.0", "10.5.0", False, False), ("10.4.0", "10.5.0", True, True),
        ("10.5.0", "10.4.0", True, False), ("10.4.0", "11.0.0", True, False), ("unknown", "10.4.0", True, False),
        ("10.4.0", "unknown", True, False), ("unknown", "unknown", True, False),
    ],
)  # fmt: skip
def test_which_tensorrt_loads_a_plan(bundle, built, installed, compatible, does):
    plan = preflight(plan_of(bundle), bundle)
    options = replace(plan.options, version_compatible=compatible)
    assert loads(replace(plan, backend_version=built, options=options), installed) == does
