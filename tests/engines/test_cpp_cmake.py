"""How the C++ library is built, installed and found: beside other projects, in moved folders, from Python's wheels."""

import os
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "engines" / "cpp"
FAKE = Path(__file__).parent / "fake_tensorrt"
LIBRARY_ALONE = ("-DMSAL_DEPLOY_TOOLS=OFF", "-DMSAL_DEPLOY_TESTS=OFF", "-DMSAL_DEPLOY_TENSORRT=OFF")


def wheel(name: str) -> Path:
    """Return the folder of an installed Python package."""
    (folder,) = __import__(name).__path__
    return Path(folder).resolve()


def link_wheel(name: str, folder: Path) -> None:
    """Copy a package without its bytes: as hard links where the file system allows it."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(wheel(name), folder / name, copy_function=link)


# In another project

PARENT = """\
cmake_minimum_required(VERSION 3.21)
project(parent LANGUAGES CXX)
include(GNUInstallDirs)
foreach(name IN ITEMS nlohmann_json::nlohmann_json CLI11::CLI11 JPEG::JPEG PNG::PNG TIFF::TIFF OpenSSL::Crypto
                     CUDA::cudart openvino::runtime)
  string(MAKE_C_IDENTIFIER ${name} plain)
  add_library(parents_${plain} INTERFACE)
  add_library(${name} ALIAS parents_${plain})
