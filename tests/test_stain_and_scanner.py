"""Changes of stain and scanner: by hand, within their stated ranges, and never to the mask."""

import math

import msgspec
import numpy as np
import pytest
import torch
from plain_recipe import augment_only
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from skimage.color import rgb_from_hed
from torch.nn import functional as F
from torchvision import tv_tensors

from msal_deploy.recipe import ROBUST, TrainRecipe
from msal_deploy.train import augment as module
from msal_deploy.train.augment import (
    STAINS,
    Scanner,
    StainJitter,
    augmentation,
    change_density,
    largest_crop,
    random_crop,
)

pytestmark = pytest.mark.usefixtures("one_torch_thread")
SEEDS = 400
EYE = torch.eye(3)


def pixel(*rgb: int) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1)


def density(image: torch.Tensor) -> torch.Tensor:
    return -((image.as_subclass(torch.Tensor).float() + 1) / 256).log()


def drawn(transform: StainJitter | Scanner) -> list[dict]:
    """Return the parameters of many patches."""
    parameters = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        parameters.append(transform.make_params([]))
    return parameters


# --- optical density -------------------------------------------------------------------------------------------------

# 63, 127 and 255 are a quarter, a half and all of the light: densities 2 ln 2, ln 2 and 0.
LN2 = math.log(2)


@pytest.mark.parametrize(
    ("matrix", "shift", "expected"),
    [
        (EYE, 0.0, (63, 127, 255)),
        (0.5 * EYE, 0.0, (127, 180, 255)),  # 256 / √2 − 1 = 180.02
        (2 * EYE, 0.0, (15, 63, 255)),
        (EYE, LN2, (31, 63, 127)),
        (EYE, torch.tensor([LN2, 0.0, 2 * LN2]).view(3, 1, 1), (31, 127, 63)),
        (EYE, -LN2, (127, 255, 255)),  # no more light than white
        (torch.diag(torch.tensor([1.0, 2.0, 1.0])), 0.0, (63, 63, 255)),
        (torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]), 0.0, (31, 127, 255)),  # red takes up green, not vice versa
        (torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), 0.0, (127, 255, 63)),
    ],
)
def test_change_density_by_hand(matrix, shift, expected):
    assert change_density(pixel(63, 127, 255), matrix, shift).flatten().tolist() == list(expected)


def test_change_density_of_the_darkest_pixel_stays_in_range():
    assert change_density(pixel(0, 1, 2), 2 * EYE).flatten().tolist() == [0, 0, 0]


def test_change_density_takes_a_batch():
    batch = torch.stack([pixel(63, 127, 255), pixel(255, 63, 127)])
    changed = change_density(batch, 0.5 * EYE)
    assert changed.dtype == torch.uint8
    assert changed.flatten(1).tolist() == [[127, 180, 255], [255, 127, 180]]


def test_stains_are_those_of_scikit_image():
    lengths = np.linalg.norm(rgb_from_hed, axis=1, keepdims=True)
    np.testing.assert_allclose(STAINS.numpy(), rgb_from_hed / lengths, atol=1e-6)


def stained(amounts: torch.Tensor) -> tv_tensors.Image:
    """Return one pixel with these amounts of haematoxylin, eosin and the residual."""
    light = (-(STAINS.T @ amounts)).exp()
    return tv_tensors.Image((256 * light - 1).round().to(torch.uint8).view(3, 1, 1))


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_changed_amount_of_haematoxylin_leaves_its_colour_and_the_eosin_alone(factor, monkeypatch):
    drawn = torch.tensor([(factor - 1) / 0.4, 0.0, 0.0])  # of [−1, 1], for a largest change of 0.4
    monkeypatch.setattr(module, "_uniform", lambda count: drawn[:count])
    transform = StainJitter(augment_only(hed=0.4))
    haematoxylin = stained(torch.tensor([1.0, 0.0, 0.0]))
    before, after = density(haematoxylin).flatten(), density(transform(haematoxylin)).flatten()
    assert after.norm() / before.norm() == pytest.approx(factor, abs=0.01)
    assert F.cosine_similarity(after, STAINS[0], dim=0) > 0.9999
    eosin = stained(torch.tensor([0.0, 1.0, 0.0]))
    assert (transform(eosin).int() - eosin.int()).abs().max() <= 1


