"""Synthetic data sets in MoNuSeg's official layout: free of its licence, with exactly known nuclei."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msal_deploy.data.annotations import write_xml
from msal_deploy.data.checksums import check_sums, write_sums
from msal_deploy.data.polygons import rasterise
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, atomic_directory

README = "README.txt"
FIRST_LINE = "Synthetic H&E-like images with outlined nuclei, made by msal-deploy."
TRAIN_FOLDER = Path("MoNuSeg 2018 Training Data")
TEST_FOLDER = Path("MoNuSegTestData")
MIN_SIZE = 256  # px; a smaller image may hold no nucleus at all
MICRONS_PER_PIXEL = 0.25


def synthesize(out: StrPath, *, train: int = 23, test: int = 8, size: int = 512, seed: int = 0) -> None:
    """Write a synthetic data set of H&E-like images with outlined nuclei.

    The same arguments give the same files, byte for byte. A synthetic data set at `out` is replaced. By default there
    are enough images for a verdict, both on the test images and on the 5 training images that `validation_split` holds
    out.

    >>> synthesize(Path("demo"), train=1, test=1, size=256)
    >>> sorted(path.name for path in Path("demo").iterdir())
    ['MoNuSeg 2018 Training Data', 'MoNuSegTestData', 'README.txt', 'SHA256SUMS']

    Args:
        out: The folder to write.
        train: Number of training images.
        test: Number of test images.
        size: Height and width of an image in pixels, at least 256.
        seed: Seed of the random generator, at least 0.

    Raises:
        BadInput: An argument is out of range, or `out` holds other files.
    """
    if train < 0 or test < 0 or train + test == 0:
        raise BadInput(f"Expected at least one image, got {train} training and {test} test images", "ask for one")
    if size < MIN_SIZE:
        raise BadInput(f"Expected images of at least {MIN_SIZE} px, got {size} px", "use a larger size")
    if seed < 0:
        raise BadInput(f"Expected a seed of at least 0, got {seed}", "use 0 or above")
    with atomic_directory(out, replaces=_is_synthetic) as folder:
        for index in range(train):
            _write_train(
                folder / TRAIN_FOLDER, f"SYNTH-TRAIN-{index:03d}", np.random.default_rng([seed, 0, index]), size
            )
        for index in range(test):
            _write_test(folder / TEST_FOLDER, f"SYNTH-TEST-{index:03d}", np.random.default_rng([seed, 1, index]), size)
        _write_readme(folder, train, test, size, seed)
        write_sums(folder)


def _is_synthetic(folder: Path) -> bool:
    """Return whether a folder holds a synthetic set, to its end or not, and no other files."""
    readme = folder / README  # many folders have one, but not with our first line
    if not (readme.is_file() and readme.read_bytes().startswith(FIRST_LINE.encode())):
        return False
    return not {*check_sums(folder).unlisted} - {README}


def _write_train(folder: Path, stem: str, rng: np.random.Generator, size: int) -> None:
    image, polygons = draw_tissue(rng, size)
    for name in ("Tissue Images", "Annotations", "Instance Maps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _save_tiff(folder / "Tissue Images" / f"{stem}.tif", image)
    write_xml(folder / "Annotations" / f"{stem}.xml", polygons, microns_per_pixel=MICRONS_PER_PIXEL)
    instances = rasterise(polygons, (size, size)).astype(np.uint16)
    Image.fromarray(instances).save(folder / "Instance Maps" / f"{stem}.png")


def _write_test(folder: Path, stem: str, rng: np.random.Generator, size: int) -> None:
    image, polygons = draw_tissue(rng, size)
    folder.mkdir(parents=True, exist_ok=True)
    _save_tiff(folder / f"{stem}.tif", image)
    write_xml(folder / f"{stem}.xml", polygons, microns_per_pixel=MICRONS_PER_PIXEL)


def _write_readme(folder: Path, train: int, test: int, size: int, seed: int) -> None:
    text = (
        f"{FIRST_LINE}\n"
        "No tissue, no patient: every pixel is drawn by a program. Licence: CC0 1.0 (public domain).\n"
        "Layout and annotations follow MoNuSeg 2018. Use it to try the tools; scores on it say nothing about tissue.\n"
        f"Made with: msal-deploy data synthesize DIR --train {train} --test {test} --size {size} --seed {seed}\n"
    )
    (folder / README).write_text(text, encoding="utf-8")


def _save_tiff(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a TIFF. It is encoded in memory: libtiff hides why it cannot write to a file, such as a full disk."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "TIFF", compression="tiff_lzw")
    path.write_bytes(stream.getvalue())
