"""Segment nuclei with a Triton server. Needs tritonclient[http,grpc] and numpy, but not msal-deploy.

    python client.py http://localhost:8000 tissue.png result.npy
    python client.py grpc://localhost:8001 golden/image.npy result.npy

The input is an RGB image of any size (all but .npy needs Pillow), or uint8[H,W,3] or uint8[N,H,W,3] as .npy. The result
is the probability of a nucleus, float32[H,W], or float32[N,1,H,W] for N images. Large images are sent in overlapping
tiles, which are blended; small ones are padded by reflection. The result equals that of ``engine.segment`` in
msal-deploy bit for bit, if the server computes the same.

Prefer gRPC: if this program ends early, the server does not compute what is left. Over HTTP it does not notice.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise, product
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BYTES = 63 << 20  # in one request; Triton takes at most 64 MiB by HTTP


class Model:
    """A model on a server, as a context manager.

    Attributes:
        smallest, largest, multiple: Least and greatest extent of a tile, and what it is a multiple of; each for the
            height and the width.

    Raises:
        ValueError: The URL does not begin with http:// or grpc://.
        tritonclient.utils.InferenceServerException: The server has no such model.
        OSError: The server is not reachable.
    """

    def __init__(self, url: str, name: str = "msal-net", timeout: float = 300.0) -> None:
        scheme, _, host = url.partition("://")
        limits: dict[str, Any] = {"timeout": int(timeout * 1e6)}  # µs in the server's queue, if its own limit is longer
        if scheme == "grpc":
            import tritonclient.grpc as protocol

            self._client = protocol.InferenceServerClient(host)
            config = self._client.get_model_config(name, as_json=True)["config"]
            limits["client_timeout"] = timeout
        elif scheme == "http":
            import tritonclient.http as protocol

            self._client = protocol.InferenceServerClient(host, network_timeout=timeout)
            config = self._client.get_model_config(name)
        else:
            raise ValueError(f"Expected a URL that begins with http:// or grpc://, got {url!r}; see --help")
        self._protocol, self._config, self._limits = protocol, config, limits
        axes = json.loads(config["parameters"]["model_spec"]["string_value"])["image"]["axes"][1:3]
        self.smallest = [_limit(axis, "minimum", axis) for axis in axes]
        self.largest = [_limit(axis, "maximum", axis) for axis in axes]
        self.multiple = [_limit(axis, "multiple", 1) for axis in axes]

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @property
    def sizes(self) -> str:
        """What the height and the width of a tile may be."""
        low, high, step = max(self.smallest), min(self.largest), max(self.multiple)
        return f"{low} to {high}" + (f" by {step}" if step > 1 else "")

    def side(self, axis: int, extent: int) -> int:
        """Return the least height (`axis` 0) or width (1) of a tile that holds `extent` pixels."""
        rounded = -(-extent // self.multiple[axis]) * self.multiple[axis]
        return max(self.smallest[axis], rounded)

    def batch(self, sides: list[int]) -> int:
        """Return how many tiles of this height and width one request takes."""
        return max(1, min(int(self._config["max_batch_size"]), MAX_BYTES // (3 * sides[0] * sides[1])))

    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities, float32[N,H,W], of uint8[N,H,W,3], in one request."""
        tensor = self._protocol.InferInput(self._config["input"][0]["name"], tiles.shape, "UINT8")
        tensor.set_data_from_numpy(tiles)
        result = self._client.infer(self._config["name"], [tensor], **self._limits)
        probability: NDArray[np.float32] = result.as_numpy(self._config["output"][0]["name"])
        return probability[:, 0]


def _limit(axis: Any, key: str, fixed: Any) -> int:
    """Return a limit of a dynamic axis, or what it is if the axis is fixed, an integer."""
    return int(fixed if isinstance(axis, int) else axis[key])


class Span(NamedTuple):
    """One tile along one axis: its pixels, those that are kept (in the image and in the tile), and their weights."""

    tile: slice
    kept: slice
    inside: slice
    weights: NDArray[np.float32]


