"""Compare an integration's results with the golden tiles. Needs Python 3.9 and numpy only.

    python check_golden.py golden result.npy --precision int8

Pass the probabilities of all tiles as one file, or one file per tile, in order:

    .npy           float32[N,1,H,W]; axes of length 1 may be missing
    .json          the output of trtexec --exportOutput
    .png           a mask, 8-bit greyscale, 0 outside nuclei; only flipped pixels are compared
    anything else  raw float32 without a header

Exit code 0: within the tolerances in golden.json; 1: outside them; 2: the files cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WINDOW = 32  # px: a fault that covers a window shows in its mean, however small its part of the tiles
MOST = 0.995  # of the pixels: a fault in 1% of them shows here, wherever those are
NAMES = {
    "largest": "largest |dp| {:.2e}",
    "most": "99.5% of pixels within {:.2e}",
    "mean": "mean {:.2e}",
    "window": "worst window {:.2e}",
    "flipped": "flipped pixels {:.4%}",
    "flipped_window": "in the worst window {:.2%}",
}


def compare(golden: str | Path, results: Sequence[str | Path], precision: str) -> tuple[dict[str, float], bool]:
    """Compare `results` with the golden tiles; return the differences, and whether they are within the tolerances.

    Raises:
        ValueError: A file is missing or has the wrong format or size.
    """
    about = _about(Path(golden))
    tolerances, threshold = about["tolerances"], about["threshold"]
    if precision not in tolerances:
        raise ValueError(f"{golden} has no {precision} probabilities; choose from: {', '.join(tolerances)}")
    expected = np.load(Path(golden) / f"probability.{precision}.npy")
    paths = [Path(result) for result in results]
    if all(path.suffix.lower() == ".png" for path in paths):
        mask = _joined([_read_png(path) for path in paths], expected.shape) > 0
        measured = _flips(mask != (expected >= threshold))
    else:
        measured = differences(_joined([_read(path) for path in paths], expected.shape), expected, threshold)
    return measured, within(measured, tolerances[precision])


def differences(actual: NDArray[np.float32], expected: NDArray[np.float32], threshold: float) -> dict[str, float]:
    """Compare probabilities float32[N,1,H,W], and return the differences by name.

    ``largest``, ``most`` and ``mean`` are the largest |Δp|, its 99.5th percentile and its mean over all pixels, and
    ``window`` is its mean over the window of 32×32 px where it is largest. ``flipped`` is the fraction of pixels that
    cross the threshold, and ``flipped_window`` the largest such fraction of a window.
    """
    delta = np.abs(actual.astype(np.float64) - expected)
    return {
        "largest": float(delta.max()),
        "most": float(np.quantile(delta, MOST)),
        "mean": float(delta.mean()),
        "window": worst_window(delta),
        **_flips((actual >= threshold) != (expected >= threshold)),
    }


def _flips(flipped: NDArray[np.bool_]) -> dict[str, float]:
    return {"flipped": float(flipped.mean()), "flipped_window": worst_window(flipped)}


def worst_window(values: NDArray[Any], side: int = WINDOW) -> float:
    """Return the largest mean over all windows of side×side px, at any position; a smaller tile is one window."""
    height, width = (min(side, extent) for extent in values.shape[-2:])
    sums = np.pad(values.astype(np.float64), [(0, 0)] * (values.ndim - 2) + [(1, 0)] * 2).cumsum(-2).cumsum(-1)
    rows = sums[..., height:, :] - sums[..., :-height, :]
    means = (rows[..., width:] - rows[..., :-width]) / (height * width)
    return float(means.max())


def within(measured: dict[str, float], tolerance: dict[str, float]) -> bool:
    """Return whether every difference is finite and within its tolerance."""
    return all(bool(np.isfinite(value)) and value <= tolerance[key] for key, value in measured.items())


def _about(golden: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((golden / "golden.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{golden} is not a folder of golden tiles ({error})") from error
    return about


def _joined(parts: list[NDArray[Any]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Join the files, one for all tiles or one per tile, into float32 of `shape` (N,1,H,W)."""
    count, _, height, width = shape
    size = sum(part.size for part in parts)
    if size != count * height * width or len(parts) not in (1, count):
        raise ValueError(
            f"Expected {count} tiles of {height} x {width} pixels, got {size} values in {len(parts)} files; pass one "
            "file for all tiles, or one file per tile"
        )
    for part in parts:  # raw values have one axis; if there are more axes, their order must be right
        axes = tuple(extent for extent in part.shape if extent != 1)
        if part.ndim > 1 and axes != tuple(extent for extent in (count // len(parts), height, width) if extent != 1):
            raise ValueError(f"Expected probabilities of shape {shape}, got {part.shape}; transpose them")
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32).reshape(shape)


def _read(path: Path) -> NDArray[Any]:
    """Read an array of any shape from a file."""
    readers = {".npy": _read_npy, ".json": _read_trtexec, ".png": _read_png}
    try:
        return readers.get(path.suffix.lower(), _read_raw)(path)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_npy(path: Path) -> NDArray[Any]:
    array = np.load(path)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive, not an .npy file")
    return array


def _read_raw(path: Path) -> NDArray[Any]:
    if path.stat().st_size % 4:
        raise ValueError("its length is not a multiple of 4 bytes, so it is not float32")
    return np.fromfile(path, "<f4")


def _read_trtexec(path: Path) -> NDArray[Any]:
    """Read trtexec's JSON with one output: [{"name": "probability", "dimensions": "2x1x256x256", "values": […]}]."""
    # C++ writes nan and inf, which are not JSON; Python's reader accepts NaN and Infinity.
    text = re.sub(r"\binf\b", "Infinity", re.sub(r"-?\bnan\b", "NaN", path.read_text(encoding="utf-8")))
    outputs = json.loads(text)
    if not isinstance(outputs, list) or len(outputs) != 1:
        raise ValueError("it is not the output of trtexec with one tensor")
    dimensions = [int(extent) for extent in re.findall(r"\d+", outputs[0]["dimensions"])]
    return np.array(outputs[0]["values"], np.float32).reshape(dimensions)


def _read_png(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit greyscale PNG without interlacing, the format of all masks."""
    try:
        data = path.read_bytes()
        width, height, *kind = struct.unpack(">IIBBBBB", data[16:29])
        if data[:8] != b"\x89PNG\r\n\x1a\n" or kind[0] != 8 or kind[1] != 0 or kind[4] != 0:
            raise ValueError("it is not an 8-bit greyscale PNG without interlacing")
        packed = b"".join(body for name, body in _chunks(data) if name == b"IDAT")
        rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, width + 1)
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    image = np.zeros((height + 1, width + 1), np.uint8)  # with a row of zeros above and a column of zeros to the left
    for y, row in enumerate(rows, 1):
        image[y, 1:] = _unfiltered(int(row[0]), row[1:], image[y - 1])
    return image[1:, 1:]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, start = [], 8
    while start + 8 <= len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += length + 12
    return chunks


def _unfiltered(kind: int, row: NDArray[np.uint8], above: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the filter of a row (PNG, ISO/IEC 15948, 9.2); `above` has one more pixel, on the left."""
    if kind in (0, 2):  # none, up
        return row if kind == 0 else row + above[1:]
    if kind == 1:  # sub
        return np.cumsum(row, dtype=np.uint8)
    left, out = 0, []
    for value, up, corner in zip(row.tolist(), above[1:].tolist(), above.tolist()):  # noqa: B905 (Python 3.9)
        guess = (left + up) // 2 if kind == 3 else _paeth(left, up, corner)
        left = (value + guess) & 255
        out.append(left)
    return np.array(out, np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))  # if equal, the first: left, up, corner


def main(arguments: list[str] | None = None) -> int:
    """Compare, print one line, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", help="the folder golden/ of the package")
    parser.add_argument("result", nargs="+", help="the integration's results")
    parser.add_argument("--precision", default="fp32", help="precision of the graph that was run (default: fp32)")
    given = parser.parse_args(arguments)
    try:
        measured, good = compare(given.golden, given.result, given.precision)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(("passed: " if good else "FAILED: ") + ", ".join(NAMES[key].format(measured[key]) for key in measured))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
