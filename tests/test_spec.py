"""ModelSpec defines the input and output of a graph, and rejects everything else with a helpful message."""

import msgspec
import numpy as np
import pytest

from msal_deploy.errors import BadInput
from msal_deploy.spec import Axis, ModelSpec, check_extent


def images(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.broadcast_to(np.zeros((), dtype), shape)  # without allocating memory


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (64, 32, 32, 3), (1, 4096, 4096, 3), (2, 64, 96, 3)])
def test_check_images_accepts_shapes_in_range(shape):
    assert ModelSpec().check_images(images(*shape)) is None


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 64, 3), r"\(N, H, W, 3\), got \(64, 64, 3\); pass uint8\[N, H, W, 3\]"),
        ((1, 3, 64, 64), "shape"),
        ((1, 64, 64, 4), "shape"),
        ((1, 64, 64, 1), "shape"),
        ((1, 1, 64, 64, 3), "shape"),
        ((), "shape"),
        ((0, 64, 64, 3), "Expected a batch from 1 to 64, got 0; use a size in that range"),
        ((65, 32, 32, 3), "batch from 1 to 64, got 65"),
        ((1, 0, 64, 3), "height from 32 to 4096, got 0"),
        ((1, 31, 64, 3), "height .* got 31"),
        ((1, 64, 4128, 3), "width .* got 4128"),
        ((1, 500, 64, 3), "Expected a height that is a multiple of 32, got 500; use 480 or 512"),
        ((1, 64, 33, 3), "Expected a width that is a multiple of 32, got 33; use 32 or 64"),
    ],
)
def test_check_images_rejects_other_shapes(shape, message):
    with pytest.raises(BadInput, match=message):
        ModelSpec().check_images(images(*shape))


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint16, np.bool_, np.float64])
def test_check_images_rejects_other_dtypes(dtype):
    with pytest.raises(BadInput, match=f"Expected uint8 images, got {np.dtype(dtype)}; pass RGB"):
        ModelSpec().check_images(images(1, 64, 64, 3, dtype=dtype))


def test_check_images_rejects_lists():
    with pytest.raises(BadInput, match="Expected a NumPy array, got list; pass uint8"):
        ModelSpec().check_images([[[[1, 2, 3]]]])


def test_check_extent_accepts_the_extents_it_suggests():
    axis = Axis("width", 32, 4096, multiple=32)
    for extent in (33, 63, 500, 4095):
        with pytest.raises(BadInput) as caught:
            check_extent(axis, extent)
        for suggested in (int(word) for word in str(caught.value).split("use ")[1].split(" or ")):
            check_extent(axis, suggested)


def test_spec_round_trips_through_json():
    spec = ModelSpec(threshold=0.4, mean=(0.7, 0.6, 0.7))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec) == spec


def test_spec_shares_dynamic_axes_between_input_and_output():
    spec = ModelSpec()
    batch, height, width, channels = spec.image.axes
    assert spec.probability.axes == (batch, 1, height, width)
    assert channels == 3


def test_spec_rejects_unknown_fields():
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"threshhold": 0.4}', type=ModelSpec)
