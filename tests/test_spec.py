"""ModelSpec says what a graph takes, and refuses everything else with a sentence that helps."""

import msgspec
import numpy as np
import pytest

from msal_deploy.errors import BadInput
from msal_deploy.spec import Axis, ModelSpec, check_extent


def images(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.broadcast_to(np.zeros((), dtype), shape)  # takes no memory


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (64, 32, 32, 3), (1, 4096, 4096, 3), (2, 64, 96, 3)])
def test_images_in_range_are_accepted(shape):
    assert ModelSpec().check_images(images(*shape)) is None


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((64, 64, 3), r"shape \(64, 64, 3\); give uint8\[N, H, W, 3\]"),
        ((1, 3, 64, 64), "shape"),
        ((1, 64, 64, 4), "shape"),
        ((1, 64, 64, 1), "shape"),
        ((1, 1, 64, 64, 3), "shape"),
        ((), "shape"),
        ((0, 64, 64, 3), "batch is 0; it must lie between 1 and 64"),
        ((65, 32, 32, 3), "batch is 65"),
        ((1, 0, 64, 3), "height is 0"),
        ((1, 31, 64, 3), "height is 31"),
        ((1, 64, 4128, 3), "width is 4128"),
        ((1, 500, 64, 3), "height is 500, no multiple of 32; use 480 or 512"),
        ((1, 64, 33, 3), "width is 33, no multiple of 32; use 32 or 64"),
    ],
)
def test_other_shapes_are_refused(shape, sentence):
    with pytest.raises(BadInput, match=sentence):
        ModelSpec().check_images(images(*shape))


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint16, np.bool_, np.float64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(BadInput, match=f"Images are {np.dtype(dtype)}"):
        ModelSpec().check_images(images(1, 64, 64, 3, dtype=dtype))


def test_extent_that_is_advised_is_accepted():
    axis = Axis("width", 32, 4096, multiple=32)
    for extent in (33, 63, 500, 4095):
        with pytest.raises(BadInput) as caught:
            check_extent(axis, extent)
        for advised in (int(word) for word in str(caught.value).split("use ")[1].split(" or ")):
            check_extent(axis, advised)


def test_spec_survives_json():
    spec = ModelSpec(threshold=0.4, mean=(0.7, 0.6, 0.7))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec) == spec


def test_input_and_output_share_their_dynamic_axes():
    spec = ModelSpec()
    batch, height, width, channels = spec.image.axes
    assert spec.probability.axes == (batch, 1, height, width)
    assert channels == 3


def test_spec_with_unknown_fields_is_refused():
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"threshhold": 0.4}', type=ModelSpec)
