"""Images of any size and layout in C++: the bits of Python, and no shape compiled twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle

from msal_deploy.bundle import Bundle
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.tiling import segment

SKIPPED = 77
SIZES = ((1000, 1000), (1000, 777), (33, 31))
DEFAULT = (512, 64, 1)  # tile, overlap and batch
GAP = 37  # bytes between two rows
ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2, 3), "bgra": (2, 1, 0, 3)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Bundle:
    """Graphs of three convolutions whose last ReLU lets almost every pixel of dark noise pass."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")
    for precision in ("fp32", "int8"):
        bundle = put_graph(bundle, f"model.{precision}.onnx", tiny_graph(precision, seed=39))
    return bundle


@pytest.fixture
def raw(built, run, tmp_path):
    """Segment images in C++, each given as raw bytes, and return the probabilities and what was logged."""

    def raw(
        bundle: Bundle, engine: str, requests: list[tuple[NDArray[np.uint8], str, int, tuple[int, int, int]]]
    ) -> tuple[list[NDArray[np.float32]], list[str]]:
        lines = []
        for index, (image, order, gap, tiling) in enumerate(requests):
            file = tmp_path / f"{index} {order}"
            row_bytes = write(file, image, order, gap)
            words = (*image.shape[:2], row_bytes, order, *tiling, f'"{file}.result"')
            lines.append(" ".join(map(str, (f'"{file}"', *words))))
        backend, precision = engine.split(":")
        (tmp_path / "requests").write_text("\n".join(lines))
        words = (built / "build" / "tests" / "raw", bundle.path, precision, backend, 2)
        done = run("bash", "-c", '"$@" < requests', "raw", *words, cwd=str(tmp_path), check=False)
        if done.returncode == SKIPPED:
            pytest.skip(done.stdout.strip())
        assert done.returncode == 0, done.stderr
        shapes = [image.shape[:2] for image, *_ in requests]
        files = [tmp_path / f"{index} {order}.result" for index, (_, order, *_) in enumerate(requests)]
        found = [np.fromfile(file, np.float32).reshape(shape) for file, shape in zip(files, shapes, strict=True)]
        return found, done.stderr.splitlines()

    return raw


def write(file: Path, image: NDArray[np.uint8], order: str, gap: int) -> int:
    """Write an RGB image in another order, with `gap` bytes between the rows, and return the bytes of a row."""
    alpha = np.random.default_rng(7).integers(0, 256, (*image.shape[:2], 1), np.uint8)
    pixels = np.concatenate([image, alpha], axis=2)[:, :, ORDERS[order]].reshape(len(image), -1)
    rows = np.pad(pixels, ((0, 0), (0, gap)), constant_values=91)
    file.write_bytes(rows.tobytes()[: rows.size - gap])
    return rows.shape[1]


def random_image(height: int, width: int) -> NDArray[np.uint8]:
    """Return noise so dark that the tiny INT8 graph, whose scales are small, does not saturate."""
    return np.random.default_rng(height * width).integers(0, 3, (height, width, 3), np.uint8)


@pytest.mark.parametrize("engine", ["openvino:fp32", "openvino:int8", "onnxruntime:fp32", "onnxruntime:int8"])
def test_any_size_order_and_stride_is_bit_for_bit_what_python_computes(raw, tiny, engine):
    images = [random_image(*size) for size in SIZES]
    layouts = (("rgb", 0), ("rgb", GAP), ("bgr", 0), ("bgra", GAP))
    found, _ = raw(tiny, engine, [(image, *layout, DEFAULT) for image in images for layout in layouts])
    with open_engine(tiny, engine, threads=2) as python:
        expected = [segment(python, image) for image in images]
    assert all(len(np.unique(one)) > 300 for one in expected)  # where all are equal, so are their means
    for index, one in enumerate(found):
        np.testing.assert_array_equal(one, expected[index // len(layouts)])


def test_tiling_and_batch_are_those_of_python(raw, tiny):
    image, tilings = random_image(300, 201), ((96, 33, 1), (64, 0, 4), (128, 64, 3))
    found, _ = raw(tiny, "openvino:int8", [(image, "bgr", GAP, tiling) for tiling in tilings])
    with open_engine(tiny, "openvino:int8", threads=2) as python:
        for one, (tile, overlap, batch) in zip(found, tilings, strict=True):
            expected = segment(python, image, tile=tile, overlap=overlap, batch=batch)
            np.testing.assert_array_equal(one, expected)


def test_four_sizes_in_turn_are_compiled_once_each(raw, tiny):
    images = [random_image(*size) for size in ((1000, 777), (33, 31), (300, 200), (64, 512))]
    found, logged = raw(tiny, "openvino:fp32", [(image, "rgb", 0, DEFAULT) for image in images * 2])
    assert [line for line in logged if "Compiling" in line] == [
        f"info: Compiling for 1 × {size} px" for size in ("512 × 512", "64 × 32", "320 × 224", "64 × 512")
    ]
    for first, second in zip(found[:4], found[4:], strict=True):
        np.testing.assert_array_equal(first, second)


def test_warnings_of_onnx_runtime_come_to_the_log(raw, tiny, tmp_path):
    shutil.copytree(tiny.path, tmp_path / "bundle")
    graph = tiny_graph("fp32")
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "that nothing reads"))
    unused = put_graph(Bundle(tmp_path / "bundle"), "model.fp32.onnx", graph)
    _, logged = raw(unused, "onnxruntime:fp32", [(random_image(64, 64), "rgb", 0, DEFAULT)])
    assert any(line.startswith("warning: ") and "that nothing reads" in line for line in logged), logged
