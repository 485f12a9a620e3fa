"""Golden tiles: reference images, and the probabilities that every integration must reproduce.

::

    golden/image.npy               uint8[N,H,W,3], RGB; also image-0.png, image-1.png, …
    golden/image-0.rgb             the same pixels as raw bytes, H × W × 3, without a header
    golden/probability.fp32.npy    float32[N,1,H,W]; FP32 from torch, other precisions from a CPU engine
    golden/mask-0.fp32.png         uint8[H,W]: 255 where the probability is at least the threshold, else 0
    golden/golden.json             shape, threshold and tolerances
    check_golden.py                compares an integration's results; needs numpy only
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from msal_deploy.bundle import Bundle
from msal_deploy.errors import GateFailed
from msal_deploy.files import write_json
from msal_deploy.package import check_golden
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Float32Maps, UInt8Images

# Precision -> the engine that computes the reference. The FP32 reference comes from torch and is in the bundle.
REFERENCE_ENGINES = {"fp16": "onnxruntime:fp16", "int8": "openvino:int8"}
# Tolerances of `check_golden.differences`. Measured on MSAL-Net/R34 with its golden tiles, and in brackets on ten crops
# of ten MoNuSeg images, the worst of each:
#   largest            most              mean              window            flipped           flipped_window
#   FP32  ONNX Runtime and OpenVINO against torch
#   4.1e-6 (3.0e-6)    2.3e-6 (1.4e-6)   1.6e-7 (9.4e-8)   1.3e-6 (6.4e-7)   0 (0)             0 (0)
#   FP16  ONNX Runtime without the emulation of FP16's roundings, against it
#   3.3e-3 (3.9e-3)    1.9e-3 (1.1e-3)   1.4e-4 (6.3e-5)   1.3e-3 (7.1e-4)   1.7e-4 (6.1e-5)   6.8e-3 (2.9e-3)
#   INT8  ONNX Runtime, with and without optimisations, against OpenVINO
#   0.25 (0.28)        0.13 (0.10)       8.6e-3 (4.7e-3)   0.067 (0.10)      9.6e-3 (4.4e-3)   0.16 (0.14)
# Errors that must be detected: INT8 instead of FP16 0.10 2.9e-3 2.7e-3; the image shifted by one pixel 0.74 4.4e-2
# 4.4e-2; BGR instead of RGB 0.98 0.40 0.42 (largest, mean, flipped); and 0.2 more or less in 1% of the pixels, in one
# block or scattered. FP16 has larger tolerances than measured, because GPUs may accumulate in FP16.
TOLERANCES = {
    "fp32": {"largest": 1e-4, "most": 5e-5, "mean": 1e-5, "window": 5e-5, "flipped": 1e-4, "flipped_window": 0.02},
    "fp16": {"largest": 0.05, "most": 0.02, "mean": 1e-3, "window": 0.01, "flipped": 1e-3, "flipped_window": 0.05},
    "int8": {"largest": 0.3, "most": 0.18, "mean": 1e-2, "window": 0.12, "flipped": 1e-2, "flipped_window": 0.25},
}
# Two runtimes differ about as much as the graph differs from FP32 (INT8 above: window at most 2.7 times as much, most
# 1.6 times). If a graph differs more from FP32 than usual, the tolerance is this multiple of the difference.
SPREAD = {"largest": 3, "most": 1.75, "mean": 3, "window": 3, "flipped": 3, "flipped_window": 3}


def write_golden(bundle: Bundle, folder: Path) -> None:
    """Write the golden tiles of `bundle` into `folder`, for each precision that the bundle has a graph for.

    Raises:
        GateFailed: A graph gives NaN or Inf.
    """
    folder.mkdir(parents=True)
    images, exact = bundle.golden()
    _write_images(images, folder)
    probabilities = {"fp32": exact} | _references(bundle, images)
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


def _references(bundle: Bundle, images: UInt8Images) -> dict[str, Float32Maps]:
    probabilities = {}
    for precision, engine_id in REFERENCE_ENGINES.items():
        if bundle.has_graph(precision):
            with open_engine(bundle, engine_id) as engine:
                probabilities[precision] = engine(images)
    return probabilities


def _write_probability(probability: Float32Maps, threshold: float, folder: Path, precision: str) -> None:
    if not np.isfinite(probability).all():
        raise GateFailed(f"The {precision} graph gives NaN or Inf on the golden tiles", "export the bundle again")
    np.save(folder / f"probability.{precision}.npy", probability)
    for index, mask in enumerate(probability[:, 0] >= threshold):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"mask-{index}.{precision}.png")


def _tolerance(precision: str, exact: Float32Maps, probability: Float32Maps, threshold: float) -> dict[str, float]:
    delta = check_golden.differences(probability, exact, threshold)
    return {key: max(minimum, SPREAD[key] * delta[key]) for key, minimum in TOLERANCES[precision].items()}
