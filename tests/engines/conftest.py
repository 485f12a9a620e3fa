"""The C++ library, built once as a new user builds it and once under the sanitizers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir

import onnx
import pytest
from msgspec.structs import replace
from pixel_dump import build_dump

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.export import example_images
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.precision.calibrate import calibrate
from msal_deploy.precision.calibration_tiles import Tile
from msal_deploy.precision.int8 import quantisable, to_int8

FAKE = Path(__file__).parent / "fake_tensorrt"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a program with this Python's packages and tools first in PATH; `check` fails the test with what it said."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(*words: object, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        cwd = more.pop("cwd", None)
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, cwd=cwd, env={**environment, **more}
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session", autouse=True)
def compiler_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile every source once with the same options, where ccache is installed: many tests build the same package.

    The cache belongs to this run of the tests. Its workers share it.
    """
    if not shutil.which("ccache"):
        yield
        return
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMAKE_CXX_COMPILER_LAUNCHER", "ccache")
        patch.setenv("CCACHE_DIR", str(run / "ccache"))
        patch.setenv("CCACHE_BASEDIR", gettempdir())  # packages differ in their folders alone
        patch.setenv("CCACHE_NOHASHDIR", "1")
        yield


@pytest.fixture(scope="session")
def package(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package in a folder outside of the checkout."""
    folder = tmp_path_factory.mktemp("new user") / "segmenter"
    write_package(bundle, "cpp", folder, PackageOptions("fp32"))
    return folder


@pytest.fixture(scope="session")
def follow(package: Path, run: Run) -> Callable[[str], str]:
    """Run the shell commands of a page of the package, but for those that ran before, and return what they print."""
    done: list[str] = []

    def follow(page: str) -> str:
        blocks = (package / page).read_text(encoding="utf-8").split("```sh\n")[1:]
        lines = [line for block in blocks for line in block.partition("```")[0].splitlines() if line not in done]
        done.extend(lines)
        return run("bash", "-euc", "\n".join(lines), cwd=str(package), CXXFLAGS="-Werror").stdout

    return follow


@pytest.fixture(scope="session")
def built(package: Path, follow: Callable[[str], str]) -> Path:
    """The same after the commands of its README: `package / "build"` is there. Warnings are errors."""
    follow("README.md")
    return package


@pytest.fixture(scope="session")
def sanitized(package: Path, run: Run) -> Path:
    """A build folder with AddressSanitizer and UndefinedBehaviorSanitizer in it; warnings are errors.

    It has the TensorRT backend too, over a fake GPU: see fake_tensorrt/.
    """
    folder, fake = package.parent / "sanitized", package.parent / "fake"
    shutil.copytree(FAKE / "include", fake / "include")
    shutil.copy(FAKE / "cuda" / "cuda_runtime_api.h", fake / "include")
    (fake / "lib").mkdir()
    words = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{fake / 'include'}")
    sources = (FAKE / "fake_nvinfer.cpp", *sorted((FAKE / "cuda").glob("*.cpp")))
    run("g++", *words, *sources, "-o", fake / "lib" / "libnvinfer.so")
    settings = [f"-DMSAL_DEPLOY_{option}=ON" for option in ("STRICT", "SANITIZE", "TENSORRT")]
    settings += [f"-DTensorRT_ROOT={fake}", f"-DCMAKE_PROJECT_msal_deploy_INCLUDE={FAKE / 'cuda.cmake'}"]
    run("cmake", "-S", package, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug", *settings)
    run("cmake", "--build", folder, "--parallel", "2")
    return folder


@pytest.fixture(scope="session")
def int8_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with an INT8 graph, calibrated on drawn tiles."""
    folder = Path(shutil.copytree(bundle.path, tmp_path_factory.mktemp("int8") / "bundle"))
    source = folder / "model.fp32.onnx"
    ranges = calibrate(source, [Tile("drawn", 0, 0, image) for image in example_images(2, 256, 256, seed=1)])
    onnx.save(to_int8(source, ranges, quantisable(source)), folder / "model.int8.onnx")
    entry = {"model.int8.onnx": artifact(folder, "model.int8.onnx", "model.fp32.onnx")}
    write_manifest(folder, replace(bundle.manifest, artifacts={**bundle.manifest.artifacts, **entry}))
    return Bundle(folder)


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints the pixels that the C++ programs read, under the sanitizers."""
    return build_dump(tmp_path_factory.mktemp("dump"))
