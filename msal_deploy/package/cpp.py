"""C++ package: the library's sources with one graph and golden tiles, ready to build with CMake.

::

    CMakeLists.txt, include/, src/, apps/, tests/, examples/, cmake/    a copy of engines/cpp
    model/manifest.json            the bundle's; the library reads the spec and the hashes from it
    model/model.int8.onnx          the graph of the precision; for INT8 also the one that is faster in ONNX Runtime
    model/*.plan, *.plan.json      the bundle's TensorRT plans of that precision
    golden/, check_golden.py       as in every package; ctest runs them
    README.md                      how to build it, in three commands; EMBEDDING.md is engines/cpp/README.md
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from msal_deploy.bundle import Bundle, write_manifest
from msal_deploy.errors import BadInput
from msal_deploy.package.options import PackageOptions
from msal_deploy.package.quoting import markdown
from msal_deploy.targets import find_target
from msal_deploy.trt.plan_checks import listed_plan, plans, read_plan
from msal_deploy.trt.plan_metadata import build_command

# A wheel contains engines/cpp as this folder (see pyproject.toml); a checkout has only the original.
IN_WHEEL = Path(__file__).parent / "cpp_sources"
IN_CHECKOUT = Path(__file__).parents[2] / "engines" / "cpp"
NOT_SOURCES = shutil.ignore_patterns("build*", ".*")

README = """\
# Nuclei segmentation in C++
This folder holds a C++ library, a command-line program and the graph `model/model.{precision}.onnx`. The graph takes
uint8 RGB images at {microns} µm per pixel and returns the probability of a nucleus for each pixel. Written by
`msal-deploy package … cpp --precision {precision}`. License of the weights: {licence}.

You need a C++17 compiler, CMake 3.21, CLI11, libjpeg, libpng, libtiff, OpenSSL, nlohmann/json and a runtime. On Debian
and Ubuntu:

    apt install g++ libcli11-dev libjpeg-dev libpng-dev libssl-dev libtiff-dev
    python3 -m pip install cmake openvino nlohmann-json

Build it and segment an image:

```sh
cmake -S . -B build
cmake --build build --parallel 2
build/msal-segment model golden/image-0.png --mask mask.png
```

Test every runtime that was built against the golden tiles:

```sh
ctest --test-dir build
```

`build/msal-segment --help` lists all options. EMBEDDING.md shows how to use the library in your own program.
"""


def write(bundle: Bundle, folder: Path, options: PackageOptions) -> str:
    """Fill `folder` with the library, the graph of `options.precision` and the plans built from it.

    Raises:
        BadInput: The bundle has no such graph, or no plan for the GPU in `options`.
    """
    model = folder / "model"
    model.mkdir()
    graphs = (bundle.file(name) for name in bundle.graph_variants(options.precision))
    for file in (*graphs, *_plans(bundle, options)):
        shutil.copyfile(file, model / file.name)
    write_manifest(model, bundle.manifest)  # as it was read: the file may be another by now
    shutil.copytree(sources(), folder, dirs_exist_ok=True, ignore=NOT_SOURCES)
    embedding = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "EMBEDDING.md").write_text(_in_precision(embedding, options.precision), encoding="utf-8")
    (folder / "README.md").write_text(_readme(bundle, options.precision), encoding="utf-8")
    return "Build it with: cmake -S . -B build && cmake --build build --parallel 2; see README.md"


def _in_precision(page: str, precision: str) -> str:
    """Return the page with its commands for the graph of the package: engines/cpp/README.md has FP32's."""
    for words in ("--precision fp32", "embed model fp32", "segment_in_c model fp32"):
        page = page.replace(words, words.replace("fp32", precision))
    return page


def sources() -> Path:
    """Return the folder of the library's sources."""
    return IN_WHEEL if IN_WHEEL.is_dir() else IN_CHECKOUT


def _plans(bundle: Bundle, options: PackageOptions) -> Iterator[Path]:
    """Yield the plans of a precision (for the GPU in `options`, if any) and their sidecars."""
    target = find_target(options.gpu) if options.gpu else None
    found = [
        file
        for file in plans(bundle)
        if (plan := read_plan(bundle, file)).requested == options.precision and (target is None or target.sm in plan.sm)
    ]
    if target and not found:
        raise BadInput(
            f"{bundle.path} has no {options.precision} plan for {target.name}; build one with: "
            f"{build_command(bundle.path, options.precision, gpu=options.gpu)}"
        )
    for file in found:
        yield from listed_plan(bundle, file)


def _readme(bundle: Bundle, precision: str) -> str:
    licence = markdown(bundle.manifest.licence)
    return README.format(precision=precision, microns=bundle.spec.microns_per_pixel, licence=licence)
