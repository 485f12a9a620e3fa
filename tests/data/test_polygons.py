"""Polygons are filled as scikit-image does, in bounded time."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.draw import polygon

from msal_deploy.data import polygons
from msal_deploy.data.polygons import bounding_box, inside, rasterise
from msal_deploy.errors import BadInput

SHAPE = (17, 23)


def by_scikit_image(vertices: NDArray[np.float64], shape: tuple[int, int] = SHAPE) -> NDArray[np.int32]:
    drawn = np.zeros(shape, np.int32)
    drawn[polygon(vertices[:, 1], vertices[:, 0], shape)] = 1  # type: ignore[no-untyped-call]
    return drawn


# Quarters, thirds and sevenths: vertices and crossings on pixel centres, halfway between them, and almost on them.
coordinate = st.builds(lambda n, d: n / d, st.integers(-70, 210), st.sampled_from([1, 2, 3, 4, 7]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9))
def test_any_polygon_is_filled_as_by_scikit_image(vertices: list[tuple[float, float]]) -> None:
    outline = np.array(vertices)
    np.testing.assert_array_equal(rasterise([outline], SHAPE), by_scikit_image(outline))


@pytest.mark.parametrize("seed", range(4))
def test_a_long_outline_is_filled_as_by_scikit_image(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "CHUNK", 97)  # many chunks
    outline = np.random.default_rng(seed).normal(10, 8, (400, 2)).round(seed)
    np.testing.assert_array_equal(rasterise([outline], SHAPE), by_scikit_image(outline))


def test_triangle_by_hand() -> None:
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    assert inside(triangle, (0, 0, 3, 5)).astype(int).tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert inside(triangle, (1, 1, 2, 2)).astype(int).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("vertices", "box"),
    [
        ([[2.2, 3.0], [5.5, 3.0], [5.5, 7.1]], (3, 2, 6, 5)),
        ([[-4.0, -4.0], [5.5, 3.0], [5.5, 7.1]], (0, 0, 9, 7)),
        ([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9]], (0, 0, 17, 23)),
        ([[23.0, 0.0], [30.0, 0.0], [30.0, 9.0]], (0, 0, 0, 0)),
        ([[-9.0, 0.0], [-1.0, 0.0], [-5.0, 9.0]], (0, 0, 0, 0)),
    ],
)
def test_bounding_box(vertices: list[list[float]], box: tuple[int, int, int, int]) -> None:
    assert bounding_box(np.array(vertices), SHAPE) == box


def test_a_polygon_far_larger_than_the_image_covers_it() -> None:
    square = np.array([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]])
    assert rasterise([square], (50, 60)).all()


def test_a_hundred_thousand_vertices_take_less_time_than_five_thousand_of_scikit_image() -> None:
    def circle(count: int) -> NDArray[np.float64]:
        angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return np.stack([200 + 190 * np.cos(angles), 200 + 190 * np.sin(angles)], axis=1)

    start = time.process_time()
    filled = rasterise([circle(100_000)], (400, 400))
    ours = time.process_time() - start
    start = time.process_time()
    by_scikit_image(circle(5_000), (400, 400))
    theirs = time.process_time() - start
    assert ours < theirs  # 0.03 s and 1.5 s
    assert abs(filled.sum() / (np.pi * 190**2) - 1) < 0.01


@pytest.mark.parametrize("kind", ["scribble", "layers"])
def test_what_would_take_minutes_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "MIN_LIMIT", 200_000)
    scribble = [np.random.default_rng(0).uniform(0, 300, (10_000, 2))]
    layers = [np.array([[0.0, 0.0], [299.0, 0.0], [299.0, 299.0], [0.0, 299.0]])] * 31
    with pytest.raises(BadInput, match=r"The outlines of a\.xml cross or cover each other too often"):
        rasterise(scribble if kind == "scribble" else layers, (300, 300), "a.xml")
    assert rasterise(layers[:30], (300, 300)).all()
