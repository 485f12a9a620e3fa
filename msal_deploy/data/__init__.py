"""Images, annotations and patches of MoNuSeg, and of synthetic sets with the same layout.

===============  ==================================================================================
`dataset`        `open_dataset` finds images and annotations in any folder or zip, as `AnnotatedImage`s
`images`         `read_image`, `read_label`: files as arrays
`annotations`    `read_xml`, `write_xml`, `rasterise`: outlines in Aperio XML, and where a vertex lies
`patches`        `corner_patches`, `validation_split`
`verify`         `verify` checks a whole set; `verify_report` is what it found
`synthesize`     `synthesize` makes a free set in MoNuSeg's layout; `tissue` draws it
`archive`        unpacking zips safely
`checksums`      ``SHA256SUMS``
===============  ==================================================================================
"""

from msal_deploy.data.annotations import VERTEX_CONVENTION, Annotation, rasterise, read_xml, write_xml
from msal_deploy.data.dataset import AnnotatedImage, Dataset, find_dataset, label_convention, open_dataset
from msal_deploy.data.images import image_size, read_image, read_label
from msal_deploy.data.patches import Patch, corner_patches, patches_of, validation_split
from msal_deploy.data.synthesize import synthesize
from msal_deploy.data.verify import verify
from msal_deploy.data.verify_report import VerifyReport

__all__ = [
    "VERTEX_CONVENTION",
    "AnnotatedImage",
    "Annotation",
    "Dataset",
    "Patch",
    "VerifyReport",
    "corner_patches",
    "find_dataset",
    "image_size",
    "label_convention",
    "open_dataset",
    "patches_of",
    "rasterise",
    "read_image",
    "read_label",
    "read_xml",
    "synthesize",
    "validation_split",
    "verify",
    "write_xml",
]
