"""Draw the pictures of the README and of the model card: the nuclei that the shipped weights find in a CC0 slide.

    python docs/overlay.py CMU-1-Small-Region.svs bundle

The slide is OpenSlide's test data, CC0: https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/. It was
scanned at 0.499 µm/px and the network was trained at 0.25 µm/px, so crops are enlarged by a factor of 2.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from msal_deploy import Bundle, open_engine
from msal_deploy.runtimes import Engine

IMAGES = Path(__file__).parent / "images"
MODEL_CARD = Path(__file__).parents[1] / "msal_deploy" / "weights"
# Left, top, width and height in px of the slide.
TISSUE = (560, 2680, 384, 192)  # epidermis and dermis
HARD = {
    "epithelium": (1130, 2260, 256, 256),
    "keratin": (1330, 960, 256, 256),
    "surgical ink": (1700, 1880, 256, 256),
    "pigmented epithelium": (1560, 2480, 256, 256),
}
OUTLINE = (255, 235, 59)  # yellow stands out from the pink and violet of H&E


def crop(slide: Path, region: tuple[int, int, int, int]) -> Image.Image:
    """Cut a region from the slide, at the slide's own resolution."""
    left, top, width, height = region
    with Image.open(slide) as image:
        return image.convert("RGB").crop((left, top, left + width, top + height))


def outlined(tissue: Image.Image, engine: Engine) -> Image.Image:
    """Return the tissue at twice its size with the outlines of its nuclei."""
    image = np.asarray(tissue.resize((2 * tissue.width, 2 * tissue.height)))
    return draw_outlines(image, engine(image[None])[0, 0] >= 0.5)


def draw_outlines(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image.Image:
    """Draw the outlines of `mask`, bool[H,W], on `image`, uint8[H,W,3]."""
    picture = image.copy()
    picture[find_boundaries(mask, mode="thick")] = OUTLINE
    return Image.fromarray(picture)


def montage(above: Iterable[Image.Image], below: Iterable[Image.Image], side: int = 256) -> Image.Image:
    """Return two rows of tiles, each scaled to `side` px."""
    rows = [np.hstack([np.asarray(tile.resize((side, side))) for tile in tiles]) for tiles in (above, below)]
    return Image.fromarray(np.vstack(rows))


def main(slide: Path, bundle: Path) -> None:
    """Write ``tissue.png`` and ``overlay.png`` of the README, and ``failures.jpg`` of the model card."""
    tissue = crop(slide, TISSUE)
    tissue.save(IMAGES / "tissue.png", optimize=True)
    hard = [crop(slide, region) for region in HARD.values()]
    with open_engine(Bundle(bundle)) as engine:
        picture = outlined(tissue, engine)
        marked = [outlined(tile, engine) for tile in hard]
    # 128 colours cannot be told from all of them at this size, and halve the file.
    picture.quantize(128, dither=Image.Dither.NONE).save(IMAGES / "overlay.png", optimize=True)
    montage(hard, marked).save(MODEL_CARD / "failures.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
