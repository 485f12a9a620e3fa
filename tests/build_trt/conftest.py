"""A small bundle to build in, and a TensorRT of any version to build with."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_tensorrt import fake_tensorrt
from interrupt import ctrl_c
from tiny_bundle import write_tiny_bundle

from msal_deploy.build_trt import BuildRequest, BuildTarget, request
from msal_deploy.bundle import Bundle
from msal_deploy.targets import find_target
from msal_deploy.trt.plan_metadata import BuildOptions, Profile

__all__ = ["ctrl_c"]  # a fixture
GPU_OF_VERSION = {"8.6.1": "gtx-1080-ti"}  # all other versions build for an RTX 3090
SHAPES = Profile((1, 64, 64), (2, 64, 96), (4, 128, 128))


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle").path


@pytest.fixture
def tiny(tiny_source: Path, tmp_path: Path) -> Bundle:
    """A copy of the small bundle."""
    return Bundle(Path(shutil.copytree(tiny_source, tmp_path / "bundle")))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Install a fake TensorRT and its target GPU; only the version is required."""

    def install(version: str, **world: Any) -> ModuleType:
        target = find_target(GPU_OF_VERSION.get(version, "rtx-3090"))
        module = fake_tensorrt(version, **{"sm": target.sm, **world})
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(request, "current_gpu", lambda: request.LocalGpu(target.gpu, target.sm))
        return module

    return install


def make_request(
    version: str, precision: str, *, gpu: str | None = None, profile: Profile = SHAPES, **options: Any
) -> BuildRequest:
    """Return a build request for a version; `options` are those of `BuildOptions`."""
    target = find_target(gpu or GPU_OF_VERSION.get(version, "rtx-3090"))
    backend = "tensorrt-rtx" if version == "rtx" else "tensorrt"
    return BuildRequest(precision, BuildTarget(target, backend, target.name), profile, BuildOptions(**options))


@pytest.fixture(name="make_request")
def _make_request() -> Callable[..., BuildRequest]:
    return make_request


def files(bundle: Bundle) -> set[str]:
    """Return the names of all files of a bundle except its lock."""
    return {path.name for path in bundle.path.rglob("*") if path.is_file()} - {".build-trt.lock"}


@pytest.fixture(name="files")
def _files() -> Callable[[Bundle], set[str]]:
    return files
