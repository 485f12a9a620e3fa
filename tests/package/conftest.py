"""A bundle with graphs in all three precisions, a Python with only numpy, and build kits of that bundle."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kits import FAKE, Done, environment, put
from msgspec.structs import replace

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.export import example_images
from msal_deploy.graph import load_graph
from msal_deploy.package import choose_options, write_package
from msal_deploy.precision.calibrate import calibrate, max_abs_values
from msal_deploy.precision.calibration_tiles import Tile
from msal_deploy.precision.fp16 import to_fp16
from msal_deploy.precision.int8 import quantisable, to_int8


@pytest.fixture(scope="session")
def typed_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with FP16 and INT8 graphs, calibrated on synthetic tiles; tests must not change it."""
    folder = Path(shutil.copytree(bundle.path, tmp_path_factory.mktemp("typed") / "bundle"))
    source = folder / "model.fp32.onnx"
    ranges = calibrate(source, [Tile("drawn", 0, 0, image) for image in example_images(2, 256, 256, seed=1)])
    onnx.save(to_fp16(load_graph(source), max_abs_values(ranges))[0], folder / "model.fp16.onnx")
    onnx.save(to_int8(source, ranges, quantisable(source)), folder / "model.int8.onnx")
    entries = {name: artifact(folder, name, "model.fp32.onnx") for name in ("model.fp16.onnx", "model.int8.onnx")}
    write_manifest(folder, replace(bundle.manifest, artifacts={**bundle.manifest.artifacts, **entries}))
    return Bundle(folder)


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``python3`` that can import only numpy and the standard library."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "site").mkdir()
    numpy = Path(np.__file__).parent
    for source in (numpy, numpy.with_name("numpy.libs")):
        if source.is_dir():
            (folder / "site" / source.name).symlink_to(source)
    base = os.path.realpath(sys.executable)
    (folder / "python3").write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/site" exec "{base}" -S "$@"\n')
    (folder / "python3").chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def make_kit(typed_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a kit for a GPU. Kits are cached, so tests must not change them."""
    made: dict[tuple[str, str | None], Path] = {}

    def make(gpu: str, precision: str | None = None) -> Path:
        if (gpu, precision) not in made:
            made[gpu, precision] = tmp_path_factory.mktemp("kits") / "kit"
            write_package(typed_bundle, "build-kit", made[gpu, precision], choose_options("build-kit", precision, gpu))
        return made[gpu, precision]

    return make


@pytest.fixture
def tools(plain_python: Path, tmp_path: Path) -> Path:
    """A folder for the PATH, with the fake trtexec and a Python that has only numpy."""
    folder = tmp_path / "tools"
    folder.mkdir()
    put(folder / "trtexec", f'#!/bin/sh\nunset PYTHONPATH\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    (folder / "python3").symlink_to(plain_python / "python3")
    return folder


@pytest.fixture
def run(make_kit: Callable[..., Path], tools: Path, tmp_path: Path) -> Callable[..., Done]:
    """Run build.sh of a copy of a kit, in ``tmp_path/kit``."""

    def run(
        gpu: str, *words: str, precision: str | None = None, world: dict[str, Any] | None = None, **variables: str
    ) -> Done:
        if not (tmp_path / "kit").exists():
            shutil.copytree(make_kit(gpu, precision), tmp_path / "kit", copy_function=os.link)
        done = subprocess.run(
            ["sh", tmp_path / "kit" / "build.sh", *words],
            env=environment(tools, world, **variables),
            cwd=tmp_path,  # build.sh finds its own folder
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
