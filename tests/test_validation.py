"""Validation during training, counted by hand with networks that know the answer."""

import csv

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from msal_deploy.recipe import Recipe
from msal_deploy.train import Epoch, load_state
from msal_deploy.train.state import State, save_state
from msal_deploy.train.validation import View, ViewScore, make_views, score_view

pytestmark = pytest.mark.usefixtures("one_torch_thread")
CPU = torch.device("cpu")


class Dark(nn.Module):
    """Every pixel with red of at most 128 is a nucleus. Remembers the shapes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return 128 - x[:, :1]


@pytest.fixture
def striped(make_annotated_image):
    """Make an image whose first `dark` rows are dark, while its first `nuclei` rows are nuclei."""

    def make(stem: str, dark: int, nuclei: int, height: int = 64, width: int = 64, level: int = 50):
        rows = np.arange(height)[:, None].repeat(width, 1)
        image = np.where(rows < dark, level, 250)[..., None].repeat(3, 2).astype(np.uint8)
        return make_annotated_image(stem, image, rows < nuclei)

    return make


def score(images, density: float = 1.0, network: nn.Module | None = None) -> ViewScore:
    (view,) = make_views({"home": images}, (density,))
    return score_view(network or Dark(), view, CPU)


def test_mean_and_worst_image_by_hand(striped):
    # Counts in rows of 64 pixels: a is right, b has tp 16, fp 16.
    result = score([striped("a", 32, 32), striped("b", 32, 16)])
    assert result.view == "home"
    assert result.dice == pytest.approx((1 + 2 / 3) / 2)
    assert result.iou == pytest.approx((1 + 1 / 2) / 2)
    assert (result.worst_stem, result.worst_dice) == ("b", pytest.approx(2 / 3))


def test_the_mean_is_over_patches_and_the_worst_image_is_pooled(striped):
    # 96 rows are two patches of 64: rows 0…63 have tp 32, fp 16 (Dice 0.8), rows 32…95 have fp 16 (Dice 0).
    result = score([striped("tall", 48, 32, height=96), striped("b", 32, 32)])
    assert result.dice == pytest.approx((0.8 + 0 + 1) / 3)
    assert result.iou == pytest.approx((32 / 48 + 0 + 1) / 3)
    assert (result.worst_stem, result.worst_dice) == ("tall", pytest.approx(64 / 96))


def test_views_are_each_set_under_each_density(striped):
    sets = {"home": [striped("a", 32, 32)], "away": [striped("b", 8, 8), striped("c", 8, 8)]}
    views = make_views(sets, (1.0, 0.7, 1.4))
    assert [view.name for view in views] == [
        "home", "home ×0.7", "home ×1.4", "away", "away ×0.7", "away ×1.4",
    ]  # fmt: skip
    assert [(view.set, view.density, len(view.patches)) for view in views[2:4]] == [("home", 1.4, 1), ("away", 1.0, 2)]


@pytest.mark.parametrize(("density", "level", "expected"), [(0.5, 127, 0), (1.0, 127, 1), (2.0, 180, 1), (1.0, 180, 0)])
def test_density_changes_the_images_and_not_the_masks(striped, density, level, expected):
    # The square root of a half of the light is 180; its square is 128.
    assert score([striped("a", 32, 32, level=level)], density).dice == expected


def test_batches_hold_patches_of_one_size(striped):
    images = [striped(f"small{i}", 32, 32) for i in range(9)]
    images += [striped("wide", 32, 16, width=96), striped("large", 96, 96, height=128, width=128)]
    images += [striped("z", 16, 32)]
    network = Dark()
    result = score(images, network=network)
    # Nine small ones in a batch of eight and one of one (with the two of the wide one), one of 128 px, one small one.
    assert network.shapes == [(8, 3, 64, 64), (3, 3, 64, 64), (1, 3, 128, 128), (1, 3, 64, 64)]
    assert result.dice == pytest.approx((9 + 2 * 2 / 3 + 1 + 2 / 3) / 13)


@pytest.mark.parametrize(("side", "patches", "expected"), [(64, 1, 64), (100, 4, 96), (512, 1, 512), (544, 4, 512)])
def test_patches_have_512_px_or_the_largest_multiple_of_32(striped, side, patches, expected):
    (view,) = make_views({"home": [striped("a", 8, 8, height=side, width=side)]}, (1.0,))
    assert [patch.image.shape for patch in view.patches] == [(expected, expected, 3)] * patches


def test_a_view_is_named_by_its_density():
    assert [View("lab", density, ()).name for density in (1.0, 0.7, 1.25)] == ["lab", "lab ×0.7", "lab ×1.25"]


VIEWS = (ViewScore("home", 0.8, 0.7, "a", 0.5), ViewScore("home ×0.7", 0.6, 0.5, "b", 0.25))
HISTORY = (
    Epoch(1, 0.7, 1e-3, 2.0, 0.6, 0.5, VIEWS),
    Epoch(2, 0.6, 1e-3, 2.0),
    Epoch(3, 0.5, 1e-3, 2.0, 0.6, 0.5, VIEWS),
)


def test_history_has_two_columns_for_each_view(tmp_path):
    save_state(tmp_path, State(Recipe(), ("home/a",), HISTORY, {}))
    with (tmp_path / "history.csv").open(encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    assert list(reader.fieldnames or ()) == [
        "epoch", "train_loss", "rate", "seconds", "validation_dice", "validation_iou",
        "dice home", "worst image home", "dice home ×0.7", "worst image home ×0.7",
    ]  # fmt: skip
    assert [rows[0][name] for name in ("dice home", "worst image home", "dice home ×0.7", "worst image home ×0.7")] == [
        "0.8", "0.5", "0.6", "0.25",
    ]  # fmt: skip
    assert rows[1]["dice home"] == rows[1]["worst image home ×0.7"] == ""


def test_views_and_notes_survive_in_the_state(tmp_path):
    save_state(tmp_path, State(Recipe(), ("home/a",), HISTORY, {}, {"started from": "x"}))
    loaded = load_state(tmp_path)
    assert loaded.history == HISTORY
    assert loaded.notes == {"started from": "x"}


def test_a_state_from_before_views_and_notes_is_read(tmp_path):
    old = [{"epoch": 1, "train_loss": 0.7, "rate": 1e-3, "seconds": 2.0, "validation_dice": 0.5, "validation_iou": 0.4}]
    plain = msgspec.json.encode((Recipe(), ("a",), old)).decode()
    torch.save({"plain": plain, "tensors": {}}, tmp_path / "last.pt")
    loaded = load_state(tmp_path)
    assert (loaded.best_dice, loaded.history[0].views, loaded.notes) == (0.5, (), {})


def test_curves_show_each_view(tmp_path):
    pictures = []
    for name, views in (("one", VIEWS[:1]), ("two", VIEWS)):
        (tmp_path / name).mkdir()
        history = tuple(msgspec.structs.replace(row, views=views if row.views else ()) for row in HISTORY)
        save_state(tmp_path / name, State(Recipe(), ("home/a",), history, {}))
        with Image.open(tmp_path / name / "curves.png") as image:
            pictures.append(np.array(image.convert("RGB")))
    assert pictures[0].shape[1] > 500
    # With a second view, there are lines in other colours than blue and grey: matplotlib's orange is one.
    orange = [(np.abs(picture.astype(int) - (255, 127, 14)).sum(2) < 60).any() for picture in pictures]
    assert orange == [False, True]
