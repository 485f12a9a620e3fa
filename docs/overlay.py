"""Draw the picture of the README: the outlines of the nuclei that the shipped weights find in a crop of a CC0 slide.

    python docs/overlay.py CMU-1-Small-Region.svs bundle

The slide is OpenSlide's test data, CC0: https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/. It was
scanned at 0.499 µm/px and the network was trained at 0.25 µm/px, so the crop is enlarged by a factor of 2.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from msal_deploy import Bundle, open_engine

IMAGES = Path(__file__).parent / "images"
LEFT, TOP, WIDTH, HEIGHT = 560, 2680, 384, 192  # px of the slide: epidermis and dermis
OUTLINE = (255, 235, 59)  # yellow stands out from the pink and violet of H&E


def crop(slide: Path) -> Image.Image:
    """Cut the region from the slide, at the slide's own resolution."""
    with Image.open(slide) as image:
        return image.convert("RGB").crop((LEFT, TOP, LEFT + WIDTH, TOP + HEIGHT))


def draw_outlines(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image.Image:
    """Draw the outlines of `mask`, bool[H,W], on `image`, uint8[H,W,3]."""
    picture = image.copy()
    picture[find_boundaries(mask, mode="thick")] = OUTLINE
    return Image.fromarray(picture)


def main(slide: Path, bundle: Path) -> None:
    """Write ``tissue.png`` and ``overlay.png``."""
    tissue = crop(slide)
    tissue.save(IMAGES / "tissue.png", optimize=True)
    image = np.asarray(tissue.resize((2 * WIDTH, 2 * HEIGHT)))
    with open_engine(Bundle(bundle)) as engine:
        probability = engine(image[None])[0, 0]
    # 128 colours cannot be told from all of them at this size, and halve the file.
    picture = draw_outlines(image, probability >= 0.5).quantize(128, dither=Image.Dither.NONE)
    picture.save(IMAGES / "overlay.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
