"""C++: the library's sources with a graph and golden tiles, a folder that CMake builds where it lands.

::

    CMakeLists.txt, include/, src/, apps/, tests/, examples/, cmake/    engines/cpp, as it is
    model/manifest.json            the bundle's own: the library reads the spec and the hashes from it
    model/model.int8.onnx          the graph of the precision; of INT8 also the one that ONNX Runtime computes faster
    model/*.plan, *.plan.json      what the bundle has of that precision for TensorRT
    golden/, check_golden.py       as in every package; ctest replays them
    README.md                      what it is and three commands; EMBEDDING.md is engines/cpp/README.md
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from msal_deploy.bundle import MANIFEST, Bundle
from msal_deploy.errors import BadInput
from msal_deploy.package.options import PackageOptions
from msal_deploy.targets import find_target
from msal_deploy.trt.plan_checks import plans
from msal_deploy.trt.plan_metadata import build_command, read_metadata, sidecar

# A wheel carries engines/cpp as this folder (see pyproject.toml); in a checkout there is only the original.
IN_WHEEL = Path(__file__).parent / "cpp_sources"
IN_CHECKOUT = Path(__file__).parents[2] / "engines" / "cpp"
NOT_SOURCES = shutil.ignore_patterns("build*", ".*")

README = """\
# Nuclei segmentation in C++
`model/model.{precision}.onnx`, written by `msal-deploy package … cpp --precision {precision}`: uint8 RGB images of
{microns} µm a pixel go in, the probability of a nucleus comes out. Weights: {licence}.

A C++17 compiler, the headers of libpng and OpenSSL, and a runtime are needed. On Debian and Ubuntu:

    apt install g++ libpng-dev libssl-dev
    python3 -m pip install cmake openvino nlohmann-json

Build it, and find the nuclei in an image:

```sh
cmake -S . -B build
cmake --build build --parallel 2
build/msal-segment model golden/image-0.png --mask mask.png
```

Prove that it computes what it should, with the golden tiles, through every runtime that was built:

```sh
ctest --test-dir build
```

`build/msal-segment --help` says what else it does. EMBEDDING.md says how to call the library from a program of yours.
"""


def write(bundle: Bundle, folder: Path, options: PackageOptions) -> str:
    """Fill `folder` with the library, the graph of `options.precision` and the plans built from it.

    Raises:
        BadInput: the bundle has no such graph, or no plan for the GPU that `options` name.
    """
    model = folder / "model"
    model.mkdir()
    for name in (*_graphs(bundle, options.precision), *_plans(bundle, options)):
        shutil.copyfile(bundle.path / name, model / name)
    shutil.copyfile(bundle.path / MANIFEST, model / MANIFEST)
    shutil.copytree(sources(), folder, dirs_exist_ok=True, ignore=NOT_SOURCES)
    (folder / "README.md").rename(folder / "EMBEDDING.md")
    (folder / "README.md").write_text(_readme(bundle, options.precision), encoding="utf-8")
    return "Build it there with: cmake -S . -B build && cmake --build build --parallel 2; README.md says more"


def sources() -> Path:
    """Return the folder of the library's sources."""
    return IN_WHEEL if IN_WHEEL.is_dir() else IN_CHECKOUT


def _graphs(bundle: Bundle, precision: str) -> Iterator[str]:
    """Yield the names of the graphs of a precision, whose content is what the manifest says."""
    for name in bundle.graph_variants(precision):
        bundle.file(name)
        yield name


def _plans(bundle: Bundle, options: PackageOptions) -> Iterator[str]:
    """Yield the names of the plans of a precision, for the GPU if one is named, each with its sidecar."""
    target = find_target(options.gpu) if options.gpu else None
    found = [
        file
        for file in plans(bundle)
        if (plan := read_metadata(file)).requested == options.precision and (target is None or target.sm in plan.sm)
    ]
    if target and not found:
        raise BadInput(
            f"{bundle.path} has no {options.precision} plan for {target.name}; build it with: "
            f"{build_command(bundle.path, options.precision, gpu=options.gpu)}"
        )
    for file in found:
        yield file.name
        yield sidecar(file).name


def _readme(bundle: Bundle, precision: str) -> str:
    return README.format(precision=precision, microns=bundle.spec.microns_per_pixel, licence=bundle.manifest.licence)
