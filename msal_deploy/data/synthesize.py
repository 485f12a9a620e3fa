"""A synthetic set in MoNuSeg's official layout: free of MoNuSeg's licence, and with an exact truth."""

from pathlib import Path

import numpy as np
from PIL import Image

from msal_deploy.data.annotations import rasterise, write_xml
from msal_deploy.data.checksums import write_sums
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, atomic_directory

README = "README.txt"
FIRST_LINE = "Synthetic H&E-like images with outlined nuclei, made by msal-deploy."
TRAIN_FOLDER = Path("MoNuSeg 2018 Training Data")
TEST_FOLDER = Path("MoNuSegTestData")
SMALLEST = 256  # px; below, an image may hold no nucleus at all
MICRONS_PER_PIXEL = 0.25


def synthesize(out: StrPath, *, train: int = 8, test: int = 4, size: int = 1000, seed: int = 0) -> None:
    """Write `train` and `test` synthetic images of `size`² px with their annotations into the folder `out`.

    The same arguments give the same files, byte for byte. A synthetic set at `out` is replaced.

    Raises:
        BadInput: no image asked for, a size below 256, or `out` holds something else.
    """
    if train < 0 or test < 0 or train + test == 0:
        raise BadInput(f"{train} training and {test} test images cannot be made; ask for one at least")
    if size < SMALLEST:
        raise BadInput(f"Images of {size} px are too small for nuclei; ask for {SMALLEST} or more")
    if seed < 0:
        raise BadInput(f"The seed is {seed}; give 0 or above")
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
    # Many a folder has a README.txt, and nothing of a stranger's may be replaced: the first line must be ours.
    readme = folder / README
    return readme.is_file() and readme.read_bytes().startswith(FIRST_LINE.encode())


def _write_train(folder: Path, stem: str, rng: np.random.Generator, size: int) -> None:
    image, polygons = draw_tissue(rng, size)
    for name in ("Tissue Images", "Annotations", "Instance Maps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "Tissue Images" / f"{stem}.tif", compression="tiff_lzw")
    write_xml(folder / "Annotations" / f"{stem}.xml", polygons, microns_per_pixel=MICRONS_PER_PIXEL)
    instances = rasterise(polygons, (size, size)).astype(np.uint16)
    Image.fromarray(instances).save(folder / "Instance Maps" / f"{stem}.png")


def _write_test(folder: Path, stem: str, rng: np.random.Generator, size: int) -> None:
    image, polygons = draw_tissue(rng, size)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{stem}.tif", compression="tiff_lzw")
    write_xml(folder / f"{stem}.xml", polygons, microns_per_pixel=MICRONS_PER_PIXEL)


def _write_readme(folder: Path, train: int, test: int, size: int, seed: int) -> None:
    text = (
        f"{FIRST_LINE}\n"
        "No tissue, no patient: every pixel is drawn by a program. Licence: CC0 1.0 (public domain).\n"
        "Layout and annotations follow MoNuSeg 2018. Use it to try the tools; scores on it say nothing about tissue.\n"
        f"Made with: msal-deploy data synthesize DIR --train {train} --test {test} --size {size} --seed {seed}\n"
    )
    (folder / README).write_text(text, encoding="utf-8")
