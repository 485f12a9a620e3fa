"""Shared fixtures: a checkpoint, a bundle, training images and a small disk."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msal_deploy import export as export_stage
from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from msal_deploy.data import AnnotatedImage
from msal_deploy.network import MSALNet
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.spec import ModelSpec

# Background jobs of a shell ignore SIGINT, those of nohup SIGHUP, and so would the programs that tests start and end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The files that take minutes, the longest first: a worker that gets one of them at the end leaves the other idle.
LONGEST = (
    *("cli/test_run.py", "test_docs.py", "engines/test_cpp.py", "cli/test_export_precision.py", "cli/test_resume.py"),
    *("engines/test_hosts_benchmark.py", "engines/test_triton.py", "soak/test_soak.py", "engines/test_cpp_any_size.py"),
    *("validate/test_bisect_monuseg.py", "engines/test_cpp_tensorrt.py", "engines/test_cpp_cmake.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first."""
    rank = {name: index for index, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).as_posix(), len(rank)))


SMALL_SIZES, SMALL_BATCHES = ((64, 64), (64, 96)), (1, 2)


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let export compare torch with ONNX Runtime at a few small shapes."""
    monkeypatch.setattr(export_stage, "SIZES", SMALL_SIZES)
    monkeypatch.setattr(export_stage, "BATCHES", SMALL_BATCHES)


@pytest.fixture(scope="module", autouse=True)
def torch_threads() -> Iterator[None]:
    """Undo a module's change of torch's threads: sums have other last digits with another number of them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread: two would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(name="test", network=NetworkRecipe(backbone="resnet18", weights="random"))


@pytest.fixture(scope="session")
def checkpoint(recipe: Recipe) -> Checkpoint:
    """Random weights, with batch norms that have seen images: initial statistics would hide errors in folding."""
    torch.manual_seed(0)
    network = MSALNet(recipe.network).train()
    images = torch.from_numpy(export_stage.example_images(2, 128, 128)).permute(0, 3, 1, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
        network((images / 255 - 0.5) / 0.25)
        network.head[-1].weight.mul_(8)  # spreads the probabilities
        tiles = torch.from_numpy(export_stage.example_images(2, 256, 256)).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ModelSpec().mean, ModelSpec().std))
        found = network.eval()((tiles / 255 - mean) / std)
        network.head[-1].bias.sub_(found.median())  # half of the pixels are nuclei: there is a Dice to lose
    return Checkpoint(dict(network.state_dict()), recipe, "CC0-1.0", {"epoch": "1"})


@pytest.fixture(scope="session")
def checkpoint_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file, which tests must not change."""
    path = tmp_path_factory.mktemp("checkpoint") / "best.safetensors"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint: Checkpoint, checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An exported bundle, which tests must not change."""
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_stage, "SIZES", SMALL_SIZES)
        patch.setattr(export_stage, "BATCHES", SMALL_BATCHES)
        export_stage.export(load_checkpoint(checkpoint_file), folder)
    return Bundle(folder)


@pytest.fixture
def make_annotated_image(tmp_path: Path) -> Callable[..., AnnotatedImage]:
    """Write an image uint8[H,W,3] and a mask bool[H,W], and return them as an annotated image."""

    def make(stem: str, image: np.ndarray, mask: np.ndarray) -> AnnotatedImage:
        image_path, map_path = tmp_path / f"{stem}.png", tmp_path / f"{stem}_mask.png"
        Image.fromarray(image).save(image_path)
        Image.fromarray(mask.astype(np.uint8)).save(map_path)
        return AnnotatedImage(stem, "train", image_path, None, map_path)

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)):
        pytest.skip("mounting a tmpfs is not permitted")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def read_only_disk(small_disk: Path) -> Path:
    """The same, with the file ``old.json`` on it and no way to write."""
    (small_disk / "old.json").write_text("old")
    if not _mount("-o", "remount,ro", str(small_disk)):
        pytest.skip("remounting read-only is not permitted")
    return small_disk


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
