"""Segment the nuclei in an image with a TensorRT plan, in plain PyCUDA. Does not need msal-deploy.

    python segment.py model.int8.sm61.tensorrt.plan tissue.png mask.png

Written for TensorRT 8.6 and a GTX 1080 Ti; the same calls exist in TensorRT 10 and 11. The plan takes RGB images,
uint8[N,H,W,3], and returns float32[N,1,H,W], the probability of a nucleus; it includes normalisation and sigmoid. Its
metadata, ``*.plan.json``, names the TensorRT version, GPUs and shapes that it was built for.
"""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt
from PIL import Image


class Segmenter:
    """A plan on the GPU, with buffers for the opt shape of its profile."""

    def __init__(self, path: Path) -> None:
        metadata = check(path)
        self.batch, self.height, self.width = metadata["profile"]["optimum"]
        self.logger = trt.Logger(trt.Logger.WARNING)
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            sys.exit(f"TensorRT cannot load {path}; see its messages above")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            sys.exit("The GPU does not have enough memory for the plan; build it for a smaller batch or size")

        # Memory is allocated once. The GPU copies pinned host memory without the CPU's help.
        pixels = self.batch * self.height * self.width
        self.images = cuda.pagelocked_empty((self.batch, self.height, self.width, 3), np.uint8)
        self.probability = cuda.pagelocked_empty((self.batch, self.height, self.width), np.float32)
        self.images_on_gpu = cuda.mem_alloc(pixels * 3)
        self.probability_on_gpu = cuda.mem_alloc(pixels * 4)
        self.stream = cuda.Stream()

        self.context.set_input_shape("image", self.images.shape)
        self.context.set_tensor_address("image", int(self.images_on_gpu))
        self.context.set_tensor_address("probability", int(self.probability_on_gpu))

    def __call__(self, tiles: list) -> np.ndarray:
        """Return float32[n,H,W] for at most `batch` tiles uint8[H,W,3]."""
        self.images[: len(tiles)] = tiles
        cuda.memcpy_htod_async(self.images_on_gpu, self.images, self.stream)
        if not self.context.execute_async_v3(self.stream.handle):
            sys.exit("TensorRT could not run the plan; see its messages above")
        cuda.memcpy_dtoh_async(self.probability, self.probability_on_gpu, self.stream)
        self.stream.synchronize()
        return self.probability[: len(tiles)].copy()  # the next call overwrites the buffer


def check(path: Path) -> dict:
    """Return the plan's metadata after checking its SHA-256, TensorRT version and compute capability."""
    sidecar = path.with_name(path.name + ".json")
    try:
        metadata = json.loads(sidecar.read_text(encoding="utf-8"))
        version, capabilities, digest = metadata["backend_version"], metadata["sm"], metadata["plan_sha256"]
        plan = path.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path} or {sidecar.name} is not readable ({error!r}); copy both again")
    if hashlib.sha256(plan).hexdigest() != digest:
        sys.exit(f"{path} has changed since it was built (SHA-256 differs); copy it and {sidecar.name} again")
    if version.split(".")[:3] != trt.__version__.split(".")[:3]:
        sys.exit(f"{path} was built by tensorrt {version}, not {trt.__version__}; rebuild it")
    sm = "{}.{}".format(*cuda.Context.get_device().compute_capability())
    if sm not in capabilities:
        sys.exit(f"{path} was built for compute capability {', '.join(capabilities)}, not {sm}; rebuild it")
    return metadata


def segment(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    """Return float32[H,W] for uint8[H,W,3] of any size.

    Tiles overlap by an eighth of their size on each side, and only their inner part is kept, because the rim lacks the
    context around it. The image is padded by mirroring.
    """
    (height, width), (rows, columns) = image.shape[:2], (segmenter.height, segmenter.width)
    rim = rows // 8, columns // 8
    step = rows - 2 * rim[0], columns - 2 * rim[1]
    down, across = math.ceil(height / step[0]), math.ceil(width / step[1])
    margins = [(r, n * s - size + r) for r, n, s, size in zip(rim, (down, across), step, (height, width), strict=True)]
    padded = np.pad(image, (*margins, (0, 0)), mode="symmetric")

    corners = [(y * step[0], x * step[1]) for y in range(down) for x in range(across)]
    probability = np.empty((down * step[0], across * step[1]), np.float32)
    for start in range(0, len(corners), segmenter.batch):
        chunk = corners[start : start + segmenter.batch]
        maps = segmenter([padded[y : y + rows, x : x + columns] for y, x in chunk])
        for (y, x), tile in zip(chunk, maps, strict=True):
            probability[y : y + step[0], x : x + step[1]] = tile[rim[0] : rows - rim[0], rim[1] : columns - rim[1]]
    return probability[:height, :width]


def main() -> None:
    """Read the image, segment it and write the mask."""
    parser = argparse.ArgumentParser(description="Segment the nuclei in an image with a TensorRT plan.")
    parser.add_argument("plan", type=Path, help="*.plan, next to its *.plan.json")
    parser.add_argument("image", type=Path, help="H&E tissue at 40x (0.25 µm per pixel)")
    parser.add_argument("mask", type=Path, help="PNG to write: nuclei 255, background 0")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest probability of a nucleus pixel")
    arguments = parser.parse_args()

    try:
        image = np.asarray(Image.open(arguments.image).convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        sys.exit(f"{arguments.image} is not a readable image ({error}); convert it to PNG or TIFF")
    try:
        import pycuda.autoinit  # noqa: F401  makes the first GPU current until the process ends
    except cuda.Error as error:
        sys.exit(f"CUDA found no GPU ({error}); check it with nvidia-smi")
    probability = segment(Segmenter(arguments.plan), image)
    nuclei = probability >= arguments.threshold
    try:
        Image.fromarray(np.uint8(nuclei * 255)).save(arguments.mask, format="PNG")
    except OSError as error:
        sys.exit(f"{arguments.mask} is not writable ({error}); check the folder and the disk")
    print(f"{arguments.mask}: {nuclei.mean():.1%} of the pixels belong to nuclei")


if __name__ == "__main__":
    main()
