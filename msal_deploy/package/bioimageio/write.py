"""bioimage.io: a model package (RDF 0.5) with ONNX and TorchScript weights, for QuPath, ImageJ and other programs.

::

    rdf.yaml                 describes the model to bioimage.io's programs
    model.onnx, model.pt     float32[N,3,H,W] of normalised RGB in, float32[N,1,H,W] probability out
    nuclei.groovy            makes objects of the nuclei in a whole QuPath project
    test-input.npy, test-output.npy, cover.png, README.md
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from msal_deploy.bundle import GOLDEN, GOLDEN_IMAGE, Bundle
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import BadInput
from msal_deploy.instances import Separation
from msal_deploy.package.bioimageio.rdf import model_name, write_rdf
from msal_deploy.package.bioimageio.weights import (
    check_torch,
    normalised,
    rewrite_torchscript,
    verify_weights,
    write_onnx,
    write_torchscript,
)
from msal_deploy.package.quoting import environment, markdown
from msal_deploy.runtimes import open_engine

if TYPE_CHECKING:
    from msal_deploy.package.options import PackageOptions

COVER = 256  # px, height and width of the drawn image
MAX_COVER_BYTES = 500_000  # bioimage.io's limit

README = """\
# {name}
Semantic segmentation of nuclei in H&E-stained tissue at {microns:g} µm per pixel. The output is the probability that a
pixel belongs to a nucleus; the threshold is {threshold:g}. Touching nuclei are not separated.
Not a medical device; not for clinical use.

Input: RGB, intensities 0 to 255, float32[N,3,H,W]; H and W are multiples of {multiple}. The RDF's preprocessing
normalises it with a fixed mean and standard deviation per channel, written as `scale_linear`: gain 1/(255·std),
offset −mean/std.

Licence of the weights: {licence}. Network: {network}.

`nuclei.groovy` finds the nuclei in all images of a QuPath project, once a pixel classifier was made from this package.

## Validation
`bioimageio test rdf.yaml` runs both weight formats on the test tensor and compares the results with PyTorch's.
To measure segmentation quality on annotated images, validate the bundle that this package was made from:
`msal-deploy validate BUNDLE --data MONUSEG`. Measure it on your own tissue before you use the model.
"""


def write(bundle: Bundle, folder: Path, options: PackageOptions) -> str:
    """Write a bioimage.io package into `folder`.

    Raises:
        BadInput: The precision is not FP32, or msal-deploy did not export the graph.
        MissingExtra: torch is not installed.
        MissingRequirement: ``options.torch_python`` has no torch.
        GateFailed: A weight format does not reproduce the golden probabilities.
    """
    if options.precision != "fp32":
        raise BadInput(f"bioimage.io packages are FP32, not {options.precision}", "omit --precision")
    check_torch(options.torch_python)
    images = np.load(folder / GOLDEN_IMAGE)[:1].transpose(0, 3, 1, 2).astype(np.float32)
    expected = np.load(folder / GOLDEN / "probability.fp32.npy")[:1]
    np.save(folder / "test-input.npy", images)
    np.save(folder / "test-output.npy", expected)
    opset = write_onnx(bundle, folder / "model.onnx")
    torch_version = write_torchscript(bundle, folder / "model.pt")
    tiles = normalised(images, bundle.spec)
    if options.torch_python:
        torch_version = rewrite_torchscript(folder / "model.pt", options.torch_python, tiles, expected)
    verify_weights(folder, tiles, expected)
    _write_cover(bundle, folder / "cover.png")
    (folder / "README.md").write_text(_readme(bundle), encoding="utf-8")
    (folder / "nuclei.groovy").write_text(_groovy(bundle), encoding="utf-8")
    write_rdf(bundle, folder, options.authors, opset, torch_version)
    return "Test it with: bioimageio test OUT/rdf.yaml; in QuPath, open rdf.yaml as engines/bioimageio/README.md says"


def _write_cover(bundle: Bundle, path: Path) -> None:
    """Write a cover image: synthetic tissue, with the predicted nuclei overlaid on its right half."""
    picture, _ = draw_tissue(np.random.default_rng(0), COVER)
    with open_engine(bundle, "onnxruntime:fp32") as engine:
        mask = engine(picture[None])[0, 0] >= bundle.spec.threshold
    mask[:, : COVER // 2] = False
    picture[mask] = (picture[mask] * 0.5 + np.array([0, 128, 0])).astype(np.uint8)
    for side in (2 * COVER, COVER, COVER // 2):
        Image.fromarray(picture).resize((side, side)).save(path)
        if path.stat().st_size < MAX_COVER_BYTES:
            return


def _groovy(bundle: Bundle) -> str:
    """Return the script for QuPath, with the sizes of `msal_deploy.instances`."""
    text = resources.files(__package__).joinpath("nuclei.groovy.j2").read_text(encoding="utf-8")
    defaults = Separation()
    return (
        environment()
        .from_string(text)
        .render(microns=bundle.spec.microns_per_pixel, min_area=defaults.min_area, max_hole=defaults.max_hole)
    )


def _readme(bundle: Bundle) -> str:
    network, spec = bundle.manifest.recipe.network, bundle.spec
    return README.format(
        name=model_name(bundle),
        microns=spec.microns_per_pixel,
        threshold=spec.threshold,
        multiple=getattr(spec.image.axes[1], "multiple", spec.image.axes[1]),
        licence=markdown(bundle.manifest.licence),
        network=f"{network.model} with {network.backbone}, trained by recipe {markdown(bundle.manifest.recipe.name)}",
    )
