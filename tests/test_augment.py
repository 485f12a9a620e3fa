"""Augmentation transforms image and mask together and is determined by the seed."""

import numpy as np
import pytest
import torch
from plain_recipe import augment_only
from scipy.ndimage import binary_erosion, gaussian_filter
from torch.nn import functional as F
from torchvision import tv_tensors

from msal_deploy.recipe import AugmentRecipe, TrainRecipe
from msal_deploy.train.augment import StainJitter, augmentation, random_crop

pytestmark = pytest.mark.usefixtures("one_torch_thread")
SIDE = 96


def off_but(**changes: object) -> TrainRecipe:
    return TrainRecipe(patch=SIDE, augment=augment_only(**changes))


@pytest.fixture(scope="module")
def pair() -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Dark nuclei on white, so that the fill value outside the image agrees with the mask."""
    field = gaussian_filter(np.random.default_rng(0).standard_normal((SIDE, SIDE)), 5)
    mask = torch.from_numpy(field > field.std() / 2).to(torch.uint8)[None]
    return tv_tensors.Image((255 * (1 - mask)).repeat(3, 1, 1)), tv_tensors.Mask(mask)


GEOMETRY = {
    "flip": off_but(flip=True),
    "rot90": off_but(rot90=True),
    "rotate": off_but(rotate=40.0),
    "shift": off_but(shift=0.3),
    "shear": off_but(shear=20.0),
    "zoom": off_but(zoom=(0.7, 1.6)),
    "the paper": TrainRecipe(patch=SIDE),
    "everything": off_but(flip=True, rot90=True, rotate=15.0, shift=0.1, shear=10.0, zoom=(0.8, 1.3)),
}


def assert_together(image: torch.Tensor, mask: torch.Tensor) -> None:
    """Check that the image, thresholded at half intensity, equals the mask except at edges one or two pixels wide."""
    drawn, truth = image[0].numpy() < 128, mask[0].numpy() > 0
    assert not binary_erosion(drawn != truth, np.ones((3, 3), bool)).any()
    assert (drawn != truth).mean() < 0.05


@pytest.mark.parametrize("name", GEOMETRY)
def test_image_and_mask_move_together(pair, name):
    transform = augmentation(GEOMETRY[name])
    moved = 0
    for seed in range(12):
        torch.manual_seed(seed)
        image, mask = transform(*pair)
        assert image.dtype == mask.dtype == torch.uint8
        assert image.shape == (3, SIDE, SIDE) and mask.shape == (1, SIDE, SIDE)
        assert set(mask.unique().tolist()) <= {0, 1}
        assert_together(image, mask)
        moved += not torch.equal(mask, pair[1])
    assert moved >= 4


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.8, 1.25), (2.0, 2.0)])
def test_random_crop_cuts_image_and_mask_together(pair, zoom):
    recipe = TrainRecipe(patch=64, augment=AugmentRecipe(crop="random", zoom=zoom))
    crops = set()
    for seed in range(8):
        torch.manual_seed(seed)
        image, mask = random_crop(recipe, *pair)
        assert image.shape == (3, 64, 64) and mask.shape == (1, 64, 64)
        assert_together(image, mask)
        crops.add(mask.numpy().tobytes())
    assert len(crops) == 8


@pytest.mark.parametrize("magnification", [0.8, 1.0, 1.6])
def test_random_crop_magnifies_by_the_zoom(magnification):
    recipe = TrainRecipe(patch=64, augment=AugmentRecipe(crop="random", zoom=(magnification, magnification)))
    ramp = torch.arange(128.0).repeat(128, 1)[None].to(torch.uint8)  # intensity is the column
    image, _ = random_crop(recipe, tv_tensors.Image(ramp), tv_tensors.Mask(ramp))
    assert (image[0, 0, -1].float() - image[0, 0, 0].float()).item() == pytest.approx(63 / magnification, abs=2)


@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.25])
def test_random_crop_does_not_shift_the_mask_against_the_image(zoom):
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    disc = ((rows - 48) ** 2 + (columns - 48) ** 2 < 14**2).to(torch.uint8)[None]
    recipe = TrainRecipe(patch=96, augment=AugmentRecipe(crop="random", zoom=(zoom, zoom)))
    shifts = []
    for seed in range(30):
        torch.manual_seed(seed)
        # A wide white margin: the disc is always whole.
        pair = tv_tensors.Image(F.pad(255 * (1 - disc), [16] * 4, value=255)), tv_tensors.Mask(F.pad(disc, [16] * 4))
        image, mask = random_crop(recipe, *pair)
        shifts.append(centre(mask[0].float()) - centre(1 - image[0].float() / 255))
    assert torch.stack(shifts).mean(0).abs().max() < 0.15


def centre(weights: torch.Tensor) -> torch.Tensor:
    """Return the row and column of the centre of mass."""
    rows, columns = (torch.arange(float(extent)) for extent in weights.shape)
    return torch.stack([(weights.sum(1) * rows).sum(), (weights.sum(0) * columns).sum()]) / weights.sum()


def test_flips_and_quarter_turns_give_all_eight_symmetries(pair):
    transform = augmentation(off_but(flip=True, rot90=True))
    image, _ = pair
    turned = [torch.rot90(image, turns, (1, 2)) for turns in range(4)]
    symmetries = [*turned, *(item.flip(2) for item in turned)]
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        seen |= {number for number, item in enumerate(symmetries) if torch.equal(item, transform(*pair)[0])}
    assert seen == set(range(8))


def test_augmentation_switched_off_changes_nothing(pair):
    image, mask = augmentation(off_but())(*pair)
    assert torch.equal(image, pair[0]) and torch.equal(mask, pair[1])
    cut = random_crop(off_but(crop="random"), *pair)
    assert torch.equal(cut[0], pair[0]) and torch.equal(cut[1], pair[1])


def test_pixels_outside_the_image_are_white_background():
    black = tv_tensors.Image(torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
    full = tv_tensors.Mask(torch.ones(1, SIDE, SIDE, dtype=torch.uint8))
    torch.manual_seed(0)
    image, mask = augmentation(off_but(zoom=(0.5, 0.5)))(black, full)
    assert image[:, 0, 0].tolist() == [255] * 3 and mask[0, 0, 0] == 0
    assert image[:, SIDE // 2, SIDE // 2].tolist() == [0] * 3 and mask[0, SIDE // 2, SIDE // 2] == 1


def test_augmentation_depends_on_the_seed(pair):
    transform = augmentation(off_but(rotate=30.0, stain=0.2))
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(transform(*pair)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.fixture
def colours() -> tv_tensors.Image:
    """Every intensity in each channel."""
    return tv_tensors.Image(torch.arange(256).repeat(3, 4, 1).to(torch.uint8))


def stain_jitter(**changes: float) -> StainJitter:
    return StainJitter(augment_only(**changes))


def test_stain_jitter_does_not_change_masks(colours):
    mask = tv_tensors.Mask(torch.randint(0, 2, (1, 4, 256), dtype=torch.uint8))
    for seed in range(5):
        torch.manual_seed(seed)
        image, same = stain_jitter(stain=0.3)(colours, mask)
        assert torch.equal(same, mask)
        assert not torch.equal(image, colours)
        assert image.dtype == torch.uint8 and isinstance(image, tv_tensors.Image)


@pytest.mark.parametrize("deviation", [0.05, 0.5, 5.0])
def test_stain_jitter_keeps_white_white_and_the_order_of_intensities(colours, deviation):
    for seed in range(10):
        torch.manual_seed(seed)
        image = stain_jitter(stain=deviation)(colours).as_subclass(torch.Tensor)
        assert (image[..., 255] == 255).all()
        assert (image.int().diff(dim=-1) >= 0).all()


def test_stain_jitter_of_zero_changes_nothing(colours):
    assert torch.equal(stain_jitter()(colours), colours)


def test_stain_jitter_scales_optical_density_by_channel():
    torch.manual_seed(1)
    before = tv_tensors.Image(torch.randint(60, 200, (3, 32, 32), dtype=torch.uint8))
    density = [
        -((image.as_subclass(torch.Tensor).float() + 1) / 256).log()
        for image in (before, stain_jitter(stain=0.2)(before))
    ]
    factors = (density[1] / density[0]).flatten(1)
    assert (factors.std(1) < 0.02).all()  # one factor a channel, but for rounding
    assert factors.mean(1).std() > 0.01


def test_augmentation_does_not_change_its_input(pair, colours):
    copies = [item.clone() for item in (*pair, colours)]
    augmentation(off_but(flip=True, rotate=20.0, stain=0.3))(*pair)
    stain_jitter(stain=0.3)(colours)
    assert all(torch.equal(item, copy) for item, copy in zip((*pair, colours), copies, strict=True))
