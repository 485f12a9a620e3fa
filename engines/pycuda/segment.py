"""Segment the nuclei of an image with a TensorRT plan, in plain PyCUDA: nothing of msal-deploy is needed to run this.

    python segment.py model.int8.sm61.tensorrt.plan tissue.png mask.png

Written for TensorRT 8.6 and a GTX 1080 Ti; the same calls exist in TensorRT 10 and 11. The plan takes RGB images,
uint8[N,H,W,3], and gives float32[N,1,H,W], the probability of a nucleus: normalisation and sigmoid are inside. The
file beside it, ``*.plan.json``, says for which TensorRT, GPU and shapes it was built.
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
    """A plan on the GPU, with buffers for the batch and the size of tile that it is fastest at."""

    def __init__(self, path: Path) -> None:
        about = check(path)
        self.batch, self.height, self.width = about["profile"]["optimum"]
        self.logger = trt.Logger(trt.Logger.WARNING)
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            sys.exit(f"TensorRT cannot load {path}; what it says is above")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            sys.exit("The GPU has no room for the plan; build it for a smaller batch or size")

        # All memory is taken once. Pinned memory of the host is copied without the processor's help.
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
        """Return float32[n,H,W] of at most `batch` tiles uint8[H,W,3]."""
        self.images[: len(tiles)] = tiles
        cuda.memcpy_htod_async(self.images_on_gpu, self.images, self.stream)
        if not self.context.execute_async_v3(self.stream.handle):
            sys.exit("TensorRT could not compute; what it says is above")
        cuda.memcpy_dtoh_async(self.probability, self.probability_on_gpu, self.stream)
        self.stream.synchronize()
        return self.probability[: len(tiles)].copy()  # the buffer is written over by the next call


def check(path: Path) -> dict:
    """Return what the sidecar says, if the plan is whole and was built for this TensorRT and this GPU."""
    sidecar = path.with_name(path.name + ".json")
    try:
        about = json.loads(sidecar.read_text(encoding="utf-8"))
        version, capabilities, digest = about["backend_version"], about["sm"], about["plan_sha256"]
        plan = path.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path} or its {sidecar.name} cannot be read: {error!r}")
    if hashlib.sha256(plan).hexdigest() != digest:
        sys.exit(f"{path} is not the file that {sidecar.name} describes; copy both again")
    if version.split(".")[:3] != trt.__version__.split(".")[:3]:
        sys.exit(f"{path} was built by TensorRT {version}, and this is {trt.__version__}")
    sm = "{}.{}".format(*cuda.Context.get_device().compute_capability())
    if sm not in capabilities:
        sys.exit(f"{path} was built for compute capability {', '.join(capabilities)}, and this GPU has {sm}")
    return about


def segment(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    """Return float32[H,W] for uint8[H,W,3] of any size, in tiles of which only the inner part is kept.

    A tile's rim lacks the tissue around it, so tiles overlap by an eighth of their size on each side, and the image is
    continued by its mirror image.
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
    """Read the image, segment it, write the mask."""
    parser = argparse.ArgumentParser(description="Segment the nuclei of an image with a TensorRT plan.")
    parser.add_argument("plan", type=Path, help="*.plan, with *.plan.json beside it")
    parser.add_argument("image", type=Path, help="H&E tissue at 40x (0.25 µm a pixel)")
    parser.add_argument("mask", type=Path, help="PNG to write: 255 where there is a nucleus")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability from which a pixel is a nucleus")
    arguments = parser.parse_args()

    try:
        image = np.asarray(Image.open(arguments.image).convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        sys.exit(f"{arguments.image} cannot be read as an image: {error}")
    try:
        import pycuda.autoinit  # noqa: F401  makes the first GPU the current one, to the end of the process
    except cuda.Error as error:
        sys.exit(f"There is no GPU to use: {error}")
    probability = segment(Segmenter(arguments.plan), image)
    nuclei = probability >= arguments.threshold
    try:
        Image.fromarray(np.uint8(nuclei * 255)).save(arguments.mask, format="PNG")
    except OSError as error:
        sys.exit(f"{arguments.mask} cannot be written: {error}")
    print(f"{arguments.mask}: {nuclei.mean():.1%} of the pixels belong to nuclei")


if __name__ == "__main__":
    main()
