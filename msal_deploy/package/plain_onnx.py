"""A plain ONNX package: the graph with what a host must know about it, for any ONNX runtime.

::

    model.int8.onnx       the graph of the precision; for INT8 also the one that is faster in ONNX Runtime
    model.json            names, types and shapes of input and output, the normalisation, and what the output means
    golden/               as in every package; with --io float32-nchw also the normalised tiles
    golden/input.npy      float32[N,3,H,W]: the input of the graph for the golden tiles
    golden/input-0.f32    the same values as raw float32, 3 × H × W; also input-1.f32, …
    README.md
"""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from msal_deploy.bundle import GOLDEN, GOLDEN_IMAGE, Bundle
from msal_deploy.errors import GateFailed
from msal_deploy.files import sha256, write_json
from msal_deploy.package import check_golden
from msal_deploy.package.float_graph import float_graph, normalise
from msal_deploy.package.golden import TOLERANCES
from msal_deploy.package.options import FLOAT32_NCHW, PackageOptions
from msal_deploy.package.quoting import markdown
from msal_deploy.spec import Axis, Float32Maps, ModelSpec, UInt8Images

README = """\
# Nuclei segmentation as a plain ONNX graph
`{graph}` takes {takes}
at {microns:g} µm per pixel. It returns `{output}`, float32[N,1,H,W]: the probability of a nucleus for each pixel,
which is nucleus from {threshold:g} on. `model.json` says the same for programs.
Licence of the weights: {licence}. Written by `msal-deploy package … onnx --precision {precision} --io {io}`.

Run it on the golden tiles, here with ONNX Runtime, and compare the result:

```python
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("{graph}")
tiles = np.load("{tiles}")
(probability,) = session.run(["{output}"], {{"{input}": tiles}})
np.save("result.npy", probability)
```

```sh
python check_golden.py golden result.npy --precision {precision}
```
{normalisation}"""
NORMALISATION = """
## Normalise the images yourself
The graph does not. For each channel of an RGB image with intensities x from 0 to 255, compute (x / 255 − mean) / std:

| | red | green | blue |
|---|---|---|---|
| mean | {mean[0]:g} | {mean[1]:g} | {mean[2]:g} |
| std | {std[0]:g} | {std[1]:g} | {std[2]:g} |

Then order the axes as N, 3, H, W. `golden/input.npy` is what this gives for `golden/image.npy`; compare your own code
with it first, because a graph with wrongly normalised images still returns plausible masks.
"""


def write(bundle: Bundle, folder: Path, options: PackageOptions) -> str:
    """Fill `folder` with the graphs of ``options.precision``, taking images as ``options.io`` says.

    Raises:
        BadInput: The bundle has no such graph, or msal-deploy did not export it.
        GateFailed: The graph without its normalisation does not reproduce the whole one.
    """
    images, spec = np.load(folder / GOLDEN_IMAGE), bundle.spec
    names = bundle.graph_variants(options.precision)
    for name in names:
        if options.io == FLOAT32_NCHW:
            onnx.save(float_graph(bundle.file(name), spec), folder / name)
            _compare(bundle.file(name), folder / name, images, spec, options.precision)
        else:
            shutil.copyfile(bundle.file(name), folder / name)
    if options.io == FLOAT32_NCHW:
        _write_tiles(normalise(images, spec), folder / GOLDEN)
    write_json(
        folder / "model.json", {"graphs": {name: sha256(folder / name) for name in names}} | describe(bundle, options)
    )
    (folder / "README.md").write_text(_readme(bundle, names[0], options), encoding="utf-8")
    return "Test it with the lines in README.md, on the runtime that you will use"


def describe(bundle: Bundle, options: PackageOptions) -> dict[str, Any]:
    """Return what a host must know, as JSON types."""
    spec = bundle.spec
    batch, height, width, channels = msgspec.to_builtins(spec.image.axes)
    as_floats = {"dtype": "float32", "axes": [batch, channels, height, width]}
    image = {"name": spec.image.name, "dtype": spec.image.dtype, "axes": [batch, height, width, channels]}
    if options.io == FLOAT32_NCHW:
        image |= as_floats | {"normalisation": "(x / 255 - mean) / std", "mean": spec.mean, "std": spec.std}
    return {
        "io": options.io,
        "precision": options.precision,
        "input": image | {"channels": "RGB"},
        "output": msgspec.to_builtins(spec.probability),
        "microns_per_pixel": spec.microns_per_pixel,
        "threshold": spec.threshold,
        "licence": bundle.manifest.licence,
    }


def _compare(whole: Path, cut: Path, images: UInt8Images, spec: ModelSpec, precision: str) -> None:
    expected, actual = _run(whole, images, spec), _run(cut, normalise(images, spec), spec)
    measured = check_golden.differences(actual, expected, spec.threshold)
    if not check_golden.within(measured, TOLERANCES[precision]):
        raise GateFailed(
            f"{cut.name} without its normalisation differs by up to {measured['largest']:.2g}",
            "export the bundle again",
        )


def _run(graph: Path, tensor: UInt8Images | Float32Maps, spec: ModelSpec) -> Float32Maps:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about constants that an INT8 graph does not use
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    result: Float32Maps = session.run([spec.probability.name], {spec.image.name: tensor})[0]
    return result


def _write_tiles(tiles: Float32Maps, folder: Path) -> None:
    np.save(folder / "input.npy", tiles)
    for index, tile in enumerate(tiles):
        tile.astype("<f4").tofile(folder / f"input-{index}.f32")


def _readme(bundle: Bundle, graph: str, options: PackageOptions) -> str:
    spec, floats = bundle.spec, options.io == FLOAT32_NCHW
    multiple = next(axis.multiple for axis in spec.image.axes[1:] if isinstance(axis, Axis))
    shape = f"float32[N,3,H,W] of normalised RGB (H and W multiples of {multiple})"
    return README.format(
        graph=graph,
        takes=f"`{spec.image.name}`, {shape if floats else f'uint8[N,H,W,3] RGB (H and W multiples of {multiple})'}",
        input=spec.image.name,
        output=spec.probability.name,
        microns=spec.microns_per_pixel,
        threshold=spec.threshold,
        licence=markdown(bundle.manifest.licence),
        precision=options.precision,
        io=options.io,
        tiles="golden/input.npy" if floats else "golden/image.npy",
        normalisation=NORMALISATION.format(mean=spec.mean, std=spec.std) if floats else "",
    )