def test_density_factors_are_log_uniform_in_their_range():
    matrices = [parameters["matrix"] for parameters in drawn(StainJitter(augment_only(density=2.0)))]
    factors = torch.stack([matrix[0, 0] for matrix in matrices])
    assert all(torch.allclose(matrix, matrix[0, 0] * EYE) for matrix in matrices)
    assert 0.5 <= factors.min() < 0.55 and 1.85 < factors.max() <= 2.0
    # Half of them are below 1 and half within √2: a third and 0.47 would be uniform factors.
    assert (factors < 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (factors.log().abs() < LN2 / 2).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_offsets_are_within_their_maximum_and_differ_by_channel():
    shifts = torch.stack([parameters["shift"].flatten() for parameters in drawn(StainJitter(augment_only(offset=0.2)))])
    assert shifts.shape == (SEEDS, 3)
    assert 0.15 < shifts.abs().max() <= 0.2
    assert abs(shifts.mean()) < 0.02
    assert (shifts.std(1) > 0.005).float().mean() > 0.9


def test_stain_factors_are_within_their_range_and_independent():
    matrices = torch.stack([parameters["matrix"] for parameters in drawn(StainJitter(augment_only(hed=0.3)))])
    by_stain = torch.linalg.inv(STAINS.T) @ matrices @ STAINS.T  # the change of the stains' amounts
    factors = by_stain.diagonal(dim1=1, dim2=2)
    assert torch.allclose(by_stain, torch.diag_embed(factors), atol=1e-4)
    assert 0.7 - 1e-4 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3 + 1e-4
    assert torch.corrcoef(factors.T).fill_diagonal_(0).abs().max() < 0.2


def is_diagonal(matrix: torch.Tensor) -> bool:
    return torch.equal(matrix, torch.diag(matrix.diagonal()))


@pytest.mark.parametrize(("stain", "hed", "share"), [(0.2, 0.0, 1.0), (0.0, 0.3, 0.0), (0.2, 0.3, 0.5)])
def test_each_patch_changes_its_channels_or_its_stains(stain, hed, share):
    parameters = drawn(StainJitter(augment_only(stain=stain, hed=hed)))
    by_channel = np.mean([is_diagonal(values["matrix"]) for values in parameters])
    assert by_channel == pytest.approx(share, abs=0.1 if share == 0.5 else 0)


# --- scanner ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A smooth image in colours, and a mask."""
    field = gaussian_filter(np.random.default_rng(0).standard_normal((3, 64, 64)), (0, 2, 2))
    pixels = torch.from_numpy(128 + 60 * field / field.std()).clamp(0, 255).to(torch.uint8)
    return tv_tensors.Image(pixels), tv_tensors.Mask((pixels[:1] > 128).to(torch.uint8))


CHANGES = {
    "gamma": {"gamma": 2.0},
    "grey": {"grey": 1.0},
    "blur": {"blur": 3.0},
    "sharpen": {"sharpen": 4.0},
    "noise": {"noise": 20.0},
    "jpeg": {"jpeg": 20},
    "stain": {"stain": 0.3},
    "hed": {"hed": 0.4},
    "density": {"density": 1.5},
    "offset": {"offset": 0.2},
}


def changed(pair, seed: int, **changes: object) -> torch.Tensor:
    torch.manual_seed(seed)
    transform = augmentation(TrainRecipe(patch=64, augment=augment_only(**({"scanner": 1.0} | changes))))
    image, mask = transform(*pair)
    assert isinstance(image, tv_tensors.Image) and isinstance(mask, tv_tensors.Mask)
    assert image.dtype == torch.uint8 and image.shape == pair[0].shape
    assert torch.equal(mask, pair[1])
    return image.as_subclass(torch.Tensor)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_alone_changes_the_image_and_not_the_mask(pair, name):
    before = pair[0].clone()
    images = [changed(pair, seed, **CHANGES[name]) for seed in range(6)]
    assert sum(not torch.equal(image, pair[0]) for image in images) >= 4  # the weakest blur changes no intensity
    assert torch.equal(pair[0], before)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_has_a_value_that_switches_it_off(name):
    off = augment_only(scanner=1.0)
    assert [type(step).__name__ for step in augmentation(TrainRecipe(augment=off)).transforms] == ["Identity"]
    on = augment_only(scanner=1.0, **CHANGES[name])
    assert len(augmentation(TrainRecipe(augment=on)).transforms) == 1


def test_a_probability_of_zero_leaves_out_what_has_one(pair):
    strong = {"blur": 3.0, "sharpen": 4.0, "noise": 20.0, "jpeg": 20, "scanner": 0.0}
    assert all(torch.equal(changed(pair, seed, **strong), pair[0]) for seed in range(20))


def roughness(image: torch.Tensor) -> float:
    return image.float().diff(dim=-1).abs().mean().item()


def test_each_change_of_the_scanner_does_what_its_name_says(pair):
    image = pair[0].as_subclass(torch.Tensor)
    assert np.mean([roughness(changed(pair, seed, blur=3.0)) for seed in range(8)]) < 0.9 * roughness(image)
    assert np.mean([roughness(changed(pair, seed, sharpen=4.0)) for seed in range(8)]) > 1.1 * roughness(image)
    for seed in range(5):
        grey = changed(pair, seed, grey=1.0)
        assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
        noise = changed(pair, seed, noise=20.0).float() - image.float()
        assert noise.abs().max() < 6 * 20 and abs(noise.mean()) < 2 and noise.std() <= 21
        assert (changed(pair, seed, jpeg=20).float() - image.float()).abs().mean() < 20


def test_gamma_keeps_black_white_and_the_order_of_intensities():
    ramp = tv_tensors.Image(torch.arange(256).repeat(3, 4, 1).to(torch.uint8))
    for seed in range(10):
        torch.manual_seed(seed)
        image = Scanner(augment_only(gamma=2.0))(ramp).as_subclass(torch.Tensor)
        assert (image[..., 0] == 0).all() and (image[..., 255] == 255).all()
        assert (image.int().diff(dim=-1) >= 0).all()


def test_strengths_are_within_their_stated_ranges():
    recipe = augment_only(gamma=2.0, blur=1.5, sharpen=4.0, noise=12.0, jpeg=35, grey=0.1, scanner=0.3)
    parameters = drawn(Scanner(recipe))
    ranges = {"blur": (0.1, 1.5), "sharpen": (1, 4), "noise": (0, 12 / 255), "jpeg": (35, 100)}
    for name, (smallest, largest) in ranges.items():
        values = [one[name] for one in parameters if one[name] is not None]
        margin = 0.1 * (largest - smallest)
        assert smallest <= min(values) < smallest + margin and largest - margin < max(values) <= largest, name
        assert len(values) / SEEDS == pytest.approx(0.3, abs=0.08), name
    gamma = [one["gamma"] for one in parameters]
    assert 0.5 <= min(gamma) < 0.55 and 1.85 < max(gamma) <= 2
    assert np.mean(np.array(gamma) < 1) == pytest.approx(0.5, abs=0.1)
    assert np.mean([one["grey"] for one in parameters]) == pytest.approx(0.1, abs=0.05)


def test_changes_of_the_scanner_are_drawn_independently():
    parameters = drawn(Scanner(augment_only(blur=1.5, sharpen=4.0, noise=12.0, jpeg=35, scanner=0.5)))
    names = ("blur", "sharpen", "noise", "jpeg")
    applied = np.array([[one[name] is not None for name in names] for one in parameters])
    assert np.abs(np.corrcoef(applied.T) - np.eye(4)).max() < 0.25


def test_the_number_of_random_draws_does_not_depend_on_the_strengths():
    following = []
    for recipe in (augment_only(), augment_only(gamma=2.0, blur=2.0, jpeg=35, scanner=1.0)):
        torch.manual_seed(0)
        Scanner(recipe).make_params([])
        following.append(torch.rand(()).item())
    assert following[0] == following[1]


# --- all of it together ----------------------------------------------------------------------------------------------

DISC, TISSUE = (90, 50, 130), (225, 185, 210)


def disc_pair(side: int, radius: float) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    rows, columns = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    disc = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < radius**2
    pixels = torch.where(disc, torch.tensor(DISC).view(3, 1, 1), torch.tensor(TISSUE).view(3, 1, 1))
    return tv_tensors.Image(pixels.to(torch.uint8)), tv_tensors.Mask(disc[None].to(torch.uint8))


# The recipe with blur, sharpening, noise and JPEG on every other patch.
STRONG = msgspec.structs.replace(
    ROBUST.train, patch=96, augment=msgspec.structs.replace(ROBUST.train.augment, scanner=0.5)
)


def patch_of(recipe: TrainRecipe, pair, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    image, mask = augmentation(recipe)(*random_crop(recipe, *pair))
    return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


def test_masks_are_exact_to_half_a_pixel_under_the_recipe_robust():
    """Find the disc again by its brightness, next to the mask's own, and compare the two centres and areas."""
    pair = disc_pair(largest_crop(STRONG), radius=13)
    shifts, areas = [], []
    for seed in range(80):
        image, mask = patch_of(STRONG, pair, seed)
        truth = mask[0].numpy() > 0
        near = binary_dilation(truth, iterations=4)
        if not truth.any() or near[[0, -1]].any() or near[:, [0, -1]].any():
            continue  # the crop has cut it
        grey = image.float().mean(0).numpy()
        inside, outside = grey[binary_erosion(truth, iterations=4)].mean(), grey[~near].mean()
        assert outside - inside > 20
        found = (gaussian_filter(grey, 0.7) < (inside + outside) / 2) & near
        shifts.append([np.argwhere(found).mean(0)[axis] - np.argwhere(truth).mean(0)[axis] for axis in (0, 1)])
        areas.append(found.sum() / truth.sum())
    assert len(shifts) >= 15
    assert np.abs(shifts).max() < 0.5
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15
    assert np.mean(areas) == pytest.approx(1, abs=0.05)


def test_the_seed_determines_the_patch():
    pair = disc_pair(largest_crop(STRONG), radius=30)
    first, again, other = (patch_of(STRONG, pair, seed) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
