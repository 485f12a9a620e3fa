"""client.py of the package sends images of any size, in the tiles of `engine.segment`, and gets the same bits."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from triton_server import ROOT, Server, serving

from msal_deploy.bundle import Bundle
from msal_deploy.export import example_images
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.runtimes import Engine, open_engine
from msal_deploy.runtimes.tiling import segment

PROGRAM = ROOT / "msal_deploy" / "package" / "triton_files" / "client.py"


def image(height: int, width: int) -> np.ndarray:
    pixels: np.ndarray = example_images(1, -(-height // 32) * 32, -(-width // 32) * 32)[0, :height, :width]
    return pixels


@pytest.fixture(scope="module")
def client() -> ModuleType:
    """client.py, imported as a user's program would."""
    found = importlib.util.spec_from_file_location("triton_client_program", PROGRAM)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("any size") / "served"
    write_package(bundle, "triton", folder, PackageOptions(backend="openvino"))
    with serving(folder, folder.with_name("log")) as server:
        yield server


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Engine]:
    with open_engine(bundle, "openvino:fp32") as engine:
        yield engine


def run(
    server: Server, folder: Path, name: str, *options: str, way: str = "grpc"
) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, PROGRAM, getattr(server, way), folder / name, folder / "result.npy", *options]
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600)


# ---- the rules, without a server


class Fake:
    """A model of any sizes, which computes something that depends on the place in a tile, as networks do."""

    def __init__(self, smallest: int = 32, largest: int = 4096, most: int = 3) -> None:
        self.smallest, self.largest, self.multiple = [smallest] * 2, [largest] * 2, [32, 32]
        self.sizes = f"{smallest} to {largest}"
        self.most, self.seen = most, []

    def side(self, axis: int, extent: int) -> int:
        return max(self.smallest[axis], -(-extent // 32) * 32)

    def batch(self, sides: list[int]) -> int:
        return self.most

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.seen.append(tiles.shape)
        row = np.linspace(0, 1, tiles.shape[1], dtype=np.float32)[:, None]
        return tiles.mean(axis=3, dtype=np.float32) / 255 * row


SIZES = [(33, 31), (1, 1), (512, 512), (513, 512), (1000, 1000), (1000, 777), (5, 1500), (100, 2049)]
TILES = [*((size, tiling) for size in SIZES for tiling in ((512, 64), (256, 0))), ((33, 131), (128, 127))]


@pytest.mark.parametrize(("size", "tiling"), TILES)
def test_tiles_are_those_of_the_engines(client: ModuleType, size: tuple[int, int], tiling: tuple[int, int]) -> None:
    (height, width), (tile, overlap) = size, tiling
    pixels = image(height, width)
    fake = Fake()
    found = client.segment(fake, pixels, tile, overlap)
    expected = segment(lambda tiles: Fake()(tiles)[:, None], pixels, tile=tile, overlap=overlap)
    assert found.shape == (height, width) and found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert max(shape[0] for shape in fake.seen) <= 3


def test_tiles_fit_the_sizes_that_the_server_accepts(client: ModuleType) -> None:
    fake = Fake(smallest=128, largest=256)
    client.segment(fake, image(1000, 60))
    assert {shape[1:3] for shape in fake.seen} == {(256, 128)}


@pytest.mark.parametrize(
    ("pixels", "tile", "overlap", "message"),
    [
        (np.zeros((5, 5), np.uint8), 512, 64, r"uint8\[H,W,3\], got uint8\[5, 5\]"),
        (np.zeros((5, 5, 3), np.float32), 512, 64, "got float32"),
        (np.zeros((0, 5, 3), np.uint8), 512, 64, r"got uint8\[0, 5, 3\]"),
        (np.zeros((5, 5, 3), np.uint8), 500, 64, "Expected a tile of 32 to 4096 px, .* got 500 and 64"),
        (np.zeros((5, 5, 3), np.uint8), 64, 64, "larger than the overlap"),
        (np.zeros((5, 5, 3), np.uint8), 0, -1, "got 0 and -1"),
    ],
)
def test_wrong_arguments(client: ModuleType, pixels: np.ndarray, tile: int, overlap: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        client.segment(Fake(), pixels, tile, overlap)


# ---- through a server


@pytest.mark.parametrize(
    ("height", "width", "way"), [(1000, 1000, "grpc"), (1000, 777, "http"), (33, 31, "grpc"), (33, 31, "http")]
)
def test_result_is_that_of_the_engine_bit_for_bit(
    server: Server, engine: Engine, tmp_path: Path, height: int, width: int, way: str
) -> None:
    pixels = image(height, width)
    np.save(tmp_path / "image.npy", pixels)
    done = run(server, tmp_path, "image.npy", "--tile", "256", way=way)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "result.npy"), engine.segment(pixels, tile=256))


def test_image_files_and_stacks(server: Server, engine: Engine, tmp_path: Path) -> None:
    pixels = np.stack([image(90, 70), image(90, 70)[::-1]])
    np.save(tmp_path / "stack.npy", pixels)
    assert run(server, tmp_path, "stack.npy").returncode == 0
    found = np.load(tmp_path / "result.npy")
    assert found.shape == (2, 1, 90, 70)
    assert np.array_equal(found[:, 0], [engine.segment(one) for one in pixels])
    Image.fromarray(pixels[0]).save(tmp_path / "image.tif")
    assert run(server, tmp_path, "image.tif").returncode == 0
    assert np.array_equal(np.load(tmp_path / "result.npy"), found[0, 0])


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (lambda path: path.write_text("no image"), (), "image.png"),
        (lambda path: Image.fromarray(image(40, 40)).save(path), ("--tile", "100"), "got 100 and 64"),
        (lambda path: Image.fromarray(image(40, 40)).save(path), ("--model", "unet"), "unet"),
    ],
)
def test_faults_take_one_sentence(
    server: Server, tmp_path: Path, write: Callable[[Path], None], options: tuple[str, ...], message: str
) -> None:
    write(tmp_path / "image.png")
    done = run(server, tmp_path, "image.png", *options)
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and message in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "result.npy").exists()
