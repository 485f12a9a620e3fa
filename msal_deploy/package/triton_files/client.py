"""Segment nuclei with a Triton server. Needs tritonclient[http,grpc] and numpy, but not msal-deploy.

    python client.py http://localhost:8000 golden/image.npy result.npy

The images are uint8[N,H,W,3] RGB as .npy, with H and W multiples of 32. The result is float32[N,1,H,W], the probability
of a nucleus. Use ``grpc://localhost:8001`` for gRPC.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def segment(url: str, images: NDArray[np.uint8], model: str = "msal-net") -> NDArray[np.float32]:
    """Return the probability of a nucleus for uint8[N,H,W,3], in requests of the largest batch that the model accepts.

    Raises:
        ValueError: The URL does not begin with http:// or grpc://.
        tritonclient.utils.InferenceServerException: The server refused the request.
        OSError: The server is not reachable.
    """
    scheme, _, host = url.partition("://")
    if scheme == "grpc":
        import tritonclient.grpc as protocol
    elif scheme == "http":
        import tritonclient.http as protocol
    else:
        raise ValueError(f"Expected a URL that begins with http:// or grpc://, got {url!r}; see --help")
    with protocol.InferenceServerClient(host) as client:
        config = client.get_model_config(model, **({"as_json": True} if scheme == "grpc" else {}))
        config = config.get("config", config)
        parts = range(0, len(images), config["max_batch_size"])
        return np.concatenate([_infer(protocol, client, config, images[start : start + parts.step]) for start in parts])


def _infer(protocol: Any, client: Any, config: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    tensor = protocol.InferInput(config["input"][0]["name"], images.shape, "UINT8")
    tensor.set_data_from_numpy(np.ascontiguousarray(images))
    result = client.infer(config["name"], [tensor])
    probability: NDArray[np.float32] = result.as_numpy(config["output"][0]["name"])
    return probability


def main() -> int:
    """Segment the images, write the result and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://HOST:PORT or grpc://HOST:PORT")
    parser.add_argument("images", help="uint8[N,H,W,3] as .npy")
    parser.add_argument("result", help="the .npy file to write")
    parser.add_argument("--model", default="msal-net")
    given = parser.parse_args()
    try:
        np.save(given.result, segment(given.url, np.load(given.images), given.model))
    except Exception as error:  # HTTP and gRPC raise different types
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
