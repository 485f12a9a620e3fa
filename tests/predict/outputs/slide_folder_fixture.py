"""A slide folder as `predict` leaves it: four regions, with nuclei across all their borders."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msal_deploy.prediction.nuclei import measure
from msal_deploy.prediction.record import Identity, Region, RunRecord, SlideFolder

SHAPE, SIDE, SCALE, MICRONS = (1100, 1301), 704, 0.5, 0.25


def drawn(shape: tuple[int, int] = SHAPE, side: int = SIDE) -> NDArray[np.int32]:
    """Discs on every border and corner of the regions, and between; no two touch."""
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[:25, :25] - 12
    random = np.random.default_rng(0)
    centres = [(side + dy, left) for left in range(20, shape[1] - 20, 40) for dy in (0,)]
    centres += [(top, side + 2) for top in range(24, shape[0] - 20, 40) if abs(top - side) > 30]
    centres += [(int(a) * 40 + 30, int(b) * 40 + 30) for a, b in random.integers(0, (15, 15), (60, 2))]
    number = 0
    for row, column in centres:
        radius = random.uniform(4, 11)
        window = labels[row - 12 : row + 13, column - 12 : column + 13]
        disc = (y**2 * random.uniform(1, 1.6) + x**2 <= radius**2)[: window.shape[0], : window.shape[1]]
        if not window.any():
            number += 1
            window[disc] = number
    return labels


def image_of(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    random = np.random.default_rng(1)
    tissue = random.normal((232, 190, 214), 8, (*labels.shape, 3))
    nuclei = random.normal((110, 70, 150), 8, (*labels.shape, 3))
    return np.clip(np.where(labels[..., None] > 0, nuclei, tissue), 0, 255).astype(np.uint8)


def write_slide(path: Path, *, skip: tuple[tuple[int, int], ...] = ()) -> tuple[SlideFolder, NDArray[np.int32]]:
    """Write the record and the regions; `skip` has no file, like a region without tissue."""
    labels = drawn()
    folder = SlideFolder(path)
    rows, columns = -(-SHAPE[0] // SIDE), -(-SHAPE[1] // SIDE)
    count = 0
    for row in range(rows):
        for column in range(columns):
            if (row, column) not in skip:
                region = region_of(labels, row * SIDE, column * SIDE)
                region.save(folder.region_path(row, column))
                count += len(region.nuclei)
    folder.write_record(record(count, (rows, columns)))
    return folder, labels


def region_of(labels: NDArray[np.int32], top: int, left: int) -> Region:
    height, width = min(SIDE, SHAPE[0] - top), min(SIDE, SHAPE[1] - left)
    core = (top, left, height, width)
    image = image_of(labels)
    probability = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
    nuclei = measure(labels, probability, image, corner=(0, 0), core=core, scale=SCALE, microns_per_pixel=MICRONS)
    inside = slice(top, top + height), slice(left, left + width)
    values = np.round(probability[inside] * 255).astype(np.uint8)
    return Region(core, nuclei, values, _small(image[inside]))


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    padded = np.pad(image, [(0, -image.shape[0] % 8), (0, -image.shape[1] % 8), (0, 0)], mode="edge")
    height, width = padded.shape[0] // 8, padded.shape[1] // 8
    return padded.reshape(height, 8, width, 8, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def record(nuclei: int, grid: tuple[int, int]) -> RunRecord:
    identity = Identity("a" * 64, "b" * 64, "openvino:int8", MICRONS / SCALE, 256, 32, 4, "1.0")
    size = (SHAPE[0] // 2, round(SHAPE[1] / 2))
    stages = {"read": 1.2, "engine": 5.1, "separate": 0.8, "measure": 0.3, "total": 5.9}
    timeline = tuple(
        (stage, f"{k // 2}-{k % 2}", 1.4 * k + start, 1.4 * k + start + length)
        for k in range(4)
        for stage, start, length in (("read", 0.0, 0.3), ("engine", 0.3, 1.25), ("separate", 1.6, 0.2))
    )
    return RunRecord(
        "slides/a.svs", identity, size, SHAPE, SCALE, MICRONS, 0.5, grid,
        ("The file has no resolution; 0.5 µm/px was given.",), {}, nuclei, 0.09, stages, timeline, {"numpy": "2.0"},
    )  # fmt: skip
