"""An image with its annotation, whatever files they are in."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.data.annotations import VERTEX_CONVENTION, read_xml
from msal_deploy.data.arrays import stack_image, stack_labels, stack_size
from msal_deploy.data.images import image_size, read_image, read_label, read_masks
from msal_deploy.data.polygons import rasterise
from msal_deploy.errors import BadInput

Split = Literal["train", "test"]


class AnnotatedImage(msgspec.Struct, frozen=True):
    """An image with its annotation: an Aperio XML, a label map (instance map or binary mask), or both.

    >>> from msal_deploy.data import find_dataset
    >>> annotated = find_dataset(Path("monuseg")).test[0]
    >>> annotated.stem, annotated.image().shape, annotated.mask().shape
    ('SYNTH-TEST-000', (512, 512, 3), (512, 512))

    Attributes:
        stem: File name of the image, without its suffix.
        split: ``train`` or ``test``.
        image_path: The image file.
        xml_path: The Aperio XML, if there is one.
        map_path: The label map, if there is one; or a folder with one mask for each nucleus.
        index: Position of the image in `image_path` and `map_path`, if they are stacks of arrays.
    """

    stem: str
    split: Split
    image_path: Path
    xml_path: Path | None
    map_path: Path | None
    index: int | None = None

    def image(self) -> NDArray[np.uint8]:
        """Return the image, uint8[H,W,3] RGB.

        Raises:
            BadInput: The file cannot be read; see `read_image`.
        """
        if self.index is not None:
            return stack_image(self.image_path, self.index)
        return read_image(self.image_path)

    def size(self) -> tuple[int, int]:
        """Return height and width in pixels, without decoding the image.

        Raises:
            BadInput: The file does not exist or is not an image.
        """
        if self.index is not None:
            return stack_size(self.image_path)
        return image_size(self.image_path)

    def label_map(self) -> NDArray[np.int32] | None:
        """Return the nuclei of the label map, int32[H,W], 0 for background; None if there is none.

        Raises:
            BadInput: The file cannot be read, or it and the image differ in size.
        """
        if self.map_path is None:
            return None
        if self.index is not None:
            labels = stack_labels(self.map_path, self.index)
        else:
            labels = read_masks(self.map_path) if self.map_path.is_dir() else read_label(self.map_path)
        return checked_size(labels, self.size(), self.map_path)

    def instances(self) -> NDArray[np.int32]:
        """Return the nuclei as int32[H,W], 0 for background; from the XML if there is one, else from the label map.

        Raises:
            BadInput: A file cannot be read, the label map and the image differ in size, or there is no annotation.
        """
        if self.xml_path is not None:
            return rasterise(read_xml(self.xml_path).polygons, self.size(), str(self.xml_path))
        labels = self.label_map()
        if labels is None:
            raise BadInput(f"{self.image_path} has no annotation", "add an XML or a label map of the same name")
        return labels

    def mask(self) -> NDArray[np.bool_]:
        """Return bool[H,W], true in nuclei; raises the same errors as `instances`."""
        return self.instances() > 0


def label_convention(images: Iterable[AnnotatedImage]) -> str:
    """Describe how the masks of `images` were made, for reports: a wrong convention changes Dice by 0.05.

    >>> from msal_deploy.data import find_dataset
    >>> label_convention(find_dataset(Path("monuseg")).test)
    '1-based pixel centres in the XML: 1 is subtracted from x and y, then skimage.draw.polygon'
    """
    maps = "label maps as they are, without redrawing"
    from_xml = {image.xml_path is not None for image in images}
    if len(from_xml) == 2:
        return f"{VERTEX_CONVENTION}; else {maps}"
    return VERTEX_CONVENTION if from_xml == {True} else maps


def checked_size(instances: NDArray[np.int32], shape: tuple[int, int], path: Path) -> NDArray[np.int32]:
    """Return `instances`; raise `BadInput` if its size is not `shape`, the size of the image."""
    if instances.shape != shape:
        (height, width), (label_height, label_width) = shape, instances.shape
        raise BadInput(
            f"{path} is {label_width}×{label_height} px and its image {width}×{height} px", "make them the same size"
        )
    return instances
