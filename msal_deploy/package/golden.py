"""Golden tiles: images, and the probabilities that every host must give for them, by precision.

::

    golden/image.npy               uint8[N,H,W,3], RGB; also image-0.png, image-1.png, …
    golden/image-0.rgb             the same bytes for hosts without a reader: H × W × 3, no header
    golden/probability.fp32.npy    float32[N,1,H,W] by torch; of each other precision by the CPU engine that judges it
    golden/mask-0.fp32.png         uint8[H,W]: 255 where the probability reaches the threshold, else 0
    golden/golden.json             shape, threshold, and how near a host must come
    check_golden.py                compares what any host wrote; needs numpy alone
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from msal_deploy.bundle import GOLDEN_IMAGE, GOLDEN_PROBABILITY, Bundle
from msal_deploy.errors import GateFailed
from msal_deploy.files import write_json
from msal_deploy.package import check_golden
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Float32Maps, UInt8Images

# Precision -> the engine whose numbers are golden. FP32's come from torch and are in the bundle.
JUDGES = {"fp16": "onnxruntime:fp16", "int8": "openvino:int8"}
# How near a host must come: the largest |Δp| of a pixel, the mean |Δp|, the share of pixels that cross the threshold.
# Measured on MSAL-Net/R34 with the tiles of its bundle, as largest, mean and flipped:
#   FP32  ONNX Runtime and OpenVINO to torch           1.3e-6   5.7e-8   0
#   FP16  torch's half and this judge                  4.0e-3   8.5e-5   1.1e-4
#   INT8  ONNX Runtime and OpenVINO, each to each      0.12     3.1e-3   3.0e-3
# and what must not pass: INT8 for FP16 0.10 2.9e-3 2.7e-3; the image moved by one pixel 0.74 4.4e-2 4.4e-2; BGR for RGB
# 0.98 0.40 0.42. FP16 has more room than was measured because GPUs may also add up in FP16.
TOLERANCES = {
    "fp32": {"largest": 1e-4, "mean": 1e-5, "flipped": 1e-4},
    "fp16": {"largest": 0.05, "mean": 1e-3, "flipped": 1e-3},
    "int8": {"largest": 0.3, "mean": 1e-2, "flipped": 1e-2},
}
# Two runtimes of one graph differ by about as much as rounding has cost that graph (INT8 above: 2.9e-3 to FP32, and
# 3.1e-3 between the runtimes). Where it cost more than usual, a host gets this many times that.
SPREAD = 3


def write_golden(bundle: Bundle, folder: Path) -> None:
    """Write the golden tiles of `bundle` into `folder`, for each precision that it has a graph of.

    Raises:
        GateFailed: a graph gives NaN or infinity.
    """
    folder.mkdir(parents=True)
    images = np.load(bundle.file(GOLDEN_IMAGE))
    _write_images(images, folder)
    exact = np.load(bundle.file(GOLDEN_PROBABILITY))
    probabilities = {"fp32": exact} | _judged(bundle, images)
    for precision, probability in probabilities.items():
        _write_probability(probability, bundle.spec.threshold, folder, precision)
    count, height, width, _ = images.shape
    about = {
        "images": count,
        "height": height,
        "width": width,
        "threshold": bundle.spec.threshold,
        "tolerances": {p: _tolerance(p, exact, probabilities[p], bundle.spec.threshold) for p in probabilities},
    }
    write_json(folder / "golden.json", about)
    shutil.copyfile(Path(check_golden.__file__), folder.parent / "check_golden.py")


def _write_images(images: UInt8Images, folder: Path) -> None:
    np.save(folder / "image.npy", images)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"image-{index}.png")
        (folder / f"image-{index}.rgb").write_bytes(image.tobytes())


def _judged(bundle: Bundle, images: UInt8Images) -> dict[str, Float32Maps]:
    found = {}
    for precision, engine_id in JUDGES.items():
        if bundle.has_graph(precision):
            with open_engine(bundle, engine_id) as engine:
                found[precision] = engine(images)
    return found


def _write_probability(probability: Float32Maps, threshold: float, folder: Path, precision: str) -> None:
    if not np.isfinite(probability).all():
        raise GateFailed(f"The {precision} graph gives NaN or infinity for the golden tiles; export the bundle again")
    np.save(folder / f"probability.{precision}.npy", probability)
    for index, mask in enumerate(probability[:, 0] >= threshold):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"mask-{index}.{precision}.png")


def _tolerance(precision: str, exact: Float32Maps, probability: Float32Maps, threshold: float) -> dict[str, float]:
    cost = check_golden.differences(probability, exact, threshold)
    return {key: max(least, SPREAD * cost[key]) for key, least in TOLERANCES[precision].items()}
