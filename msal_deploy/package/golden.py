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
# Tolerances: the largest |Δp| of a pixel, the mean |Δp|, and the fraction of pixels that cross the threshold (flipped).
# Measured on MSAL-Net/R34 with its golden tiles, as largest, mean and flipped:
#   FP32  ONNX Runtime and OpenVINO against torch      1.3e-6   5.7e-8   0
#   FP16  torch's half precision against ORT           4.0e-3   8.5e-5   1.1e-4
#   INT8  ONNX Runtime against OpenVINO                0.12     3.1e-3   3.0e-3
# Errors that must be detected: INT8 instead of FP16 0.10 2.9e-3 2.7e-3; the image shifted by one pixel 0.74 4.4e-2
# 4.4e-2; BGR instead of RGB 0.98 0.40 0.42. FP16 has a larger tolerance than measured, because GPUs may accumulate in
# FP16.
TOLERANCES = {
    "fp32": {"largest": 1e-4, "mean": 1e-5, "flipped": 1e-4},
    "fp16": {"largest": 0.05, "mean": 1e-3, "flipped": 1e-3},
    "int8": {"largest": 0.3, "mean": 1e-2, "flipped": 1e-2},
}
# Two runtimes differ about as much as the graph differs from FP32 (INT8 above: 2.9e-3 from FP32, 3.1e-3 between the
# runtimes). If a graph differs more from FP32 than usual, the tolerance is this multiple of the difference.
SPREAD = 3


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
    return {key: max(minimum, SPREAD * delta[key]) for key, minimum in TOLERANCES[precision].items()}