endforeach()
add_subdirectory(${SOURCES} first)
add_subdirectory(${SOURCES} second)
get_target_property(linked msal_deploy_core LINK_LIBRARIES)
message(STATUS "linked: ${linked}")
install(FILES CMakeLists.txt DESTINATION share)
"""


def test_the_targets_of_another_project_are_used_as_they_are(run, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(PARENT)
    options = (f"-DSOURCES={SOURCES}", "-DMSAL_DEPLOY_TOOLS=ON", "-DMSAL_DEPLOY_OPENVINO=ON")
    done = run("cmake", "-S", tmp_path, "-B", tmp_path / "b", *options)
    assert "openvino: built" in done.stdout and "nlohmann_json::nlohmann_json" in done.stdout
    installed = (tmp_path / "b" / "cmake_install.cmake").read_text()
    parts = re.findall(r'include\("(.*?)"\)', installed)
    assert all("file(INSTALL" not in Path(part).read_text() for part in parts)  # the parent decides what is installed


def test_another_project_may_install_the_library(run, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.21)\nproject(parent LANGUAGES CXX)\nadd_subdirectory({SOURCES} first)\n"
    )
    run("cmake", "-S", tmp_path, "-B", tmp_path / "b", "-DMSAL_DEPLOY_INSTALL=ON", *LIBRARY_ALONE)
    assert "msal_deploy-config.cmake" in (tmp_path / "b" / "first" / "cmake_install.cmake").read_text()


# Installed


@pytest.fixture(scope="session")
def installed(run, tmp_path_factory) -> Path:
    """The library and msal-segment, installed, in a folder that was moved; the wheels of the build are away."""
    folder = tmp_path_factory.mktemp("install")
    for name in ("openvino", "nlohmann_json"):
        link_wheel(name, folder / "wheels")
    settings = ("-DMSAL_DEPLOY_TESTS=OFF", "-DMSAL_DEPLOY_TENSORRT=OFF", "-DMSAL_DEPLOY_ONNXRUNTIME=OFF")
    wheels = {"PYTHONPATH": str(folder / "wheels"), "CXXFLAGS": "-O0"}
    run("cmake", "-S", SOURCES, "-B", folder / "build", "-G", "Ninja", *settings, **wheels)
    run("cmake", "--build", folder / "build", "--parallel", "2")
    run("cmake", "--install", folder / "build", "--prefix", folder / "installed")
    (folder / "wheels").rename(folder / "away")
    (folder / "build").rename(folder / "away from here")
    (folder / "moved to").mkdir()
    return (folder / "installed").rename(folder / "moved to" / "another folder")


def test_an_installed_program_runs_wherever_its_folder_is_moved(installed, package, run, tmp_path):
    program = installed / "bin" / "msal-segment"
    run(program, package / "model", package / "golden" / "image-0.png", "--mask", tmp_path / "mask.png")
    assert (tmp_path / "mask.png").is_file()


def test_nothing_installed_names_the_folders_of_the_build(installed):
    named = [str(folder).encode() for folder in (installed.parents[1], ROOT, wheel("openvino"))]
    (libraries,) = {file.parent for file in installed.rglob("libmsal_deploy.so")}
    files = [file for file in installed.rglob("*") if file.is_file() and file.parent != libraries / "msal_deploy"]
    assert len(files) >= 12
    for file in files:
        assert not any(name in file.read_bytes() for name in named), file


def test_libraries_are_looked_for_relative_to_what_needs_them(installed, run):
    def runpath(file: Path) -> str:
        return re.search(r"RUNPATH.*\[(.*)\]", run("readelf", "-d", file).stdout)[1]

    (libraries,) = {file.parent for file in installed.rglob("libmsal_deploy.so")}
    assert runpath(installed / "bin" / "msal-segment") == f"$ORIGIN/../{libraries.name}"
    assert runpath(libraries / "libmsal_deploy.so") == "$ORIGIN:$ORIGIN/msal_deploy"
    bundled = {file.name.split(".so")[0] for file in (libraries / "msal_deploy").iterdir()}
    assert {"libopenvino", "libopenvino_intel_cpu_plugin", "libopenvino_onnx_frontend", "libtbb"} <= bundled
    assert "libcrypto" not in bundled  # the system's


USER = """\
#include <msal_deploy/segmenter.hpp>
#include <msal_deploy/version.hpp>
#include <cstdio>
static_assert(MSAL_DEPLOY_VERSION_MAJOR * 10000 + MSAL_DEPLOY_VERSION_MINOR * 100 + MSAL_DEPLOY_VERSION_PATCH >= 100);
int main() {
    std::printf("%s %s\\n", MSAL_DEPLOY_VERSION, msal_deploy::backends()[0].c_str());
}
"""


def test_pkg_config_finds_the_library_where_it_was_moved(installed, run, tmp_path):
    (tmp_path / "user.cpp").write_text(USER)
    (folder,) = {file.parent for file in installed.rglob("msal_deploy.pc")}
    flags = 'flags=$(pkg-config --cflags --libs msal_deploy) && eval "g++ -std=c++17 -Werror user.cpp -o user $flags"'
    run("bash", "-euc", flags, cwd=str(tmp_path), PKG_CONFIG_PATH=str(folder))
    done = run(tmp_path / "user", LD_LIBRARY_PATH=str(folder.parent))
    version = run("pkg-config", "--modversion", "msal_deploy", PKG_CONFIG_PATH=str(folder)).stdout.strip()
    assert done.stdout == f"{version} openvino\n"


def test_a_c_program_can_read_the_version(installed, run, tmp_path):
    (tmp_path / "user.c").write_text("#include <msal_deploy/version.hpp>\nconst char *version = MSAL_DEPLOY_VERSION;\n")
    run(
        "gcc",
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{installed / 'include'}",
        "-c",
        "user.c",
        cwd=str(tmp_path),
    )


# Wheels


def write_header(file: Path, content: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def test_the_wheel_of_onnxruntime_is_found_with_headers_from_elsewhere(run, tmp_path):
    words = ("cmake", "-S", SOURCES, *LIBRARY_ALONE, "-DMSAL_DEPLOY_OPENVINO=AUTO")
    done = run(*words, "-B", tmp_path / "without")
    assert "onnxruntime: not built: needs onnxruntime_cxx_api.h: set -Donnxruntime_ROOT=" in done.stdout
    write_header(tmp_path / "headers" / "include" / "onnxruntime_cxx_api.h")
    done = run(*words, "-B", tmp_path / "b", f"-Donnxruntime_ROOT={tmp_path / 'headers'}")
    assert "onnxruntime: built" in done.stdout
    link = tmp_path / "b" / "runtimes" / "libonnxruntime.so.1"  # its soname, under which the program looks for it
    assert link.resolve().parent == wheel("onnxruntime") / "capi"


@pytest.mark.parametrize(("package", "major"), [("cu13", 13), ("cuda_runtime", 12)])
def test_the_wheels_of_cuda_are_found(run, tmp_path, package, major):
    cuda = tmp_path / "wheels" / "nvidia" / package
    write_header(cuda / "include" / "cuda_runtime_api.h")
    write_header(cuda / "lib" / f"libcudart.so.{major}")
    shutil.copytree(FAKE / "include", tmp_path / "fake" / "include")
    write_header(tmp_path / "fake" / "lib" / "libnvinfer.so")
    words = (
        *("cmake", "-S", SOURCES, "-DMSAL_DEPLOY_TOOLS=OFF", "-DMSAL_DEPLOY_TESTS=OFF"),
        *(f"-DTensorRT_ROOT={tmp_path / 'fake'}", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON"),
        *(f"-DCUDAToolkit_ROOT={cuda}", "-B", tmp_path / "b"),
    )
    done = run(*words)
    assert "tensorrt: not built: needs CUDA: set -DCUDAToolkit_ROOT=" in done.stdout  # a part of it is in another wheel
    write_header(cuda / "include" / "crt" / "host_defines.h")
    assert "tensorrt: built" in run(*words).stdout
    assert f"{cuda}/lib/libcudart.so.{major}" in (tmp_path / "b" / "CMakeCache.txt").read_text()