def segment(model: Model, image: NDArray[np.uint8], tile: int = 512, overlap: int = 64) -> NDArray[np.float32]:
    """Return the probability of a nucleus, float32[H,W], of one image uint8[H,W,3] of any size.

    Tiles overlap by at least `overlap` pixels. The outer quarter of each overlap is dropped, because the network lacks
    context there, and in the half between, the tiles are blended linearly.

    Raises:
        ValueError: The array is not an image, or the tile does not fit the model or the overlap.
        tritonclient.utils.InferenceServerException: The server refused a request.
    """
    tile = min(tile, *model.largest)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"Expected an image uint8[H,W,3], got {image.dtype}{list(image.shape)}")
    if tile < max(model.smallest) or tile % max(model.multiple) or not 0 <= overlap < tile:
        raise ValueError(f"Expected a tile of {model.sizes} px, larger than the overlap; got {tile} and {overlap}")
    sides = [model.side(axis, min(tile, extent)) for axis, extent in enumerate(image.shape[:2])]
    missing = [(0, max(side - extent, 0)) for side, extent in zip(sides, image.shape[:2], strict=True)]
    padded = np.pad(image, [*missing, (0, 0)], mode="reflect")
    return np.ascontiguousarray(_blend(model, padded, sides, tile - overlap)[: image.shape[0], : image.shape[1]])


def _blend(model: Model, image: NDArray[np.uint8], sides: list[int], step: int) -> NDArray[np.float32]:
    """Return the weighted mean of the tiles: where tiles agree, it is their value to the last bit."""
    spans = list(product(*(cover(extent, side, step) for extent, side in zip(image.shape[:2], sides, strict=True))))
    mean = np.zeros(image.shape[:2], np.float32)
    total = np.zeros_like(mean)
    batch = model.batch(sides)
    for first in range(0, len(spans), batch):
        some = spans[first : first + batch]
        maps = model(np.stack([image[row.tile, column.tile] for row, column in some]))
        for probability, (row, column) in zip(maps, some, strict=True):
            kept, weights = (row.kept, column.kept), row.weights[:, None] * column.weights
            total[kept] += weights
            mean[kept] += (probability[row.inside, column.inside] - mean[kept]) * (weights / total[kept])
    return mean


def cover(extent: int, side: int, step: int) -> list[Span]:
    """Cover `extent` pixels with as few tiles as possible, evenly spread, of which neighbours start ≤ `step` apart."""
    gaps = -(-(extent - side) // step)
    starts = [index * (extent - side) // max(gaps, 1) for index in range(gaps + 1)]
    shared = [0, *(before + side - after for before, after in pairwise(starts)), 0]
    return [_span(start, side, before, after) for start, (before, after) in zip(starts, pairwise(shared), strict=True)]


def _span(start: int, side: int, before: int, after: int) -> Span:
    """Return the tile at `start` that shares `before` and `after` pixels with its neighbours."""
    low, high = before // 4, side - after // 4
    weights = np.minimum(_ramp(before, high - low), _ramp(after, high - low)[::-1])
    return Span(slice(start, start + side), slice(start + low, start + high), slice(low, high), weights)


def _ramp(shared: int, pixels: int) -> NDArray[np.float32]:
    """Return each pixel's distance from an edge; at a border of the image nothing is blended."""
    return np.arange(pixels, dtype=np.float32) + 0.5 if shared else np.full(pixels, pixels, np.float32)


def read(path: Path) -> NDArray[np.uint8]:
    """Return uint8[H,W,3] of an image, or the array of a .npy file."""
    if path.suffix == ".npy":
        array: NDArray[np.uint8] = np.load(path)
        return array
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def main() -> int:
    """Segment the images, write the result and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://HOST:PORT or grpc://HOST:PORT")
    parser.add_argument("images", type=Path, help="an RGB image, or uint8[H,W,3] or uint8[N,H,W,3] as .npy")
    parser.add_argument("result", help="the .npy file to write")
    parser.add_argument("--model", default="msal-net")
    parser.add_argument("--tile", type=int, default=512, help="largest height and width of a tile (%(default)s px)")
    parser.add_argument("--overlap", type=int, default=64, help="least overlap of tiles (%(default)s px)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait for an answer (%(default)s)")
    given = parser.parse_args()
    try:
        images = read(given.images)
        with Model(given.url, given.model, given.timeout) as model:
            stack = images if images.ndim == 4 else images[None]
            maps = np.stack([segment(model, image, given.tile, given.overlap) for image in stack])
        np.save(given.result, maps[:, None] if images.ndim == 4 else maps[0])
    except Exception as error:  # HTTP and gRPC raise different types
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
