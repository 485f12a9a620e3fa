"""Random changes of a training patch, by torchvision: image and mask move together.

Everything draws from torch's global generator on the CPU, also for images on a GPU. Seeding it at the start of an epoch
therefore fixes the epoch, which is what makes resuming exact.
"""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from msal_deploy.recipe import TrainRecipe

WHITE = 255  # what lies outside the tissue on a slide: glass


class StainJitter(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Scale each channel's optical density, −ln((I + 1) / 256), by a random factor: a stain that took more or less.

    Takes uint8[3,H,W]. The factors are 1 + N(0, `deviation`); masks pass unchanged.
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw one factor for all channels and one for each."""
        factors = 1 + self.deviation * torch.randn(4)
        return {"factors": (factors[0] * factors[1:]).clamp(min=0.2).view(3, 1, 1)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the factors to an image."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        transmitted = (inpt.as_subclass(Tensor).float() + 1) / 256
        stained = 256 * transmitted ** params["factors"].to(inpt.device) - 1
        return tv_tensors.wrap(stained.round().clamp(0, 255).to(torch.uint8), like=inpt)


def augmentation(recipe: TrainRecipe) -> v2.Compose:
    """Return the transform of (Image uint8[3,H,W], Mask uint8[1,H,W]) that `recipe` describes, without its cropping."""
    augment = recipe.augment
    steps: list[Any] = []
    if augment.flip:
        steps += [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    if augment.rot90:
        steps.append(v2.RandomApply([v2.RandomRotation((90, 90))]))  # with both flips: all eight symmetries
    if augment.rotate or augment.shift or augment.shear or (augment.crop == "corners" and augment.zoom != (1.0, 1.0)):
        steps.append(_affine(recipe))
    if augment.stain:
        steps.append(StainJitter(augment.stain))
    return v2.Compose(steps or [v2.Identity()])


def _affine(recipe: TrainRecipe) -> v2.RandomAffine:
    augment = recipe.augment
    return v2.RandomAffine(
        degrees=augment.rotate,
        translate=(augment.shift, augment.shift),
        # A random crop is zoomed while it is cut, which leaves no empty margin.
        scale=augment.zoom if augment.crop == "corners" else None,
        shear=(-augment.shear, augment.shear, -augment.shear, augment.shear),
        interpolation=v2.InterpolationMode.BILINEAR,
        fill={tv_tensors.Image: WHITE, "others": 0},
    )


def random_crop(recipe: TrainRecipe, height: int, width: int) -> v2.RandomResizedCrop:
    """Return the cut of a square patch from anywhere in an image, magnified by ``augment.zoom``."""
    smallest, largest = (recipe.patch / zoom for zoom in reversed(recipe.augment.zoom))
    area = height * width
    largest = min(largest, height, width)
    return v2.RandomResizedCrop(
        recipe.patch, scale=(min(smallest, largest) ** 2 / area, largest**2 / area), ratio=(1.0, 1.0), antialias=True
    )
