"""Images, annotations and patches: MoNuSeg, data sets with another layout, and synthetic ones.

===============  ==================================================================================
`dataset`        `open_dataset` opens a folder or zip; `layout` finds the annotated images in it
`annotated`      `AnnotatedImage`: an image with its annotation
`training_sets`  `open_training_sets` opens several data sets by name, `open_scored_images` the images to score
`images`         `read_image` and `read_label` read files into arrays; `arrays` reads those of NumPy and MATLAB
`annotations`    `read_xml` and `write_xml`: outlines of nuclei in Aperio XML
`polygons`       `rasterise` draws the outlines
`label_checks`   `check_labels`: do labels belong to their images, and are they what they seem?
`patches`        `corner_patches`, `protocol_patches` and `validation_split`
`verify`         `verify` checks a whole data set; `verify_report` holds the result
`synthesize`     `synthesize` writes a synthetic data set in MoNuSeg's layout; `tissue` draws its images
`archive`        unpacks zips safely
`checksums`      reads and writes ``SHA256SUMS``
===============  ==================================================================================

>>> from pathlib import Path
>>> with open_dataset(Path("monuseg")) as dataset:
...     patches = patches_of(dataset.test, size=256)
>>> len(patches), patches[0].image.shape, patches[0].mask.dtype
(8, (256, 256, 3), dtype('bool'))
"""

from msal_deploy.data.annotated import AnnotatedImage, label_convention
from msal_deploy.data.annotations import VERTEX_CONVENTION, Annotation, read_xml, write_xml
from msal_deploy.data.dataset import find_dataset, open_dataset
from msal_deploy.data.images import image_size, pixel_hash, read_image, read_label
from msal_deploy.data.label_checks import check_labels, warn_of_labels
from msal_deploy.data.layout import Dataset
from msal_deploy.data.patches import (
    Patch,
    Protocol,
    corner_patches,
    parse_protocol,
    patches_of,
    protocol_patches,
    validation_split,
)
from msal_deploy.data.polygons import rasterise
from msal_deploy.data.synthesize import synthesize
from msal_deploy.data.training_sets import open_scored_images, open_training_sets, scored_images
from msal_deploy.data.verify import verify
from msal_deploy.data.verify_report import VerifyReport

__all__ = [
    "VERTEX_CONVENTION",
    "AnnotatedImage",
    "Annotation",
    "Dataset",
    "Patch",
    "Protocol",
    "VerifyReport",
    "check_labels",
    "corner_patches",
    "find_dataset",
    "image_size",
    "label_convention",
    "open_dataset",
    "open_scored_images",
    "open_training_sets",
    "parse_protocol",
    "patches_of",
    "pixel_hash",
    "protocol_patches",
    "rasterise",
    "read_image",
    "read_label",
    "read_xml",
    "scored_images",
    "synthesize",
    "validation_split",
    "verify",
    "warn_of_labels",
    "write_xml",
]
