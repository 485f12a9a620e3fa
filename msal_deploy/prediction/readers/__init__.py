"""Readers: any image or slide as a `Slide`.

`pyramid`    windows of a pyramid at the model's resolution
`pictures`   arrays, PNG, JPEG and small TIFFs, through Pillow
`tiff`       TIFF, BigTIFF and OME-TIFF, through tifffile
`ome_zarr`   OME-Zarr
`openslide`  SVS, NDPI, MRXS and the other formats of scanners
"""

from msal_deploy.prediction.readers.open import open_slide, source_sha256

__all__ = ["open_slide", "source_sha256"]
